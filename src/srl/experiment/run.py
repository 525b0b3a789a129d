"""The runs of an experiment, several at a time. What has ended is not done again: the same command goes on.

OUT/experiment.json       the experiment, versions, commit, command
OUT/problems/             validation and test problems (`srl evaluate` reads them)
OUT/seed-K/data/          what this seed trains on
OUT/seed-K/base/          the model that its arms start from
OUT/seed-K/CHAIN/         run/ as `srl train` leaves it, with the checkpoint that was chosen; validation/;
                          test-answer/, test-stepwise/ (`srl evaluate`); done.json: what the table needs
OUT/tuning/CHAIN@RATE/    the same with a seed of its own, without test: only to choose learning rates
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from srl.errors import UserError
from srl.experiment.data import read_problems, write_data, write_problems
from srl.experiment.plan import Chain, Experiment, read_experiment
from srl.files import write_text
from srl.recipe import Recipe, read_recipe
from srl.run_folder import environment, read_metrics

TUNING_SEED = 1_000
PROTOCOLS: tuple[Literal["answer", "stepwise"], ...] = ("answer", "stepwise")
STEP_TOKENS = 40
BATCH_SIZE = 250


def run_experiment(path: Path, out: Path, *, n_seeds: int, n_jobs: int, overwrite: bool = False) -> Experiment:
    """Run an experiment, or go on with it.

    Raises:
        UserError: a wrong experiment file; `out` is something else, or belongs to another experiment.
    """
    experiment = read_experiment(path)
    open_experiment(experiment, out, overwrite=overwrite)
    groups = [Group(experiment, out, seed) for seed in range(n_seeds)]
    tuning = Group(experiment, out, None)
    tuned = [run for length in range(1, experiment.longest_chain + 1) for run in tuning.runs(length)]
    os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing from threads, processes lose by them
    with ProcessPoolExecutor(n_jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        _work(pool, [Base(group) for group in (*groups, *([tuning] if tuned else []))])
        for length in range(1, experiment.longest_chain + 1):
            _work(pool, tuning.runs(length))
            _work(pool, [run for group in groups for run in group.runs(length)])
    return experiment


def open_experiment(experiment: Experiment, out: Path, *, overwrite: bool = False) -> None:
    """Start `out`, or make sure that it belongs to the same experiment."""
    record = out / "experiment.json"
    wanted = experiment.model_dump(mode="json")
    if record.is_file() and overwrite:
        shutil.rmtree(out)
    elif record.is_file():
        if json.loads(record.read_text())["experiment"] != wanted:
            raise UserError(f"{out}: holds another experiment, or another version of it; choose another --out")
        return
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: expected an empty folder or an experiment, found other files; choose another --out")
    (out / "problems").mkdir(parents=True)
    write_problems(out / "problems", experiment.domain)
    write_text(record, json.dumps({"experiment": wanted, **environment()}, indent=2) + "\n")


def _work(pool: ProcessPoolExecutor, jobs: Sequence[Base | Run]) -> None:
    """Do what is not yet done; a line as each ends."""
    missing = [job for job in jobs if not (job.folder / "done.json").is_file()]
    started = time.monotonic()
    futures = {pool.submit(job.work): job for job in missing}
    for n_done, future in enumerate(as_completed(futures), 1):
        said = future.result()
        left = timedelta(seconds=round((time.monotonic() - started) / n_done * (len(missing) - n_done)))
        print(f"{futures[future].name}: {said}  [{n_done} of {len(missing)} such runs, {left} left]", flush=True)


@dataclass(frozen=True)
class Group:
    """The runs that share a base: those of one seed, or those that choose learning rates (`seed` is None)."""

    experiment: Experiment
    out: Path
    seed: int | None

    @property
    def name(self) -> str:
        """Its folder."""
        return "tuning" if self.seed is None else f"seed-{self.seed}"

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.out / self.name

    @property
    def data_seed(self) -> int:
        """Decides base, training problems and sampling."""
        return TUNING_SEED if self.seed is None else self.seed

    def runs(self, length: int) -> list[Run]:
        """One run per chain of that length; when tuning one per learning rate, where there is a choice."""
        if self.seed is not None:
            return [Run(self, chain, None) for chain in self.experiment.chains(length, self.seed)]
        chains = [chain for chain in self.experiment.chains(length) if any(map(self._is_choice, chain))]
        return [Run(self, chain, rate) for chain in chains for rate in self.experiment.stages[chain[-1]].learning_rates]

    def _is_choice(self, stage: str) -> bool:
        return len(self.experiment.stages[stage].learning_rates) > 1

    def finished(self, chain: Chain) -> dict[str, Any]:
        """What done.json says of a chain; when tuning, of its best learning rate."""
        if self.seed is not None or not chain:
            return _done(self.folder / ("+".join(chain) or "base"))
        rates = sorted(self.experiment.stages[chain[-1]].learning_rates)
        return max((_done(Run(self, chain, rate).folder) for rate in rates), key=lambda done: done["validation"])

    def learning_rate(self, chain: Chain) -> float:
        """The one to train this seed with."""
        rates = self.experiment.stages[chain[-1]].learning_rates
        tuning = Group(self.experiment, self.out, None)
        return rates[0] if len(rates) == 1 else float(tuning.finished(chain)["learning_rate"])


def _done(folder: Path) -> dict[str, Any]:
    done: dict[str, Any] = json.loads((folder / "done.json").read_text())
    return done


@dataclass(frozen=True)
class Base:
    """The data of a group and the model that its runs start from."""

    group: Group

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.group.folder / "base"

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.group.name}, base"

    def work(self) -> str:
        """Do it."""
        from srl.tiny import write_model
        from srl.train import train

        experiment, data = self.group.experiment, self.group.folder / "data"
        problems = self.group.out / "problems"
        for folder in (self.folder, data):
            shutil.rmtree(folder, ignore_errors=True)
        with _log(self.folder):
            data.mkdir()
            reserved = {*read_problems(problems, "validation"), *read_problems(problems, "test")}
            write_data(data, experiment.domain, self.group.data_seed, reserved)
            write_model(self.folder / "untrained", self.group.data_seed)
            recipe = _recipe(
                experiment.base, self.folder / "untrained", data / "student", self.folder / "run", self.group.data_seed
            )
            cpu = time.process_time()
            model = train(recipe)
            done = {"model": str(model), "cpu_seconds": time.process_time() - cpu, "tokens": 0}
            if self.group.seed is not None:
                done |= test(self.group, (), model, self.folder)
        write_text(self.folder / "done.json", json.dumps(done, indent=1) + "\n")
        return f"{done['cpu_seconds']:.0f} CPU s"


@dataclass(frozen=True)
class Run:
    """The last stage of a chain, from training to the test."""

    group: Group
    chain: Chain
    tuned: float | None
    """The learning rate to judge on validation problems; None: the best one, and the test follows."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.group.folder / ("+".join(self.chain) + ("" if self.tuned is None else f"@{self.tuned:g}"))

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.group.name}, {self.folder.name}"

    def work(self) -> str:
        """Train, choose the checkpoint, and, unless tuning, take the test."""
        from srl.train import train

        shutil.rmtree(self.folder, ignore_errors=True)
        stage = self.group.experiment.stages[self.chain[-1]]
        before = self.group.finished(self.chain[:-1])
        rate = self.tuned or self.group.learning_rate(self.chain)
        with _log(self.folder):
            data, run = self.group.folder / "data" / stage.data, self.folder / "run"
            recipe = _recipe(stage.recipe, Path(before["model"]), data, run, self.group.data_seed, stage.changes, rate)
            cpu = time.process_time()
            train(recipe)
            cpu = time.process_time() - cpu
            model, solved = self._choose_checkpoint()
            done = {
                "model": str(model),
                "learning_rate": rate,
                "validation": max(solved.values()),
                "checkpoints": solved,
                "tokens": before["tokens"] + _tokens(run),
                "cpu_seconds": cpu + before["cpu_seconds"] * (len(self.chain) > 1),
            }
            if self.tuned is None:
                done |= test(self.group, self.chain, model, self.folder)
        write_text(self.folder / "done.json", json.dumps(done, indent=1) + "\n")
        return f"validation {done['validation']:.1%} at {model.name}, {cpu:.0f} CPU s"

    def _choose_checkpoint(self) -> tuple[Path, dict[str, float]]:
        """The checkpoint that solves most validation problems, the earliest of equals; the others are deleted."""
        found = (self.folder / "run").glob("checkpoint-*")
        checkpoints = sorted(found, key=lambda path: int(path.name.split("-")[1]))
        solved = {
            path.name: _evaluate(self.group, path, self.folder / "validation" / path.name, "validation", "answer")
            for path in checkpoints
        }
        best = max(checkpoints, key=lambda path: solved[path.name])
        for path in checkpoints:
            if path != best:
                shutil.rmtree(path)
        return best, solved


