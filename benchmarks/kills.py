"""Training killed at random moments and resumed: is every logged number, and the final model, that of a run left alone?

    python benchmarks/kills.py                  # 50 kills, about 10 minutes on one core
    python benchmarks/kills.py --kills 6        # a short form

The demo's base model on a few problems of the tiny domain: three epochs of three steps by SFT, by SRL and by RLVR, both
with refills, a checkpoint and an evaluation after each step. A run is a process that SIGKILL ends: half of the times at
a random moment between its start and its end, else while it writes a checkpoint. It is then resumed, a third of the
times killed and resumed once more, and compared with a run that was left alone. Ends with 1 if anything differs.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import tyro
from safetensors.torch import load_file

from srl.data.formats.solutions import Columns
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.data.steps import full_solution
from srl.files import write_jsonl
from srl.runs.checkpoints import checkpoints, problem_with
from srl.runs.folder import RunFolder
from srl.runs.recipe import Checkpoints, Data, Model, Optim, Recipe, Rollout, Sft, Validation
from srl.study.domain import distinct_problems
from srl.study.tiny import solve
from srl.training.train import train

STAGES = ("sft", "srl", "rlvr")
ROWS, PROMPTS_PER_STEP = 24, 8
TIMES = re.compile(r"_runtime$|_per_second$|^step_time$|^reward_time_share$")
"""What is logged and says how long something took; docs/reliability.md names the same."""


def write_data(folder: Path) -> None:
    """A data folder of few problems, three of them held out."""
    experts = [solve(problem, thoughts=True) for problem in islice(distinct_problems(random.Random(1), 3), 40)]
    rows = [{"id": t.id, "problem": t.problem, "solution": full_solution(t), "answer": t.answer} for t in experts]
    write_jsonl(folder.with_suffix(".jsonl"), rows)
    options = StepOptions(targets="all", hold_out=0.1, system_prompt="", answer_system_prompt="")
    prepare(Source(folder.with_suffix(".jsonl"), columns=Columns(answer="answer")), folder, options)
    for path in folder.glob("train.*.jsonl"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:ROWS]))


def recipe(stage: str, data: Path, out: Path) -> Recipe:
    """Three epochs of three steps."""
    return Recipe(
        stage=stage,
        output_dir=out,
        model=Model(model_name_or_path="tiny-base"),
        data=Data(path=data),
        optim=Optim(learning_rate=1e-3, num_train_epochs=3, per_device_train_batch_size=PROMPTS_PER_STEP),
        rollout=Rollout(prompts_per_step=PROMPTS_PER_STEP, num_generations=8, max_completion_length=80, max_refills=3),
        sft=Sft(rows_per_step=PROMPTS_PER_STEP),
        validation=Validation(eval_steps=1, max_rows=4),
        checkpoints=Checkpoints(save_total_limit=2),
    )


def start(function: Callable[..., None], *arguments: object) -> multiprocessing.Process:
    """A process of its own. Forked: torch is loaded, and has started no threads."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def run_training(config: Recipe, resume: bool) -> None:
    with open(os.devnull, "w") as nowhere, open(config.output_dir.with_suffix(".log"), "a") as log:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(log.fileno(), 2)
        faulthandler.enable(file=log)
        train(config, resume=resume)


def kill_at_some_time(process: multiprocessing.Process, rng: random.Random, seconds: float) -> None:
    """Between start and end."""
    process.join(rng.uniform(0, seconds))
    process.kill()


def kill_while_saving(process: multiprocessing.Process, rng: random.Random, run: Path) -> None:
    """Up to 30 ms after a checkpoint's folder has appeared; which one is drawn."""
    wanted = rng.randrange(1, 10)
    while process.is_alive():
        newest = checkpoints(run)[-1:]
        if newest and int(newest[0].name.split("-")[1]) >= wanted and problem_with(newest[0]):
            time.sleep(rng.uniform(0, 0.03))
            break
        time.sleep(0.0005)
    process.kill()


def numbers(run: Path) -> list[dict[str, float]]:
    """Every logged number but times."""
    return [{name: value for name, value in line.items() if not TIMES.search(name)} for line in RunFolder(run).metrics]


def differences(run: Path, whole: Path) -> Iterator[str]:
    """What differs from the run that was left alone."""
    found, expected = numbers(run), numbers(whole)
    if len(found) != len(expected):
        yield f"{len(found)} lines, expected {len(expected)}"
    for one, other in zip(found, expected, strict=False):
        yield from (
            f"step {other['step']}: {name} {one.get(name)}, expected {other.get(name)}"
            for name in one.keys() | other.keys()
            if one.get(name) != other.get(name)
        )
    weights, other_weights = (load_file(path / "model/model.safetensors") for path in (run, whole))
    yield from (f"weights {name}" for name in other_weights if not weights[name].equal(other_weights[name]))


def one_trial(stage: str, data: Path, folder: Path, rng: random.Random, seconds: float, counts: Counter) -> list[str]:
    """Kill, resume, compare."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    config = recipe(stage, data, run)
    for attempt in range(2 if rng.random() < 1 / 3 else 1):
        process = start(run_training, config, attempt > 0)
        if rng.random() < 0.5:
            kill_at_some_time(process, rng, seconds)
        else:
            kill_while_saving(process, rng, run)
        process.join()
        counts["kills"] += process.exitcode == -9
        counts["ended before"] += process.exitcode == 0
        newest = checkpoints(run)[-1:]
        counts["while saving"] += bool(newest and problem_with(newest[0]))
        if RunFolder(run).model:
            break
    if not RunFolder(run).model:
        last = RunFolder(run).last_checkpoint
        counts["from the beginning" if last is None else f"epoch {(int(last.name.split('-')[1]) - 1) // 3 + 1}"] += 1
        process = start(run_training, config, True)
        process.join()
        if process.exitcode < 0:  # it crashed by itself: named in the counts, and one more kill to come back from
            counts[f"crashed with {signal.Signals(-process.exitcode).name}"] += 1
            process = start(run_training, config, True)
            process.join()
        if process.exitcode:
            return [f"resuming ended with {process.exitcode}: {run.with_suffix('.log').read_text()[-2000:]}"]
    return list(differences(run, folder / stage))


def main(kills: int = 50, seed: int = 0, out: Path | None = None) -> None:
    """Kill training and compare.

    Args:
        kills: How many runs are killed, over all stages.
        seed: Of the moments.
        out: Where the runs lie; a temporary folder if it is not given.
    """
    folder = out or Path(tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    start(write_data, folder / "data").join()  # apart: it starts workers, which forked processes must not inherit
    rng, n_equal = random.Random(seed), 0
    for place, stage in enumerate(STAGES):
        began = time.monotonic()
        start(run_training, recipe(stage, folder / "data", folder / stage), False).join()
        seconds = time.monotonic() - began
        lines = numbers(folder / stage)
        refills = sum(line.get("refills", 0) for line in lines)
        counts: Counter = Counter()
        trials = kills // len(STAGES) + (place < kills % len(STAGES))
        for trial in range(trials):
            found = one_trial(stage, folder / "data", folder, rng, seconds, counts)
            n_equal += not found
            print(f"{stage} {trial + 1}: {'equal' if not found else '; '.join(found)[:1000]}", flush=True)
        facts = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        print(f"{stage}: {len(lines)} lines, {refills:.0f} refills, {seconds:.1f} s a run; {facts}", flush=True)
    print(f"{n_equal} of {kills} equal")
    sys.exit(n_equal != kills)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = os.environ["OMP_NUM_THREADS"] = "1"
    tyro.cli(main)
