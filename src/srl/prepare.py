"""`srl steps`: files of expert solutions -> a folder of step instances, with a report of what was left out.

    train.steps.jsonl       one row per step: SRL, and SFT step by step
    train.problems.jsonl    one row per trajectory: RLVR, and SFT on whole solutions
    validation.*.jsonl      the same for the held-out problems
    dropped.jsonl           what was left out, each with its place and reason
    report.json             the counts, and the options that made them

Everything streams: memory does not grow with the number of trajectories.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from srl.answers import are_correct
from srl.errors import UserError
from srl.files import SUFFIXES, Row, new_folder, read_rows, write_text
from srl.formats.native import is_native, read_native
from srl.formats.numbered import NotNumbered
from srl.formats.solutions import Columns, read_solution
from srl.prompts import ANSWER_SYSTEM_PROMPT, STEP_SYSTEM_PROMPT, answer_prompt
from srl.records import StepInstance, Trajectory
from srl.steps import Targets, full_solution, is_held_out, step_instances

CHUNK = 256
"""Trajectories whose answers are checked together: enough to keep all cores busy, few enough to hold."""


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What `srl steps` makes of a trajectory."""

    targets: Targets = "paper"
    give_title: bool = False
    hold_out: float = 0.06
    seed: int = 0
    keep_wrong: bool = False
    system_prompt: str = STEP_SYSTEM_PROMPT
    answer_system_prompt: str = ANSWER_SYSTEM_PROMPT


class Dropped(NamedTuple):
    """A trajectory that was left out."""

    where: str
    reason: str
    detail: str


@dataclass
class Report:
    """The counts of one `srl steps`."""

    read: int = 0
    kept: int = 0
    answers_checked: int = 0
    steps: int = 0
    most_steps: int = 0
    instances: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    skipped_files: list[str] = field(default_factory=list)

    def count(self, trajectory: Trajectory, split: str, n_instances: int) -> None:
        """Note a kept trajectory."""
        self.kept += 1
        self.answers_checked += trajectory.answer is not None
        self.steps += len(trajectory.steps)
        self.most_steps = max(self.most_steps, len(trajectory.steps))
        self.problems[split] += 1
        self.instances[split] += n_instances
        self.families[trajectory.metadata.get("family", "srl's own rows")] += 1

    def lines(self) -> list[str]:
        """The report for a person."""
        share = f"{self.kept / self.read:.1%}" if self.read else "none"
        lines = [
            f"read {self.read} trajectories, kept {self.kept} ({share}), {self.answers_checked} with a known answer"
        ]
        lines += [f"  left out {count:5d}  {reason}" for reason, count in self.dropped.most_common()]
        lines += [f"  no solutions in {path}: skipped" for path in self.skipped_files]
        if self.kept:
            lines.append(f"steps per trajectory: {self.steps / self.kept:.1f} on average, {self.most_steps} at most")
        for split in ("train", "validation"):
            lines.append(f"{split}: {self.problems[split]} problems, {self.instances[split]} step instances")
        return lines


def prepare(
    source: Path,
    out: Path,
    columns: Columns,
    options: StepOptions,
    *,
    problems: Path | None = None,
    overwrite: bool = False,
) -> Report:
    """Read trajectories from a file or a folder of files and write the data folder `out`, whole or not at all.

    `problems` is a file of rows with `id`, a problem and maybe an answer, joined to the solutions by `id`.

    Raises:
        UserError: unreadable input, unknown columns, `out` not empty, or nothing left to train on.
    """
    report = Report()
    with new_folder(out, overwrite=overwrite, marker="report.json") as folder, ExitStack() as files:
        writers = {
            name: files.enter_context((folder / f"{name}.jsonl").open("w", encoding="utf-8"))
            for name in (
                "train.steps",
                "train.problems",
                "validation.steps",
                "validation.problems",
                "dropped",
            )
        }

        def write(name: str, row: dict[str, Any], where: str) -> None:
            try:
                writers[name].write(json.dumps(row, ensure_ascii=False) + "\n")
            except UnicodeEncodeError as error:
                character = error.object[error.start]
                raise UserError(f"{where}: {character!r} is half a character, which no text file can hold") from None

        found = read_trajectories(source, columns, _by_id(problems) if problems else None, report)
        for item in _checked(found, keep_wrong=options.keep_wrong):
            report.read += 1
            if isinstance(item, Dropped):
                report.dropped[item.reason] += 1
                write("dropped", item._asdict(), item.where)
                continue
            split = "validation" if is_held_out(item.problem, options.hold_out, options.seed) else "train"
            instances = list(
                step_instances(
                    item,
                    targets=options.targets,
                    give_title=options.give_title,
                    system_prompt=options.system_prompt,
                )
            )
            for instance in instances:
                write(f"{split}.steps", step_row(instance), item.metadata["where"])
            write(f"{split}.problems", problem_row(item, options.answer_system_prompt), item.metadata["where"])
            report.count(item, split, len(instances))
        if not report.kept:
            reasons = ", ".join(f"{count} × {reason}" for reason, count in report.dropped.most_common())
            raise UserError(f"{source}: none of {report.read} trajectories can be used ({reasons})")
        write_text(folder / "report.json", json.dumps({**vars(report), "options": asdict(options)}, indent=2) + "\n")
    return report


