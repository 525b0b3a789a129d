"""Make the bases of the map: one model that goes different ways with different habits, and is otherwise the same.

    python experiments/2026-11-26-when-srl-pays/make_bases.py runs/when-srl-pays/bases   # a core minute each

All start from `tiny-base` and are trained on as many solutions in the same three forms: single steps, whole solutions,
and the rest of a solution after some of its steps. One thing differs at a time: which operation the student of the
data takes next, for the bases on the map's line; off it, how often differences below zero come out right, or how often
a single step is in the format. None of the problems is one that `srl experiment` asks.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from srl.chat.prompts import SEPARATOR, format_completion, step_prompt
from srl.data.folder import as_row
from srl.data.steps import step_instances
from srl.files import write_jsonl
from srl.records import StepInstance, Trajectory
from srl.runs.recipe import Recipe, read_recipe
from srl.study.domain import distinct_problems
from srl.study.tiny import bad_habit, expert_choice, reduce_at, solve, terms, thinking_aloud
from srl.training.train import train

BATCH, OPERATIONS, LEARNING_RATE = 16, 5, 1e-3
N_STEPWISE, N_WHOLE, N_CONTINUED = 800, 1600, 1600
"""Solutions per form."""

ASKED = 4000
"""So many of the first problems of the stream are kept out: experiments ask some of them."""

SOLVE = "Solve"
"""The system prompt for whole solutions and for their rest; single steps have none."""


class Plan(NamedTuple):
    """How the student of a base chooses its next operation."""

    right: float
    """How often it takes the expert's."""
    haste: float
    """Otherwise: how often the last one, else any."""
    borrows: float = 1.0
    """How often a difference below zero comes out right; else the smaller number is taken from the larger."""
    formed: float = 1.0
    """How often a single step has its thought between the marks; else it stands before the step without them."""


BASES = {
    "last-95": Plan(0.0, 0.95),
    "last-75": Plan(0.0, 0.75),
    "any": Plan(0.0, 0.0),
    "right-35": Plan(0.35, 0.0),
    "right-50": Plan(0.5, 0.0),
    "right-65": Plan(0.65, 0.0),
    "right-50-skill-20": Plan(0.5, 0.0, borrows=0.2),
    "right-50-format-20": Plan(0.5, 0.0, formed=0.2),
}
"""last-75 is the habit of `tiny-base`; any is that of the bases which were dropped for `paper-tiny`."""

OFF_THE_LINE = [name for name, plan in BASES.items() if plan.borrows < 1 or plan.formed < 1]
"""Bases that differ from `right-50` in something else than the order of operations."""


def choice(rng: random.Random, plan: Plan) -> Callable[[str], int]:
    """Which operation the student takes next."""
    habit = bad_habit(rng, plan.haste)
    return lambda left: expert_choice(left) if rng.random() < plan.right else habit(left)


def calculation(rng: random.Random, plan: Plan) -> Callable[[str, int], tuple[str, str]]:
    """How the student carries out an operation."""

    def carry_out(expression: str, place: int) -> tuple[str, str]:
        fact, rest = reduce_at(expression, place)
        a, b, _ = map(int, re.findall(r"\d", fact))
        if f"-{b}=" not in fact or a >= b or rng.random() < plan.borrows:
            return fact, rest
        there = terms(rest)
        before = max(index for index in range(place) if there[index] != "__")
        there[before] = f"{there[before][:-1]}{b - a}"
        return f"{fact[:-1]}{b - a}", "".join(there)

    return carry_out


def unformed(instance: StepInstance) -> StepInstance:
    """The same step with its thought before it, without the marks."""
    return replace(instance, thought=None, expert_action=f"{instance.thought}\n{instance.expert_action}")


def rest_aloud(trajectory: Trajectory, n_before: int) -> StepInstance:
    """The rest of a solution after some of its steps, each with its thought, as a row for SFT."""
    context = "".join(step.action + SEPARATOR for step in trajectory.steps[:n_before])
    first, *others = trajectory.steps[n_before:]
    aloud = [first.action, *(format_completion(step.thought, step.action) for step in others)]
    prompt = step_prompt(trajectory.problem, context, SOLVE)
    return StepInstance(trajectory.id, 1, prompt, SEPARATOR.join(aloud), thought=first.thought)


def write_student_data(path: Path, plan: Plan, seed: int) -> None:
    """A block of solutions of one form fills a batch; the order is the one in which they are learned."""
    fresh = distinct_problems(random.Random("problems"), OPERATIONS)
    asked = {next(fresh) for _ in range(ASKED)}
    rng = random.Random(f"base {seed}")
    problems = distinct_problems(rng, OPERATIONS, asked)
    choose, careless = choice(rng, plan), random.Random(f"careless {seed}")
    carry_out = calculation(careless, plan)
    n_all = N_STEPWISE + N_WHOLE + N_CONTINUED
    solved = [solve(next(problems), choose, carry_out, thoughts=True) for _ in range(n_all)]
    steps = [[*step_instances(t, targets="all", system_prompt="")] for t in solved[:N_STEPWISE]]
    whole = [thinking_aloud(t, SOLVE) for t in solved[N_STEPWISE : N_STEPWISE + N_WHOLE]]
    rest = [rest_aloud(t, rng.randrange(1, len(t.steps))) for t in solved[N_STEPWISE + N_WHOLE :]]
    single = [
        instance if careless.random() < plan.formed else unformed(instance)
        for trajectory in steps
        for instance in trajectory
    ]
    blocks = [rows[start : start + BATCH] for rows in (single, whole, rest) for start in range(0, len(rows), BATCH)]
    rng.shuffle(blocks)
    path.mkdir(parents=True, exist_ok=True)
    write_jsonl(path / "train.steps.jsonl", (as_row(row) for block in blocks for row in block))


def make_base(name: str, out: Path) -> None:
    """Write the data of a base and train it, from the start if it was interrupted."""
    write_student_data(out / f"{name}-data", BASES[name], seed=1)
    values = read_recipe(Path("tiny-base")).model_dump(mode="json")
    values |= {"output_dir": str(out / name)}
    values["model"] |= {"model_name_or_path": "tiny-base"}
    values["data"] |= {"path": str(out / f"{name}-data")}
    values["optim"] |= {"learning_rate": LEARNING_RATE}
    train(Recipe.model_validate(values), overwrite=True)


def main() -> None:
    """Make those that are not there."""
    out = Path(sys.argv[1])
    for name in sys.argv[2:] or BASES:
        if not (out / name / "model").is_dir():
            make_base(name, out)


if __name__ == "__main__":
    main()
