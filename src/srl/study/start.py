"""`srl start DATA MODEL`: from a data set to a trained and evaluated model, by commands that it prints and runs.

    OUT/start.json      what was asked for
    OUT/steps/          `srl steps`; not there if DATA is such a folder itself
    OUT/srl.toml        the recipe: what fits data, model and machine, each value with its reason
    OUT/warm-up/        `srl warm-up`, which trains only where the format is not kept
    OUT/before-*/       `srl evaluate`: the model as it was, on held-out problems, in both protocols
    OUT/srl/            `srl train`
    OUT/after-*/        the trained model on the same problems
    OUT/report.html     `srl report`
    OUT/commands.sh     all that was run

Nothing is done here that the commands do not do. What has ended is not done again: the same command goes on.
"""

from __future__ import annotations

import gc
import json
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from srl.chat.prompts import ANSWER_SYSTEM_PROMPT, STEP_SYSTEM_PROMPT
from srl.data.formats.written import has_annotations
from srl.errors import UserError
from srl.files import (
    LOCK,
    SUFFIXES,
    Row,
    check_output_folder,
    clear_folder,
    locked,
    read_values,
    suffix_of,
    write_text,
)
from srl.report.runs import read_run
from srl.report.verdict import verdict
from srl.rewards.answer_text import known_answer
from srl.runs.folder import RunFolder, resolve_model
from srl.runs.recipe import Recipe, read_recipe
from srl.runs.warm_up import WarmUpOptions
from srl.study.material import rows_of
from srl.training.asked import trained_prompts
from srl.training.fitting import Choice, fitting, length, recipe_text
from srl.training.machines import duration
from srl.training.outlook import Outlook, facts_of, outlook

Run = Callable[[list[str]], None]
"""Runs a command of srl, given what follows `srl`."""

MAX_STEPS = 12
"""Of an answer that is written step by step."""


@dataclass(frozen=True)
class Asked:
    """What `srl start` was asked for."""

    data: str
    model: str
    minutes: float

    def record(self) -> str:
        """For start.json."""
        return json.dumps(asdict(self), indent=2) + "\n"


class Stage(NamedTuple):
    """A command and what it leaves."""

    command: list[str]
    is_done: Callable[[], bool]
    """Whether it need not be run."""


