"""Runs the tests of a tree in the sandbox and reads how each of them ended."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from srl.rewards.sandbox.walls import Finished, Limits, Sandbox

ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}
PASSING = ("passed", "xfailed")
"""Outcomes that count as a pass, as in SWE-bench's grading."""


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """What the tests of a tree gave."""

    outcomes: Mapping[str, str]
    """Test -> passed, failed, error, skipped, xfailed."""
    messages: Mapping[str, str]
    """Failing test -> what it said."""
    problem: str | None
    """Why there is no full run: a patch that does not apply, a limit, an end before the last test."""
    output: str
    """What pytest printed."""
    exit_code: int

    @property
    def passed(self) -> frozenset[str]:
        """The tests that pass."""
        return frozenset(test for test, outcome in self.outcomes.items() if outcome in PASSING)


def run_tests(
    sandbox: Sandbox,
    source: Path,
    tests: Sequence[str],
    *,
    import_from: str = ".",
    patches: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008
    hash_seed: int = 0,
) -> SuiteRun:
    """Run the tests of a copy of `source` with patches applied; the test files stay as they are in `source`.

    Args:
        sandbox: Where to.
        source: The tree.
        tests: Folders or files in it.
        import_from: The folder in it that the tested package is imported from.
        patches: Applied in turn.
        limits: Of the whole run.
        hash_seed: Python's; what depends on it is no test of the code.
    """
    command = [sys.executable, "-P", "-c", _script(), "{report}", import_from, *tests]
    environment = ENVIRONMENT | {"PYTHONHASHSEED": str(hash_seed)}
    finished = sandbox.run(command, source, patches=patches, protected=tests, environment=environment, limits=limits)
    return _read(finished)


@cache
def _script() -> str:
    return (Path(__file__).parent / "run_tests.py").read_text(encoding="utf-8")


def _read(finished: Finished) -> SuiteRun:
    outcomes: dict[str, str] = {}
    messages: dict[str, str] = {}
    complete = False
    for line in finished.report.splitlines():
        try:
            facts = json.loads(line)
        except ValueError:  # a line that was cut, or that something else wrote
            continue
        if "test" in facts:
            outcomes[facts["test"]] = facts["outcome"]
            messages[facts["test"]] = facts["message"]
        complete = complete or "finished" in facts
    problem = None
    if finished.problem is not None:
        problem = f"patch does not apply: {finished.problem}"
    elif finished.end != "exit":
        problem = f"ended at the limit of {finished.end}"
    elif not complete:
        problem = f"ended before the last test (exit code {finished.exit_code})"
    output = finished.output.decode(errors="replace")
    return SuiteRun(outcomes, messages, problem, output, finished.exit_code)
