"""A run that goes on beyond its end: `--resume` with a higher `max_steps`, `num_train_epochs` or `max_num_tokens`."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

from srl.errors import UserError
from srl.files import write_text
from srl.runs.recipe import Recipe, recipe_toml

if TYPE_CHECKING:
    from srl.runs.folder import RunFolder

LIMITS = {"max_steps": -1, "num_train_epochs": math.inf, "max_num_tokens": 0}
"""Keys of [optim] that end a run -> the value that means no limit."""

OF_THE_END = ("finished_steps", "best_step", "best_metric")
"""Facts in run.json that only a finished run has."""


def raised_limits(before: Recipe, now: Recipe) -> list[str]:
    """What is raised, as "optim.max_steps from 5 to 9"; nothing if the recipes are equal.

    Raises:
        UserError: they differ in anything else, or a limit is lowered.
    """
    ours, theirs = now.model_dump(), before.model_dump()
    found = []
    for name, unlimited in LIMITS.items():
        old, new = theirs["optim"].pop(name), ours["optim"].pop(name)
        if old != new:
            if (math.inf if new == unlimited else new) < (math.inf if old == unlimited else old):
                raise UserError(
                    f"{before.output_dir}: cannot resume with optim.{name} lowered from {old:g} to {new:g}; a run can "
                    "only be extended"
                )
            found.append(f"optim.{name} from {old:g} to {new:g}")
    if differing := [key for key in ours if ours[key] != theirs[key]]:
        raise UserError(
            f"{before.output_dir}: cannot resume with another recipe; differs in {', '.join(differing)} from "
            "config.toml"
        )
    return found


def extend(run: RunFolder, recipe: Recipe, raised: list[str]) -> None:
    """Let a run go on to its new end. What it had ended with stays, under another name.

    Raises:
        UserError: it has finished, and no checkpoint is left to go on from.
    """
    facts: dict[str, Any] = run.facts
    if run.model:
        if run.last_checkpoint is None:
            raise UserError(
                f"{run.path}: this run has finished and left no checkpoint to go on from (checkpoints.save_steps); "
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
