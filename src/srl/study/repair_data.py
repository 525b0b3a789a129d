"""What the code repair writes for an experiment, as `domain.py` does for the arithmetic."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from srl.data.folder import as_row
from srl.data.steps import step_instances
from srl.files import write_jsonl
from srl.records import StepInstance, Trajectory
from srl.study.experiment import Domain
from srl.study.repair import EDIT, Thinker, as_problem, problem_text, problems, solve


def write_repair_problems(folder: Path, domain: Domain) -> None:
    """Write the programs of an experiment, the same for every seed, where they are not yet.

    validation.jsonl, test.jsonl   `problem`: what the model reads; `answer`: file and tests
    test.steps.jsonl               the expert's steps on the test programs
    """
    fresh = islice(problems(random.Random("problems"), domain.operations), domain.first_problem, None)
    for name, count in (("validation", domain.validation_problems), ("test", domain.test_problems)):
        programs = [next(fresh) for _ in range(count)]
        if not (folder / f"{name}.jsonl").is_file():
            rows = [{"problem": problem_text(one.repair), "answer": one.repair.to_json()} for one in programs]
            write_jsonl(folder / f"{name}.jsonl", rows)
    if not (steps := folder / "test.steps.jsonl").is_file():
        write_jsonl(steps, map(as_row, _steps([solve(program) for program in programs])))


def write_repair_data(folder: Path, domain: Domain, seed: int, reserved: Collection[str]) -> None:
    """The data folders of one seed, none with a `reserved` problem.

    expert         the expert's runs as steps, and its edits as one completion, with its own thoughts
    own-thoughts   the same with the thoughts that the student would have
    edits          the expert's steps that edit: the base takes the others as the expert does, which teaches SRL nothing
    """
    asked = {text.partition("\n\n")[2] for text in reserved}
    programs = list(islice(problems(random.Random(seed), domain.operations, asked), domain.expert_problems))
    thinkers: dict[str, Thinker] = {"expert": "expert", "own-thoughts": "student"}
    for name, thinker in thinkers.items():
        runs = [solve(program, thinker=thinker) for program in programs]
        steps = _steps(runs)
        (folder / name).mkdir()
        write_jsonl(folder / name / "train.steps.jsonl", map(as_row, steps))
        if thinker == "expert":
            (folder / "edits").mkdir()
            edits = (step for step in steps if step.expert_action.startswith(EDIT[0]))
            write_jsonl(folder / "edits/train.steps.jsonl", map(as_row, edits))
        whole = (as_problem(program, run) for program, run in zip(programs, runs, strict=True))
        write_jsonl(folder / name / "train.problems.jsonl", map(as_row, whole))


def _steps(runs: Sequence[Trajectory]) -> list[StepInstance]:
    """All of them, each with all that was done before."""
    return [i for run in runs for i in step_instances(run, targets="all", system_prompt="", context="full")]
