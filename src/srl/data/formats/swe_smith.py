r"""SWE-agent conversations with function calls written as XML, as SWE-smith fine-tunes on them.

    {"messages": [{"role": "system", "content": "You can call these functions: …"},
                  {"role": "user", "content": "<pr_description>…</pr_description>"},
                  {"role": "assistant", "content":
                   "I look first.\n\n<function=bash>\n<parameter=command>ls</parameter>\n</function>"},
                  {"role": "user", "content": "OBSERVATION:\nsetup.py"}],
     "instance_id": "pandas-dev__pandas.95280573.pr_53652"}

The function block is the action, the text before it the thought. SWE-agent and OpenHands, which train on the
same XML, take exactly one call per turn: a turn with none or with several was answered by an error and is no
step. Source: https://huggingface.co/datasets/SWE-bench/SWE-smith-trajectories.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from srl.data.formats.fields import facts, first_text
from srl.data.formats.labels import verdict
from srl.data.formats.messages import messages_of
from srl.data.formats.turns import Act, Turn, converse, read_turn
from srl.errors import Unusable, UserError
from srl.files import Row
from srl.records import Trajectory

NAME = "swe-smith"

_OPEN = re.compile(r"<function=[^>\n]+>\s*")
_CLOSE = "</function>"
_CLOSE_AFTER_PARAMETER = re.compile(r"</parameter>\s*</function>")

_FIRST_TURNS = 12  # where a conversation shows its kind


def recognise(value: Any) -> str | None:
    """Whether the first turns of the expert call functions in XML."""
    try:
        first = messages_of(Row("", value))[:_FIRST_TURNS]
        turns = [read_turn(message, "") for message in first]
    except (UserError, Unusable):
        return None
    called = any(turn.role == "assistant" and not turn.calls and function_blocks(turn.text) for turn in turns)
    return "messages with `<function=…>`" if called else None


def read(row: Row, trajectory_id: str) -> Trajectory:
    """One conversation as a trajectory: a step per turn that calls exactly one function.

    Raises:
        UserError: no conversation, or a message of no known shape.
        Unusable: no problem, or no action.
    """
    value = row.value if isinstance(row.value, dict) else {}
    found = converse(_turns(row), _act, problem=first_text(value, ("problem_statement",)))
    return Trajectory(
        id=trajectory_id,
        problem=found.problem,
        steps=found.steps,
        environment=True,
        verified=verdict(value),
        instructions=found.instructions,
        metadata=facts(row.where, NAME, value, skipped_turns=found.skipped),
    )


def function_blocks(said: str) -> list[tuple[int, int]]:
    """Where the function calls in a text begin and end; one left open is none."""
    blocks: list[tuple[int, int]] = []
    position = 0
    while opened := _OPEN.search(said, position):
        if said.startswith(_CLOSE, opened.end()):
            position = opened.end() + len(_CLOSE)
        elif closed := _CLOSE_AFTER_PARAMETER.search(said, opened.end()):
            position = closed.end()  # a parameter may itself quote `</function>`
        else:
            break
        blocks.append((opened.start(), position))
    return blocks


def _act(turn: Turn) -> Act | None:
    blocks = function_blocks(turn.text)
    if len(blocks) != 1:
        return None
    start, end = blocks[0]
    before = turn.text[:start].strip().removesuffix("<tool_call>").strip()  # Qwen3-Coder wraps its calls
    return Act(turn.text[start:end], "\n\n".join(filter(None, (turn.thought, before))))


def _turns(row: Row) -> Iterator[Turn]:
    for index, message in enumerate(messages_of(row)):
        yield read_turn(message, f"{row.where}, message {index}")
