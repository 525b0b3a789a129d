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
from typing import Any

from srl.data.formats.columns import answer_of
from srl.data.formats.fields import facts, first_text, items, kind
from srl.data.formats.labels import crashed, told, verdict
from srl.data.formats.react import split_turn
from srl.data.formats.responses import is_items, item_turns
from srl.data.formats.turns import (
    Act,
    Turn,
    as_chat,
    converse,
    is_messages,
    joined,
    parse,
    read_turn,
    said_or_called,
    stretches,
    tools_of,
    tools_text,
)
from srl.data.formats.written import Written
from srl.errors import Unusable, UserError
from srl.files import Row
from srl.records import Trajectory

NAME = "messages"

COLUMNS = ("conversations", "messages", "conversation", "traj", "trajectory", "chat")
"""`conversations` first: where a row has `messages` too (OpenThoughts), they hold the reference, not the expert."""

_PROBLEMS = ("problem", "question", "problem_statement", "instruction")
_ASKING = ("user", "human", "system", "developer")


def recognise(value: Any) -> str | None:
    """Whether a row, or a whole file, holds a conversation in which an expert speaks."""
    if is_messages(value):
        return "a list of messages"
    if is_items(value):
        return "a list of items (Responses API)"
    if not isinstance(value, dict) or isinstance(value.get("generations"), list):  # OpenR1-Math: `messages` has one
        return None
    for name in COLUMNS:
        if is_messages(turns := listed(value.get(name))) and not is_unanswered(turns):
            return f"`{name}` with roles"
        if is_items(turns):
            return f"`{name}` with items (Responses API)"
    return "`prompt` and `completion` of several turns or with a reward" if is_rollout(value) else None


def is_unanswered(turns: list[Any]) -> bool:
    """Whether only the user speaks in a conversation: it asks, and no expert answers."""
    return all(isinstance(turn, dict) and turn.get("role", turn.get("from")) in _ASKING for turn in turns)


def is_rollout(row: dict[str, Any]) -> bool:
    """Whether `prompt` and `completion` are a run in an environment rather than one answer to be learned."""
    prompt, completion = as_chat(row.get("prompt")), as_chat(row.get("completion"))
    if not (isinstance(prompt, str) or is_messages(prompt)):
        return False
    if isinstance(completion, list) and is_messages(completion):
        return len(completion) > 1 or "reward" in row or bool(completion[0].get("tool_calls"))
    return isinstance(completion, str) and "reward" in row


def read(row: Row, trajectory_id: str) -> Trajectory | Written:
    """One conversation as a trajectory, a step per assistant turn; one plain answer as a written solution.

    Raises:
        UserError: no conversation, or a message of no known shape.
        Unusable: no problem, or no action.
    """
    value = row.value if isinstance(row.value, dict) else {}
    turns = list(stretches(_turns(row)))
    found = converse(turns, _act, problem=first_text(value, _PROBLEMS))
    tools = tools_of(value)
    instructions = joined([found.instructions or first_text(value, ("system",)) or "", tools_text(tools)]) or None
    metadata = facts(row.where, NAME, value, skipped_turns=found.skipped)
    acts = bool(tools) or any(turn.calls for turn in turns)
    verified = verdict(value)
    if not acts and len(found.steps) == 1 and found.steps[0].observation is None:
        return Written(
            id=trajectory_id,
            problem=found.problem,
            text=found.steps[0].action,
            thought=found.steps[0].thought or "",
            answer=answer_of(value),
            verified=verified,
            is_chat=True,
            instructions=instructions,
            metadata=metadata,
        )
    if verified is None:
        verified = False if crashed(value) else told(found.steps[-1].observation)
    return Trajectory(
        id=trajectory_id,
        problem=found.problem,
        steps=found.steps,
        verified=verified,
        instructions=instructions,
        environment=acts or None,
        metadata=metadata,
    )


def messages_of(row: Row) -> list[Any]:
    """The conversation in a row: the row itself, a column, or a JSON text in a column.

    Raises:
        UserError: there is none.
        Unusable: it is empty.
    """
    value: Any = row.value
    if isinstance(value, dict):
        columns = [column for name in COLUMNS if (column := listed(value.get(name))) is not None]
        if columns:
            value = next(filter(is_messages, columns), columns[0])
        elif "prompt" in value and "completion" in value:
            prompt, completion = as_chat(value["prompt"]), as_chat(value["completion"])
            prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            completion = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
            value = [*items(prompt, "prompt", row.where), *items(completion, "completion", row.where)]
    if not isinstance(value, list):
        raise UserError(f"{row.where}: expected messages in one of {', '.join(COLUMNS)}, found {kind(value)}")
    if not value:
        raise Unusable("no action", "no messages")
    return value


def _turns(row: Row) -> Iterator[Turn]:
    messages = messages_of(row)
    if is_items(messages):
        yield from item_turns(messages, row.where)
        return
    for index, message in enumerate(messages):
        # Data sets mark with `loss` the words they put into the expert's mouth ("Ok.", AgentInstruct).
        turn = read_turn(message, f"{row.where}, message {index}")
        if message.get("loss") is not False and (turn.role != "assistant" or message.get("loss_weight") != 0):
            yield turn


def _act(turn: Turn) -> Act | None:
    written = None if turn.calls or turn.thought else split_turn(turn.text)
    return written or said_or_called(turn)


def listed(column: Any) -> Any:
    """A column with a conversation, which tables may hold as a JSON text."""
    return parse(column) if isinstance(column, str) and column.lstrip()[:1] == "[" else column
