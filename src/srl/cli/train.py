"""`srl train`."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from srl.runs.progress import shown_while
from srl.runs.recipe import Recipe


@dataclass(frozen=True)
class Train:
    """Train from a recipe: `srl train RECIPE.toml [--section.key value …]`; flags override the file."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    resume: bool = False
    """Continue a stopped run from its last checkpoint."""
    overwrite: bool = False
    """Delete an earlier run in the same folder."""
    engine: Literal["trl", "verl"] = "trl"
    """What trains: TRL, on one machine, or verl, also on a cluster (docs/verl.md)."""
    verl_python: Path | None = None
    """The Python of verl's environment. Default: SRL_VERL_PYTHON, or the one that runs this."""

    def run(self) -> None:
        """Train."""
        if self.engine == "verl":
            from srl.verl.run import train_with_verl

            train_with_verl(self.recipe, self.verl_python, resume=self.resume, overwrite=self.overwrite)
            return
        with shown_while("loading libraries"):
            from accelerate import PartialState

            from srl.training.train import train

        train(self.recipe, resume=self.resume, overwrite=self.overwrite)
        # Python may end before gloo's threads do, which aborts a process that has done all its work. They end with
        # their group, and that is held by the trainer's model.
        gc.collect()
        PartialState().destroy_process_group()
