"""What a person sees while an evaluation runs: how far it is, and the running score."""

from __future__ import annotations

from srl.evaluation.samples import Tallies
from srl.runs.progress import Progress


class Display:
    """Counts samples and right ones, by benchmark and mode."""

    def __init__(self, total: int, done: Tallies) -> None:
        self.n_done = self.at_start = len(done)
        self.counts: dict[tuple[str, str], tuple[int, int]] = {}
        self.progress = Progress("sample", total, self.at_start)
        self._count(done)

    def __enter__(self) -> Display:
        if self.at_start:
            print(f"{self.at_start} of {self.progress.total} samples are there already", flush=True)
        self.progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.__exit__()

    def show(self, judged: Tallies) -> None:
        """Add samples that were just judged."""
        self._count(judged)
        self.n_done += len(judged)
        for benchmark, _, mode, _ in list(judged)[-1:]:
            right, count = self.counts[benchmark, mode]
            self.progress.update(self.n_done, f"{benchmark} {mode} {right / count:.1%} so far")

    def _count(self, tallies: Tallies) -> None:
        for (benchmark, _, mode, _), tally in tallies.items():
            right, count = self.counts.get((benchmark, mode), (0, 0))
            self.counts[benchmark, mode] = (right + tally.correct, count + 1)
