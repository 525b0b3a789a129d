"""Values from files of any kind as values that a page can hold: whatever stands there, the page is written."""

from __future__ import annotations

import math
from typing import Any

MAX_DEPTH = 20
MAX_INTEGER = 2**53
"""JavaScript counts no further."""

MAX_DIGITS = 50


def plain(value: Any, depth: int = 0) -> Any:
    """A value of JSON with what no page can hold made text, or None: huge integers, NaN, half characters, nesting.

    >>> plain({"a": [10**20, float("nan"), "half: \\ud800"], "b": [[1]]})
    {'a': ['100000000000000000000', None, 'half: ?'], 'b': [[1]]}
    """
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return str(value)[:MAX_DIGITS]
    if depth > MAX_DEPTH and isinstance(value, list | dict):
        return "…"
    if isinstance(value, list):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {str(plain(str(name))): plain(item, depth + 1) for name, item in value.items()}
    return value
