"""`srl steps`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from srl.cli.text_or_file import text_or_file
from srl.data.folder import rows_file
from srl.data.formats.columns import Columns
from srl.data.formats.cutting import Scheme
from srl.data.formats.written import Annotations
from srl.data.prepare import StepOptions, prepare
from srl.data.show import counting, show_instances
from srl.data.sources import Source
from srl.errors import UserError


@dataclass(frozen=True)
class Steps:
    """Cut expert trajectories into step instances, and report what was kept and why the rest was not."""

    source: tyro.conf.Positional[str]
    """A file (JSONL, JSON, .traj, parquet, Arrow; also .gz), a folder of them, or the id of a Hub data set."""
    out: Path | None = None
    """The data folder to write, for `data.path` of a recipe."""
    check: bool = False
    """Read and count only; write nothing."""
    format: str = "auto"
    """The format of the rows; by default it is recognised by their fields."""
    problem_field: str | None = None
    """Column with the problem. Common names are found without it."""
    solution_field: str | None = None
    """Column with the written solution. Common names are found without it."""
    answer_field: str | None = None
    """Column with the known final answer; solutions that miss it are left out. Common names are found without it."""
    correct_field: str | None = None
    """Column that says whether the solution or run is right (true/false, yes/no). Common names are found without it."""
    thought_field: str | None = None
    """Column with the thought before a written solution. Common names are found without it."""
    problems: Path | None = None
    """A file of problems (`id`, problem, maybe answer) to join to the rows by `id`."""
    labels: Path | None = None
    """A file that says which trajectories are right: `resolved_ids`, a list of ids, or ids with true/false."""
    cut: Scheme | None = None
    """How written solutions become steps; default: by their numbers, GSM8K by lines. --check shows what each keeps."""
    annotations: Annotations = "drop"
    """A calculator's notes in a solution (<<48/2=24>>): left out, or the thought of their step."""
    split: str = "train"
    """Split of a Hub data set."""
    subset: str | None = None
    """Configuration of a Hub data set."""
    revision: str | None = None
    """Commit, tag or branch of a Hub data set."""
    on_error: Literal["stop", "skip"] = "stop"
    """What to do with a row that cannot be read: stop, or skip and count it."""
    overwrite: bool = False
    """Replace a non-empty output folder."""
    show: int = 0
    """Print this many instances as the student sees them."""
    options: Annotated[StepOptions, tyro.conf.arg(name="")] = field(default_factory=StepOptions)

    def run(self) -> None:
        """Write the data folder and print the report."""
        if (self.out is None) != self.check:
            raise UserError("give either --out FOLDER, or --check to write nothing")
        if self.show and self.check:
            raise UserError("--show prints what was written: it needs --out")
        source = Source(
            self.source,
            format=self.format,
            columns=Columns(
                self.problem_field, self.solution_field, self.answer_field, self.correct_field, self.thought_field
            ),
            cut=self.cut,
            annotations=self.annotations,
            problems=self.problems,
            labels=self.labels,
            split=self.split,
            subset=self.subset,
            revision=self.revision,
            on_error=self.on_error,
        )
        options = replace(
            self.options,
            system_prompt=text_or_file(self.options.system_prompt),
            answer_system_prompt=text_or_file(self.options.answer_system_prompt),
        )
        with counting() as watch:
            report = prepare(source, self.out, options, overwrite=self.overwrite, watch=watch)
        print("\n".join(report.lines()))
        if self.out is None:
            return
        if self.show:
            show_instances(rows_file(self.out, "train.steps"), self.show)
        print(f"wrote {self.out}/; next: srl train RECIPE --data.path {self.out}")
