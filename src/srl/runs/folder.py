"""A run folder: what a training run leaves behind, and how a later run finds it.

config.toml       the resolved recipe; `srl train config.toml` repeats the run
run.json          versions, git commit, command, where training started, how it ended
metrics.jsonl     one line per logged step, TRL's metric names
completions/      the rollouts of each step (parquet)
checkpoint-N/     for `--resume`
model/            the trained model, for `from_pretrained` (LoRA already merged; also as adapter/)
model-of-step-N/  what a run that was extended had finished with before
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from srl.errors import UserError
from srl.files import check_output_folder, clear_folder, clear_left_overs, write_text
from srl.runs.checkpoints import choose, retract_manifest, step_of
from srl.runs.environment import environment
from srl.runs.extend import raised_limits
from srl.runs.recipe import Recipe, read_recipe, recipe_toml

HELD_OUT = {
    "eval_reward": "reward",
    "eval_step_similarity": "similarity of well-formed steps",
    "eval_exact_step_rate": "steps equal to the expert's",
    "eval_format_error_rate": "malformed completions",
    "eval_loss": "loss",
    "eval_mean_token_accuracy": "token accuracy",
}
"""The metrics that sum up a run."""

OF_THE_END = ("finished_steps", "best_step", "best_metric")
"""Facts in run.json that only a finished run has."""

MAX_INTEGER = 2**53
"""Nothing that is logged is larger; a damaged number may have any length."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. Reading asks the disk each time: another process may be writing."""

    path: Path

    @property
    def exists(self) -> bool:
        """Whether this is the folder of a run, finished or not."""
        return (self.path / "run.json").is_file()

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        return read_recipe(self.path / "config.toml")

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json holds.

        Raises:
            UserError: it is damaged.
        """
        path = self.path / "run.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            facts = None
        if not isinstance(facts, dict):
            raise UserError(f"{path}: damaged; srl train {self.path / 'config.toml'} --resume writes it again")
        return facts

    def add_facts(self, **facts: Any) -> None:
        """Add facts to run.json; the first call also records versions, commit, command and machine."""
        try:
            known = self.facts if self.exists else environment()
        except UserError:
            print(f"{self.path / 'run.json'}: damaged; begun anew, with the versions of today")
            known = environment()
        write_text(self.path / "run.json", json.dumps({**known, **facts}, indent=2) + "\n")

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The readable lines of metrics.jsonl, in order."""
        return self.read_metrics()[0]

    def read_metrics(self) -> tuple[list[dict[str, Any]], int]:
        """The readable lines of metrics.jsonl, and how many are damaged, beside a last one that a kill cut short."""
        path = self.path / "metrics.jsonl"
        lines: list[dict[str, Any]] = []
        n_damaged = 0
        for text in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
            if (line := _metrics_line(text)) is not None:
                lines.append(line)
            else:
                n_damaged += text.endswith(b"\n")
        return lines, n_damaged

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(metrics) + "\n")

    def truncate_metrics(self, step: int) -> None:
        """Forget what was logged after `step` (everything, if 0): the resumed run logs it again."""
        lines, n_damaged = self.read_metrics()
        if n_damaged:
            print(f"{self.path / 'metrics.jsonl'}: {n_damaged} damaged lines are left out")
        kept = [line for line in lines if line["step"] <= step] if step else []
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint."""
        return choose(self.path).checkpoint

    @property
    def model(self) -> Path | None:
        """The `model/` of a finished run; None until it is there."""
        return self.path / "model" if (self.path / "model" / "config.json").is_file() else None

    @property
    def prompts(self) -> dict[str, Any]:
        """How the run was trained to be asked: `step` and `answer`, system prompts, `give_title`; if they are known."""
        facts = self.facts
        if "prompts" not in facts:  # a run of version 0.1
            return {"step" if self.recipe.row_kind == "steps" else "answer": facts["system_prompt"]}
        return {name: value for name, value in facts["prompts"].items() if name != "targets"}


def _metrics_line(text: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None if it is damaged."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not all(_is_number(value) for value in line.values() if value is not None):
        return None
    return line if isinstance(line.get("step"), int) and line["step"] >= 0 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= MAX_INTEGER)


def open_run(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> RunFolder:
    """Prepare the run folder: a new one, or that of the run to resume, cut back to its last checkpoint.

    Raises:
        UserError: the folder is not empty and neither flag is given; it is not a run of srl; the recipe to
            resume differs from the one that was started in more than a higher end.
    """
    run = RunFolder(recipe.output_dir)
    if resume and (run.path / "config.toml").is_file():
        if raised := check_resumable(run, recipe):
            _extend(run, recipe, raised)
        _cut_back(run)
        return run
    check_output_folder(run.path, overwrite=overwrite, marker="run.json", remedies="--resume it, or --overwrite it")
    clear_folder(run.path)
    write_text(run.path / "config.toml", recipe_toml(recipe))
    return run


def check_resumable(run: RunFolder, recipe: Recipe) -> list[str]:
    """Make sure that a run can go on with this recipe, and delete what a killed process was writing.

    Returns the limits that the recipe raises.

    Raises:
        UserError: the recipe differs in anything else; the run has finished and no limit is raised.
    """
    clear_left_overs(run.path)
    raised = raised_limits(run.recipe, recipe)
    if run.model and not raised:
        raise UserError(
            f"{run.path}: this run has finished; nothing to resume, unless it is extended: a higher "
            "optim.max_steps, optim.num_train_epochs or optim.max_num_tokens"
        )
    return raised


def _extend(run: RunFolder, recipe: Recipe, raised: list[str]) -> None:
    """Let a run go on to its new end. What it had ended with stays, under another name.

    Raises:
        UserError: it has finished, and no checkpoint is left to go on from.
    """
    facts: dict[str, Any] = run.facts
    if run.model:
        if run.last_checkpoint is None:
            raise UserError(
                f"{run.path}: this run has finished and left no checkpoint to go on from (checkpoints.save_steps, "
                f"checkpoints.keep_when_finished); "
                f"start a new run from it: model.model_name_or_path = {run.path}"
            )
        step = facts.get("finished_steps", "?")
        for name in ("model", "adapter"):
            if (run.path / name).is_dir():
                aside = run.path / f"{name}-of-step-{step}"
                shutil.rmtree(aside, ignore_errors=True)  # of an extension that was killed here
                (run.path / name).rename(aside)
        lines = [line for line in run.metrics if "train_runtime" not in line]  # the sum of a run at its end
        write_text(run.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        print(f"{run.path}: what it had finished with is now model-of-step-{step}/")
    kept = {name: value for name, value in facts.items() if name not in OF_THE_END}
    extended = [*facts.get("extended", []), *raised]
    write_text(run.path / "run.json", json.dumps({**kept, "extended": extended}, indent=2) + "\n")
    write_text(run.path / "config.toml", recipe_toml(recipe))
    print(f"{run.path}: extended, {' and '.join(raised)}")


def _cut_back(run: RunFolder) -> None:
    """Take a run to its newest whole checkpoint, and say which where others are newer."""
    checkpoint, passed_over = choose(run.path)
    for name, problem in passed_over.items():
        retract_manifest(run.path / name)  # it will be written again, over what is there
        print(f"{run.path / name}: not whole, so not resumed from: {problem}")
    print(f"{run.path}: going on from {checkpoint.name if checkpoint else 'the beginning: no whole checkpoint'}")
    run.truncate_metrics(step_of(checkpoint) if checkpoint else 0)


class HeldOut(NamedTuple):
    """What training changed on held-out problems."""

    best_step: int
    """Of the model that is kept; 0: the start."""
    means: dict[str, tuple[float, float]]
    """What is measured (a value of `HELD_OUT`) -> before training, and of the model that is kept."""
    n_rows: int | None = None
    """Held-out rows; None for runs that did not note it."""


def held_out(metrics: Sequence[dict[str, Any]], facts: Mapping[str, Any]) -> HeldOut | None:
    """What a run's metrics.jsonl says of its held-out problems, for the model that run.json says is kept.

    Of a run that has not finished: for the best so far. None if nothing was held out, or the kept model not evaluated.
    """
    evaluations = evaluated(metrics)
    if not evaluations:
        return None
    kept: dict[str, Any] | None = None
    if "finished_steps" not in facts:
        for line in evaluations:
            kept = line if kept is None or is_better(line, kept) else kept
    else:
        step = facts.get("best_step")
        step = facts["finished_steps"] if step is None else step
        kept = next((line for line in evaluations if line["step"] == step), None)
    if kept is None:
        return None
    before = evaluations[0]
    both = [name for name in HELD_OUT if before.get(name) is not None and kept.get(name) is not None]
    shown = [name for name in both if name != "eval_loss" or "eval_reward" not in both]  # GRPO's loss says nothing
    means = {HELD_OUT[name]: (before[name], kept[name]) for name in shown}
    return HeldOut(kept["step"], means, facts.get("held_out_rows"))


def evaluated(metrics: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that evaluations wrote; the first is that of the start."""
    return [line for line in metrics if line.get("eval_reward") is not None or line.get("eval_loss") is not None]


