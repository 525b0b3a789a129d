"""Conversations of any agent: OpenAI messages, ShareGPT, and the rows that tau-bench and verifiers leave.

    {"messages": [{"role": "system", "content": "Use the tools."},
                  {"role": "user", "content": "Cancel order 7."},
                  {"role": "assistant", "content": null, "tool_calls": [
                      {"id": "a", "type": "function", "function": {"name": "cancel", "arguments": "{\"order\": 7}"}}]},
                  {"role": "tool", "tool_call_id": "a", "content": "done"},
                  {"role": "assistant", "content": "Order 7 is cancelled."}],
     "tools": "[{\"type\": \"function\", …}]"}

Two steps: `{"name": "cancel", "arguments": {"order": 7}}`, observed "done"; and "Order 7 is cancelled.".
Sources: https://platform.openai.com/docs/api-reference/chat, https://github.com/sierra-research/tau-bench,
https://github.com/PrimeIntellect-ai/verifiers, https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from srl.data.formats.fields import facts, first_text, items, kind, verdict
from srl.data.formats.numbered import NotNumbered, cut_steps
from srl.data.formats.react import split_turn
from srl.data.formats.turns import (
    Act,
    Turn,
    converse,
    is_messages,
    joined,
    parse,
    read_turn,
    said_or_called,
    tools_text,
)
from srl.errors import Unusable, UserError
from srl.files import Row
from srl.records import Trajectory

NAME = "messages"

_COLUMNS = ("messages", "conversations", "conversation", "traj", "trajectory", "chat")
_PROBLEMS = ("problem", "question", "problem_statement", "instruction")


def recognise(value: Any) -> str | None:
    """Whether a row, or a whole file, holds a conversation."""
    if is_messages(value):
        return "a list of messages"
    if not isinstance(value, dict):
        return None
    for name in _COLUMNS:
        if is_messages(_listed(value.get(name))):
            return f"`{name}` with roles"
    return "`prompt` and `completion` of several turns or with a reward" if is_rollout(value) else None


def is_rollout(row: dict[str, Any]) -> bool:
    """Whether `prompt` and `completion` are a run in an environment rather than one answer to be learned."""
    prompt, completion = row.get("prompt"), row.get("completion")
    if not (isinstance(prompt, str) or is_messages(prompt)):
        return False
    if isinstance(completion, list) and is_messages(completion):
        return len(completion) > 1 or "reward" in row or bool(completion[0].get("tool_calls"))
    return isinstance(completion, str) and "reward" in row


def read(row: Row, trajectory_id: str) -> Trajectory:
    """One conversation as a trajectory: a step per assistant turn, or per numbered step of a single answer.

    Raises:
        UserError: no conversation, or a message of no known shape.
        Unusable: no problem, or no action.
    """
    value = row.value if isinstance(row.value, dict) else {}
    found = converse(_turns(row), _act, problem=first_text(value, _PROBLEMS))
    steps, conclusion = found.steps, None
    if len(steps) == 1 and steps[0].observation is None and not value.get("tools"):
        # One answer: maybe a written solution in numbered steps.
        with suppress(NotNumbered):
            cut = cut_steps(steps[0].action)
            steps = (replace(cut.steps[0], thought=steps[0].thought), *cut.steps[1:])
            conclusion = cut.conclusion
    instructions = joined([found.instructions or first_text(value, ("system",)) or "", tools_text(value.get("tools"))])
    return Trajectory(
        id=trajectory_id,
        problem=found.problem,
        steps=steps,
        verified=verdict(value),
        conclusion=conclusion,
        instructions=instructions or None,
        metadata=facts(row.where, NAME, value, skipped_turns=found.skipped),
    )


def messages_of(row: Row) -> list[Any]:
    """The conversation in a row: the row itself, a column, or a JSON text in a column.

    Raises:
        UserError: there is none.
        Unusable: it is empty.
    """
    value: Any = row.value
    if isinstance(value, dict):
        columns = [listed for name in _COLUMNS if (listed := _listed(value.get(name))) is not None]
        if columns:
            value = next(filter(is_messages, columns), columns[0])
        elif "prompt" in value and "completion" in value:
            prompt, completion = value["prompt"], value["completion"]
            prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
            value = [*items(prompt, "prompt", row.where), *items(completion, "completion", row.where)]
    if not isinstance(value, list):
        raise UserError(f"{row.where}: expected messages in one of {', '.join(_COLUMNS)}, found {kind(value)}")
    if not value:
        raise Unusable("no action", "no messages")
    return value


def _turns(row: Row) -> Iterator[Turn]:
    for index, message in enumerate(messages_of(row)):
        # Data sets mark with `loss` the words they put into the expert's mouth ("Ok.", AgentInstruct).
        if not (isinstance(message, dict) and message.get("loss") is False):
            yield read_turn(message, f"{row.where}, message {index}")


def _act(turn: Turn) -> Act | None:
    written = None if turn.calls or turn.thought else split_turn(turn.text)
    return written or said_or_called(turn)


def _listed(column: Any) -> Any:
    return parse(column) if isinstance(column, str) and column.lstrip()[:1] == "[" else column
