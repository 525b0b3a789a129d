"""What a person sees of `srl steps`: the count while it runs, and instances to read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from srl.data.report import Report
from srl.files import read_rows

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def counting() -> Iterator[Callable[[Report], None]]:
    """Yield a function to tell the counts to: a live line on a terminal, else a line now and then."""
    started = shown = time.monotonic()
    terminal = sys.stderr.isatty()

    def watch(report: Report) -> None:
        nonlocal shown
        if (now := time.monotonic()) - shown > (0.2 if terminal else SECONDS_BETWEEN_LINES):
            shown = now
            line = f"read {report.read:,} trajectories, kept {report.kept:,}, {now - started:.0f} s"
            print(f"\r{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    yield watch
    if terminal and shown > started:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def show_instances(path: Path, count: int) -> None:
    """Print the first `count` rows of a file of step instances."""
    console = Console()
    for row in islice(read_rows(path), count):
        value = row.value
        console.rule(f"{value['trajectory_id']}, step {value['step_index']}")
        for message in value["prompt"]:
            console.print(Text(message["role"], "bold"), Text(message["content"] + "\n"), sep="\n")
        console.print(Text("expert", "bold"), Text(value["expert_action"] + "\n", "green"), sep="\n")
