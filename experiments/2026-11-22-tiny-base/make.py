"""Train the base model that comes with srl (`src/srl/builtin/models/tiny-base`): all skill of the tiny domain, no plan.

    python experiments/2026-11-22-tiny-base/make.py runs/tiny-base        # about 11 minutes on one core

Three runs of SFT (recipe `tiny-base`), each from the one before, on solutions in random order with their thoughts:
single steps, and whole solutions in blocks of a batch. In the third run the student mostly takes the last operation: a
bad habit, so that it never gets a whole problem right by chance. None is of a problem that `srl experiment` asks.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from srl.data.folder import as_row
from srl.data.steps import step_instances
from srl.files import write_jsonl
from srl.runs.recipe import Recipe, read_recipe
from srl.study.domain import distinct_problems
from srl.study.tiny import bad_habit, solve, thinking_aloud, write_model
from srl.training.train import train

BATCH = 16
OPERATIONS = 5
PHASES = [(5000, 2240, 2e-3, 0.0), (3500, 6400, 1.5e-3, 0.0), (2000, 3200, 1e-3, 0.75)]
"""Trajectories as steps, trajectories as whole solutions, learning rate, how often the last operation is taken."""


def write_student_data(path: Path, n_steps: int, n_whole: int, haste: float, seed: int) -> None:
    """A block of whole solutions fills a batch; the order is the one in which they are learned."""
    fresh = distinct_problems(random.Random("problems"), OPERATIONS)
    asked = {next(fresh) for _ in range(2000)}
    rng = random.Random(f"student {seed}")
    problems = distinct_problems(rng, OPERATIONS, asked)
    aimless = [solve(next(problems), bad_habit(rng, haste), thoughts=True) for _ in range(n_steps + n_whole)]
    cut = [[*step_instances(t, targets="all", system_prompt="")] for t in aimless[:n_steps]]
    whole = [thinking_aloud(trajectory) for trajectory in aimless[n_steps:]]
    blocks = cut + [whole[start : start + BATCH] for start in range(0, n_whole, BATCH)]
    rng.shuffle(blocks)
    path.mkdir()
    write_jsonl(path / "train.steps.jsonl", (as_row(row) for block in blocks for row in block))


def main() -> None:
    """Train the phases one after another."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True)
    write_model(out / "untrained")
    model = out / "untrained"
    for number, (n_steps, n_whole, learning_rate, haste) in enumerate(PHASES, 1):
        write_student_data(out / f"data-{number}", n_steps, n_whole, haste, seed=number)
        values = read_recipe(Path("tiny-base")).model_dump(mode="json")
        values |= {"output_dir": str(out / f"run-{number}")}
        values["model"] |= {"model_name_or_path": str(model)}
        values["data"] |= {"path": str(out / f"data-{number}")}
        values["optim"] |= {"learning_rate": learning_rate}
        model = train(Recipe.model_validate(values))
    print(f"now: cp -r {model} src/srl/builtin/models/tiny-base")


if __name__ == "__main__":
    main()
