"""The step similarity R(a, e) = 2M / T of an action and the expert's (paper §4.2), exactly as in difflib.

    ratio(action, expert) == difflib.SequenceMatcher(None, action, expert, autojunk=False).ratio()

M is the number of elements in the matching blocks, T the number of elements of both. Only the time differs:
difflib is cubic at worst, and one degenerate rollout can hold up training for an hour. `_matcher.c` says how
this is done and why it is exact and bounded; `fallback.py` does the same where the extension is missing.

An element is a character (a code point, of any plane, lone surrogates too) or a token id from 0 to 2**32 - 1.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from srl.rewards.similarity.elements import MAX_LENGTH, Elements, checked_pair

_logger = logging.getLogger(__name__)

try:
    from srl.rewards.similarity._matcher import matched_pairs as _matched_pairs

    _IMPLEMENTATION = "C"
except ImportError as _error:
    from srl.rewards.similarity.fallback import matched_pairs as _matched_pairs

    _IMPLEMENTATION = "Python"
    _logger.warning(
        "the C extension srl.rewards.similarity._matcher is missing (%s): the pure-Python similarity is exact "
        "but some 50 times slower; install a C compiler, then srl again",
        _error,
    )

__all__ = [
    "MAX_LENGTH",
    "Elements",
    "implementation",
    "matched",
    "ratio",
    "ratio_autojunk",
    "ratios",
    "ratios_batch",
]

_CHUNK = 64
"""Pairs that one call of the extension converts before it lets go of the GIL: bounds its memory."""


def ratio(action: Elements, expert: Elements) -> float:
    """Similarity of an action and the expert's, in [0, 1]; two empty ones have 1.0.

    Not symmetric: of several longest blocks the rule takes the first in the action.
    Raises TypeError unless both are strings or both are lists or tuples of token ids.

    >>> ratio("x = 2 + 3", "x = 3 + 2")
    0.7777777777777778
    >>> ratio([5, 7, 9], [5, 9])
    0.8
    """
    action, expert = checked_pair(action, expert)
    return _ratio(_matched_pairs([action], [expert])[0], len(action) + len(expert))


def ratios(actions: Sequence[Elements], expert: Elements) -> list[float]:
    """Similarity of each action of a group to the one expert action.

    >>> ratios(["add 2", "take 2"], "add 2")
    [1.0, 0.5454545454545454]
    """
    _check_collection("actions", actions)
    return _ratios([checked_pair(action, expert) for action in actions])


def ratios_batch(actions: Sequence[Elements], experts: Sequence[Elements], threads: int | None = None) -> list[float]:
    """Similarity of each action to the expert at the same index, on several threads (None: one per core).

    >>> ratios_batch(["a", "b"], ["a", "a"])
    [1.0, 0.0]
    """
    _check_collection("actions", actions)
    _check_collection("experts", experts)
    if len(actions) != len(experts):
        raise ValueError(f"ratios_batch needs as many experts as actions, not {len(experts)} for {len(actions)}")
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    return _ratios([checked_pair(*pair) for pair in zip(actions, experts, strict=True)], threads)


def matched(a: Elements, b: Elements) -> int:
    """M: how many elements the matching blocks of `a` and `b` hold.

    >>> matched("abxcd", "abcd")
    4
    """
    a, b = checked_pair(a, b)
    return _matched_pairs([a], [b])[0]


def implementation() -> str:
    """Which implementation is in use: "C", or "Python" where the extension could not be built."""
    return _IMPLEMENTATION


def ratio_autojunk(action: Elements, expert: Elements) -> float:
    """What public SRL code computes: difflib with its default `autojunk=True`. Only for comparisons.

    In an expert action of 200 elements or more it ignores each element that makes up over 1% of them: nearly
    the whole alphabet. It is difflib itself, slow and unbounded.

    >>> text = "the cat sat on the mat; " * 10
    >>> ratio("A " + text, text) > 0.99, ratio_autojunk("A " + text, text)
    (True, 0.0)
    """
    action, expert = checked_pair(action, expert)
    return difflib.SequenceMatcher(None, action, expert).ratio()


def _check_collection(name: str, value: object) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list of sequences to compare, not {type(value).__name__}")


def _ratio(matched: int, total: int) -> float:
    return 2.0 * matched / total if total else 1.0


def _ratios(pairs: list[tuple[Elements, Elements]], threads: int = 1) -> list[float]:
    chunks = [pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK)]
    if threads == 1 or len(chunks) < 2 or _IMPLEMENTATION == "Python":
        results = list(map(_chunk_ratios, chunks))
    else:
        with ThreadPoolExecutor(min(threads, len(chunks))) as pool:
            results = list(pool.map(_chunk_ratios, chunks))
    return [ratio for chunk in results for ratio in chunk]


def _chunk_ratios(pairs: list[tuple[Elements, Elements]]) -> list[float]:
    matched_of_pairs = _matched_pairs([action for action, _ in pairs], [expert for _, expert in pairs])
    return [_ratio(m, len(a) + len(b)) for m, (a, b) in zip(matched_of_pairs, pairs, strict=True)]