def step_row(instance: StepInstance) -> dict[str, Any]:
    """A row of *.steps.jsonl."""
    return asdict(instance)


def problem_row(trajectory: Trajectory, system_prompt: str = ANSWER_SYSTEM_PROMPT) -> dict[str, Any]:
    """A row of *.problems.jsonl."""
    return {
        "trajectory_id": trajectory.id,
        "prompt": answer_prompt(trajectory.problem, system_prompt),
        "answer": trajectory.answer,
        "solution": full_solution(trajectory),
    }


def read_trajectories(
    source: Path, columns: Columns, problems: dict[str, Row] | None, report: Report
) -> Iterator[Trajectory | Dropped]:
    """All trajectories of a file or folder, in order; what is not in numbered steps as `Dropped`."""
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if path.suffix in SUFFIXES)
        if not paths:
            raise UserError(f"{source}: no {', '.join(SUFFIXES)} file in this folder")
    else:
        paths = [source]
    for path in paths:
        rows = (_joined(row, problems) for row in read_rows(path))
        first = next(rows)
        try:
            resolved = columns if is_native(first.value) else columns.resolve(first)
        except UserError:
            if len(paths) == 1:
                raise
            report.skipped_files.append(str(path))
            continue
        for index, row in enumerate(chain([first], rows)):
            trajectory_id = str(row.value.get("id", f"{path.stem}-{index}"))
            try:
                if is_native(row.value):
                    yield read_native(row, trajectory_id)
                else:
                    yield read_solution(row, resolved, trajectory_id)
            except NotNumbered as error:
                yield Dropped(row.where, error.reason, str(error))
    if len(report.skipped_files) == len(paths):
        raise UserError(f"{source}: no file here has a problem and a solution; see --problem-field, --solution-field")


def _by_id(path: Path) -> dict[str, Row]:
    rows = {str(row.value.get("id")): row for row in read_rows(path)}
    if "None" in rows:
        raise UserError(f"{rows['None'].where}: no field `id` to join problems by")
    return rows


def _joined(row: Row, problems: dict[str, Row] | None) -> Row:
    """The row with the fields of its problem; where both have a field, the problem's wins."""
    if problems is None:
        return row
    problem = problems.get(str(row.value.get("id")))
    if problem is None:
        raise UserError(f"{row.where}: no problem with id {row.value.get('id')!r} in the file given by --problems")
    return Row(row.where, {**row.value, **problem.value})


def _checked(found: Iterable[Trajectory | Dropped], *, keep_wrong: bool) -> Iterator[Trajectory | Dropped]:
    """Settle `verified` where the answer is known; wrong trajectories become `Dropped` (paper §4.2)."""
    found = iter(found)
    while chunk := list(islice(found, CHUNK)):
        open_cases = [t for t in chunk if isinstance(t, Trajectory) and t.verified is None and t.answer is not None]
        verdicts = iter(are_correct([full_solution(t) for t in open_cases], [str(t.answer) for t in open_cases]))
        for item in chunk:
            if isinstance(item, Trajectory):
                if item.verified is None and item.answer is not None:
                    item = replace(item, verified=next(verdicts))
                if item.verified is False and not keep_wrong:
                    item = Dropped(item.metadata["where"], "wrong final answer", f"expected {item.answer}")
            yield item
