"""The runs of an experiment, each a job by itself: training, the choice of a checkpoint, the test.

OUT/experiment.json       the experiment, versions, commit, command
OUT/problems/             of the tiny domain: validation and test problems, as a user would give them
OUT/base/                 the test of the model that all arms start from
OUT/seed-K/data/          of the tiny domain: what this seed trains on
OUT/seed-K/CHAIN/         run/ as `srl train` leaves it, with the checkpoint that was chosen; validation/;
                          test-answer-T1/, test-stepwise/ (`srl evaluate`); done.json: what the table needs;
                          profiled/, of RFT and pivots: what is trained on, as `srl profile` leaves it
OUT/tuning/CHAIN@RATE/    the same with a seed of its own, without test: only to choose learning rates
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from srl.data.folder import rows_file
from srl.engines.protocols import ProtocolName
from srl.files import new_folder, read_rows, write_text
from srl.runs.folder import RunFolder, resolve_model
from srl.runs.recipe import Recipe
from srl.study.domain import read_problems, write_data
from srl.study.experiment import Chain, Experiment, Stage
from srl.study.material import data_folder, problems_of

TUNING_SEED = 1_000


@dataclass(frozen=True)
class SeedGroup:
    """The runs that share their data: those of one seed, or those that choose learning rates (`seed` is None)."""

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
    def training_seed(self) -> int:
        """Decides sampling and the order of the data; in the tiny domain also the training problems."""
        return TUNING_SEED if self.seed is None else self.seed

    def prepare(self) -> None:
        """Make the group's folder; in the tiny domain write what it trains on, unless it is there."""
        self.folder.mkdir(exist_ok=True)
        if self.experiment.domain and not (self.folder / "data").is_dir():
            problems = self.out / "problems"
            reserved = {*read_problems(problems, "validation"), *read_problems(problems, "test")}
            with new_folder(self.folder / "data") as folder:
                prompt = self.experiment.manner.answer
                write_data(folder, self.experiment.domain, self.training_seed, reserved, prompt)

    def jobs(self, chain: Chain) -> list[Job]:
        """The run that ends a chain; when tuning one per learning rate; the base if there is no stage."""
        if not chain:
            return [BaseJob(self.experiment, self.out)]
        rates = [None] if self.seed is not None else self.experiment.stages[chain[-1]].learning_rates
        return [TrainingJob(self, chain, rate) for rate in rates]

    def finished(self, chain: Chain) -> dict[str, Any]:
        """What done.json says of a chain; when tuning, of its best learning rate, the smallest of equals."""
        done = [json.loads((job.folder / "done.json").read_text()) for job in self.jobs(chain)]
        return max(done, key=lambda one: (one.get("validation", 0), -one.get("learning_rate", 0)))

    def learning_rate(self, chain: Chain) -> float:
        """The one to train this seed with."""
        rates = self.experiment.stages[chain[-1]].learning_rates
        return rates[0] if len(rates) == 1 else float(self.tuning.finished(chain)["learning_rate"])

    @property
    def tuning(self) -> SeedGroup:
        """The group that chooses learning rates."""
        return SeedGroup(self.experiment, self.out, None)


