"""The outcome of a repair: a program of one file, what a model edits in it, and whether its tests pass then."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from srl.chat.prompts import completion_text
from srl.errors import UserError
from srl.rewards.actions.calls import EDITORS, Call, Form, NotAnAction, function_blocks, read_calls
from srl.rewards.sandbox.programs import Program, pass_their_tests

XML = Form("xml")


class NotApplied(Exception):
    """The editor would not do this; says what it answers."""


@dataclass(frozen=True, slots=True)
class Repair:
    """A file and the tests that it is to pass; as JSON, the `answer` of a problem."""

    path: str
    """Absolute; its name without `.py` is what the tests import."""
    source: str
    tests: str

    @property
    def program(self) -> Program:
        """What the tests are run on."""
        return Program(PurePosixPath(self.path).stem, self.source, self.tests)

    def to_json(self) -> str:
        """For the column `answer`."""
        return json.dumps(asdict(self))

    def edited(self, call: Call) -> Repair:
        """As the editor's `str_replace` leaves it.

        Raises:
            NotApplied: another call, another file, or a text that does not stand there exactly once.
        """
        if call.tool not in EDITORS or call.arguments.get("command") != "str_replace":
            raise NotApplied("Only str_replace_editor's view and str_replace, the tests and submit are here.")
        if call.path != self.path:
            raise NotApplied(f"The path {call.path} does not exist.")
        old, new = call.arguments["old_str"], call.arguments.get("new_str", "")
        if (count := self.source.count(old) if old else 0) != 1:
            raise NotApplied(f"No replacement was performed: old_str occurs {count} times.")
        return replace(self, source=self.source.replace(old, new))


def read_repair(answer: str, where: str) -> Repair:
    """The repair that a problem's answer holds.

    Raises:
        UserError: it holds none.
    """
    try:
        return Repair(**json.loads(answer))
    except (ValueError, TypeError):
        raise UserError(
            f'{where}: reward.outcome = "tests" expects a JSON object with path, source and tests as the answer, '
            f"found {answer[:60]!r}"
        ) from None


def repaired(completion: str, repair: Repair) -> Repair | None:
    """After all edits of a completion in order; None if it has none, or one that cannot be done."""
    blocks = function_blocks(completion)
    try:
        for start, end in blocks:
            (call,) = read_calls(completion[start:end], XML)
            repair = repair.edited(call)
    except (NotAnAction, NotApplied):
        return None
    return repair if blocks else None


def repair_outcome(
    completions: Sequence[Any],
    answer: Sequence[str],
    truncated: Sequence[bool] | None = None,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **columns: Any,
) -> list[float]:
    """RLVR's reward for repairs: 1.0 if the edits of a completion make the tests pass (in the sandbox), else 0.0."""
    cut_off = truncated or [False] * len(completions)
    problems = [read_repair(known, "the column answer") for known in answer]
    after = [
        None if cut else repaired(completion_text(one), problem)
        for one, problem, cut in zip(completions, problems, cut_off, strict=True)
    ]
    if log_extra and "trajectory_id" in columns:
        log_extra("trajectory_id", list(columns["trajectory_id"]))
    verdicts = iter(pass_their_tests([one.program for one in after if one]))
    return [float(next(verdicts)) if one else 0.0 for one in after]
