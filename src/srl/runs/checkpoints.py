"""A checkpoint is whole, or it is none: its manifest names every file with its size and is written last.

A kill while a checkpoint is written, a disk that was full, a file that was lost or cut short: the newest whole
checkpoint is taken, and the others are named.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from srl.errors import UserError
from srl.files import write_text

MANIFEST = "manifest.json"
STATE = "trainer_state.json"
"""transformers' name for the file that counts steps and names the best checkpoint."""


class Choice(NamedTuple):
    """Where a run goes on."""

    checkpoint: Path | None
    """The newest whole checkpoint; None: from the beginning."""
    passed_over: dict[str, str]
    """Newer checkpoints -> what is wrong with each."""


def step_of(checkpoint: Path) -> int:
    """The optimizer steps that were done when it was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def checkpoints(run: Path) -> list[Path]:
    """All folders of checkpoints, whole or not, oldest first."""
    found = [path for path in run.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=step_of)


def write_manifest(checkpoint: Path, n_processes: int) -> None:
    """Declare a checkpoint whole. Everything is on the disk before: a power cut leaves no manifest of lost files."""
    sizes = {}
    for path in _files(checkpoint):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
    write_text(checkpoint / MANIFEST, json.dumps({"processes": n_processes, "sizes": sizes}, indent=1) + "\n")


def retract_manifest(checkpoint: Path) -> None:
    """A checkpoint that is to be written again, or deleted, is not whole meanwhile."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)


def n_processes(checkpoint: Path) -> int:
    """How many processes wrote a whole checkpoint."""
    return int(json.loads((checkpoint / MANIFEST).read_text())["processes"])


def tokens_at(checkpoint: Path) -> int:
    """TRL's `num_tokens` when a checkpoint was written; 0 if it had logged none."""
    history = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["log_history"]
    return int(next((line["num_tokens"] for line in reversed(history) if "num_tokens" in line), 0))


def problem_with(checkpoint: Path) -> str | None:
    """Why a checkpoint is not whole; None if it is. Sizes are compared, contents are not."""
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["sizes"]
        items = list(sizes.items())
    except FileNotFoundError:
        return "no manifest.json, which is written last"
    except (ValueError, TypeError, KeyError, AttributeError):
        return "manifest.json is damaged"
    for name, size in items:
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, expected {size:,}"
    return None


def choose(run: Path) -> Choice:
    """The newest whole checkpoint whose best checkpoint, which the run may end with, is whole too.

    Raises:
        UserError: checkpoints are whole, but the best one, which they name, is not.
    """
    passed_over: dict[str, str] = {}
    whole_but: str | None = None
    for checkpoint in reversed(checkpoints(run)):
        problem = problem_with(checkpoint)
        if problem is None:
            best = best_of(checkpoint)
            lost = problem_with(best) if best else None
            if lost is None:
                return Choice(checkpoint, passed_over)
            problem = f"{best.name if best else ''}, the best so far, is not whole ({lost})"
            whole_but = whole_but or f"{checkpoint}: {problem}; put it back, or take {checkpoint} as a model by itself"
        passed_over[checkpoint.name] = problem
    if whole_but:
        raise UserError(whole_but)
    return Choice(None, passed_over)


def rotate(run: Path, limit: int, best: str | None) -> None:
    """Delete old checkpoints: the newest and the best whole ones stay, `limit` in all (at least those two)."""
    whole = [path for path in checkpoints(run) if problem_with(path) is None]
    kept = [*whole[-1:], *(path for path in whole[:-1] if best and path.name == Path(best).name)]
    kept += [path for path in reversed(whole) if path not in kept][: max(0, limit - len(kept))]
    _delete([path for path in checkpoints(run) if path not in kept])


def delete_all(run: Path) -> None:
    """Of a run that has finished and will not be extended."""
    _delete(checkpoints(run))


def _delete(old: list[Path]) -> None:
    for path in old:
        retract_manifest(path)
        shutil.rmtree(path, ignore_errors=True)


def best_of(checkpoint: Path) -> Path | None:
    """The best checkpoint so far, beside the one that names it: the run folder may have been moved or copied."""
    best = json.loads((checkpoint / STATE).read_text(encoding="utf-8")).get("best_model_checkpoint")
    return checkpoint.with_name(Path(best).name) if best else None


def _files(checkpoint: Path) -> Iterator[Path]:
    yield from (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MANIFEST)