@dataclass(frozen=True)
class BaseJob:
    """The model that all arms start from takes the test too, once for all seeds."""

    experiment: Experiment
    out: Path
    name: str = "base"

    @property
    def folder(self) -> Path:
        """Where its answers lie."""
        return self.out / "base"

    @property
    def needs(self) -> list[Job]:
        """What must have ended before."""
        return []

    def work(self) -> str:
        """Do it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with _log(self.folder):
            done: dict[str, Any] = {"model": self.experiment.base, "tokens": 0, "cpu_seconds": 0.0}
            done |= test(self.experiment, self.out, (), resolve_model(self.experiment.base), self.folder)
        write_text(self.folder / "done.json", json.dumps(done, indent=1) + "\n")
        return f"test {done['test']:.1%}"


@dataclass(frozen=True)
class TrainingJob:
    """The last stage of a chain, from training to the test."""

    group: SeedGroup
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

    @property
    def needs(self) -> list[Job]:
        """What must have ended before: the stage before, and the choice of the learning rate."""
        has_choice = len(self.group.experiment.stages[self.chain[-1]].learning_rates) > 1
        before = self.group.jobs(self.chain[:-1])
        return before + (self.group.tuning.jobs(self.chain) if self.tuned is None and has_choice else [])

    def work(self) -> str:
        """Train, choose the checkpoint, and, unless tuning, take the test."""
        from srl.training.train import train

        shutil.rmtree(self.folder, ignore_errors=True)
        before = self.group.finished(self.chain[:-1])
        rate = self.tuned or self.group.learning_rate(self.chain)
        with _log(self.folder):
            cpu = time.process_time()
            recipe = self.recipe(before["model"], rate)
            sampled, has_rows = self._profile(recipe) if self._is_profiled else (0, True)
            if has_rows:
                train(recipe)
            cpu = time.process_time() - cpu
            model, solved = self._choose_checkpoint() if has_rows else self._as_before(before["model"])
            done = {
                "model": str(model),
                "learning_rate": rate,
                "validation": max(solved.values()),
                "checkpoints": solved,
                "tokens": before["tokens"] + sampled + (_tokens(self.folder / "run") if has_rows else 0),
                "cpu_seconds": cpu + before["cpu_seconds"] * (len(self.chain) > 1),
            }
            if self.tuned is None and self.group.experiment.is_arm(self.chain):
                done |= test(self.group.experiment, self.group.out, self.chain, str(model), self.folder)
        write_text(self.folder / "done.json", json.dumps(done, indent=1) + "\n")
        return f"validation {done['validation']:.1%} at {model.name}, {cpu:.0f} CPU s"

    def recipe(self, model: str, learning_rate: float) -> Recipe:
        """What to train, from `model`."""
        data = data_folder(self.group.experiment, self._stage.data, self.group.folder)
        return self._stage.as_recipe(
            self.name,
            model=model,
            data=self.folder / "profiled" if self._is_profiled else data,
            out=self.folder / "run",
            seed=self.group.training_seed,
            learning_rate=learning_rate,
        )

    @property
    def _stage(self) -> Stage:
        return self.group.experiment.stages[self.chain[-1]]

    @property
    def _is_profiled(self) -> bool:
        return bool(self._stage.own_samples or self._stage.pivots)

    def _profile(self, recipe: Recipe) -> tuple[int, bool]:
        """Write the data of RFT or pivots; how many tokens were sampled, with prompts, and whether any row is left."""
        from srl.chat.tokenizer import load_chat
        from srl.engines.profile import SAMPLES, Bounds, NothingKept, ProfileOptions, profile

        experiment, stage, data = self.group.experiment, self._stage, recipe.data.path
        of_problems = not stage.pivots and recipe.sft.target == "solution"
        kind: Literal["steps", "problems"] = "problems" if of_problems else "steps"
        options = ProfileOptions(
            rows=kind,
            samples=stage.pivots.samples if stage.pivots else stage.own_samples,
            temperature=recipe.rollout.temperature,
            max_completion_length=experiment.max_step_tokens if kind == "steps" else experiment.max_tokens,
            max_prompt_length=recipe.data.max_prompt_length,
            open_thought=recipe.chat.open_thought,
            seed=recipe.seed,
            engine="transformers",
            batch_size=experiment.batch_size,
        )
        bounds = Bounds(max_mean=stage.pivots.max_mean) if stage.pivots else Bounds(own=True)
        source = data_folder(experiment, stage.data, self.group.folder)
        has_rows = True
        try:
            profile(source, recipe.model.model_name_or_path, data, options, recipe.reward, bounds)
        except NothingKept as error:
            print(error)
            has_rows = False
        chat = load_chat(resolve_model(recipe.model.model_name_or_path))
        rows = [row.value for row in read_rows(rows_file(source, f"train.{kind}"))]
        sampled = [line.value for line in read_rows(data / SAMPLES) if line.value["completions"]]
        n_prompts = sum(map(len, chat.prompt_ids([rows[one["row"]]["prompt"] for one in sampled]))) * options.samples
        said = (text for one in sampled for text, _ in one["completions"])
        return n_prompts + sum(len(chat.target_ids(text)) for text in said), has_rows

    def _as_before(self, model: str) -> tuple[Path, dict[str, float]]:
        """The model that the stage starts from, where it has nothing to learn from."""
        problems = problems_of(self.group.experiment, self.group.out).validation
        path = resolve_model(model)
        solved = _evaluate(self.group.experiment, path, self.folder / "validation/start", problems, "answer")
        return Path(path), {"start": solved}

    def _choose_checkpoint(self) -> tuple[Path, dict[str, float]]:
        """The checkpoint that solves most validation problems, the earliest of equals; the others are deleted.

        Where there are none that are whole models (LoRA, or a recipe that saves none) it is the run's model/.
        """
        experiment, run = self.group.experiment, self.folder / "run"
        found = (path.parent for path in run.glob("checkpoint-*/config.json"))
        checkpoints = sorted(found, key=lambda path: int(path.name.split("-")[1])) or [run / "model"]
        problems = problems_of(experiment, self.group.out).validation
        solved = {
            path.name: _evaluate(experiment, str(path), self.folder / "validation" / path.name, problems, "answer")
            for path in checkpoints
        }
        best = max(checkpoints, key=lambda path: solved[path.name])
        for path in checkpoints:
            if path != best:
                shutil.rmtree(path)
        return best, solved


def _tokens(run: Path) -> int:
    """All that were sampled or trained on, prompts and refills included, as TRL counts them."""
    return int(max(line.get("num_tokens", 0) for line in RunFolder(run).metrics))


Job = BaseJob | TrainingJob


def is_done(job: Job) -> bool:
    """Whether a job has ended; else nothing of it counts."""
    return (job.folder / "done.json").is_file()


def test(experiment: Experiment, out: Path, chain: Chain, model: str, folder: Path) -> dict[str, Any]:
    """Ask the test problems once, in both protocols, at every temperature that the arms of this chain want."""
    from srl.study.step_scores import step_scores

    problems = problems_of(experiment, out)
    for at in {arm.temperature for arm in experiment.arms.values() if arm.stages == chain}:
        answers = folder / f"test-answer-T{at:g}"
        solved = _evaluate(experiment, model, answers, problems.test, "answer", experiment.samples, at)
    _evaluate(experiment, model, folder / "test-stepwise", problems.test, "stepwise")
    done: dict[str, Any] = {"test": solved}
    if problems.steps:
        done["steps"] = step_scores(model, problems.steps, experiment.max_step_tokens, experiment.batch_size)
    return done


def _evaluate(
    experiment: Experiment,
    model: str,
    out: Path,
    problems: str,
    protocol: ProtocolName,
    samples: int = 0,
    temperature: float = 1.0,
) -> float:
    """`srl evaluate`, or the like for repairs; the share of problems solved greedily."""
    from srl.evaluation.config import EvaluationOptions
    from srl.evaluation.evaluate import evaluate
    from srl.evaluation.results import read_results
    from srl.study.agents import evaluate_repairs

    options = EvaluationOptions(
        samples=samples,
        greedy=True,
        temperature=temperature,
        protocol=protocol,
        max_tokens=experiment.max_tokens if protocol == "answer" else experiment.max_step_tokens,
        max_steps=experiment.max_steps,
        engine="transformers",
        batch_size=experiment.batch_size,
    )
    if experiment.repairs_code:
        evaluate_repairs(model, out, Path(problems), options)
    else:
        evaluate(model, out, problems, options, manner=experiment.manner)
    return read_results(out).columns[0].score


@contextmanager
def _log(folder: Path) -> Iterator[None]:
    """What a run prints goes into its log.txt: several run at a time."""
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        yield
