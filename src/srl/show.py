"""Step instances as a person reads them: `srl steps --show`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from srl.files import read_rows


def show_instances(path: Path, count: int) -> None:
    """Print the first `count` rows of a *.steps.jsonl file."""
    console = Console()
    for row in islice(read_rows(path), count):
        value = row.value
        console.rule(f"{value['trajectory_id']}, step {value['step_index']}")
        for message in value["prompt"]:
            console.print(Text(message["role"], "bold"), Text(message["content"] + "\n"), sep="\n")
        console.print(Text("expert", "bold"), Text(value["expert_action"] + "\n", "green"), sep="\n")
