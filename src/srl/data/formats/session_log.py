"""Logs of coding agents' sessions, an event a line: Claude Code's and Codex'. The file is the trajectory.

    {"type": "user", "sessionId": "s", "message": {"role": "user", "content": "Fix it."}}
    {"type": "assistant", "sessionId": "s", "message": {"role": "assistant", "content": [{"type": "tool_use", …}]}}
    {"type": "user", "sessionId": "s", "message": {"role": "user", "content": [{"type": "tool_result", …}]}}

Codex writes items of the Responses API: `{"timestamp": …, "type": "response_item", "payload": {…}}`. What a helper
of the agent did (`isSidechain`), what the harness noted (`isMeta`) and summaries are no turns.
Sources: https://docs.anthropic.com/en/docs/claude-code, https://github.com/openai/codex.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from srl.data.formats.fields import facts, first_text, mapping, submapping
from srl.data.formats.responses import item_turns
from srl.data.formats.turns import Turn, converse, read_turn, stretches
from srl.errors import UserError
from srl.files import Row
from srl.records import Trajectory

NAME = "session-log"

_CODEX = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")


def is_event(value: Any) -> bool:
    """Whether a line is an event of such a log."""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return False
    if any(name in value for name in ("sessionId", "leafUuid", "messageId")):
        return "role" not in value
    return value["type"] in _CODEX and "payload" in value


def same_session(first: dict[str, Any], later: dict[str, Any]) -> bool:
    """Whether two events of a file may be of one session; many name none."""
    names = (first.get("sessionId"), later.get("sessionId"))
    return None in names or names[0] == names[1]


def recognise(value: Any) -> str | None:
    """Whether a list holds the events of a session."""
    if isinstance(value, list) and value and all(is_event(event) for event in value[:3]):
        return "lines that are events of one session"
    return None


def read(row: Row, trajectory_id: str) -> Trajectory:
    """One session as a trajectory: a step per stretch of the assistant's events.

    Raises:
        UserError: an event of no known shape.
        Unusable: no problem, or no action.
    """
    if not isinstance(row.value, list):
        raise UserError(f"{row.where}: expected the events of a session")
    events = [mapping(event, "event", row.where) for event in row.value]
    found = converse(stretches(_turns(events, row.where)))
    model = next((name for event in events if (name := first_text(submapping(event, "message"), ("model",)))), None)
    return Trajectory(
        id=next((name for event in events if (name := first_text(event, ("sessionId",)))), None) or trajectory_id,
        problem=found.problem,
        steps=found.steps,
        instructions=found.instructions,
        environment=True,
        metadata=facts(row.where, NAME, {}, skipped_turns=found.skipped, model=model),
    )


def _turns(events: list[dict[str, Any]], where: str) -> Iterator[Turn]:
    for index, event in enumerate(events):
        place = f"{where}, event {index}"
        if event.get("type") in ("user", "assistant") and not event.get("isSidechain") and not event.get("isMeta"):
            yield read_turn(event.get("message"), place)
        elif event.get("type") == "response_item":
            yield from item_turns([event.get("payload")], place)
