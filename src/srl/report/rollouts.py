"""The rollouts of a run: an index of all groups for finding them, and their texts in chunks for reading them.

The page decompresses the index at once and a chunk only when one of its groups is looked at, so it stays quick
with many thousand rollouts. The schema of both is at `_Table`.
"""

from __future__ import annotations

import gzip
import hashlib
import math
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson

from srl.chat.prompts import completion_text
from srl.errors import UserError
from srl.files import read_rows
from srl.report.runs import Run
from srl.rewards import one_spelling

CHUNK_BYTES = 1_000_000
"""Of JSON before compression: what the page unpacks to show one group."""

MAX_TABLE_BYTES = 256_000_000
"""Of parquet, per run; of a larger run only every so many-th step is shown."""

KNOWN = {"step", "prompt", "completion", "thought", "action", "format_error", "kept", "reward", "advantage"} | {
    "trajectory_id",
    "step_index",
    "expert_action",
    "answer",
}
"""Columns that the page has a place for; numbers in others are listed by name."""


@dataclass(frozen=True)
class Chunk:
    """Some JSON, packed for the page; equal contents have equal ids."""

    id: str
    text: str
    """The JSON, compressed with gzip and encoded in base64."""


@dataclass(frozen=True)
class Rollouts:
    """The rollouts of a run as the page takes them: an index, and chunks with the texts."""

    index: Chunk
    chunks: list[Chunk]
    n_rollouts: int


@dataclass
class _Table:
    """One file of rollouts. An entry of `groups`, and the same group's entry in the chunk it names:

    {step, chunk, at, trajectory, step_index, kept, reward: [G], advantage: [G], error: [G]}
    {prompt, expert, expert_compared?, answer, rollouts: [{thought, action, action_compared?} or {completion}, parts]}
    """

    groups: list[dict[str, Any]] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)


def read_rollouts(run: Run) -> Rollouts | None:
    """The rollouts of a run, None if it has none; what cannot be read is added to the run's problems."""
    paths = sorted((run.folder / "completions").glob("completions_*.parquet"))
    if not paths:
        if run.recipe is None or run.recipe.stage != "sft":
            run.problems.append("no rollouts were kept (completions/ is empty)")
        return None
    stride = math.ceil(sum(path.stat().st_size for path in paths) / MAX_TABLE_BYTES)
    if stride > 1:
        run.problems.append(f"rollouts are shown of every {stride}th file in completions/ only: they are too many")
    elements = run.recipe.reward.elements if run.recipe else "characters"
    group_size = run.recipe.rollout.num_generations if run.recipe else None
    groups, chunks = [], []
    for path in paths[::stride]:
        try:
            table = _read_table(path, path.stat().st_mtime_ns, group_size, elements)
        except UserError as error:
            run.problems.append(f"rollouts left out: {str(error).removeprefix(f'{run.folder}/')}")
            continue
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:  # columns of other types
            reason = " ".join(str(error).split())
            run.problems.append(f"rollouts left out: {path.name}: not as srl train writes them ({reason:.100})")
            continue
        groups += table.groups
        chunks += table.chunks
    if not groups:
        return None
    return Rollouts(pack(groups), chunks, sum(len(group["reward"]) for group in groups))


def pack(value: Any) -> Chunk:
    """Compress a JSON value into a chunk, named by its content."""
    packed = gzip.compress(orjson.dumps(value), compresslevel=6, mtime=0)
    return Chunk(hashlib.sha256(packed).hexdigest()[:16], b64encode(packed).decode())


@cache  # while a run goes on, only its new files are read
def _read_table(path: Path, modified_ns: int, group_size: int | None, elements: str) -> _Table:
    table = _Table()
    waiting: list[dict[str, Any]] = []
    size = 0
    compared = one_spelling if elements == "latex" else None
    for rows in _groups(path, group_size):
        texts = _texts(rows, compared)
        table.groups.append({**_facts(rows), "chunk": "", "at": len(waiting)})
        waiting.append(texts)
        size += len(orjson.dumps(texts))
        if size > CHUNK_BYTES:
            _close_chunk(table, waiting)
            waiting, size = [], 0
    if waiting:
        _close_chunk(table, waiting)
    return table


def _close_chunk(table: _Table, texts: list[dict[str, Any]]) -> None:
    chunk = pack(texts)
    table.chunks.append(chunk)
    for group in table.groups[-len(texts) :]:
        group["chunk"] = chunk.id


def _groups(path: Path, group_size: int | None) -> Iterator[list[dict[str, Any]]]:
    """The rows of each group: neighbours with one prompt, `group_size` of them where that is known."""
    rows = [row.value for row in read_rows(path)]
    missing = {"step", "prompt", "completion", "advantage"} - rows[0].keys()
    if missing:
        raise UserError(f"{path}: no column {', '.join(sorted(missing))}")
    for _, neighbours in groupby(rows, key=lambda row: (row["step"], row["prompt"])):
        same = list(neighbours)
        for start in range(0, len(same), group_size or len(same)):
            yield same[start : start + (group_size or len(same))]


def _facts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first = rows[0]
    return {
        "step": first["step"],
        "trajectory": first.get("trajectory_id"),
        "step_index": first.get("step_index"),
        "kept": first.get("kept", True),
        "reward": [_rounded(row.get("reward")) for row in rows],
        "advantage": [_rounded(row["advantage"]) for row in rows],
        "error": [row.get("format_error") for row in rows],
    }


def _texts(rows: list[dict[str, Any]], compared: Callable[[str], str] | None) -> dict[str, Any]:
    first = rows[0]
    expert = first.get("expert_action")
    group = {"prompt": first["prompt"], "expert": expert and expert.strip(), "answer": first.get("answer")}
    rollouts = [_rollout(row) for row in rows]
    if compared and expert:
        group["expert_compared"] = compared(group["expert"])
        rollouts = [{**r, "action_compared": compared(r["action"])} if "action" in r else r for r in rollouts]
    return {**group, "rollouts": rollouts}


def _rollout(row: dict[str, Any]) -> dict[str, Any]:
    parts = {name: _rounded(value) for name, value in row.items() if name not in KNOWN and _is_number(value)}
    if row.get("action") and not row.get("format_error"):
        return {"thought": row.get("thought"), "action": row["action"], "parts": parts}
    return {"completion": completion_text(row["completion"]), "parts": parts}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rounded(value: float | None) -> float | None:
    """Four digits, to keep the JSON short; None for a rollout that no reward function scored."""
    return None if value is None or not math.isfinite(value) else round(value, 4)
