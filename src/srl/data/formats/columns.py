"""Which column of a row holds what: named by the user, or one of the names that data sets use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from srl.data.formats.fields import first_text, kind
from srl.data.formats.labels import RIGHT, WRONG, as_verdict
from srl.data.formats.turns import parse
from srl.errors import UserError
from srl.files import Row
from srl.rewards.answer_text import known_answer, last_box

PROBLEMS = ("problem", "question", "problem_statement", "instruction", "prompt", "input", "query")
ANSWERS = (
    *("answer", "expected_answer", "final_answer", "ground_truth", "ground_truth_answer", "gtruth_answer", "gt_answer"),
    *("reference_answer", "correct_answer", "gold_answer", "gold", "target"),
)
REFERENCES = ("solution", "output")
"""Columns whose solution is a data set's own: its answer counts as known. An expert's attempt is no authority."""

_PROVE = re.compile(r"\b(?:prove|show) (?:that|the|if|for)\b|\bprove:", re.I)
_FIND = re.compile(r"\b(?:find|determine|compute|calculate|evaluate|solve|how (?:many|much)|what (?:is|are))\b", re.I)
_ANSWER_CHARACTERS = 200
_BARE_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Columns:
    """Fields of a row that the user has named; a dot leads into an object: `model_prediction.proof`."""

    problem: str | None = None
    solution: str | None = None
    answer: str | None = None
    correct: str | None = None
    thought: str | None = None


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """What a row holds under a name, or along a path of names; of a null object everything is null.

    Raises:
        KeyError: nothing.
    """
    if name in row:
        return row[name]
    value: Any = row
    for key in name.split("."):
        if value is None:
            return None
        value = parse(value) if isinstance(value, str) else value  # an object written as text
        if not isinstance(value, dict):
            raise KeyError(name)
        value = value[key]
    return value


def has(row: Mapping[str, Any], name: str) -> bool:
    """Whether `value_at` finds something."""
    try:
        value_at(row, name)
    except KeyError:
        return False
    return True


def text_at(row: Row, name: str) -> str | None:
    """The text in a column, a number as text; None for null.

    Raises:
        UserError: no such column, or another type in it.
    """
    value = _found(row, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{row.where}: expected text in `{name}`, found {kind(value)}")
    return value


def verdict_at(row: Row, name: str) -> bool | None:
    """The verdict in a column; None for null.

    Raises:
        UserError: no such column, or nothing that says yes or no.
    """
    value = _found(row, name)
    found = {"1": True, "0": False}.get(value) if isinstance(value, str) else None
    if value is None or found is not None or (found := as_verdict(value)) is not None:
        return found
    raise UserError(f"{row.where}: expected {'/'.join(RIGHT)} or {'/'.join(WRONG)} in `{name}`, found {value!r:.60}")


def _found(row: Row, name: str) -> Any:
    if not isinstance(row.value, dict):
        raise UserError(f"{row.where}: no field `{name}`: this is {kind(row.value)}, not an object with fields")
    try:
        return value_at(row.value, name)
    except KeyError:
        raise no_field(row, name) from None


def no_field(row: Row, name: str) -> UserError:
    """The error of a row that lacks a named column, with the fields that are where it is looked for."""
    fields, place = row.value, ""
    for key in name.split(".")[:-1]:
        inner = parse(fields[key]) if isinstance(fields.get(key), str) else fields.get(key)
        if not isinstance(inner, dict):
            break
        fields, place = inner, f"{place}{key}."
    names = ", ".join(f"`{place}{each}`" for each in fields) or "none"
    return UserError(f"{row.where}: no field `{name}`; it has {names:.300}")


def answer_of(row: Mapping[str, Any], solution: str | None = None) -> str | None:
    """The known answer of a row: of a column of answers, or else of its reference solution.

    `solution` is the column that is read as the expert's text, and no column of answers.
    """
    name = answer_column(row, solution)
    if name is None or (name in REFERENCES and _asks_for_proof(first_text(row, PROBLEMS) or "")):
        return None
    value = row[name]
    return known_answer(value[0] if isinstance(value, list) else value)


def answer_column(row: Mapping[str, Any], solution: str | None = None) -> str | None:
    """Where `answer_of` finds its answer."""
    for name in ANSWERS:
        text = _short_text(row.get(name)) if name != solution else None
        if text is not None and len(text) <= _ANSWER_CHARACTERS:
            return name
    for name in REFERENCES:
        if isinstance(text := row.get(name), str) and (is_bare(text) or last_box(text)):
            return name
    return None


def _asks_for_proof(problem: str) -> bool:
    """Whether a problem has no answer but a proof, whatever its solution puts into a box."""
    return bool(_PROVE.search(problem)) and not _FIND.search(problem)


def _short_text(value: Any) -> str | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def is_bare(text: str) -> bool:
    """Whether a text is an answer alone: one short line with a number or a formula, and hardly a word.

    >>> is_bare("128"), is_bare(r"\\frac{1}{n}"), is_bare("22 dollars"), is_bare("It is easy to see that 2 = 2.")
    (True, True, True, False)
    """
    text = text.strip()
    if not text or len(text) > _BARE_CHARACTERS or "\n" in text or text.endswith("."):
        return False
    words = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[a-zA-Z]+", " ", text))
    return len(words) <= 2 and bool(re.search(r"[\d\\$]", text))
