"""A run folder: what a training run leaves behind, and how a later run finds it.

config.toml       the resolved recipe; `srl train config.toml` repeats the run
run.json          versions, git commit, command, where training started, how it ended
metrics.jsonl     one line per logged step, TRL's metric names
completions/      the rollouts of each step (parquet)
checkpoint-N/     for `--resume`
model/            the trained model, for `from_pretrained` (LoRA already merged; also as adapter/)
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

from srl.errors import UserError
from srl.files import check_output_folder, write_text
from srl.recipe import Recipe, read_recipe, recipe_toml

PACKAGES = ("srl", "torch", "transformers", "trl", "accelerate", "peft", "datasets", "math-verify", "scipy", "openai")

HELD_OUT = {
    "eval_reward": "reward",
    "eval_step_similarity": "similarity of well-formed steps",
    "eval_exact_step_rate": "steps equal to the expert's",
    "eval_format_error_rate": "malformed completions",
    "eval_loss": "loss",
    "eval_mean_token_accuracy": "token accuracy",
}
"""The metrics that sum up a run."""


def open_run(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> Path | None:
    """Prepare the run folder; returns the checkpoint to resume from, or None for a fresh start.

    Raises:
        UserError: the folder is not empty and neither flag is given; it is not a run of srl; the recipe to
            resume differs from the one that was started.
    """
    folder = recipe.output_dir
    if resume and (folder / "config.toml").is_file():
        _refuse_another_recipe(folder, recipe)
        if finished_model(folder):
            raise UserError(f"{folder}: this run has finished; nothing to resume")
        checkpoint = last_checkpoint(folder)
        truncate_metrics(folder, step=int(checkpoint.name.split("-")[1]) if checkpoint else 0)
        return checkpoint
    check_output_folder(folder, overwrite=overwrite, marker="run.json", remedies="--resume it, or --overwrite it")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.toml", recipe_toml(recipe))
    return None


def _refuse_another_recipe(folder: Path, recipe: Recipe) -> None:
    before, now = read_recipe(folder / "config.toml").model_dump(), recipe.model_dump()
    differing = [key for key in now if now[key] != before[key]]
    if differing:
        raise UserError(
            f"{folder}: cannot resume with another recipe; differs in {', '.join(differing)} from config.toml"
        )


def write_run_facts(folder: Path, **facts: Any) -> None:
    """Add facts to run.json; the first call also records versions, commit, command and machine."""
    path = folder / "run.json"
    known = json.loads(path.read_text()) if path.is_file() else environment()
    write_text(path, json.dumps({**known, **facts}, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """When, where and with what versions something was run."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def _git_commit() -> str | None:
    """The commit of the folder the command runs in, "-dirty" if changed; None outside git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None


def append_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Add one line to metrics.jsonl."""
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(metrics) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All complete lines of metrics.jsonl, in order; the rest of a line that a kill cut short is left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


def truncate_metrics(folder: Path, step: int) -> None:
    """Forget what was logged after `step` (all, if 0): the resumed run will log it again."""
    kept = [line for line in read_metrics(folder) if line["step"] <= step] if step else []
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))


class HeldOut(NamedTuple):
    """What training changed on held-out problems."""

    best_step: int
    """Of the model that is kept."""
    means: dict[str, tuple[float, float]]
    """What is measured (a value of `HELD_OUT`) -> before training, and of the model that is kept."""


def held_out(metrics: Sequence[dict[str, Any]]) -> HeldOut | None:
    """What metrics.jsonl says of the held-out problems; None if there were none."""
    evaluations = [line for line in metrics if line.get("eval_reward") is not None]
    if evaluations:
        best = max(evaluations, key=lambda line: line["eval_reward"])
    elif evaluations := [line for line in metrics if line.get("eval_loss") is not None]:
        best = min(evaluations, key=lambda line: line["eval_loss"])
    else:
        return None
    before = evaluations[0]
    both = [name for name in HELD_OUT if before.get(name) is not None and best.get(name) is not None]
    shown = [name for name in both if name != "eval_loss" or "eval_reward" not in both]  # GRPO's loss says nothing
    return HeldOut(best["step"], {HELD_OUT[name]: (before[name], best[name]) for name in shown})


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; one that a kill cut short has no readable trainer state."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        return path
    return None


def finished_model(folder: Path) -> Path | None:
    """The `model/` of a finished run; None while it is not there."""
    return folder / "model" if (folder / "model" / "config.json").is_file() else None


def resolve_model(name_or_path: str) -> str:
    """The model to load for a Hub id, a model folder, a run folder (then its `model/`), or the name of srl's own.

    Raises:
        UserError: a run folder whose run has not finished; a path that does not exist.
    """
    own = resources.files("srl") / "builtin" / "models" / name_or_path
    path = Path(name_or_path)
    if own.is_dir() and not path.exists():
        return str(own)
    if (path / "run.json").is_file():
        model = finished_model(path)
        if model is None:
            raise UserError(
                f"{path}: this run has no model/ yet; finish it first: srl train {path}/config.toml --resume"
            )
        return str(model)
    if not path.exists() and (path.is_absolute() or name_or_path.count("/") != 1 or name_or_path.startswith(".")):
        raise UserError(f"{name_or_path}: expected a Hub id, a model folder or a run folder; no such folder")
    return name_or_path


def trained_step_prompt(model: str) -> str | None:
    """The system prompt of the steps that a run was trained on; None if it was not, or is no run of srl."""
    folder = Path(model)
    if not (folder / "run.json").is_file():
        return None
    recipe = read_recipe(folder / "config.toml")
    if recipe.stage == "rlvr" or (recipe.stage == "sft" and recipe.sft.target == "solution"):
        return None
    return str(json.loads((folder / "run.json").read_text())["system_prompt"])
