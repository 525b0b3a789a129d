"""srl's own trajectory rows, for experts that need no parsing.

{"id": …, "problem": "…", "steps": [{"action": "…", "title"?, "thought"?, "observation"?}, …],
 "answer"?: "…", "verified"?: true, "conclusion"?: "…", "instructions"?: "…", "environment"?: true,
 "only_last"?: true, "metadata"?: {…}}
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from srl.data.formats.columns import text_at
from srl.data.formats.fields import kind, mapping, optional_text
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
    value, where = row.value, row.where
    if not isinstance(value["steps"], list) or not value["steps"]:
        raise UserError(f"{where}: expected a non-empty list in `steps`, found {value['steps']!r:.60}")
    if not isinstance(value["problem"], str) or not value["problem"].strip():
        raise UserError(f"{where}: expected text in `problem`, found {value['problem']!r:.60}")
    metadata = value.get("metadata")
    return Trajectory(
        id=trajectory_id,
        problem=value["problem"],
        steps=tuple(_step(step, f"{where}, step {index}") for index, step in enumerate(value["steps"], 1)),
        answer=text_at(row, "answer") if "answer" in value else None,
        verified=_flag(value, "verified", where),
        conclusion=optional_text(value.get("conclusion"), "conclusion", where) or None,
        instructions=optional_text(value.get("instructions"), "instructions", where) or None,
        environment=_flag(value, "environment", where),
        only_last=bool(_flag(value, "only_last", where)),
        metadata={**(mapping(metadata, "metadata", where) if metadata else {}), "where": where, "format": NAME},
    )


def _flag(value: dict[str, Any], name: str, where: str) -> bool | None:
    flag = value.get(name)
    if not isinstance(flag, bool | None):
        raise UserError(f"{where}: expected true or false in `{name}`, found {kind(flag)}")
    return flag


def _step(step: Any, where: str) -> Step:
    if not isinstance(step, dict) or not isinstance(step.get("action"), str) or not step["action"].strip():
        raise UserError(f"{where}: expected an object with text in `action`, found {step!r:.60}")
    for key, value in step.items():
        if key not in Step.__dataclass_fields__:
            raise UserError(f"{where}: unknown key `{key}`; expected {', '.join(Step.__dataclass_fields__)}")
        if not isinstance(value, str | None):
            raise UserError(f"{where}: expected text in `{key}`, found {kind(value)}")
    title = step.get("title")
    if title is not None and not f"\n{step['action']}".count(f"\n{title}"):
        raise UserError(f"{where}: `title` must start a line of `action`, as it is written there")
    return Step(**step)


def native_row(trajectory: Trajectory) -> dict[str, Any]:
    """The row that `read` reads back."""
    row = asdict(trajectory)
    row["steps"] = [{key: value for key, value in step.items() if value is not None} for step in row["steps"]]
    return row
