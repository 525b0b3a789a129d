"""Options of `srl warm-up`, beside the recipe that it warms up for."""

from __future__ import annotations

from dataclasses import dataclass

from srl.errors import UserError


@dataclass(frozen=True, slots=True)
class WarmUpOptions:
    """How much a model is asked and taught."""

    examples: int = 64
    """Rows to make and to train on, each from a prompt of its own."""
    temperature: float = 0.7
    """Of what the model says for them; at 1 small models lose the thread."""
    batch_size: int = 16
    """Prompts that are answered at a time."""
    learning_rate: float = 1e-4
    """Of the SFT; for 0.5 B parameters or so. Smaller models want more, larger ones less."""
    epochs: float = 3
    """Of the SFT."""
    checked: int = 32
    """Prompts, none of them trained on, that are answered before and after to count what is well formed."""

    def check(self) -> None:
        """Raises UserError for options that make no sense."""
        if self.examples < 1 or self.batch_size < 1 or self.checked < 0:
            raise UserError("--examples and --batch-size must be 1 or more, --checked 0 or more")
        if self.temperature <= 0 or self.learning_rate <= 0 or self.epochs <= 0:
            raise UserError("--temperature, --learning-rate and --epochs must be above 0")
