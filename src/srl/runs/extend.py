"""A run that goes on beyond its end: `--resume` with a higher `max_steps`, `num_train_epochs` or `max_num_tokens`."""

from __future__ import annotations

import math

from srl.errors import UserError
from srl.runs.recipe import Recipe

LIMITS = {"max_steps": -1, "num_train_epochs": math.inf, "max_num_tokens": 0}
"""Keys of [optim] that end a run -> the value that means no limit."""


def raised_limits(before: Recipe, now: Recipe) -> list[str]:
    """What is raised, as "optim.max_steps from 5 to 9"; nothing if the recipes are equal.

    Raises:
        UserError: they differ in anything else, or a limit is lowered.
    """
    ours, theirs = (recipe.model_dump(exclude={"plan"}) for recipe in (now, before))
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
