"""Local instances: small real packages with one bug each, verified by their own tests.

    instances.jsonl    the instances, in SWE-bench's fields
    sources/           the packages as they were published
    candidates.jsonl   every bug that was tried, with its result; a run that was stopped goes on from here
    local.json         what decides the instances

A bug becomes an instance if some tests fail with it and pass without it, twice each at least and under different hash
seeds of Python. Tests that do not end alike each time are in neither list. The order of the bugs is drawn from the
seed, and results are taken in that order, so that the same seed gives the same instances on any number of cores.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from srl.errors import UserError
from srl.evaluation.swe.edits import unified_diff
from srl.evaluation.swe.grading import in_parallel
from srl.evaluation.swe.instances import INSTANCES_FILE, SOURCES, Instance, instance_row
from srl.evaluation.swe.mutations import Mutation, changes_the_program, find_mutations
from srl.evaluation.swe.packages import Package, read_packages, unpacked
from srl.evaluation.swe.testing import SuiteRun, run_tests
from srl.files import check_output_folder, json_line, write_jsonl, write_text
from srl.rewards.sandbox.walls import Limits, Sandbox
from srl.runs.progress import Progress

PER_FUNCTION = 2
"""Instances of one function, at most."""
MOST_FAILING = 0.5
"""Of the tests: a bug that breaks more is no subtle one."""
LIMITS = Limits(seconds=300, cpu_seconds=20)
NAMED_TESTS = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bug that was tried."""

    id: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    message: str
    """What the first failing test said."""
    reason: str | None
    """Why it makes no instance."""


