"""Where expert trajectories come from: files, folders and Hub data sets, each row recognised by what it holds.

    Source -> rows (inputs.py) -> the format that recognises the row (formats/) -> Trajectory

What cannot be used comes out too, as `Dropped` with its place and reason: nothing is lost silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from srl.data.formats import (
    Format,
    Record,
    gsm8k,
    messages,
    mini_swe_agent,
    native,
    nemo_gym,
    openhands,
    problems,
    process_rewards,
    prompt_completion,
    react,
    session_log,
    swe_agent,
    swe_smith,
    toolbench,
    verl,
)
from srl.data.formats.columns import Columns, has, no_field
from srl.data.formats.cutting import Scheme, schemes_that_cut
from srl.data.formats.solutions import NumberedSolutions
from srl.data.formats.written import Annotations, Written, as_trajectory
from srl.data.inputs import HubSource, documents, inputs, problems_by_id
from srl.data.labels import IDS, Labels, id_text, name_of, read_labels
from srl.data.overrides import Overrides
from srl.errors import Unusable, UserError
from srl.files import Row
from srl.records import Problem, StepInstance, Trajectory

FORMATS: tuple[Format, ...] = (
    native,
    nemo_gym,
    toolbench,
    session_log,
    swe_agent,
    mini_swe_agent,
    openhands,
    swe_smith,
    process_rewards,
    verl,
    gsm8k,
    messages,
    react,
    prompt_completion,
)
"""In the order in which they are asked: the more special before the more general. Written solutions, whose columns
the user may name, and problems come after them."""


class Dropped(NamedTuple):
    """A row that was left out."""

    where: str
    reason: str
    detail: str


Item = Trajectory | StepInstance | Problem | Dropped


@dataclass(frozen=True)
class Source:
    """What to read, and how."""

    path: str | Path
    """A file, a folder (with all below it), or the id of a Hub data set."""
    format: str = "auto"
    """The name of a format, or "auto": each row is recognised by its fields."""
    columns: Columns = field(default_factory=Columns)
    cut: Scheme | None = None
    """How written solutions are cut; None: as their format is, by numbers or lines; chats if they calculate."""
    annotations: Annotations = "drop"
    """What becomes of a calculator's notes in a solution."""
    problems: Path | None = None
    """A file of rows with `id` and a problem, joined to the rows by `id`."""
    labels: Path | None = None
    """A file that says which trajectories are right, by their ids."""
    set_aside: tuple[Path, ...] = ()
    """Files that hold something else, if they lie in the folder."""
    split: str = "train"
    """Of a Hub data set, as are the next two."""
    subset: str | None = None
    revision: str | None = None
    on_error: Literal["stop", "skip"] = "stop"
    """At a row that cannot be read: raise, or go on with a `Dropped`."""


@dataclass
class Found:
    """What reading has met so far."""

    formats: Counter[str] = field(default_factory=Counter)
    """Rows per format."""
    recognised_by: dict[str, str] = field(default_factory=dict)
    """Why the first row of a format was taken for it."""
    skipped_files: list[str] = field(default_factory=list)
    """Files of a folder that hold no trajectories, or are of no known kind."""
    files: dict[str, Counter[str]] = field(default_factory=dict)
    """Rows per file and format; those that no format knows as what they hold instead."""
    unknown_rows: int = 0
    missing_columns: dict[str, int] = field(default_factory=dict)
    """Rows that lack a column which the user has named."""
    written: int = 0
    """Written solutions."""
    cuts: Counter[str] = field(default_factory=Counter)
    """Of them, by scheme: those that it could cut."""


def read_trajectories(source: Source, found: Found) -> Iterator[Item]:
    """All trajectories, in order; one that is only the beginning of the next is dropped.

    Raises:
        UserError: no such file, folder, data set or format; a row that cannot be read (unless they are skipped);
            no file with trajectories; most rows of no known format; a flag that applies to no row.
    """
    reader = _Reader(source, found)
    hub = HubSource(str(source.path), source.subset, source.split, source.revision)
    set_aside = [path for path in (*source.set_aside, source.problems, source.labels) if path]
    all_inputs = inputs(hub, set_aside)
    for each in all_inputs:
        account = found.files.setdefault(each.name, Counter())
        if each.passed_over:
            found.skipped_files.append(each.name)
            account[each.passed_over] = 0
            continue
        rows = documents(each.rows, lambda value: reader.recognise(value) is not None)
        if len(all_inputs) > 1:  # a file of a folder whose first row is of no known format holds something else
            first = next(rows)
            if isinstance(first, Row) and not reader.recognise(first.value):
                found.skipped_files.append(each.name)
                n_rows = 1 + sum(1 for _ in rows)
                found.unknown_rows += n_rows
                account[f"no known format ({_fields(first)})"] = n_rows
                continue
            rows = chain([first], rows)
        yield from _without_beginnings(reader.items(rows, each.name, account))
    reader.check()


