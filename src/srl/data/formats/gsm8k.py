"""GSM8K's rows: a step a line, a calculator's notes in it, and the answer after `####`.

    {"question": "Half of 48?", "answer": "It is 48/2=<<48/2=24>>24.\\n#### 24"}

Source: https://github.com/openai/grade-school-math.
"""

from __future__ import annotations

import re
from typing import Any

from srl.data.formats.fields import first_text, mapping, text
from srl.data.formats.labels import verdict
from srl.data.formats.thoughts import split_thought
from srl.data.formats.written import Written
from srl.errors import Unusable
from srl.files import Row
from srl.rewards.answer_text import known_answer

NAME = "gsm8k"

_PROBLEMS = ("question", "problem")
_SOLUTIONS = ("answer", "solution")
_LAST_LINE = re.compile(r".*\n####[ \t]*\S[^\n]*\s*\Z", re.S)


def recognise(value: Any) -> str | None:
    """Whether a row has a question, and an answer that ends with `####`."""
    if not isinstance(value, dict) or not first_text(value, _PROBLEMS):
        return None
    name = _solution(value)
    return f"`{name}` that ends with ####" if name else None


def read(row: Row, trajectory_id: str) -> Written:
    """One row as a solution, to be cut by lines.

    Raises:
        UserError: the row is no object, or a field no text.
        Unusable: no problem, or no answer.
    """
    value = mapping(row.value, "row", row.where)
    name = _solution(value)
    problem = first_text(value, _PROBLEMS)
    if not problem:
        raise Unusable("no problem")
    if not name:
        raise Unusable("no action", "nothing after ####")
    thought, solution = split_thought(text(value[name], name, row.where))
    return Written(
        id=trajectory_id,
        problem=problem.strip(),
        text=solution.strip(),
        thought=thought,
        answer=known_answer(solution),
        verified=verdict(value),
        scheme="lines",
        metadata={"where": row.where, "format": NAME, "own_answer": True},
    )


def _solution(value: dict[str, Any]) -> str | None:
    for name in _SOLUTIONS:
        written = value.get(name)
        if isinstance(written, str) and "\n####" in written and _LAST_LINE.match(written):
            return name
    return None