def _tokens(run: Path) -> int:
    """All that were sampled or trained on, prompts and refills included, as TRL counts them."""
    return int(max(line.get("num_tokens", 0) for line in read_metrics(run)))


def _recipe(
    path: Path, model: Path, data: Path, out: Path, seed: int, changes: dict[str, Any] | None = None, rate: float = 0.0
) -> Recipe:
    """A recipe with the places of this experiment, the changes of a stage and a learning rate."""
    values = read_recipe(path).model_dump(mode="json")
    places = {"model": {"model_name_or_path": str(model)}, "data": {"path": str(data)}}
    chosen = {"optim": {"learning_rate": rate}} if rate else {}
    for tables in (changes or {}, places, chosen):
        for name, table in tables.items():
            values[name] = {**values[name], **table} if isinstance(table, dict) else table
    return Recipe.model_validate({**values, "output_dir": str(out), "seed": seed})


def test(group: Group, chain: Chain, model: Path, folder: Path) -> dict[str, Any]:
    """Ask the test problems once, in both protocols and as often as the arms of this chain want it."""
    from srl.experiment.steps import step_scores

    for arm in group.experiment.arms.values():
        if arm.stages == chain:
            at = "" if arm.temperature == 1.0 else f"-T{arm.temperature:g}"
            samples = group.experiment.samples
            _evaluate(group, model, folder / f"test-answer{at}", "test", "answer", samples, arm.temperature)
    _evaluate(group, model, folder / "test-stepwise", "test", "stepwise")
    return {"steps": step_scores(model, read_problems(group.out / "problems", "test"), STEP_TOKENS, BATCH_SIZE)}


def _evaluate(
    group: Group,
    model: Path,
    out: Path,
    problems: Literal["validation", "test"],
    protocol: Literal["answer", "stepwise"],
    samples: int = 0,
    temperature: float = 1.0,
) -> float:
    """`srl evaluate`; the share of problems solved greedily."""
    from srl.evaluation.results import read_results
    from srl.evaluation.run import EvaluationOptions, evaluate

    options = EvaluationOptions(
        samples=samples,
        greedy=True,
        temperature=temperature,
        protocol=protocol,
        max_tokens=group.experiment.max_tokens if protocol == "answer" else STEP_TOKENS,
        max_steps=group.experiment.domain.operations + 2,
        system_prompt="",
        engine="transformers",
        batch_size=BATCH_SIZE,
    )
    evaluate(str(model), out, str(group.out / "problems" / f"{problems}.toml"), options)
    return float(read_results(out)["columns"][0]["score"])


@contextmanager
def _log(folder: Path) -> Iterator[None]:
    """What a run prints goes into its log.txt: several run at a time."""
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        yield