class _Known(NamedTuple):
    """A row whose format is known."""

    row: Row
    problem: Row | None
    format: Format
    why: str


class _Reader:
    """Rows to items, by the formats and options of a source."""

    def __init__(self, source: Source, found: Found) -> None:
        self.source, self.found = source, found
        self.solutions = NumberedSolutions(source.columns)
        self.formats = _formats(source, self.solutions)
        self.labels = read_labels(source.labels) if source.labels else None
        self.problems = problems_by_id(source.problems) if source.problems else None
        self.overrides = Overrides(source.columns)
        self._last: tuple[Any, tuple[Format, str] | None] = (None, None)  # a row is asked about more than once

    def recognise(self, value: Any) -> tuple[Format, str] | None:
        """The format of a row, and why it is taken for it."""
        if value is not self._last[0]:
            found = ((candidate, why) for candidate in self.formats if (why := candidate.recognise(value)))
            self._last = (value, next(found, None))
        return self._last[1]

    def items(self, rows: Iterable[Row | UserError], name: str, account: Counter[str]) -> Iterator[Item]:
        """What the rows of one file hold, a row at a time; counted."""
        index = 0
        for row in rows:
            where = name if isinstance(row, UserError) else row.where
            try:
                known = self._known(row)
                attempts = list(self.solutions.attempts(known.row) if known.format is self.solutions else [known.row])
            except UserError as error:
                yield self._unreadable(error, where, account)
                attempts = []
            for attempt in attempts:
                try:
                    yield self._read(known._replace(row=attempt), name, index, account)
                except Unusable as reason:
                    yield Dropped(where, reason.reason, str(reason))
                except UserError as error:
                    yield self._unreadable(error, where, account)
                index += 1

    def _unreadable(self, error: UserError, where: str, account: Counter[str]) -> Dropped:
        if self.source.on_error == "stop":
            raise error
        account["unreadable"] += 1
        return Dropped(where, "unreadable", str(error))

    def _known(self, row: Row | UserError) -> _Known:
        """A row with its problem, where that is kept elsewhere, and its format."""
        if isinstance(row, UserError):
            raise row
        problem = None
        if self.problems is not None and isinstance(row.value, dict):
            row, problem = _joined(row, self.problems)
        recognised = self.recognise(row.value)
        if recognised is None:
            self.found.unknown_rows += 1
            raise self._unknown(row)
        return _Known(row, problem, *recognised)

    def _read(self, known: _Known, name: str, index: int, account: Counter[str]) -> Item:
        row, chosen = known.row, known.format
        self.found.formats[chosen.NAME] += 1
        self.found.recognised_by.setdefault(chosen.NAME, known.why)
        account[chosen.NAME] += 1
        record = self.overrides.apply(chosen.read(row, _id(row, name, index)), row, known.problem, chosen.NAME)
        if self.labels and not isinstance(record, Problem):
            record = replace(record, verified=self._label(self.labels, row, record, name))
        if isinstance(record, StepInstance | Problem):
            return replace(record, metadata={"where": row.where, "format": chosen.NAME})
        return self._cut(record) if isinstance(record, Written) else record

    def _cut(self, written: Written) -> Trajectory:
        source, found = self.source, self.found
        found.written += bool(written.text)
        found.cuts.update(schemes_that_cut(written.text))
        return as_trajectory(written, source.cut, source.annotations)

    def _label(self, labels: Labels, row: Row, record: Record, name: str) -> bool | None:
        """The verdict that a file of labels has for a row, by any of its names, or else the row's own."""
        own = name_of(row.value) if isinstance(row.value, dict) else None
        known = record.metadata.get("instance_id")
        names = (known, own, _record_id(record), Path(name).name.split(".")[0])
        said = labels.of(str(each) for each in names if each)
        return said if said is not None else getattr(record, "verified", None)

    def _unknown(self, row: Row) -> UserError:
        if not isinstance(row.value, dict):
            return UserError(f"{row.where}: expected a JSON object, found {type(row.value).__name__}")
        for name in (self.source.columns.problem, self.source.columns.solution):
            if name and not has(row.value, name):
                return no_field(row, name)
        names = ", ".join(candidate.NAME for candidate in self.formats)
        return UserError(
            f"{row.where}: no known format ({names}), found the fields {_fields(row):.300}; "
            "name a problem and a solution with --problem-field and --solution-field"
        )

    def check(self) -> None:
        """Refuse what was hardly read, and flags that applied to nothing.

        Raises:
            UserError: see `read_trajectories`.
        """
        source, found = self.source, self.found
        known = found.formats.total()
        if found.unknown_rows > known:
            unknown = [
                f"{Path(name).name}: {count} × {what}"
                for name, rows in found.files.items()
                for what, count in rows.items()
                if what.startswith("no known format")
            ]
            raise UserError(
                f"{source.path}: {found.unknown_rows} of {found.unknown_rows + known} rows are in no known format "
                f"({'; '.join(unknown):.600}); see --problem-field, --solution-field, --format, or leave them out"
            )
        if not known:
            raise UserError(
                f"{source.path}: nothing here has trajectories; see --problem-field, --solution-field, --format"
            )
        self.overrides.check_met()
        found.missing_columns = self.overrides.missing()
        if self.labels:
            self.labels.check_used()
        if not found.written and (source.cut or source.annotations != "drop"):
            flag = f"--cut {source.cut}" if source.cut else f"--annotations {source.annotations}"
            raise UserError(
                f"{flag}: applies to written solutions ({self.solutions.NAME}, {gsm8k.NAME}, {messages.NAME} of one "
                f"answer), but all rows here are of {', '.join(found.formats)}"
            )


