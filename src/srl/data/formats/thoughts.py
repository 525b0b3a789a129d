r"""A text of an expert -> what it thought, and what it said or did. The one home of the tags that separate them.

    <think>6 * 7</think>42                                      R1, Qwen, and most others
    6 * 7</think>42                                             the chat template has eaten the first tag
    <|begin_of_thought|>6 * 7<|end_of_thought|>
    <|begin_of_solution|>42<|end_of_solution|>                  OpenThoughts, Sky-T1
    [THINK]6 * 7[/THINK]42                                      Magistral

all say: thought "6 * 7", then "42". Tags that a text only speaks of stay where they are: in code, in a call's
arguments, between quotes, or as words of a sentence.
"""

from __future__ import annotations

import re
from typing import Any

_NAMES = "think|thinking|thought|reasoning|seed:think"
_OPEN = rf"<(?:{_NAMES})>|<\|begin_of_thought\|>|\[THINK\]|◁think▷"
_CLOSE = rf"</(?:{_NAMES})>|<\|end_of_thought\|>|\[/THINK\]|◁/think▷"

_TAG = re.compile(rf"{_OPEN}|{_CLOSE}|<\|(?:begin|end)_of_solution\|>")
_WORDS = ("hink", "HINK", "thought", "reasoning", "of_solution")  # one is in every tag; looked for first, being fast
_LEADING = re.compile(rf"\s*(?:{_OPEN})")
_CLOSED = re.compile(_CLOSE)
_OPENED = re.compile(rf"{_OPEN}|<function=|<tool_call>")
_LAST_CLOSE = re.compile(rf".*(?:{_CLOSE})", re.S)
# A block of thought, or before it a stretch in which such tags are quoted. The end of a text ends every stretch, so
# that looking for it takes linear time.
_BLOCK = re.compile(
    r"```.*?(?:```|\Z)|<function=.*?(?:</function>|\Z)|<tool_call>.*?(?:</tool_call>|\Z)"
    rf"|(?<![`\"'])(?:{_OPEN})(?P<thought>.*?)(?:{_CLOSE})(?![`\"'])",
    re.S,
)
_QUOTES = ("`", '"', "'")
_SOLUTION = ("<|begin_of_solution|>", "<|end_of_solution|>")
_ANSWERS = (("<answer>", "</answer>"), ("<solution>", "</solution>"))


def split_thought(text: str) -> tuple[str, str]:
    r"""A text as (its thoughts, the rest), both without their tags; the thought is "" where there is none.

    >>> split_thought("<think>6 * 7</think>42"), split_thought("6 * 7\n</think>42"), split_thought("42")
    (('6 * 7', '42'), ('6 * 7', '42'), ('', '42'))
    """
    if not any(word in text for word in _WORDS) or not _TAG.search(text):
        return "", text
    thoughts: list[str] = []
    rest = _without_lost_opening(text, thoughts)
    closed = _LAST_CLOSE.match(rest)
    end = closed.end() if closed else 0

    def take(found: re.Match[str]) -> str:
        if found["thought"] is None:
            return found[0]
        thoughts.append(found["thought"].strip())
        return ""

    rest = (_BLOCK.sub(take, rest[:end]) + rest[end:]).strip()
    if cut_off := _LEADING.match(rest):  # in the middle of a thought: nothing was done
        thoughts.append(rest[cut_off.end() :].strip())
        rest = ""
    return "\n\n".join(filter(None, thoughts)), _unwrapped(rest)


def untagged(thought: str) -> str:
    """A thought that stands in a field of its own, without the tags that some servers leave in it.

    >>> untagged("<think>6 * 7</think>"), untagged("6 * 7")
    ('6 * 7', '6 * 7')
    """
    inside, rest = split_thought(thought)
    return "\n\n".join(filter(None, (inside, rest.strip())))


def reasoning_of(message: dict[str, Any]) -> str:
    """The thought that a message of a chat API keeps beside its content, under any of the names in use."""
    for name in ("reasoning_content", "reasoning", "thinking", "thought"):
        if isinstance(message.get(name), str) and message[name].strip():
            return untagged(message[name])
    for name in ("reasoning_details", "thinking_blocks"):  # OpenRouter's and LiteLLM's lists of parts
        if isinstance(parts := message.get(name), list):
            written = (_part(part) for part in parts if isinstance(part, dict))
            return untagged("\n\n".join(filter(None, written)))
    return ""


def _part(part: dict[str, Any]) -> str:
    return next((part[name] for name in ("text", "summary", "thinking") if isinstance(part.get(name), str)), "")


def _without_lost_opening(text: str, thoughts: list[str]) -> str:
    """The text after a thought whose first tag is missing."""
    closed = _CLOSED.search(text)
    if not closed or not _ends_a_thought(text, closed):
        return text
    before, after = text[: closed.start()].strip(), text[closed.end() :].strip()
    if not after:
        return before  # a stray tag at the end
    thoughts.append(before)
    return after


def _ends_a_thought(text: str, closed: re.Match[str]) -> bool:
    before, after = text[: closed.start()], text[closed.end() : closed.end() + 1]
    if _OPENED.search(before):
        return False
    if before.endswith("\n"):
        return True
    in_code = before.count("```") % 2 == 1
    spoken_of = before.endswith((*_QUOTES, " ")) and after.startswith((*_QUOTES, " "))
    return not in_code and not spoken_of


def _unwrapped(rest: str) -> str:
    for first, last in _ANSWERS:
        if rest.startswith(first) and rest.endswith(last):
            rest = rest.removeprefix(first).removesuffix(last).strip()
    first, last = _SOLUTION
    return rest.replace(first, "").replace(last, "").strip() if first in rest or last in rest else rest
