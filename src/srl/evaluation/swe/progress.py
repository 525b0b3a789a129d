"""What a person sees while things are counted: a bar on a terminal, plain lines otherwise. Safe to use from threads."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from threading import Lock

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0


class Counting:
    """Counts up to a total."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.at_start, self.done = what, total, done, done
        self.started = self.last_line = time.monotonic()
        self.lock = Lock()
        self.bar: Progress | None = None

    def __enter__(self) -> Counting:
        if sys.stdout.isatty():
            columns = (TextColumn(self.what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.description}"))
            self.bar.start()
            self.bar.add_task("", total=self.total, completed=self.done)
        elif self.done:
            print(f"{self.done} of {self.total} {self.what} are there already", flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def one_more(self, note: str = "") -> None:
        """Count one, and show it when it is time to."""
        with self.lock:
            self.done += 1
            now = time.monotonic()
            if self.bar:
                self.bar.update(self.bar.tasks[0].id, completed=self.done, description=note)
            elif self.done == self.total or now - self.last_line > SECONDS_BETWEEN_LINES:
                self.last_line = now
                seconds = (now - self.started) / (self.done - self.at_start) * (self.total - self.done)
                left = f", {timedelta(seconds=round(seconds))} left" if self.done < self.total else ""
                print(f"{self.done}/{self.total} {self.what}{', ' * bool(note)}{note}{left}", flush=True)
