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
    completion_tokens: int = 256
    """Assumed length of a completion, thought included."""
    gpu: str | None = None
    """A type of GPU: A100, H100, H200, B200, L4, L40S, RTX3090, RTX4090. Default: this machine's CPU."""
    gpus: int = 1
    """How many of them."""

    def run(self) -> None:
        """Print the table."""
        from srl.training.forecast import print_forecast

        print_forecast(self.recipe, self.completion_tokens, self.gpu, self.gpus)
