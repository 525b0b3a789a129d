"""`srl export verl`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from srl.runs.recipe import Recipe


@dataclass(frozen=True)
class ExportVerl:
    """Write what verl trains from, and its command: `srl export verl RECIPE.toml --out FOLDER [--section.key …]`."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    out: Path = tyro.MISSING
    """The folder to write: rows, tokenizer, recipe, and run.sh."""
    overwrite: bool = False
    """Delete an earlier export in the same folder."""

    def run(self) -> None:
        """Write it."""
        from srl.verl.export import export

        export(self.recipe, self.out, overwrite=self.overwrite)
        print(f"wrote {self.out}/; next: bash {self.out}/run.sh, with PYTHON set to that of verl's environment")
