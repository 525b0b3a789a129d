"""Problems without a solution, to be solved as a whole: RLVR's rows.

    {"prompt": [{"role": "user", "content": "2 + 2?"}], "answer": "4"}        TRL; the prompt stays as given
    {"messages": [{"role": "user", "content": "2 + 2?"}], "answer": "4"}      a chat in which only the user speaks
    {"problem": "2 + 2?", "answer": "4"}

Sources: https://huggingface.co/docs/trl/dataset_formats, https://github.com/inclusionAI/AReaL.
"""

from __future__ import annotations

from typing import Any

from srl.data.formats.columns import ANSWERS, PROBLEMS, REFERENCES, answer_of, is_bare
from srl.data.formats.fields import first_text, mapping
from srl.data.formats.messages import COLUMNS, is_unanswered, listed
from srl.data.formats.thoughts import split_thought
from srl.data.formats.turns import is_messages, prompt_messages
from srl.data.formats.written import Written
from srl.errors import Unusable
from srl.files import Row
from srl.records import Problem

NAME = "problems"


def recognise(value: Any) -> str | None:
    """Whether a row has a problem and says its answer, or is a chat without an expert."""
    if not isinstance(value, dict):
        return None
    answer = next((name for name in (*ANSWERS, *REFERENCES) if value.get(name) is not None), None)
    if (name := _prompt(value)) is not None:
        return f"`{name}` without an expert's turn" + (f", and `{answer}`" if answer else "")
    problem = next((name for name in PROBLEMS if isinstance(value.get(name), str)), None)
    return f"`{problem}` and `{answer}`" if problem and answer else None


def read(row: Row, trajectory_id: str) -> Problem | Written:
    """One row as a problem.

    Raises:
        UserError: a message of no known shape.
        Unusable: no problem, or no known answer.
    """
    value = mapping(row.value, "row", row.where)
    answer = answer_of(value)
    name = _prompt(value)
    problem = first_text(value, PROBLEMS)
    if answer is None:
        raise Unusable("no action", "nor a known answer")
    if name is None:
        if not problem:
            raise Unusable("no problem")
        return Written(trajectory_id, problem.strip(), "", answer=answer, metadata={"where": row.where, "format": NAME})
    prompt = prompt_messages(listed(value[name]), row.where)
    if not any(message["content"].strip() for message in prompt):
        raise Unusable("no problem")
    solution = first_text(value, REFERENCES)
    solution = None if solution is None or is_bare(solution) else split_thought(solution)[1]
    return Problem(trajectory_id=trajectory_id, prompt=prompt, answer=answer, solution=solution)


def _prompt(value: dict[str, Any]) -> str | None:
    """The column with a conversation in which no assistant speaks."""
    for name in ("prompt", *COLUMNS):
        turns = listed(value.get(name))
        if is_messages(turns) and is_unanswered(turns):
            return name
    return None
