"""The step similarity where the C extension is missing: the same algorithm in pure Python, as exact.

`_matcher.c` explains it: one sweep takes all the longest blocks of a box, runs are recognised by exact names.
What differs is what Python is quick at: a box of few elements is searched with `str.__contains__`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from srl.rewards.similarity.elements import Elements

SMALL_BOX = 65_536
"""Below this product of its two sides a box is searched directly; above, naming its runs is faster."""

Box = tuple[int, int, int, int, int]
"""a_start, a_end, b_start, b_end, and the length that no common block in it exceeds."""


def matched_pairs(actions: list[Elements], experts: list[Elements]) -> list[int]:
    """Matched elements of each pair of two lists of equal length (the extension's one function)."""
    if len(actions) != len(experts):
        raise ValueError("matched_pairs needs as many experts as actions")
    return [_matched(*_as_text(action, expert)) for action, expert in zip(actions, experts, strict=True)]


def _as_text(action: Elements, expert: Elements) -> tuple[str, str]:
    """Both sequences as strings: a character of its own for every token id."""
    if isinstance(action, str) and isinstance(expert, str):
        return action, expert
    for token in (*action, *expert):
        if not isinstance(token, int):
            raise TypeError("a sequence to compare must hold token ids (int) only")
        if not 0 <= token < 2**32:
            raise ValueError("a token id must be from 0 to 2**32 - 1")
    characters = {token: chr(index) for index, token in enumerate({*action, *expert})}
    return "".join(map(characters.__getitem__, action)), "".join(map(characters.__getitem__, expert))


def _matched(a: str, b: str, small_box: int = SMALL_BOX) -> int:
    if a == b:
        return len(a)
    matched = 0
    levels: list[_Level] = []
    boxes: list[Box] = [(0, len(a), 0, len(b), min(len(a), len(b)))]
    while boxes:
        box = boxes.pop()
        a_start, a_end, b_start, b_end, longest = box
        height, width = a_end - a_start, b_end - b_start
        if not (height and width and longest):
            continue
        if height * width <= small_box:
            matched += _match_small_box(a, b, box, boxes)
        else:
            levels = levels or _name_runs(a, b)
            matched += _match_large_box(levels, box, boxes)
    return matched


# Small boxes: one block at a time, found by growing the best so far.


def _match_small_box(a: str, b: str, box: Box, boxes: list[Box]) -> int:
    a_start, a_end, b_start, b_end, longest = box
    action, expert = a[a_start:a_end], b[b_start:b_end]
    if longest == 1:
        return _match_single_elements(action, expert)
    start, length = _find_longest_block(action, expert, longest)
    if length == 0:
        return 0
    if length == 1:
        return _match_single_elements(action, expert)
    i = a_start + start
    j = b_start + expert.index(action[start : start + length])
    boxes.append((a_start, i, b_start, j, length - 1))
    boxes.append((i + length, a_end, j + length, b_end, length))
    return length


def _find_longest_block(action: str, expert: str, longest: int) -> tuple[int, int]:
    """Start in the action, and length, of the first of the longest common blocks."""
    start = length = 0
    for i in range(len(action)):
        end = i + length + 1
        if end > len(action) or length >= longest:
            break
        while end <= len(action) and action[i:end] in expert:
            start, length = i, end - i
            end += 1
    return start, length


def _match_single_elements(action: str, expert: str) -> int:
    """The sweep where no common block is longer than one element."""
    matched = next_start = 0
    for element in action:
        j = expert.find(element, next_start)
        if j >= 0:
            matched += 1
            next_start = j + 1
    return matched


# Large boxes: one sweep per length, over named runs.


@dataclass(slots=True)
class _Level:
    """Names of the runs of `size` elements, by their start. Negative: only this side has the run."""

    size: int
    a_names: list[int]
    b_names: list[int]
    base: int
    """More than every name, so that `first * base + second` names a pair of runs.

    A run that only a has is -1 and one that only b has is -2: pairs with one of them never meet.
    """


def _name_shared(size: int, a_keys: Sequence[object], b_keys: Sequence[object]) -> _Level | None:
    shared = set(a_keys).intersection(b_keys)
    if not shared:
        return None
    name = {key: index for index, key in enumerate(shared)}
    return _Level(
        size,
        a_names=[name.get(key, -1) for key in a_keys],
        b_names=[name.get(key, -2) for key in b_keys],
        base=len(name) + 2,
    )


def _name_runs(a: str, b: str) -> list[_Level]:
    """Names of the runs of 1, 2, 4 … elements, up to the longest that both sequences have."""
    levels = []
    level = _name_shared(1, a, b)
    while level is not None:
        levels.append(level)
        half, base = level.size, level.base
        a_keys = [x * base + y for x, y in zip(level.a_names, level.a_names[half:], strict=False)]
        b_keys = [x * base + y for x, y in zip(level.b_names, level.b_names[half:], strict=False)]
        level = _name_shared(2 * half, a_keys, b_keys)
    return levels


@dataclass(slots=True)
class _Runs:
    """The runs of one length that both sides of a box have: their starts, and what tells them apart."""

    length: int
    a_starts: list[int]
    a_keys: list[int]
    b_starts: list[int]
    b_keys: list[int]


def _match_large_box(levels: list[_Level], box: Box, boxes: list[Box]) -> int:
    runs = _find_longest_runs(levels, box)
    if runs is None:
        return 0
    length = runs.length
    b_starts_of: dict[int, list[int]] = {}
    for j, key in zip(reversed(runs.b_starts), reversed(runs.b_keys), strict=True):
        b_starts_of.setdefault(key, []).append(j)
    a_start, a_end, b_start, b_end, _ = box
    matched = 0
    for i, key in zip(runs.a_starts, runs.a_keys, strict=True):
        if i < a_start:
            continue
        candidates = b_starts_of[key]
        while candidates and candidates[-1] < b_start:
            candidates.pop()
        if candidates:
            j = candidates[-1]
            boxes.append((a_start, i, b_start, j, length - 1))
            a_start, b_start = i + length, j + length
            matched += length
    boxes.append((a_start, a_end, b_start, b_end, length - 1))
    return matched


def _find_longest_runs(levels: list[_Level], box: Box) -> _Runs | None:
    longest = min(box[1] - box[0], box[3] - box[2], box[4])
    for level in reversed(levels):
        runs = _collect_runs(level, box) if level.size <= longest else None
        if runs is None:
            continue
        longest = min(longest, 2 * level.size - 1)
        while runs.length < longest:
            middle = (runs.length + longest + 1) // 2
            longer = _lengthen(runs, level, box, middle)
            if longer is None:
                longest = middle - 1
            else:
                runs = longer
        return runs
    return None


def _collect_runs(level: _Level, box: Box) -> _Runs | None:
    a_start, a_end, b_start, b_end, _ = box
    a_starts = list(range(a_start, a_end - level.size + 1))
    b_starts = list(range(b_start, b_end - level.size + 1))
    a_keys = level.a_names[a_start : a_start + len(a_starts)]
    b_keys = level.b_names[b_start : b_start + len(b_starts)]
    return _shared_runs(level.size, a_starts, a_keys, b_starts, b_keys)


def _lengthen(runs: _Runs, level: _Level, box: Box, length: int) -> _Runs | None:
    """The runs that both sides still have at this length; None if there are none."""
    offset, base = length - level.size, level.base
    a_names, b_names = level.a_names, level.b_names
    a_starts = [i for i in runs.a_starts if i + length <= box[1]]
    b_starts = [j for j in runs.b_starts if j + length <= box[3]]
    a_keys = [a_names[i] * base + a_names[i + offset] for i in a_starts]
    b_keys = [b_names[j] * base + b_names[j + offset] for j in b_starts]
    return _shared_runs(length, a_starts, a_keys, b_starts, b_keys)


def _shared_runs(
    length: int, a_starts: list[int], a_keys: list[int], b_starts: list[int], b_keys: list[int]
) -> _Runs | None:
    shared = set(a_keys).intersection(b_keys)
    if not shared:
        return None
    return _Runs(
        length,
        [i for i, key in zip(a_starts, a_keys, strict=True) if key in shared],
        [key for key in a_keys if key in shared],
        [j for j, key in zip(b_starts, b_keys, strict=True) if key in shared],
        [key for key in b_keys if key in shared],
    )
