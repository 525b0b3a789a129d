"""`srl plan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from srl.runs.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """Say what a recipe will compute, how long it will take and whether it fits: `srl plan RECIPE.toml --gpu H100`.

    By arithmetic (docs/performance.md, "Will it fit"); nothing runs and no weights are loaded.
    """

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    completion_tokens: int | None = None
    """Assumed length of a completion, thought included. Default: plan.completion_tokens of the recipe."""
    gpu: str | None = None
    """A type of GPU: A100, H100, H200, B200, L4, L40S, RTX3090, RTX4090. Default: this machine's CPU."""
    gpus: int = 1
    """How many of them."""

    def run(self) -> None:
        """Print the tables."""
        from srl.training.plan import print_plan

        length = self.completion_tokens or self.recipe.plan.completion_tokens
        print_plan(self.recipe, length, self.gpu, self.gpus)
