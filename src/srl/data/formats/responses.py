"""OpenAI's Responses API: a conversation as a list of items, not of messages.

    [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather in Oslo?"}]},
     {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I ask."}]},
     {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"},
     {"type": "function_call_output", "call_id": "c", "output": "4"}]

A turn of the assistant is a stretch of its items; its reasoning is the thought. Source:
https://platform.openai.com/docs/api-reference/responses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from srl.data.formats.fields import first_text, mapping, text
from srl.data.formats.thoughts import untagged
from srl.data.formats.turns import Turn, call_line, joined, read_turn

_CALLS = ("function_call", "custom_tool_call", "mcp_call")
_OUTPUTS = ("function_call_output", "custom_tool_call_output")
_SHELLS = ("local_shell_call", "shell_call", "computer_call")
_ITEMS = (*_CALLS, *_OUTPUTS, "reasoning")


def is_items(value: Any) -> bool:
    """Whether a list holds such items: some have a type and no role."""
    return (
        isinstance(value, list)
        and any(isinstance(item, dict) and item.get("type") in _ITEMS for item in value)
        and all(isinstance(item, dict) for item in value[:3])
    )


def item_turns(items: list[Any], where: str) -> Iterator[Turn]:
    """Every item as a turn; `turns.stretches` joins those of the assistant.

    Raises:
        UserError: an item of no known shape.
    """
    for index, item in enumerate(items):
        place = f"{where}, item {index}"
        fields = mapping(item, "items", place)
        sort = _sort(fields)
        if sort in _CALLS or sort in _SHELLS:
            name = fields.get("name") or sort
            arguments = fields.get("arguments", fields.get("input", fields.get("action")))
            yield Turn("assistant", "", calls=(call_line(text(name, "name", place), arguments),))
        elif sort is not None and sort.endswith("_output"):
            yield Turn("tool", read_turn({"role": "tool", "content": fields.get("output")}, place).text)
        elif sort == "reasoning":
            yield Turn("assistant", "", _reasoning(fields))
        elif "role" in fields:
            yield read_turn(fields, place)


def _sort(item: Any) -> str | None:
    return first_text(item, ("type",)) if isinstance(item, dict) else None


def _reasoning(item: dict[str, Any]) -> str:
    """The reasoning itself where it is open, else its summary."""
    for name in ("content", "summary"):
        parts = item.get(name)
        if isinstance(parts, str):
            return untagged(parts)
        written = joined(
            part["text"]
            for part in (parts if isinstance(parts, list) else [])
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
        if written:
            return untagged(written)
    return ""
