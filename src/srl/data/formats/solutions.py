"""Rows with a problem column and a written-solution column.

The kind of s1K-1.1 (`question`, `deepseek_attempt`) and of any DeepSeek, Qwen or Llama solutions in a table; MATH,
NuminaMath, DeepScaleR (`problem`, `solution`), OpenR1-Math (`generations`: several solutions, each a row of its own),
Nemotron (`input`, `output`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from srl.data.formats.columns import Columns, answer_column, answer_of, has, is_bare, text_at, value_at
from srl.data.formats.labels import verdict
from srl.data.formats.thoughts import split_thought, untagged
from srl.data.formats.turns import as_chat, is_messages, joined, read_turn
from srl.data.formats.written import Written
from srl.errors import UserError
from srl.files import Row

NAME = "numbered-solutions"

KNOWN_COLUMNS = (
    ("question", "deepseek_attempt"),  # s1K-1.1: `solution` there is the data set's reference, not R1's text
    ("problem", "generations"),
    ("problem", "generated_solution"),
    ("problem", "message_content"),
    ("problem", "solution"),
    ("question", "solution"),
    ("instruction", "answer"),
    ("instruction", "output"),
    ("prompt", "response"),
    ("question", "response"),
    ("input", "output"),
)
"""(problem, solution) columns of known data sets, tried in this order."""

_LISTS = ("generations", "responses", "solutions", "completions", "outputs")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "message_thinking")
_ENDINGS = ("_attempt", "_content", "_solution", "_response", "_output")


@dataclass(frozen=True)
class NumberedSolutions:
    """The format of such rows (`srl.data.formats.Format`)."""

    columns: Columns
    NAME: str = NAME

    def recognise(self, value: Any) -> str | None:
        """Why a value is such a row: its two columns, and those of other experts that were passed over."""
        columns = self._resolve(value) if isinstance(value, dict) else None
        if columns is None:
            return None
        others = [name for name in value if name.endswith("_attempt") and name != columns.solution]
        passed_over = f"; not {', '.join(f'`{name}`' for name in others)}: --solution-field" if others else ""
        return f"columns `{columns.problem}` and `{columns.solution}`{passed_over}"

    def read(self, row: Row, trajectory_id: str) -> Written:
        """One row as a solution; labels and answers as its other columns say. Null means: not known.

        Raises:
            UserError: a named field is missing or not text.
        """
        columns = self._resolve(row.value)
        assert columns is not None, "recognise() comes first"
        assert columns.problem
        assert columns.solution
        problem = _problem(row, columns.problem)
        thought, text = split_thought(text_at(row, columns.solution) or "")
        kept = _thought_beside(row, columns)
        answer = answer_of(row.value, columns.solution)
        own = answer is not None and answer_column(row.value, columns.solution) == columns.solution
        return Written(
            id=trajectory_id,
            problem=problem,
            text="" if is_bare(text) and answer else text.strip(),
            thought=joined([kept, thought]),
            answer=answer,
            verified=verdict(row.value, _labels_of(columns.solution)),
            metadata={"where": row.where, "format": self.NAME, **({"own_answer": True} if own else {})},
        )

    def attempts(self, row: Row) -> Iterator[Row]:
        """The row itself, or one row for each solution where its column lists several; aligned lists go along."""
        columns = self._resolve(row.value) if isinstance(row.value, dict) else None
        name = columns.solution if columns else None
        listed = row.value.get(name) if name in (*_LISTS, self.columns.solution) else None
        if not isinstance(listed, list) or not listed or not all(isinstance(each, str) for each in listed):
            yield row
            return
        aligned = {k: v for k, v in row.value.items() if isinstance(v, list) and len(v) == len(listed)}
        for index in range(len(listed)):
            yield row._replace(value={**row.value, **{name: each[index] for name, each in aligned.items()}})

    def _resolve(self, value: Mapping[str, Any]) -> Columns | None:
        """The columns with problem and solution filled in for a row; None if it has no such pair."""
        for problem, solution in KNOWN_COLUMNS:
            pair = replace(
                self.columns, problem=self.columns.problem or problem, solution=self.columns.solution or solution
            )
            if has(value, str(pair.problem)) and has(value, str(pair.solution)):
                return pair
        return None


def _problem(row: Row, name: str) -> str:
    value = as_chat(value_at(row.value, name))
    if is_messages(value):  # the turns before the expert's
        turns = [read_turn(message, row.where) for message in value]
        value = joined(turn.text for turn in turns if turn.role == "user")
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{row.where}: expected text in `{name}`, found {value!r:.60}")
    return value.strip()


def _thought_beside(row: Row, columns: Columns) -> str:
    """The thought in a column of its own: named, or called after the solution's or after what it is."""
    if columns.thought and has(row.value, columns.thought):
        return untagged(text_at(row, columns.thought) or "")
    stem = _stem(str(columns.solution))
    for name in (f"{stem}_thinking_trajectory", f"{stem}_thinking", f"{stem}_reasoning", *_THOUGHTS):
        if isinstance(row.value.get(name), str):
            return untagged(row.value[name])
    return ""


def _labels_of(solution: str) -> tuple[str, ...]:
    return (f"{_stem(solution)}_grade", f"{_stem(solution)}_correct", f"{solution}_correct")


def _stem(solution: str) -> str:
    """`deepseek` of `deepseek_attempt`."""
    return next((solution.removesuffix(ending) for ending in _ENDINGS if solution.endswith(ending)), solution)
