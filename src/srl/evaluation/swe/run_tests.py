"""Runs pytest in a sandbox and reports each test, a JSON line as soon as it has ended.

`testing.py` runs this file's text by `python -P -c` in the tree. Tests print what they like to standard output; the
report goes to a descriptor of its own. Code that is tested in pytest's process can still deceive pytest.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

MESSAGE_CHARACTERS = 1000


class Reporter:
    """A pytest plugin."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.phases: list[Any] = []

    def write(self, **facts: Any) -> None:
        """One line of the report."""
        os.write(self.descriptor, json.dumps(facts).encode() + b"\n")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called for each phase of a test; a test has ended with its teardown."""
        self.phases.append(report)
        if report.when == "teardown":
            outcome, message = _outcome(self.phases)
            self.write(test=report.nodeid, outcome=outcome, message=message)
            self.phases = []

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be imported has no tests."""
        if report.failed:
            self.write(error=report.nodeid, message=_message(report))


def _outcome(phases: list[Any]) -> tuple[str, str]:
    for report in phases:
        if report.failed:
            return ("failed" if report.when == "call" else "error"), _message(report)
    if any(report.skipped for report in phases):
        return ("xfailed" if any(hasattr(report, "wasxfail") for report in phases) else "skipped"), ""
    return "passed", ""


def _message(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr))[:MESSAGE_CHARACTERS]


def main() -> None:
    """Arguments: the report's descriptor, the folder to import from, the folders or files with tests."""
    import pytest

    descriptor, source, *tests = sys.argv[1:]
    sys.path.insert(0, os.path.abspath(source))
    reporter = Reporter(int(descriptor))
    # Only files that patches cannot change decide how tests are run: no configuration, no conftest.py above the tests.
    options = ["-c", os.devnull, "--rootdir", os.getcwd(), "--confcutdir", os.path.dirname(os.path.abspath(tests[0]))]
    if os.path.isdir(tests[0]):
        options[-1] = os.path.abspath(tests[0])
    options += ["-p", "no:cacheprovider", "-rA", "--tb=short", "--color=no", "--continue-on-collection-errors"]
    code = pytest.main([*options, *tests], plugins=[reporter])
    reporter.write(finished=int(code))
    sys.exit(code)


if __name__ == "__main__":
    main()
