"""Whether small programs pass their own tests: many at a time in one sandbox, for rewards and evaluations."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # where there are no sandboxes (Windows), the other rewards work
    from srl.rewards.sandbox.walls import Sandbox

BATCH = 256
"""Programs in one sandbox."""
SECONDS = 1
"""Of processor, for each program with its tests."""
REMEMBERED = 100_000


class Program(NamedTuple):
    """A module and its tests, statements that raise where it is wrong."""

    name: str
    """What the tests import it as."""
    source: str
    tests: str


_known: dict[Program, bool] = {}


def pass_their_tests(programs: Sequence[Program]) -> list[bool]:
    """Whether each program passes its tests; one over its limits does not. Each distinct one runs once.

    Raises:
        UserError: no sandbox on this machine.
    """
    verdicts = {program: _known[program] for program in programs if program in _known}
    new = [program for program in dict.fromkeys(programs) if program not in verdicts]
    for start in range(0, len(new), BATCH):
        batch = new[start : start + BATCH]
        verdicts |= zip(batch, _verdicts(sandbox(), batch), strict=True)
    _known.update({program: verdicts[program] for program in new})
    for program in list(_known)[:-REMEMBERED]:  # the oldest
        del _known[program]
    return [verdicts[program] for program in programs]


@cache
def sandbox() -> Sandbox:
    """The sandbox of this process.

    Raises:
        UserError: none on this machine.
    """
    from srl.rewards.sandbox.walls import find_sandbox

    return find_sandbox()


def _verdicts(box: Sandbox, programs: Sequence[Program]) -> Iterator[bool]:
    """Where a program takes the whole sandbox with it, it has failed, and those after it run in another one."""
    first = 0
    while first < len(programs):
        verdicts = _run(box, programs[first:])
        yield from verdicts
        first += len(verdicts)
        if first < len(programs):
            yield False
            first += 1


def _run(box: Sandbox, programs: Sequence[Program]) -> list[bool]:
    from srl.rewards.sandbox.walls import Limits

    limits = Limits(seconds=5 * SECONDS * BATCH, memory_bytes=512 << 20, processes=16, disk_bytes=16 << 20)
    with tempfile.TemporaryDirectory(prefix="srl-programs-") as tree:
        (Path(tree) / "programs.json").write_text(json.dumps(programs))
        command = [sys.executable, "-I", "-S", "-c", _script(), "{report}", str(SECONDS)]
        finished = box.run(command, Path(tree), limits=limits)
    verdicts: list[bool] = []
    for line in finished.report.splitlines():
        try:
            index, passed = json.loads(line)
        except ValueError:  # cut short by the end
            break
        assert index == len(verdicts)
        verdicts.append(bool(passed))
    return verdicts


@cache
def _script() -> str:
    return (Path(__file__).parent / "run_programs.py").read_text(encoding="utf-8")
