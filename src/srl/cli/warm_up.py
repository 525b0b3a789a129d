"""`srl warm-up`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from srl.runs.progress import shown_while
from srl.runs.recipe import Recipe
from srl.runs.warm_up import WarmUpOptions


@dataclass(frozen=True)
class WarmUp:
    """Teach a model the format from its own completions: `srl warm-up RECIPE.toml`, the recipe of the SRL run."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    out: Path | None = None
    """The folder to write. Default: the recipe's output_dir with `-warm-up` behind it."""
    overwrite: bool = False
    """Delete an earlier warm-up in the same folder."""
    options: Annotated[WarmUpOptions, tyro.conf.arg(name="")] = field(default_factory=WarmUpOptions)

    def run(self) -> None:
        """Warm up."""
        with shown_while("loading libraries"):
            from srl.training.warm_up import warm_up

        run = self.recipe.output_dir
        warm_up(self.recipe, self.out or run.with_name(f"{run.name}-warm-up"), self.options, overwrite=self.overwrite)
