"""srl's own trajectory rows, for experts that need no parsing.

{"id": …, "problem": "…", "steps": [{"action": "…", "title"?, "thought"?, "observation"?}, …],
 "answer"?: "…", "verified"?: true, "conclusion"?: "…", "instructions"?: "…", "metadata"?: {…}}
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from srl.errors import UserError
from srl.files import Row
from srl.records import Step, Trajectory

NAME = "srl"


def recognise(value: Any) -> str | None:
    """Why a value is a trajectory of ours."""
    return "`problem` and `steps`" if isinstance(value, dict) and "steps" in value and "problem" in value else None


def read(row: Row, trajectory_id: str) -> Trajectory:
    """One row as a trajectory.

    Raises:
        UserError: no steps, a step without an action, an unknown key in a step, a value of the wrong type.
    """
    value = row.value
    if not isinstance(value["steps"], list) or not value["steps"]:
        raise UserError(f"{row.where}: expected a non-empty list in `steps`, found {value['steps']!r:.60}")
    if not isinstance(value["problem"], str) or not value["problem"].strip():
        raise UserError(f"{row.where}: expected text in `problem`, found {value['problem']!r:.60}")
    return Trajectory(
        id=trajectory_id,
        problem=value["problem"],
        steps=tuple(_step(step, f"{row.where}, step {index}") for index, step in enumerate(value["steps"], 1)),
        answer=value.get("answer"),
        verified=value.get("verified"),
        conclusion=value.get("conclusion"),
        instructions=value.get("instructions"),
        metadata={**(value.get("metadata") or {}), "where": row.where, "format": NAME},
    )


def _step(step: Any, where: str) -> Step:
    if not isinstance(step, dict) or not isinstance(step.get("action"), str) or not step["action"].strip():
        raise UserError(f"{where}: expected an object with text in `action`, found {step!r:.60}")
    for key, value in step.items():
        if key not in Step.__dataclass_fields__:
            raise UserError(f"{where}: unknown key `{key}`; expected {', '.join(Step.__dataclass_fields__)}")
        if not isinstance(value, str | None):
            raise UserError(f"{where}: expected text in `{key}`, found {type(value).__name__}")
    title = step.get("title")
    if title is not None and not f"\n{step['action']}".count(f"\n{title}"):
        raise UserError(f"{where}: `title` must start a line of `action`, as it is written there")
    return Step(**step)


def native_row(trajectory: Trajectory) -> dict[str, Any]:
    """The row that `read` reads back."""
    row = asdict(trajectory)
    row["steps"] = [{key: value for key, value in step.items() if value is not None} for step in row["steps"]]
    return row
