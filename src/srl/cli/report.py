"""`srl report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class ReportCommand:
    """Write one HTML page about runs and evaluations: curves, results, every rollout. Opens offline."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, and folders of `srl evaluate`; also unfinished or damaged ones."""
    out: Path = Path("report.html")
    """The page to write; only an earlier report is overwritten."""
    watch: bool = False
    """Rewrite the page while training goes on; an open page refreshes itself."""

    def run(self) -> None:
        """Write the page."""
        from srl.report.page import write_report

        write_report(self.folders, self.out, watch=self.watch)
