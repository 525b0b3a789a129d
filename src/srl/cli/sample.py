"""`srl sample`."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from srl.cli.text_or_file import text_or_file
from srl.runs.recipe import DEFAULT_CHAT, ChatOptions


@dataclass(frozen=True)
class Sample:
    """Watch a model think and act, step by step, on a problem."""

    model: tyro.conf.Positional[str]
    """A run folder, a model folder or a Hub id."""
    problem: str
    """The problem to solve."""
    max_steps: int = 12
    """Stop after this many steps."""
    max_completion_length: int = 512
    """Tokens per step, thought included."""
    temperature: float = 0.0
    """0 picks the likeliest token every time."""
    seed: int = 0
    system_prompt: str | None = None
    """In place of what the run was trained with, or srl's own; "" leaves the system turn out; `@FILE` reads a file."""
    give_title: bool | None = None
    """Let the model write each step's title first. By default if its run was trained with titles given."""

    chat: ChatOptions = DEFAULT_CHAT
    """As in a recipe, for a model that no run of srl trained; a run's own are used by themselves."""

    def run(self) -> None:
        """Print the steps as they come."""
        from srl.engines.sample import sample

        sample(
            self.model,
            self.problem,
            max_steps=self.max_steps,
            max_completion_length=self.max_completion_length,
            temperature=self.temperature,
            seed=self.seed,
            system_prompt=text_or_file(self.system_prompt),
            give_title=self.give_title,
            chat=self.chat,
        )
