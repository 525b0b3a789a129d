"""What a person sees of long work: a bar with an ETA on a terminal, plain lines with an ETA elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from datetime import timedelta
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

SECONDS_BETWEEN_LINES = 5.0
RECENT = 20
"""Updates from which the ETA is taken: it follows a change of speed."""


class Progress:
    """Progress of one piece of work, from `done` to `total` in any unit; `total` None: not known.

    Use it as a context manager. On a terminal there is a bar; elsewhere `update` prints a line every few seconds.
    """

    def __init__(self, what: str, total: float | None, done: float = 0, stream: TextIO | None = None) -> None:
        self.what, self.total, self.done = what, total, done
        self.stream = stream or sys.stdout
        self._recent = deque([(time.monotonic(), float(done))], maxlen=RECENT)
        self._last_line = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if self.stream.isatty():
            text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
            columns = (_fixed("{task.fields[what]}"), BarColumn(16), _fixed("{task.fields[count]}"), _Eta(self), text)
            self._bar = Bar(*columns, console=Console(file=self.stream), expand=True)
            self._bar.start()
            self._bar.add_task("", total=self.total, completed=int(self.done), what=self.what, count=self._count)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: float, text: str = "", total: float | None = None) -> None:
        """So much is done, and what there is to say about it."""
        moved = done != self.done
        if moved:
            self._recent.append((time.monotonic(), float(done)))
        self.done, self.total = done, self.total if total is None else total
        if self._bar:
            task = self._bar.tasks[0].id
            self._bar.update(task, completed=done, total=self.total, description=text, count=self._count)
        elif (moved and done == self.total) or time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            eta = "" if self.remaining is None or done == self.total else f"  {self.remaining} left"
            self._print(f"{self.what} {self._count}  {text}".rstrip() + eta)

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._print(text)

    @property
    def remaining(self) -> timedelta | None:
        """The time left at the recent speed; None while there is none to tell it from."""
        (start, before), (end, now) = self._recent[0], self._recent[-1]
        if self.total is None or now <= before:
            return None
        return timedelta(seconds=round((end - start) / (now - before) * max(0.0, self.total - now)))

    @property
    def _count(self) -> str:
        return f"{self.done:,.0f}" if self.total is None else f"{self.done:,.0f}/{self.total:,.0f}"

    def _print(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


def _fixed(text: str) -> TextColumn:
    return TextColumn(text, table_column=Column(no_wrap=True))


class _Eta(ProgressColumn):
    """`Progress.remaining`, for the bar."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(Column(no_wrap=True))
        self.progress = progress

    def render(self, task: Task) -> Text:
        """The column's cell."""
        remaining = self.progress.remaining
        return Text("" if remaining is None else f"{remaining} left")
