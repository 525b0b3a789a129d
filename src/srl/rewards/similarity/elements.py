"""What the step similarity compares: characters of a string, or token ids; checked and cut to length."""

from __future__ import annotations

import logging
from typing import Any

MAX_LENGTH = 65_536
"""Elements of one sequence that are compared. What follows them is cut off, and a warning says so once."""

Elements = str | list[int] | tuple[int, ...]

_logger = logging.getLogger("srl.rewards.similarity")
_cuts_logged: set[int] = set()


def checked_pair(action: Any, expert: Any) -> tuple[Elements, Elements]:
    """The two sequences as they will be compared.

    Raises TypeError unless both are strings or both are lists or tuples.
    """
    for name, value in (("action", action), ("expert", expert)):
        if not isinstance(value, str | list | tuple):
            raise TypeError(f"{name} must be a str, or a list or tuple of token ids, not {type(value).__name__}")
    if isinstance(action, str) != isinstance(expert, str):
        raise TypeError(
            f"action and expert must be of one kind, not {type(action).__name__} and {type(expert).__name__}"
        )
    return _cut(action), _cut(expert)


def _cut(elements: Elements) -> Elements:
    if len(elements) <= MAX_LENGTH:
        return elements
    if MAX_LENGTH not in _cuts_logged:
        _cuts_logged.add(MAX_LENGTH)
        _logger.warning(
            "a sequence of %d elements was cut to its first %d before it was compared (said once)",
            len(elements),
            MAX_LENGTH,
        )
    return elements[:MAX_LENGTH]
