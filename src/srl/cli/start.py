"""`srl start`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Start:
    """From a data set and a model to a trained and evaluated model with a report, in one command.

    It prints and runs the other commands: steps, warm-up where it is needed, evaluate, train, evaluate, report. What
    has ended is not done again.
    """

    data: tyro.conf.Positional[str]
    """What `srl steps` takes, or a folder that it wrote."""
    model: tyro.conf.Positional[str]
    """A Hub id, a model folder, or the folder of an earlier run."""
    out: Path = Path("runs/start")
    """The folder for everything."""
    minutes: float = 30
    """Time for SRL's steps; it decides how many there are, up to three passes over the data."""
    only_plan: bool = False
    """Cut the data, write the recipe and say what it will take; then stop, so that the recipe can be changed."""
    overwrite: bool = False
    """Delete an earlier start in the same folder."""

    def run(self) -> None:
        """Go all the way."""
        from srl.cli import run_command
        from srl.study.start import Asked, start

        asked = Asked(self.data, self.model, self.minutes)
        start(asked, self.out, run_command, only_plan=self.only_plan, overwrite=self.overwrite)