def make_instances(
    out: Path,
    sandbox: Sandbox,
    *,
    count: int = 60,
    seed: int = 0,
    sdists: Path | None = None,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
) -> list[dict[str, object]]:
    """Fetch the packages, put bugs in, verify them, and write the folder.

    Raises:
        UserError: a package that cannot be fetched, whose tests fail as it is, or which has too few bugs that its
            tests see; a folder that is not empty.
    """
    packages = read_packages()
    config = {"count": count, "seed": seed, "packages": [asdict(package) for package in packages]}
    _open(out, json.loads(json.dumps(config)), resume=resume, overwrite=overwrite)
    shares = [count // len(packages) + (index < count % len(packages)) for index in range(len(packages))]
    tried = _Tried(out / "candidates.jsonl")
    with Progress("instances", count) as progress:

        def of_package(task: tuple[Package, int]) -> list[dict[str, object]]:
            package, share = task
            tree = unpacked(package, out / SOURCES, sdists)
            return list(_verified(package, tree, share, seed, sandbox, tried, progress))

        found = {
            rows[0]["repo"]: rows
            for rows in in_parallel(of_package, list(zip(packages, shares, strict=True)), workers)
            if rows
        }
    rows = [row for package in packages for row in found.get(package.name, [])]
    write_jsonl(out / f".{INSTANCES_FILE}", rows)
    (out / f".{INSTANCES_FILE}").replace(out / INSTANCES_FILE)
    return rows


def _open(out: Path, config: dict[str, object], *, resume: bool, overwrite: bool) -> None:
    record = out / "local.json"
    if resume and record.is_file():
        if json.loads(record.read_text()) != config:
            raise UserError(f"{out}: cannot resume with another --seed or --count, or other packages")
        return
    check_output_folder(out, overwrite=overwrite, marker="local.json", remedies="--resume it, or --overwrite it")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_text(record, json.dumps(config, indent=1) + "\n")


class _Tried:
    """The candidates whose result is known, on disk as soon as it is. Safe to use from threads."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, Lock()
        text = path.read_text() if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        write_text(path, whole)  # without the line that a kill cut short
        lists = ("fail_to_pass", "pass_to_pass")
        rows = [json.loads(line) for line in whole.splitlines()]
        self.known = {row["id"]: Candidate(**(row | {name: tuple(row[name]) for name in lists})) for row in rows}

    def add(self, candidate: Candidate) -> None:
        with self.lock, self.path.open("ab") as out:
            out.write(json_line(asdict(candidate)))
            self.known[candidate.id] = candidate


def _verified(
    package: Package, tree: Path, share: int, seed: int, sandbox: Sandbox, tried: _Tried, progress: Progress
) -> Iterator[dict[str, object]]:
    """The first `share` bugs of the package, in the order of the seed, that its tests see."""
    if not share:
        return
    verify = _Verifier(package, tree, sandbox)
    per_function: Counter[tuple[Path, str]] = Counter()
    found = 0
    for path, mutation in _in_order(package, tree, seed):
        place = (path, mutation.function)
        source = (tree / path).read_bytes()
        if per_function[place] == PER_FUNCTION or not changes_the_program(mutation, source):
            continue
        bug = unified_diff({str(path): (source, mutation.apply(source))})
        fix = unified_diff({str(path): (mutation.apply(source), source)})
        name = re.sub(r"\W+", "-", mutation.kind)
        id = f"{package.name}__{name}-{hashlib.sha256(bug.encode()).hexdigest()[:8]}"
        if id not in tried.known:
            tried.add(verify(id, bug))
        candidate = tried.known[id]
        if candidate.reason is None:
            per_function[place] += 1
            found += 1
            with tried.lock:  # packages are verified side by side
                progress.update(progress.done + 1)
            yield _row(package, candidate, path, mutation, bug, fix)
            if found == share:
                return
    raise UserError(
        f"{package.name} {package.version}: its tests see only {found} bugs, expected {share}; lower --count"
    )


def _in_order(package: Package, tree: Path, seed: int) -> Sequence[tuple[Path, Mutation]]:
    all_mutations = [
        (path, found) for path in package.files(tree) for found in find_mutations((tree / path).read_bytes())
    ]
    random.Random(f"{seed}/{package.name}").shuffle(all_mutations)
    return all_mutations


class _Verifier:
    """Runs a package's tests with a bug and without."""

    def __init__(self, package: Package, tree: Path, sandbox: Sandbox) -> None:
        self.package, self.tree, self.sandbox = package, tree, sandbox
        self.clean: frozenset[str] = frozenset()

    def __call__(self, id: str, bug: str) -> Candidate:
        if not self.clean:
            self.clean = self._passing_as_published()
        first = self._run(bug)
        if first.problem:
            return Candidate(id, (), (), "", first.problem.partition(":")[0])
        failing = self.clean - first.passed
        if not failing:
            return Candidate(id, (), (), "", "no test fails")
        if len(failing) > MOST_FAILING * len(self.clean):
            return Candidate(id, (), (), "", "most tests fail")
        second = self._run(bug, hash_seed=1)
        fail_to_pass = tuple(sorted(failing - second.passed))
        pass_to_pass = tuple(sorted(self.clean & first.passed & second.passed))
        reason = second.problem or (None if fail_to_pass else "no test fails twice")
        message = first.messages[fail_to_pass[0]] if fail_to_pass and fail_to_pass[0] in first.messages else ""
        return Candidate(id, fail_to_pass, pass_to_pass, message, reason)

    def _passing_as_published(self) -> frozenset[str]:
        runs = [self._run(hash_seed=seed) for seed in (0, 1, 2)]
        for run in runs:
            if run.problem or not run.passed:
                end = run.problem or "no test passes"
                raise UserError(f"{self.package.name} {self.package.version}: its own tests do not run here: {end}")
        return frozenset.intersection(*(run.passed for run in runs))

    def _run(self, *patches: str, hash_seed: int = 0) -> SuiteRun:
        package = self.package
        return run_tests(
            self.sandbox,
            self.tree,
            package.tests,
            import_from=package.import_from,
            patches=patches,
            limits=LIMITS,
            hash_seed=hash_seed,
        )


def _row(
    package: Package, candidate: Candidate, path: Path, mutation: Mutation, bug: str, fix: str
) -> dict[str, object]:
    instance = Instance(
        id=candidate.id,
        repo=package.name,
        base_commit=package.folder,
        problem_statement=_problem_statement(package, candidate),
        patch=fix,
        fail_to_pass=candidate.fail_to_pass,
        pass_to_pass=candidate.pass_to_pass,
        bug_patch=bug,
        tests=package.tests,
        import_from=package.import_from,
    )
    place = {"file": str(path), "function": mutation.function, "line": mutation.line}
    return instance_row(instance, version=package.version, mutation={"kind": mutation.kind, **place})


def _problem_statement(package: Package, candidate: Candidate) -> str:
    first, *others = candidate.fail_to_pass
    message = re.sub(r"0x[0-9a-f]+", "0x…", candidate.message.replace("/box/tree/", "")).rstrip()
    lines = [
        f"{package.name} {package.version}: `{first}` fails",
        "",
        "This test passed before a recent change and fails now. It says:",
        "",
        *(f"    {line}" for line in (message or "(nothing)").splitlines()),
    ]
    if others:
        more = len(others) - NAMED_TESTS
        names = ", ".join(f"`{test}`" for test in others[:NAMED_TESTS])
        lines += ["", f"So do {names}{f' and {more} more' if more > 0 else ''}."]
    return "\n".join(lines) + "\n"
