"""`srl compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Compare:
    """Compare evaluations on the same problems: table, paired differences from the first, plot."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders written by `srl evaluate`; the others are compared with the first."""
    plot: Path | None = None
    """Draw the scores with their intervals to this .svg or .png file."""
    paper: bool = False
    """Print the paper's tables beside ours."""

    def run(self) -> None:
        """Print the comparison."""
        from srl.evaluation.compare import compare

        compare(self.folders, plot=self.plot, paper=self.paper)