def _formats(source: Source, solutions: NumberedSolutions) -> list[Format]:
    """The formats to try, in order."""
    formats: list[Format] = [*FORMATS, solutions, problems]
    columns = source.columns
    if source.format == "auto":
        # Whoever names a solution column means it, whatever else the row holds.
        return [solutions] if columns.solution else formats
    chosen = [candidate for candidate in formats if source.format == candidate.NAME]
    if not chosen:
        known = ", ".join(candidate.NAME for candidate in formats)
        raise UserError(f"--format {source.format}: expected auto or one of {known}")
    if columns.solution and chosen != [solutions]:
        raise UserError(f"--solution-field: applies to {solutions.NAME} only, not to {source.format}")
    return chosen


def _fields(row: Row) -> str:
    if not isinstance(row.value, dict):
        return type(row.value).__name__
    return ", ".join(f"`{name}`" for name in row.value) or "none"


def _id(row: Row, name: str, index: int) -> str:
    value = row.value if isinstance(row.value, dict) else {}
    for key in ("id", *IDS):
        if (text := id_text(value.get(key))) is not None:
            return text
    return f"{Path(name).name.split('.')[0]}-{index}"


def _record_id(record: Record) -> str:
    return record.id if isinstance(record, Trajectory | Written) else record.trajectory_id


def _joined(row: Row, problems: dict[str, Row]) -> tuple[Row, Row]:
    """A row with the fields of its problem beside its own, and the problem."""
    name = name_of(row.value)
    problem = problems.get(name or "")
    if problem is None:
        raise UserError(f"{row.where}: no problem with id {name!r} in the file given by --problems")
    return Row(row.where, {**problem.value, **row.value}), problem


def _without_beginnings(items: Iterable[Item]) -> Iterator[Item]:
    """Drop trajectories that the next one continues: some data sets hold every prefix as a row of its own."""
    before: Item | None = None
    for item in items:
        if isinstance(before, Trajectory) and isinstance(item, Trajectory) and _begins(before, item):
            before = Dropped(before.metadata["where"], "beginning of the next", f"{len(before.steps)} steps")
        if before is not None:
            yield before
        before = item
    if before is not None:
        yield before


def _begins(short: Trajectory, long: Trajectory) -> bool:
    return (
        short.conclusion is None
        and not short.only_last
        and 0 < len(short.steps) < len(long.steps)
        and short.problem == long.problem
        and all(a.action == b.action for a, b in zip(short.steps, long.steps, strict=False))
    )
