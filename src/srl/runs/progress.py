"""What a person sees of long work: a bar with an ETA on a terminal, plain lines with an ETA elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from threading import Event, Thread
from typing import ClassVar, TextIO
from weakref import ReferenceType, ref

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

SECONDS_BETWEEN_LINES, SECONDS_OF_SILENCE = 5.0, 8.0
"""At least, while there is something new to say; at most, whether there is or not."""

RECENT = 20
"""Updates from which the ETA is taken: it follows a change of speed."""


class Progress:
    """Progress of one piece of work, from `done` to `total` in any unit; `total` None: not known.

    Use it as a context manager. On a terminal there is a bar; elsewhere `update` prints a line every few seconds, and
    the last line comes again, with the time since, while nothing is updated.
    """

    _last_of_any: ClassVar[float] = time.monotonic()
    """When a line was printed last: several short pieces of work, one after another, are not silent either."""

    def __init__(self, what: str, total: float | None, done: float = 0, stream: TextIO | None = None) -> None:
        self.what, self.total, self.done = what, total, done
        self.stream = stream or sys.stdout
        self._recent = deque([(time.monotonic(), float(done))], maxlen=RECENT)
        self._last_line = self._last_update = time.monotonic()
        self._text = ""
        self._ended = Event()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if self.stream.isatty():
            text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
            columns = (_fixed("{task.fields[what]}"), BarColumn(16), _fixed("{task.fields[count]}"), _Eta(self), text)
            console = Console(file=self.stream)
            self._bar = Bar(*columns, console=console, expand=True, transient=self.total is None)
            self._bar.start()
            self._bar.add_task("", total=self.total, completed=int(self.done), what=self.what, count=self._count)
        else:
            Thread(target=_break_silence, args=(ref(self), self._ended), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._bar:
            self._bar.stop()

    def update(self, done: float, text: str = "", total: float | None = None, *, at_once: bool = False) -> None:
        """So much is done, and what there is to say about it; `at_once`, however soon after the last line."""
        moved = done != self.done
        if moved:
            self._recent.append((time.monotonic(), float(done)))
        self.done, self.total, self._text = done, self.total if total is None else total, text
        self._last_update = time.monotonic()
        if self._bar:
            task = self._bar.tasks[0].id
            self._bar.update(task, completed=done, total=self.total, description=text, count=self._count)
        elif at_once or (moved and done == self.total) or self._is_quiet_for(SECONDS_BETWEEN_LINES):
            self._print(self._state)

    def still_at_it(self) -> None:
        """Say so, if nothing else has been said for a while."""
        if time.monotonic() - Progress._last_of_any >= SECONDS_OF_SILENCE:
            self._print(f"{self._state}  ({time.monotonic() - self._last_update:.0f} s)")

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._print(text)

    @property
    def remaining(self) -> timedelta | None:
        """The time left at the recent speed; None while there is none to tell it from.

        It shrinks while one piece is worked on, but not below the time of those that come after it.
        """
        (start, before), (end, now) = self._recent[0], self._recent[-1]
        if self.total is None or now <= before:
            return None
        pieces = max(0.0, self.total - now)
        of_this_piece = min(1.0, pieces, (time.monotonic() - end) / max(1e-9, (end - start) / (now - before)))
        return timedelta(seconds=round((end - start) / (now - before) * (pieces - of_this_piece)))

    @property
    def _count(self) -> str:
        if self.total is None:
            return f"{self.done:,.0f}" if self.done else ""
        return f"{self.done:,.0f}/{self.total:,.0f}"

    def _is_quiet_for(self, seconds: float) -> bool:
        return time.monotonic() - self._last_line >= seconds

    @property
    def _state(self) -> str:
        remaining = self.remaining
        eta = "" if remaining is None or self.done == self.total else f"  {remaining} left"
        return f"{f'{self.what} {self._count}'.rstrip()}  {self._text}".rstrip() + eta

    def _print(self, text: str) -> None:
        self._last_line = Progress._last_of_any = time.monotonic()
        print(text, file=self.stream, flush=True)


def shown_while(what: str) -> AbstractContextManager[object]:
    """Show what is going on while nothing can be counted; under torchrun the first process does."""
    return Progress(what, None) if os.environ.get("RANK", "0") == "0" else nullcontext()


def _break_silence(shown: ReferenceType[Progress], ended: Event) -> None:
    """A thread's work; it does not keep alive what an error has left behind."""
    while not ended.wait(1.0):
        progress = shown()
        if progress is None or progress.stream.closed:
            return
        progress.still_at_it()
        del progress


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
