"""Whether an expert succeeded, as a row says it: under many names, in several words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from srl.data.formats.fields import submapping

_SOLVED = (
    *("resolved", "is_resolved", "success", "is_success", "succeeded", "solved", "is_solved", "passed", "is_passed"),
    *("correct", "is_correct", "correctness", "verified", "is_verified", "accepted", "win", "grade"),
    *("correctness_math_verify", "correctness_llama"),  # OpenR1-Math; the second is asked where the first says no
)
_ANY_OF = ("correctness_math_verify", "correctness_llama")

_TOLD = re.compile(r"\breward[ \t]*=[ \t]*(True|False)\b")

RIGHT = ("true", "yes", "correct", "right", "passed", "pass", "resolved", "solved", "success")
WRONG = ("false", "no", "incorrect", "wrong", "failed", "fail", "unresolved", "unsolved", "failure")


def verdict(row: Mapping[str, Any], names: tuple[str, ...] = ()) -> bool | None:
    """Whether the row says that its expert solved the problem; None if it says nothing, or a part of a reward.

    Read are `names`, then `resolved` and its like, then `reward` (1 or more: solved; 0 or less: not), in the row
    and in the reports that harnesses put inside it.
    """
    report, info, result = submapping(row, "report"), submapping(row, "info"), submapping(row, "test_result")
    for place in (row, report, info, result, submapping(result, "report"), submapping(row, "reward_info")):
        if any(as_verdict(place.get(name)) for name in _ANY_OF):
            return True
        for name in (*names, *_SOLVED):
            if name in place and (said := as_verdict(place[name])) is not None:
                return said
        reward = place.get("reward")
        if isinstance(reward, bool | int | float):
            return True if reward > 1 - 1e-6 else False if reward <= 0 else None
    return None


def as_verdict(value: Any) -> bool | None:
    """True or false as JSON, 0, 1, or a word of `RIGHT` or `WRONG`; None for anything else.

    >>> as_verdict("Yes"), as_verdict(0.0), as_verdict("22")
    (True, False, None)
    """
    if isinstance(value, bool | int | float):
        return bool(value) if value in (0, 1) else None
    word = value.strip().lower() if isinstance(value, str) else ""
    return True if word in RIGHT else False if word in WRONG else None


def told(observation: str | None) -> bool | None:
    """What the last observation of a run tells of its success, as AgentBench's environments do."""
    found = _TOLD.search(observation or "")
    return as_verdict(found[1]) if found else None


def crashed(row: Mapping[str, Any]) -> bool:
    """Whether the row notes an error that ended the run."""
    error = row.get("error")
    return bool(error.strip()) if isinstance(error, str) else isinstance(error, dict) and bool(error)
