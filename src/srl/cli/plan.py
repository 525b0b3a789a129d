"""`srl plan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from srl.runs.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """Say what one step of a recipe will compute, with and without shared prefixes: `srl plan RECIPE.toml`."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    completion_tokens: int = 256
    """Assumed length of a completion, thought included."""

    def run(self) -> None:
        """Print the table."""
        from srl.training.forecast import print_forecast

        print_forecast(self.recipe, self.completion_tokens)
