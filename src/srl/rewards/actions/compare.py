"""How much an agent's action does what the expert's does, by tool, target and parameters (docs/rewards.md).

    another tool                                   0
    the same tool on another target                0.2
    the same tool and target                       0.5 + 0.5 · s     s the similarity of the parameters, by kind:

    view of a file      lines that both show / lines that either shows
    edit of a file      0.9 · R(change) + 0.1 · (place): the lines that it takes out and puts in
    another tool        the mean over all parameters that either gives

A shell command earns P · (0.2 + 0.3 · F + 0.5 · W) in place of all this: P = R(programs), F = R(files named), W = the
mean of R(words) and R(their pieces), so that a word may be right in part.

R is 2M/T, the mean of both directions. Several calls at once are compared in order.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count, zip_longest
from typing import Any

from srl.rewards.actions.calls import EDITOR_COMMANDS, PATH_KEYS, Call
from srl.rewards.actions.shell import Command, Word, split_command
from srl.rewards.similarity import ratio

SAME_TOOL = 0.2
SAME_TARGET = 0.5
CHANGE, PLACE = 0.9, 0.1
NOT_THE_SAME = 0.99
"""The most that an action earns which is not the expert's, however like it."""

_PIECE = re.compile(r"\w+|[ \t]+|.", re.DOTALL)
_OLD, _NEW, _WHOLE = ("old_str", "old_string"), ("new_str", "new_string"), ("file_text", "content")


def calls_similarity(calls: Sequence[Call], experts: Sequence[Call]) -> float:
    """How much calls do what the expert's do, in [0, 1]: the mean over the places, where a missing call has 0.

    1 only if they do the same. Symmetric.
    """
    if [_sameness(call) for call in calls] == [_sameness(call) for call in experts]:
        return 1.0
    pairs = zip_longest(calls, experts)
    scores = [_call_similarity(call, other) if call and other else 0.0 for call, other in pairs]
    return min(sum(scores) / len(scores), NOT_THE_SAME)


def _sameness(call: Call) -> Any:
    """What is equal for calls that do the same."""
    command = call.shell_command
    rest = {key: value for key, value in call.arguments.items() if command is None or key not in ("command", "cmd")}
    words = None if command is None else split_command(command).words
    return call.tool, words, json.dumps(rest, sort_keys=True)


def _call_similarity(call: Call, other: Call) -> float:
    commands = call.shell_command, other.shell_command
    if commands[0] is not None and commands[1] is not None:
        return _shell_similarity(split_command(commands[0]), split_command(commands[1]))
    kinds = _kind(call), _kind(other)
    if kinds[0] != kinds[1] or call.tool != other.tool:
        return 0.0
    if call.path != other.path:
        return SAME_TOOL
    if kinds[0] == "edit":
        similarity = _edit_similarity(call.arguments, other.arguments)
    elif kinds[0] == "view":
        similarity = _overlap(call.arguments.get("view_range"), other.arguments.get("view_range"))
    else:
        similarity = _arguments_similarity(call.arguments, other.arguments)
    return SAME_TARGET + (1 - SAME_TARGET) * similarity


def _kind(call: Call) -> str:
    """What a call does to a file, if that can be known: "edit", "view", another command of an editor, or "" ."""
    arguments = call.arguments
    command = arguments.get("command")
    if isinstance(command, str) and command in EDITOR_COMMANDS and call.path is not None:
        return "edit" if command in ("create", "str_replace", "insert") else command
    return "edit" if _text(arguments, _NEW) is not None or (call.path and _text(arguments, _WHOLE) is not None) else ""


def _edit_similarity(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """By the lines that are taken out and put in, from the first that changes to the last; and where that is."""
    place = _overlap(_lines(one), _lines(other))
    if _ways(one) == _ways(other) == "replace":
        place = _pieces_similarity(_pieces(_text(one, _OLD) or ""), _pieces(_text(other, _OLD) or ""))
    elif _ways(one) != _ways(other):
        place = 0.0
    return CHANGE * _pieces_similarity(_change(one), _change(other)) + PLACE * place


def _ways(arguments: Mapping[str, Any]) -> str:
    if _text(arguments, _OLD) is not None:
        return "replace"
    return "lines" if "insert_line" in arguments or "lines" in arguments else "whole"


def _lines(arguments: Mapping[str, Any]) -> Any:
    """The lines that an edit is about; None where it does not say."""
    if isinstance(line := arguments.get("insert_line"), int):
        return [line, line]
    written = re.fullmatch(r"(\d{1,9}):(\d{1,9})", str(arguments.get("lines")))
    return [int(written[1]), int(written[2])] if written else None


def _change(arguments: Mapping[str, Any]) -> list[str]:
    old, new = _text(arguments, _OLD) or "", _text(arguments, _NEW)
    if new is None:
        new = _text(arguments, _WHOLE) or ""
    out, into = old.split("\n") if old else [], new.split("\n") if new else []
    alike = next((i for i, (a, b) in enumerate(zip(out, into, strict=False)) if a != b), min(len(out), len(into)))
    out, into = out[alike:], into[alike:]
    while out and into and out[-1] == into[-1]:
        out.pop()
        into.pop()
    return [piece for sign, lines in (("-", out), ("+", into)) for line in lines for piece in (sign, *_pieces(line))]


def _overlap(one: Any, other: Any) -> float:
    """Lines in both ranges / lines in either; a range to the end, or that is not given, is like no other."""
    if json.dumps(one) == json.dumps(other):
        return 1.0
    ranges = [value for value in (one, other) if isinstance(value, list) and len(value) == 2]
    if len(ranges) < 2 or not all(type(line) is int and line >= 0 for value in ranges for line in value):
        return 0.0
    (start, end), (other_start, other_end) = ranges
    both = min(end, other_end) - max(start, other_start) + 1
    either = max(end, other_end) - min(start, other_start) + 1
    return max(0.0, both / either) if start <= end and other_start <= other_end else 0.0


def _arguments_similarity(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    names = sorted({*one, *other} - set(PATH_KEYS))
    scores = [_value_similarity(one[name], other[name]) if name in one and name in other else 0.0 for name in names]
    return sum(scores) / len(scores) if scores else 1.0


def _value_similarity(one: Any, other: Any) -> float:
    if isinstance(one, str) and isinstance(other, str):
        return _pieces_similarity(_pieces(one), _pieces(other))
    return float(json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


def _text(arguments: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((arguments[key] for key in keys if isinstance(arguments.get(key), str)), None)


def _shell_similarity(one: Command, other: Command) -> float:
    if not (programs := _pieces_similarity(one.programs, other.programs)):
        return 0.0
    files = _pieces_similarity(one.files, other.files)
    words = _pieces_similarity(one.words, other.words)
    pieces = _pieces_similarity(_word_pieces(one.words), _word_pieces(other.words))
    return programs * (SAME_TOOL + (SAME_TARGET - SAME_TOOL) * files + (1 - SAME_TARGET) * (words + pieces) / 2)


def _word_pieces(words: Sequence[Word]) -> list[str]:
    return [piece for kind, text in words if kind != "unread" for piece in (kind, *_pieces(text))]


def _pieces(text: str) -> list[str]:
    """Names, numbers, blanks and single signs."""
    return _PIECE.findall(text)


def _pieces_similarity(one: Sequence[Any], other: Sequence[Any]) -> float:
    """R of two sequences, the mean of both directions."""
    number: defaultdict[Any, int] = defaultdict(count().__next__)
    numbers = [number[piece] for piece in one], [number[piece] for piece in other]
    return (ratio(numbers[0], numbers[1]) + ratio(numbers[1], numbers[0])) / 2
