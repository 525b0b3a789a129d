"""Options of `srl warm-up`, beside the recipe that it warms up for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from srl.errors import UserError


@dataclass(frozen=True, slots=True)
class WarmUpOptions:
    """How much a model is asked and taught."""

    well_formed: float = 0.9
    """The share of well-formed completions to reach. A model that has it already is not trained."""
    rounds: int = 3
    """Trainings at most, until the share is reached; each begins anew, with twice the epochs of the one before."""
    examples: int = 64
    """Rows to train on, each with a prompt of its own."""
    thoughts: Literal["data", "own"] = "data"
    """data: an expert's thought is taken where a row has one that fits, and the model asked for the others; own: the
    model is asked for all of them."""
    temperature: float = 0.7
    """Of what the model says for them; at 1 small models lose the thread."""
    batch_size: int = 16
    """Prompts that are answered at a time."""
    learning_rate: float | None = None
    """Of the SFT. Default: 1e-4 for 0.5 B weights, in inverse proportion for others, between 1e-5 and 1e-3."""
    epochs: float = 3
    """Of the first SFT."""
    checked: int = 32
    """Prompts, none of them trained on, that are answered before and after each training to find the share."""

    def check(self) -> None:
        """Raises UserError for options that make no sense."""
        if self.examples < 1 or self.batch_size < 1 or self.rounds < 1:
            raise UserError("--examples, --batch-size and --rounds must be 1 or more")
        if self.checked < 0 or not 0 <= self.well_formed <= 1:
            raise UserError("--checked must be 0 or more, --well-formed a share from 0 to 1")
        if self.temperature <= 0 or self.epochs <= 0 or (self.learning_rate is not None and self.learning_rate <= 0):
            raise UserError("--temperature, --learning-rate and --epochs must be above 0")

    def rate(self, n_weights: int) -> float:
        """The learning rate for a model of so many weights, to two digits.

        >>> WarmUpOptions().rate(135_000_000), WarmUpOptions().rate(7_000_000_000)
        (0.00037, 1e-05)
        """
        fitting = min(1e-3, max(1e-5, 1e-4 * 5e8 / n_weights))
        return self.learning_rate or float(f"{fitting:.2g}")
