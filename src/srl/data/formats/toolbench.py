"""ToolBench's answers: a tree search for a way through APIs, and the path that won.

    {"win": true, "answer_generation": {"query": "Find a phone.", "function": […], "finish_type": "give_answer",
     "train_messages": [[system, user, call], [system, user, call, result, call], …]}, "tree": {…}}

Each list of `train_messages` is the beginning of the next; the last is the path. What the harness says to make the
model try something else, and the other branches of the tree, are no part of it.
Source: https://github.com/OpenBMB/ToolBench.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from srl.data.formats.fields import facts, first_text, items, mapping, submapping
from srl.data.formats.turns import Turn, converse, joined, read_turn, stretches, tools_text
from srl.errors import Unusable
from srl.files import Row
from srl.records import Trajectory

NAME = "toolbench"

_GAVE_ANSWER = "give_answer"
_TRY_AGAIN = "This is not the first time you try this task"


def recognise(value: Any) -> str | None:
    """Whether a row has an answer with the messages to train on."""
    answer = submapping(value, "answer_generation") if isinstance(value, dict) else {}
    return "`answer_generation.train_messages`" if isinstance(answer.get("train_messages"), list) else None


def read(row: Row, trajectory_id: str) -> Trajectory:
    """The winning path as a trajectory.

    Raises:
        UserError: a field of another type, or a message of no known shape.
        Unusable: no problem, or no action.
    """
    value = mapping(row.value, "row", row.where)
    answer = mapping(value.get("answer_generation"), "answer_generation", row.where)
    paths = items(answer.get("train_messages"), "train_messages", row.where)
    if not paths:
        raise Unusable("no action", "no messages")
    path = items(paths[-1], "train_messages", row.where)
    found = converse(stretches(_turns(path, row.where)))
    return Trajectory(
        id=trajectory_id,
        problem=first_text(answer, ("query",)) or found.problem,
        steps=found.steps,
        verified=_verdict(value, answer),
        instructions=joined([found.instructions or "", tools_text(answer.get("function"))]) or None,
        environment=True,
        metadata=facts(row.where, NAME, value, skipped_turns=found.skipped),
    )


def _turns(path: list[Any], where: str) -> Iterator[Turn]:
    for index, message in enumerate(path):
        turn = read_turn(message, f"{where}, message {index}")
        if not (turn.role == "user" and turn.text.lstrip().startswith(_TRY_AGAIN)):
            yield turn


def _verdict(value: dict[str, Any], answer: dict[str, Any]) -> bool | None:
    """A run is good if it won with an answer; giving up is no success."""
    labels = [value.get("win"), answer.get("valid_data")]
    known = [label for label in labels if isinstance(label, bool)]
    if isinstance(finished := answer.get("finish_type"), str):
        known.append(finished == _GAVE_ANSWER)
    return all(known) if known else None