def start(asked: Asked, out: Path, run: Run, *, only_plan: bool = False, overwrite: bool = False) -> None:
    """Do all that is not yet done, each as a command that is printed first.

    Raises:
        UserError: as the commands; several processes; `out` belongs to something else.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("srl start runs in one process; start it without torchrun, and run its `srl train` with it")
    if asked.minutes <= 0:
        raise UserError(f"--minutes {asked.minutes:g}: expected a time above 0")
    resolve_model(asked.model)
    with locked(out):
        _open(asked, out, overwrite=overwrite)
        way = Way(asked, out)
        _do(way.steps(), out, run)
        way.write_recipe()
        if only_plan:
            print(f"edit {way.recipe_file} if you like; the same command without --only-plan goes on", flush=True)
            return
        for stage in way.stages():
            _do(stage, out, run)
    trained = out / "srl"
    print(f"\n{verdict(read_run(trained, trained.name)).text}\n{trained / 'model'}  the model, with its card")
    print(f"{out / 'report.html'}  curves, results, every rollout\n{out / 'commands.sh'}  what was run")


def _open(asked: Asked, out: Path, *, overwrite: bool) -> None:
    """Begin a folder, or make sure that it belongs to the same question."""
    record = out / "start.json"
    begun = {path.name for path in out.iterdir()} - {LOCK, record.name}
    if record.is_file() and begun and not overwrite:
        if record.read_text(encoding="utf-8") != asked.record():
            raise UserError(f"{record}: was started with other data, model or minutes; --overwrite, or another --out")
        return
    check_output_folder(out, overwrite=overwrite or not begun, marker="start.json")
    clear_folder(out)
    write_text(record, asked.record())


def _do(stage: Stage, out: Path, run: Run) -> None:
    line = f"srl {shlex.join(stage.command)}"
    if stage.is_done():
        print(f"\n(done) $ {line}", flush=True)
        return
    print(f"\n$ {line}", flush=True)
    run(stage.command)
    with (out / "commands.sh").open("a", encoding="utf-8") as commands:
        commands.write(f"{line}\n")
    gc.collect()  # a model that nobody uses any more


class Way:
    """The commands, in order."""

    def __init__(self, asked: Asked, out: Path) -> None:
        self.asked, self.out = asked, out
        given = Path(asked.data)
        self.is_cut = given.is_dir() and any(given.glob("train.steps.*"))
        self.data = given if self.is_cut else out / "steps"
        self.recipe_file = out / "srl.toml"

    def steps(self) -> Stage:
        """Cut the data, unless it is a folder of steps."""
        command = ["steps", self.asked.data, "--out", str(self.data)]
        if not self.is_cut and _has_annotations(Path(self.asked.data)):
            command += ["--annotations", "thought"]
        return Stage(command, lambda: self.is_cut or (self.data / "report.json").is_file())

    def write_recipe(self) -> None:
        """Choose what fits, write it, and say what it will take; a recipe that is there stays as it is."""
        given = [
            Choice("stage", "srl", ""),
            Choice("output_dir", str(self.out / "srl"), ""),
            Choice("model.model_name_or_path", self.asked.model, ""),
            Choice("data.path", str(self.data), ""),
        ]
        if not self.recipe_file.is_file():
            facts = facts_of(self.asked.model, self.data)
            chosen = fitting(facts)
            draft = self.recipe_file.with_name(".draft.toml")
            write_text(draft, recipe_text("a draft", given, chosen))
            seen = outlook(read_recipe(draft))
            draft.unlink()
            prompts = next(one.value for one in chosen if one.key == "rollout.prompts_per_step")
            chosen += length(facts, prompts, self.asked.minutes, seen.seconds)
            heading = f"{self.asked.model} on {self.asked.data}, as `srl start` chose it. Change what you like."
            write_text(self.recipe_file, recipe_text(heading, given, chosen))
        print(f"\n{self.recipe_file}:\n{self.recipe_file.read_text(encoding='utf-8')}", flush=True)
        recipe = read_recipe(self.recipe_file)
        for line in _plan(outlook(recipe), recipe, self.n_asked):
            print(line, flush=True)

    @property
    def n_asked(self) -> int:
        """How many held-out problems are asked: those with a known answer, up to validation.max_rows."""
        rows = rows_of(self.data, "validation.problems") if any(self.data.glob("validation.problems.*")) else ()
        known = sum(known_answer(row.value["answer"]) is not None for row in rows)
        return min(known, read_recipe(self.recipe_file).validation.max_rows or known)

    def stages(self) -> Iterator[Stage]:
        """All that follows the recipe."""
        out = self.out
        yield self._warm_up()
        yield from self._evaluate("before", self.asked.model)
        yield self._train()
        yield from self._evaluate("after", str(out / "srl"))
        evaluations = [str(path.parent) for when in ("before", "after") for path in out.glob(f"{when}-*/results.json")]
        warmed_up = [str(out / "warm-up/run")] if (out / "warm-up/run").is_dir() else []
        folders = [str(out / "srl"), *warmed_up, *sorted(evaluations, key=lambda name: name.rpartition("-")[2])]
        yield Stage(["report", *folders, "--out", str(out / "report.html")], lambda: False)

    def _warm_up(self) -> Stage:
        folder = self.out / "warm-up"
        command = ["warm-up", str(self.recipe_file), "--out", str(folder)]
        n_rows = sum(1 for _ in rows_of(self.data, "train.steps"))
        if n_rows < 4 * WarmUpOptions().checked:
            command += ["--checked", str(n_rows // 4)]
        if (folder / "warm-up.json").is_file() and not _is_warmed_up(folder):
            command.append("--overwrite")
        return Stage(command, lambda: _is_warmed_up(folder))

    def _train(self) -> Stage:
        run, warmed_up = RunFolder(self.out / "srl"), self.out / "warm-up/run"
        command = ["train", str(self.recipe_file)]
        if warmed_up.is_dir():
            command += ["--model.model-name-or-path", str(warmed_up)]
        if run.exists and run.model is None:
            command.append("--resume" if run.last_checkpoint else "--overwrite")
        return Stage(command, lambda: run.model is not None)

    def _evaluate(self, when: str, model: str) -> Iterator[Stage]:
        """In both protocols, asked as the data's rows ask."""
        recipe, count = read_recipe(self.recipe_file), self.n_asked
        if not count:
            print(f"\n{self.data}: no held-out problem with a known answer, so none is asked {when} training")
            return
        prompts, limit = trained_prompts(recipe), recipe.rollout.max_completion_length
        for protocol, kind in (("answer", "answer"), ("stepwise", "step")):
            folder = self.out / f"{when}-{protocol}"
            tokens = limit if protocol == "stepwise" else 4 * limit
            command = ["evaluate", model, "--benchmarks", str(self.data), "--greedy", "--limit", str(count)]
            command += ["--out", str(folder), "--protocol", protocol, "--max-tokens", str(tokens)]
            default = {"answer": ANSWER_SYSTEM_PROMPT, "step": STEP_SYSTEM_PROMPT}[kind]
            if (asked := prompts.get(kind, default)) != default:
                write_text(self.out / f"{kind}-prompt.txt", asked)
                command += ["--system-prompt", f"@{self.out / f'{kind}-prompt.txt'}" if asked else ""]
            if protocol == "stepwise":
                command += ["--max-steps", str(MAX_STEPS), *["--give-title"] * bool(prompts.get("give_title"))]
            if (folder / "evaluation.json").is_file() and not (folder / "results.json").is_file():
                command.append("--resume")
            yield Stage(command, (folder / "results.json").is_file)


