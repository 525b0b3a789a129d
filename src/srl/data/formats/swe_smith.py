r"""SWE-agent conversations with function calls written as XML or commands in code blocks, as SWE-smith keeps them.

    {"messages": [{"role": "system", "content": "You can call these functions: …"},
                  {"role": "user", "content": "<pr_description>…</pr_description>"},
                  {"role": "assistant", "content":
                   "I look first.\n\n<function=bash>\n<parameter=command>ls</parameter>\n</function>"},
                  {"role": "user", "content": "OBSERVATION:\nsetup.py"}],
     "instance_id": "pandas-dev__pandas.95280573.pr_53652"}

The function block is the action, the text before it the thought. SWE-agent and OpenHands, which train on the
same XML, take exactly one call per turn: a turn with none or with several was answered by an error and is no
step. Without XML ("ticks"), the command stands in the turn's last code block. Source: https://huggingface.co/datasets/SWE-bench/SWE-smith-trajectories.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from srl.data.formats.fields import facts, first_text
from srl.data.formats.labels import verdict
from srl.data.formats.messages import messages_of
from srl.data.formats.swe_agent import last_block
from srl.data.formats.turns import Act, Turn, converse, joined, read_turn
from srl.errors import Unusable, UserError
from srl.files import Row
from srl.records import Trajectory
from srl.rewards.actions.calls import function_blocks

NAME = "swe-smith"

_FIRST_TURNS = 12  # where a conversation shows its kind


def recognise(value: Any) -> str | None:
    """Whether the first turns of the expert call functions in XML."""
    try:
        first = messages_of(Row("", value))[:_FIRST_TURNS]
        turns = [read_turn(message, "") for message in first]
    except (UserError, Unusable):
        return None
    if _is_xml(turns):
        return "messages with `<function=…>`"
    pairs = pairwise(turns)
    ticked = any(
        said.role == "assistant" and not said.calls and seen.text.startswith("OBSERVATION:") and last_block(said.text)
        for said, seen in pairs
    )
    return "messages with a code block, answered by OBSERVATION:" if ticked else None


def read(row: Row, trajectory_id: str) -> Trajectory:
    """One conversation as a trajectory: a step per turn that calls exactly one function.

    Raises:
        UserError: no conversation, or a message of no known shape.
        Unusable: no problem, or no action.
    """
    value = row.value if isinstance(row.value, dict) else {}
    turns = list(_turns(row))
    found = converse(turns, _act if _is_xml(turns) else _ticked, problem=first_text(value, ("problem_statement",)))
    return Trajectory(
        id=trajectory_id,
        problem=found.problem,
        steps=found.steps,
        environment=True,
        verified=verdict(value),
        instructions=found.instructions,
        metadata=facts(row.where, NAME, value, skipped_turns=found.skipped),
    )


def _is_xml(turns: list[Turn]) -> bool:
    return any(turn.role == "assistant" and not turn.calls and function_blocks(turn.text) for turn in turns)


def _act(turn: Turn) -> Act | None:
    blocks = function_blocks(turn.text)
    if len(blocks) != 1:
        return None
    start, end = blocks[0]
    before = turn.text[:start].strip().removesuffix("<tool_call>").strip()  # Qwen3-Coder wraps its calls
    return Act(turn.text[start:end], "\n\n".join(filter(None, (turn.thought, before))))


def _ticked(turn: Turn) -> Act | None:
    before, command = last_block(turn.text) or ("", "")
    return Act(command.strip(), joined([turn.thought, before.strip()])) if command.strip() else None


def _turns(row: Row) -> Iterator[Turn]:
    for index, message in enumerate(messages_of(row)):
        yield read_turn(message, f"{row.where}, message {index}")
