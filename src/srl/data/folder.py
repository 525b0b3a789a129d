"""A data folder: what `srl steps` writes and training reads.

    train.steps.jsonl       one row per step: SRL, and SFT step by step
    train.problems.jsonl    one row per written solution: RLVR, and SFT on whole solutions
    train.trajectories.jsonl  one row per run of an agent, if there are any: SFT on whole trajectories
    validation.*.jsonl      the same for the held-out problems
    dropped.jsonl           what was left out, each with its place and reason
    report.json             the counts, and the options that made them

The rows may be in parquet files too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srl.errors import UserError
from srl.records import Problem, StepInstance

COLUMNS: dict[str, dict[str, Any]] = {
    "steps": {
        "trajectory_id": str,
        "step_index": int,
        "prompt": [{"role": str, "content": str}],
        "expert_action": str,
        "next_title": str,
        "thought": str,
    },
    "problems": {
        "trajectory_id": str,
        "prompt": [{"role": str, "content": str}],
        "answer": str,
        "solution": str,
        "thought": str,
    },
    "trajectories": {
        "trajectory_id": str,
        "prompt": [{"role": str, "content": str}],
        "turns": [{"role": str, "content": str}],
    },
}
"""The columns of the kinds of rows: the fields of StepInstance and of Problem; a run of an agent turn by turn."""


def as_row(record: StepInstance | Problem) -> dict[str, Any]:
    """The row of a record."""
    columns = COLUMNS["steps" if isinstance(record, StepInstance) else "problems"]
    return {name: getattr(record, name) for name in columns}


def rows_file(folder: Path, name: str) -> Path:
    """The file of one kind of rows ("train.steps") in a data folder.

    Raises:
        UserError: there is none.
    """
    for path in (folder / f"{name}.jsonl", folder / f"{name}.parquet"):
        if path.is_file():
            return path
    raise UserError(f"{folder}/{name}.jsonl: no such file; write it first: srl steps SOLUTIONS --out {folder}")
