"""Does a patch resolve an instance? Local instances, graded in the sandbox.

Resolved means, as in SWE-bench: with the patch every test of FAIL_TO_PASS and of PASS_TO_PASS passes. The tests are
those of the instance: what a patch changes of them has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from srl.errors import UserError
from srl.evaluation.swe.instances import SOURCES, Instance
from srl.evaluation.swe.predictions import Prediction
from srl.evaluation.swe.testing import SuiteRun, run_tests
from srl.rewards.sandbox.walls import Limits, Sandbox


@dataclass(frozen=True, slots=True)
class Grading:
    """What the tests say of a prediction."""

    prediction: Prediction
    resolved: bool
    reason: str
    """In a few words to count by; "resolved" if it is."""
    fail_to_pass: tuple[str, ...]
    """The tests that should pass now and do not."""
    pass_to_pass: tuple[str, ...]
    """The tests that should still pass and do not."""
    log: str
    """What happened, in the form of SWE-bench's logs."""


def grade(sandbox: Sandbox, instance: Instance, prediction: Prediction, folder: Path, limits: Limits) -> Grading:
    """Apply a patch and run the tests.

    Raises:
        UserError: the sources of the instance are not in `folder`.
    """
    source = folder / SOURCES / instance.base_commit
    if not instance.tests or not source.is_dir():
        raise UserError(
            f"{source}: the package of {instance.id} is not there; only the instances of `srl swe instances` can be "
            "graded here, all others by --harness swebench"
        )
    patches = (instance.bug_patch, prediction.patch)
    run = run_tests(sandbox, source, instance.tests, import_from=instance.import_from, patches=patches, limits=limits)
    return verdict(instance, prediction, run)


def verdict(instance: Instance, prediction: Prediction, run: SuiteRun) -> Grading:
    """Compare how the tests ended with how they should."""
    passed = run.passed
    # A test that is skipped now has not been broken, but one that should pass now has not been repaired either.
    maintained = passed | {test for test, outcome in run.outcomes.items() if outcome == "skipped"}
    unrepaired = tuple(test for test in instance.fail_to_pass if test not in passed)
    broken = tuple(test for test in instance.pass_to_pass if test not in maintained)
    if run.problem:
        reason = run.problem.partition(":")[0]
    elif unrepaired:
        reason = "the bug is still there" if not broken else "the bug is still there, and other tests fail"
    else:
        reason = "other tests fail" if broken else "resolved"
    return Grading(prediction, reason == "resolved", reason, unrepaired, broken, swebench_log(run))


def swebench_log(run: SuiteRun) -> str:
    """The run as a log that `swebench.harness.grading` reads (5.0.2)."""
    if run.problem:
        failed = "Patch Apply Failed" if run.problem.startswith("patch does not apply") else "Tests Errored"
        return f">>>>> {failed}\n{run.problem}\n{run.output}"
    start, end = ">>>>> Start Test Output", ">>>>> End Test Output"
    return f">>>>> Applied Patch\n{start}\n{run.output}\n{end}\n>>>>> Test Exit Code: {run.exit_code}\n"


Task = TypeVar("Task")
Result = TypeVar("Result")


def in_parallel(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """The results as they come. Each task waits for a process, so threads will do.

    The first failure, or an interrupt, drops what has not begun.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        futures: Iterable[Future[Result]] = [pool.submit(function, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