def is_better(line: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one evaluation is strictly better than another: by reward or, in SFT, by loss."""
    if line.get("eval_reward") is not None and other.get("eval_reward") is not None:
        return bool(line["eval_reward"] > other["eval_reward"])
    loss, other_loss = (one["eval_loss"] if one.get("eval_loss") is not None else math.inf for one in (line, other))
    return bool(loss < other_loss)


def resolve_model(name_or_path: str) -> str:
    """The model to load for a Hub id, a model folder, a run folder (then its `model/`), or the name of srl's own.

    Raises:
        UserError: a run folder whose run has not finished; a path that does not exist.
    """
    own = resources.files("srl") / "builtin" / "models" / name_or_path
    path = Path(name_or_path)
    if own.is_dir() and not path.exists():
        return str(own)
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise UserError(
            f"{path}: a LoRA adapter, not a model; an srl run's model/ has it merged, else merge it first "
            "(peft: PeftModel.merge_and_unload)"
        )
    run = RunFolder(path)
    if run.exists:
        if (model := run.model) is None:
            raise UserError(
                f"{path}: this run has no model/ yet; finish it first: srl train {path}/config.toml --resume"
            )
        return str(model)
    if not path.exists() and (path.is_absolute() or name_or_path.count("/") != 1 or name_or_path.startswith(".")):
        raise UserError(f"{name_or_path}: expected a Hub id, a model folder or a run folder; no such folder")
    if not path.exists():
        from srl.runs.hub import offline_without_network

        offline_without_network()
    return name_or_path
