"""Rows with a problem column and a written-solution column -> trajectories, cut at the numbered steps.

The kind of s1K-1.1 (`question`, `deepseek_attempt`) and of any DeepSeek, Qwen or Llama solutions in a table.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from srl.data.formats.numbered import cut_steps
from srl.errors import UserError
from srl.files import Row
from srl.records import Trajectory

KNOWN_COLUMNS = (
    ("question", "deepseek_attempt"),  # s1K-1.1: `solution` there is the data set's reference, not R1's text
    ("problem", "solution"),
    ("question", "solution"),
    ("instruction", "answer"),
    ("instruction", "output"),
    ("prompt", "response"),
)
"""(problem, solution) columns of known data sets, tried in this order."""

RIGHT, WRONG = ("true", "yes", "correct", "1"), ("false", "no", "incorrect", "0")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which fields of a row hold what; None: guess the two texts, leave answer and correctness unknown."""

    problem: str | None = None
    solution: str | None = None
    answer: str | None = None
    correct: str | None = None

    def resolve(self, value: Mapping[str, Any]) -> Columns | None:
        """The same with problem and solution filled in for a row; None if it has no such pair of fields."""
        for problem, solution in KNOWN_COLUMNS:
            pair = Columns(self.problem or problem, self.solution or solution, self.answer, self.correct)
            if pair.problem in value and pair.solution in value:
                return pair
        return None


@dataclass(frozen=True)
class NumberedSolutions:
    """The format of such rows (`srl.data.formats.Format`)."""

    columns: Columns
    NAME: str = "numbered-solutions"

    def recognise(self, value: Any) -> str | None:
        """Why a value is such a row: its two columns."""
        columns = self.columns.resolve(value) if isinstance(value, dict) else None
        return f"columns `{columns.problem}` and `{columns.solution}`" if columns else None

    def read(self, row: Row, trajectory_id: str) -> Trajectory:
        """One row as a trajectory; `verified` as far as a correctness column says. Null means: not known.

        Raises:
            UserError: a named field is missing or not text.
            NotNumbered: the solution is not in numbered steps.
        """
        columns = self.columns.resolve(row.value)
        assert columns is not None, "recognise() comes first"
        cut = cut_steps(_text(row, columns.solution) or "")
        problem, answer = _text(row, columns.problem), _text(row, columns.answer) if columns.answer else None
        if not problem or not problem.strip():
            raise UserError(f"{row.where}: expected text in `{columns.problem}`, found {problem!r}")
        return Trajectory(
            id=trajectory_id,
            problem=problem.strip(),
            steps=cut.steps,
            answer=answer.strip() if answer else None,
            verified=_verdict(row, columns.correct) if columns.correct else None,
            conclusion=cut.conclusion,
            metadata={"where": row.where, "format": self.NAME, "family": cut.family},
        )


def _text(row: Row, field: str | None) -> str | None:
    value = _value(row, field)
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise UserError(f"{row.where}: expected text in `{field}`, found {type(value).__name__}")
    return value


def _verdict(row: Row, field: str) -> bool | None:
    if _value(row, field) is None:
        return None
    value = str(_value(row, field)).strip().lower()
    if value not in RIGHT + WRONG:
        raise UserError(f"{row.where}: expected {'/'.join(RIGHT)} or {'/'.join(WRONG)} in `{field}`, found {value!r}")
    return value in RIGHT


def _value(row: Row, field: str | None) -> Any:
    if field not in row.value:
        raise UserError(f"{row.where}: no field `{field}`; it has {_listed(row.value)}")
    return row.value[field]


def _listed(row: Mapping[str, Any] | Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in row) or "none"
