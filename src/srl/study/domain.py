"""What the tiny domain writes for an experiment: data folders for each seed, and the problems that all seeds share."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from srl.data.folder import as_row
from srl.data.formats.columns import Columns
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.data.steps import full_solution, step_instances
from srl.files import json_line, read_rows, write_jsonl, write_text
from srl.records import Trajectory
from srl.study.experiment import Domain
from srl.study.repair_data import write_repair_data, write_repair_problems
from srl.study.tiny import careless, in_other_words, random_problem, solve, thinking_aloud

OPTIONS = StepOptions(targets="all", hold_out=0.0, system_prompt="", keep_wrong=True)
"""The tiny model knows one task only and needs no instructions; validation problems are apart. The expert is
wrong on purpose only, and a check that runs out of time on a busy machine must not change what a seed trains on."""


def write_problems(folder: Path, domain: Domain) -> None:
    """Write the problems of an experiment, the same for every seed, where they are not yet.

    validation.toml, test.toml   benchmarks of `srl evaluate`
    test.steps.jsonl             the expert's steps on the test problems
    """
    if domain.kind == "code-repair":
        return write_repair_problems(folder, domain)
    fresh = islice(distinct_problems(random.Random("problems"), domain.operations), domain.first_problem, None)
    for name, count in (("validation", domain.validation_problems), ("test", domain.test_problems)):
        experts = [solve(next(fresh)) for _ in range(count)]
        if not (folder / f"{name}.toml").is_file():
            write_jsonl(folder / f"{name}.jsonl", [{"problem": t.problem, "answer": t.answer} for t in experts])
            title = f"{name} problems of the tiny domain"
            write_text(folder / f"{name}.toml", f'title = "{title}"\nfile = "{name}.jsonl"\n')
    if not (steps := folder / "test.steps.jsonl").is_file():
        instances = (i for expert in experts for i in step_instances(expert, targets="all", system_prompt=""))
        write_text(steps, "".join(json_line(as_row(instance)).decode() for instance in instances))


def read_problems(folder: Path, name: str) -> list[str]:
    """The problems that `write_problems` wrote."""
    return [row.value["problem"] for row in read_rows(folder / f"{name}.jsonl")]


def write_data(
    folder: Path, domain: Domain, seed: int, reserved: Collection[str], answer_system_prompt: str = ""
) -> None:
    """The data folders of one seed, none with a `reserved` problem.

    expert         the expert's numbered solutions, cut by `srl steps`: for SRL, SFT and RLVR
    paper-targets  the same without the last steps, which the paper does not ask for
    own-thoughts   the expert's solutions as the student would think them aloud: for the ceiling
    holistic       the expert's whole solution as one step, asked for as a whole solution
    prefixes       the problems to be solved from each number of the expert's steps on: for R3
    """
    if domain.kind == "code-repair":
        return write_repair_data(folder, domain, seed, reserved)
    fresh = distinct_problems(random.Random(seed), domain.operations, reserved)
    rng = random.Random(f"expert {seed}")
    experts = [_expert(next(fresh), domain, rng) for _ in range(domain.expert_problems)]
    solutions = [{"id": t.id, "problem": t.problem, "solution": full_solution(t), "answer": t.answer} for t in experts]
    options, answer = replace(OPTIONS, answer_system_prompt=answer_system_prompt), Columns(answer="answer")
    whole = replace(options, system_prompt=answer_system_prompt)
    _prepare(folder / "expert", solutions, options, answer)
    _prepare(folder / "paper-targets", solutions, replace(options, targets="paper"), answer)
    _prepare(folder / "prefixes", solutions, replace(options, solve_from="prefixes"), answer)
    _prepare(folder / "holistic", solutions, replace(whole, targets="whole"), answer)
    (folder / "own-thoughts").mkdir()
    aloud = (thinking_aloud(expert, answer_system_prompt) for expert in experts)
    write_jsonl(folder / "own-thoughts/train.steps.jsonl", map(as_row, aloud))


def _expert(problem: str, domain: Domain, rng: random.Random) -> Trajectory:
    """A solution in the style that is wanted; the known answer is right where the solution is not."""
    written = solve(problem, careless(rng, domain.wrong_steps), thoughts=True)
    written = in_other_words(written) if domain.wording == "other" else written
    return replace(written, answer=solve(problem).answer)


def _prepare(folder: Path, rows: Sequence[Mapping[str, Any]], options: StepOptions, columns: Columns) -> None:
    path = folder.with_suffix(".jsonl")
    write_jsonl(path, rows)
    prepare(Source(path, columns=columns), folder, options)


def distinct_problems(rng: random.Random, operations: int, reserved: Collection[str] = ()) -> Iterator[str]:
    """Problems that are neither `reserved` nor repeated."""
    seen = set(reserved)
    while True:
        if (problem := random_problem(rng, operations)) not in seen:
            seen.add(problem)
            yield problem
