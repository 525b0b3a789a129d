"""The columns that a user names, and a problem kept in another file, over what a row says by itself.

They act on every format that has what they name, and are an error for one that has not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from srl.data.formats import Record, problems, prompt_completion, solutions, verl
from srl.data.formats.columns import PROBLEMS, Columns, has, known_answer, stated_answer, text_at, verdict_at
from srl.data.formats.fields import first_text
from srl.errors import UserError
from srl.files import Row
from srl.records import Problem, StepInstance


@dataclass(frozen=True)
class Overrides:
    """What the user has named."""

    columns: Columns

    def apply(self, record: Record, row: Row, problem: Row | None, format_name: str) -> Record:
        """The record with the problem, the answer and the verdict that the user has pointed at.

        Raises:
            UserError: a column that the row has not, or a flag that has no meaning for its format.
        """
        columns = self.columns
        where, changes = row.where, dict[str, Any]()
        if columns.thought and format_name != solutions.NAME:
            raise UserError(f"{where}: --thought-field applies to {solutions.NAME} only; this row is of {format_name}")
        if columns.problem or problem:
            _refuse(record, (StepInstance, Problem), "--problem-field" if columns.problem else "--problems", where)
            changes["problem"] = self._problem(row, problem)
        if columns.answer or problem:
            if columns.answer:
                _refuse(record, (StepInstance,), "--answer-field", where)
            if answer := self._answer(row, problem):
                changes["answer"] = answer
        if columns.answer:
            changes.setdefault("answer", None)
        if columns.correct:
            _refuse(record, (Problem,), "--correct-field", where)
            changes["verified"] = verdict_at(row, columns.correct)
        if not changes:
            return record
        if "answer" in changes and not isinstance(record, StepInstance):
            changes["metadata"] = {key: value for key, value in record.metadata.items() if key != "own_answer"}
        return replace(record, **changes)

    def _problem(self, row: Row, problem: Row | None) -> str:
        name = self.columns.problem
        if problem and not (name and has(problem.value, name)):
            found = None if name else first_text(problem.value, PROBLEMS)
            found = found or (text_at(row, name) if name else None)
            if not found:
                raise UserError(f"{problem.where}: expected a problem in one of {', '.join(PROBLEMS)}")
            return found.strip()
        place = problem or row
        text = text_at(place, str(name))
        if not text or not text.strip():
            raise UserError(f"{place.where}: expected text in `{name}`, found {text!r}")
        return text.strip()

    def _answer(self, row: Row, problem: Row | None) -> str | None:
        name = self.columns.answer
        if name:
            return stated_answer(text_at(problem if problem and has(problem.value, name) else row, name))
        return known_answer(problem.value) if problem else None


def _refuse(record: Record, kinds: tuple[type, ...], flag: str, where: str) -> None:
    if isinstance(record, kinds):
        given = " and ".join(
            {StepInstance: prompt_completion.NAME, Problem: f"{verl.NAME}, {problems.NAME} with a prompt"}[kind]
            for kind in kinds
        )
        raise UserError(
            f"{where}: {flag} does not apply to this row: those of {given} stay as given; it applies to rows "
            "with trajectories and written solutions, of all other formats"
        )
