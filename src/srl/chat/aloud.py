"""A whole solution with thoughts anywhere in it, as a model writes it that thinks before each of its steps."""

from __future__ import annotations

import re

from srl.chat.prompts import SEPARATOR, Completion

_THOUGHT = re.compile(r"<think>((?:(?!</?think>).)*)</think>\s*", re.DOTALL)


def parse_aloud(text: str, *, truncated: bool = False) -> Completion:
    """Take all thoughts out of a solution; what is left is the action.

    Well formed means: every `<think>` is closed and none lies in another, there is text outside, and the length limit
    did not cut it off. There may be no thought at all.

    >>> parse_aloud("<think>6 * 7</think>1. It is 42.\\n\\n<think>done</think>2. So 42.")
    Completion(thought='6 * 7\\n\\ndone', action='1. It is 42.\\n\\n2. So 42.', format_error=None)
    >>> parse_aloud("1. It is 42. </think>").format_error
    'unpaired tags'
    """
    if truncated:
        return Completion(format_error="truncated")
    action = _THOUGHT.sub("", text)
    if "<think>" in action or "</think>" in action:
        return Completion(format_error="unpaired tags")
    if not action.strip():
        return Completion(format_error="empty action")
    return Completion(SEPARATOR.join(thought.strip() for thought in _THOUGHT.findall(text)), action.strip())
