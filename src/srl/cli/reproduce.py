"""`srl reproduce`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Reproduce:
    """Reproduce a table of the paper: data, training, evaluation of every arm, and its numbers beside the paper's."""

    table: tyro.conf.Positional[Path] = Path("table1")
    """table1 (7B, with the ablations), table4 (3B), or a file of that form (docs/recipes.md)."""
    arms: tuple[str, ...] = ()
    """Only these arms, and what they start from."""
    out: Path | None = None
    """The folder of the evaluations. Default: runs/NAME. What has ended is not done again."""
    dry_run: bool = False
    """Print every command, what it takes and on what hardware; run nothing."""

    def run(self) -> None:
        """Run, or print, the commands."""
        out = self.out or Path("runs") / self.table.stem
        if self.dry_run:
            from srl.study.costs import print_costs

            print_costs(self.table, out, arms=self.arms)
        else:
            from srl.study.reproduce import reproduce

            reproduce(self.table, out, arms=self.arms)
