"""What a person sees of `srl steps`: the count while it runs, and instances to read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from srl.data.report import Report
from srl.files import read_rows
from srl.runs.progress import Progress


@contextmanager
def counting() -> Iterator[Callable[[Report], None]]:
    """Yield a function to tell the counts to."""
    with Progress("trajectory", None, stream=sys.stderr) as progress:
        yield lambda report: progress.update(report.read, f"kept {report.kept:,}")


def show_instances(path: Path, count: int) -> None:
    """Print the first `count` rows of a file of step instances."""
    console = Console()
    for row in islice(read_rows(path), count):
        value = row.value
        console.rule(f"{value['trajectory_id']}, step {value['step_index']}")
        for message in value["prompt"]:
            console.print(Text(message["role"], "bold"), Text(message["content"] + "\n"), sep="\n")
        console.print(Text("expert", "bold"), Text(value["expert_action"] + "\n", "green"), sep="\n")
