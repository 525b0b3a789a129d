"""Train the base model of the code repair (`src/srl/builtin/models/repair-base`): all its skills, and a wrong plan.

    python experiments/2026-11-26-repair-base/make.py runs/repair-base        # about 15 minutes on one core

Runs of SFT (recipe `tiny-base`), each from the one before, on a student's runs with its thoughts: single actions, and
all edits in one completion. In the last run the student mostly edits the last line: a bad habit, so that it hardly ever
repairs a program. No program is one that `srl experiment` asks about.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from srl.data.folder import as_row
from srl.data.steps import step_instances
from srl.files import write_jsonl
from srl.records import StepInstance
from srl.runs.recipe import Recipe, read_recipe
from srl.study.repair import (
    N_BUGS,
    Buggy,
    Look,
    Thinker,
    as_problem,
    build_repair_tokenizer,
    problems,
    random_program,
    solve,
    student_look,
)
from srl.study.tiny import Size, write_model
from srl.training.train import train

BATCH = 16
N_LINES = 5
SIZE = Size(hidden_size=96, intermediate_size=192, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=3)
PATIENCE = 0.5
"""How often a student that is not hasty looks at another line before it edits one."""


class Phase(NamedTuple):
    """A run of SFT."""

    thinker: Thinker
    runs: int
    """As single actions."""
    wholes: int
    """As all edits in one completion."""
    edits: int
    haste: float
    """How often the last line alone is looked at."""
    learning_rate: float


PHASES = (
    # Every line is written, in any order: most to learn from.
    Phase("beginner", runs=0, wholes=8000, edits=N_LINES, haste=0.0, learning_rate=2e-3),
    Phase("beginner", runs=0, wholes=12800, edits=N_LINES, haste=0.0, learning_rate=2e-3),
    Phase("student", runs=1600, wholes=3200, edits=N_BUGS, haste=0.0, learning_rate=1.5e-3),
    Phase("student", runs=0, wholes=9600, edits=N_LINES, haste=0.0, learning_rate=2e-3),
    Phase("student", runs=800, wholes=1200, edits=N_BUGS, haste=0.85, learning_rate=1e-3),
)


def beginner_look(rng: random.Random) -> Look:
    """Half of the time a line that is wrong, if there is one; else any."""

    def look(program: Buggy, edited: Collection[int]) -> Sequence[int]:
        left = [index for index in range(len(program.wanted)) if index not in edited]
        wrong = [index for index in program.wrong if index in left]
        rng.random()  # drawn when the model was made; the data would be others without it
        return [rng.choice(wrong if wrong and rng.random() < 0.5 else left)]

    return look


def write_student_data(path: Path, phase: Phase, seed: int) -> None:
    """Rows of one kind fill a batch; the order is the one in which they are learned."""
    seen = {program.source for program in islice(problems(random.Random("problems"), N_LINES), 3000)}
    rng = random.Random(f"student {seed}")
    look = student_look(rng, phase.haste, PATIENCE if phase.edits == N_BUGS else 0.0)
    if phase.thinker == "beginner":
        look = beginner_look(rng)
    edits: list[StepInstance] = []
    others: list[StepInstance] = []
    whole: list[StepInstance] = []
    for number in range(phase.runs + phase.wholes):
        # Any line may be wrong here, so that every repair is learned.
        wrong = [index for index in range(N_LINES) if rng.random() < 0.5]
        while (program := random_program(rng, N_LINES, wrong)).source in seen:
            pass
        seen.add(program.source)
        run = solve(program, look, phase.thinker, phase.edits)
        if number >= phase.runs:
            problem = as_problem(program, run)
            whole.append(StepInstance(problem.trajectory_id, 1, problem.prompt, problem.solution))
            continue
        steps = list(step_instances(run, targets="all", system_prompt="", context="full"))
        edits += steps[1:-2]
        others.append(rng.choice([steps[0], *steps[-2:]]))  # learned at once: one of three is enough
    kinds = [edits, others, whole]
    for rows in kinds:
        rng.shuffle(rows)
    batches = [rows[start : start + BATCH] for rows in kinds for start in range(0, len(rows), BATCH)]
    rng.shuffle(batches)
    path.mkdir()
    write_jsonl(path / "train.steps.jsonl", (as_row(row) for batch in batches for row in batch))


def main() -> None:
    """Train the phases one after another."""
    out = Path(sys.argv[1])
    model = out / "untrained"
    if not out.exists():
        out.mkdir(parents=True)
        write_model(model, size=SIZE, tokenizer=build_repair_tokenizer())
    for number, phase in enumerate(PHASES, 1):
        if (out / f"run-{number}/model").exists():  # goes on where it was interrupted
            model = out / f"run-{number}/model"
            continue
        write_student_data(out / f"data-{number}", phase, seed=number)
        values = read_recipe(Path("tiny-base")).model_dump(mode="json")
        values |= {"output_dir": str(out / f"run-{number}")}
        values["model"] |= {"model_name_or_path": str(model)}
        values["data"] |= {"path": str(out / f"data-{number}")}
        values["optim"] |= {"learning_rate": phase.learning_rate}
        model = train(Recipe.model_validate(values))
    print(f"now: cp -r {model} src/srl/builtin/models/repair-base")


if __name__ == "__main__":
    main()
