"""The columns that a user names, and a problem kept in another file, over what a row says by itself.

They act on every format that has what they name, and are an error for one that has not, or where no row has them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from srl.data.formats import Record, problems, prompt_completion, solutions, verl
from srl.data.formats.columns import PROBLEMS, Columns, answer_of, has, text_at, verdict_at
from srl.data.formats.fields import first_text
from srl.data.formats.written import Written
from srl.errors import UserError
from srl.files import Row
from srl.records import Problem, StepInstance, Trajectory
from srl.rewards.answer_text import known_answer

_ALL_BUT = "it applies to all formats but"
_APPLIES: dict[str, tuple[tuple[type, ...], str]] = {
    "--problems": ((Trajectory, Written), f"{_ALL_BUT} {prompt_completion.NAME}, {verl.NAME} and {problems.NAME}"),
    "--problem-field": ((Trajectory, Written), f"{_ALL_BUT} {prompt_completion.NAME}, {verl.NAME}, {problems.NAME}"),
    "--answer-field": ((Trajectory, Written, Problem), f"{_ALL_BUT} {prompt_completion.NAME}"),
    "--correct-field": ((Trajectory, Written, StepInstance), f"{_ALL_BUT} {verl.NAME} and {problems.NAME}"),
}
"""The records that each flag acts on, and the formats that these are of."""


class Overrides:
    """What the user has named, and how often rows had it."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        named = {
            "--answer-field": columns.answer,
            "--correct-field": columns.correct,
            "--thought-field": columns.thought,
        }
        self._named = {flag: name for flag, name in named.items() if name}
        self._rows = 0
        self._missing: Counter[str] = Counter()
        self._fields = ""

    def apply(self, record: Record, row: Row, problem: Row | None, format_name: str) -> Record:
        """The record with the problem, the answer and the verdict that the user has pointed at.

        Raises:
            UserError: a flag that has no meaning for this format, or a value of the wrong type.
        """
        columns, changes = self.columns, dict[str, Any]()
        self._count(row, problem)
        if columns.thought and format_name != solutions.NAME:
            raise UserError(
                f"{row.where}: --thought-field applies to {solutions.NAME} only; this row is of {format_name}"
            )
        if columns.problem or problem:
            self._check("--problem-field" if columns.problem else "--problems", record, row, format_name)
            changes["problem"] = self._problem(row, problem)
        if columns.answer:
            self._check("--answer-field", record, row, format_name)
            place = problem if problem and has(problem.value, columns.answer) else row
            written = text_at(place, columns.answer) if _has(place, columns.answer) else None
            changes["answer"] = known_answer(written)
        elif problem and (answer := answer_of(problem.value)):
            changes["answer"] = answer
        if columns.correct:
            self._check("--correct-field", record, row, format_name)
            if _has(row, columns.correct):
                changes["verified"] = verdict_at(row, columns.correct)
        if "answer" in changes and "own_answer" in record.metadata:
            changes["metadata"] = {key: value for key, value in record.metadata.items() if key != "own_answer"}
        return replace(record, **changes) if changes else record

    def check_met(self) -> None:
        """Refuse a column that no row had.

        Raises:
            UserError: there is one.
        """
        for flag, name in self._named.items():
            if self._missing[flag] == self._rows:
                raise UserError(
                    f"{flag} {name}: no such field in any of {self._rows} rows; the first has {self._fields}"
                )

    def missing(self) -> dict[str, int]:
        """How many rows lack a named column, by flag and name."""
        return {f"{flag} {name}": self._missing[flag] for flag, name in self._named.items() if self._missing[flag]}

    def _count(self, row: Row, problem: Row | None) -> None:
        if not self._rows:
            of_object = ", ".join(f"`{name}`" for name in row.value) if isinstance(row.value, dict) else ""
            self._fields = f"{of_object or 'none: it is a list':.300}"
        self._rows += 1
        for flag, name in self._named.items():
            self._missing[flag] += not (_has(row, name) or (problem is not None and _has(problem, name)))

    def _check(self, flag: str, record: Record, row: Row, format_name: str) -> None:
        kinds, formats = _APPLIES[flag]
        if not isinstance(record, kinds):
            raise UserError(f"{row.where}: {flag} does not apply to this row of {format_name}; {formats}")

    def _problem(self, row: Row, problem: Row | None) -> str:
        name = self.columns.problem
        if problem and name is None:
            text = first_text(problem.value, PROBLEMS)
        else:
            text = text_at(problem if problem and has(problem.value, str(name)) else row, str(name))
        if not text or not text.strip():
            place, expected = (problem or row).where, f"`{name}`" if name else f"one of {', '.join(PROBLEMS)}"
            raise UserError(f"{place}: expected text in {expected}, found {text!r}")
        return text.strip()


def _has(row: Row, name: str) -> bool:
    return isinstance(row.value, dict) and has(row.value, name)
