"""What a person sees while an evaluation runs: a bar with the running score on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from srl.evaluation.samples import Tallies

SECONDS_BETWEEN_LINES = 5.0


class Display:
    """Counts samples and right ones, by benchmark and mode."""

    def __init__(self, total: int, done: Tallies) -> None:
        self.total, self.at_start = total, len(done)
        self.n_done, self.last_line = 0, time.monotonic()
        self.counts: dict[tuple[str, str], tuple[int, int]] = {}
        self.bar: Progress | None = None
        self._add(done)

    def __enter__(self) -> Display:
        if self.at_start:
            print(f"{self.at_start} of {self.total} samples are there already", flush=True)
        if sys.stdout.isatty():
            columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.description}"))
            self.bar.start()
            self.bar.add_task("", total=self.total, completed=self.at_start)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def show(self, judged: Tallies) -> None:
        """Add samples that were just judged."""
        self._add(judged)
        for benchmark, _, mode, _ in list(judged)[-1:]:
            right, count = self.counts[benchmark, mode]
            text = f"{benchmark} {mode} {right / count:.1%} so far"
            if self.bar:
                self.bar.update(self.bar.tasks[0].id, completed=self.n_done, description=text)
            elif self.n_done == self.total or time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
                self.last_line = time.monotonic()
                print(f"{self.n_done}/{self.total} samples, {text}", flush=True)

    def _add(self, tallies: Tallies) -> None:
        self.n_done += len(tallies)
        for (benchmark, _, mode, _), tally in tallies.items():
            right, count = self.counts.get((benchmark, mode), (0, 0))
            self.counts[benchmark, mode] = (right + tally.correct, count + 1)