def _has_annotations(path: Path) -> bool:
    """Whether one of the first rows holds a calculator's notes: the only thoughts that such solutions have."""
    if not path.is_file() or suffix_of(path) not in SUFFIXES:
        return False  # whoever reads it says what it is
    rows = (row for row in read_values(path) if isinstance(row, Row))
    return any(has_annotations(json.dumps(row.value)) for row in islice(rows, 20))


def _is_warmed_up(folder: Path) -> bool:
    record = folder / "warm-up.json"
    return record.is_file() and bool(json.loads(record.read_text())["finished"])


def _plan(seen: Outlook, recipe: Recipe, n_asked: int) -> Iterator[str]:
    """What is to come, how long it will take, and what it leaves on the disk."""
    limit, options = recipe.rollout.max_completion_length, WarmUpOptions()
    rows = options.examples * options.epochs
    yield "plan, by arithmetic for this machine as it is now (srl plan says more):"
    if seen.seconds is None or seen.per_sampled_token is None or seen.per_learned_token is None:
        yield "  the speed of this GPU is not known"
        warm_up = before = step = run = ""
    else:
        looking = seen.per_sampled_token * options.checked * limit
        learning = rows * (seen.prompt_tokens + limit / 2) * seen.per_learned_token
        asking = seen.per_sampled_token * n_asked * limit * (4 + MAX_STEPS)
        warm_up = f"{duration(looking, 2)}; if it is needed, {duration(looking + learning, 2)} more a round"
        before, step = f", {duration(asking, 2)} each time", f" of {duration(seen.seconds, 2)} each"
        run = f", {duration(seen.steps * seen.seconds, 2)} in all"
    yield f"  warm-up: {warm_up or 'if it is needed'}"
    yield f"  SRL: {seen.steps} steps of {seen.rollouts} rollouts{step}{run}"
    yield f"  evaluation before and after: {n_asked} held-out problems in two protocols{before}"
    most, stays = ((part + seen.disk.model) / 1e9 for part in (seen.disk.peak, seen.disk.model))
    yield f"  disk: up to {most:.1f} GB, {stays:.1f} GB of it to stay; {seen.free / 1e9:.0f} GB are free"
