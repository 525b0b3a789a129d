"""Where expert trajectories come from: files, folders and Hub data sets, each row recognised by what it holds.

    Source -> rows (files.py, or the Hub) -> the format that recognises the row (formats/) -> Trajectory

What cannot be used comes out too, as `Dropped` with its place and reason: nothing is lost silently.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from srl.data.formats import (
    Format,
    messages,
    mini_swe_agent,
    native,
    openhands,
    process_rewards,
    prompt_completion,
    react,
    swe_agent,
    swe_smith,
    verl,
)
from srl.data.formats.solutions import Columns, NumberedSolutions
from srl.errors import Unusable, UserError
from srl.files import SUFFIXES, Row, read_rows, read_values, split_array, suffix_of
from srl.records import Problem, StepInstance, Trajectory

FORMATS: tuple[Format, ...] = (
    native,
    swe_agent,
    mini_swe_agent,
    openhands,
    swe_smith,
    process_rewards,
    verl,
    messages,
    react,
    prompt_completion,
)
"""In the order in which they are asked: the more special before the more general."""

_LIBRARY_FILES = {"dataset_info.json", "state.json", "dataset_dict.json"}
"""What `datasets` saves beside its tables."""


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
    problems: Path | None = None
    """A file of rows with `id` and a problem, joined to the rows by `id`."""
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


def read_trajectories(source: Source, found: Found) -> Iterator[Item]:
    """All trajectories, in order; one that is only the beginning of the next is dropped.

    Raises:
        UserError: no such file, folder, data set or format; a row that cannot be read (unless they are skipped);
            no file with trajectories.
    """
    formats = _formats(source)
    problems = _by_id(source.problems) if source.problems else None
    inputs = _inputs(source, found)
    for name, rows in inputs:
        documents: Iterator[Row | UserError] = (_joined(row, problems) for row in _documents(rows, formats))
        if len(inputs) > 1:  # a file of a folder whose first row is of no known format holds something else
            first = next(documents)
            if isinstance(first, Row) and not _recognised(first, formats):
                found.skipped_files.append(name)
                continue
            documents = chain([first], documents)
        yield from _without_beginnings(_read(row, i, name, formats, source, found) for i, row in enumerate(documents))
    if not found.formats:
        raise UserError(
            f"{source.path}: nothing here has trajectories; see --problem-field, --solution-field, --format"
        )


def _read(row: Row | UserError, index: int, name: str, formats: list[Format], source: Source, found: Found) -> Item:
    where = name if isinstance(row, UserError) else row.where
    try:
        if isinstance(row, UserError):
            raise row
        recognised = _recognised(row, formats)
        if recognised is None:
            raise _unknown(row, formats)
        chosen, why = recognised
        found.formats[chosen.NAME] += 1
        found.recognised_by.setdefault(chosen.NAME, why)
        return chosen.read(row, _id(row, name, index))
    except Unusable as reason:
        return Dropped(where, reason.reason, str(reason))
    except UserError as error:
        if source.on_error == "stop":
            raise
        return Dropped(where, "unreadable", str(error))


def _formats(source: Source) -> list[Format]:
    """The formats to try, in order."""
    formats = [*FORMATS, NumberedSolutions(source.columns)]
    if source.format == "auto":
        # Whoever names a solution column means it, whatever else the row holds.
        return formats[-1:] if source.columns.solution else formats
    chosen = [candidate for candidate in formats if source.format == candidate.NAME]
    if not chosen:
        known = ", ".join(candidate.NAME for candidate in formats)
        raise UserError(f"--format {source.format}: expected auto or one of {known}")
    return chosen


def _recognised(row: Row, formats: list[Format]) -> tuple[Format, str] | None:
    for candidate in formats:
        if why := candidate.recognise(row.value):
            return candidate, why
    return None


def _unknown(row: Row, formats: list[Format]) -> UserError:
    if not isinstance(row.value, dict):
        return UserError(f"{row.where}: expected a JSON object, found {type(row.value).__name__}")
    fields = ", ".join(f"`{name}`" for name in row.value) or "none"
    names = ", ".join(candidate.NAME for candidate in formats)
    return UserError(
        f"{row.where}: no known format ({names}), found the fields {fields:.300}; "
        "name a problem and a solution with --problem-field and --solution-field"
    )


def _id(row: Row, name: str, index: int) -> str:
    value = row.value if isinstance(row.value, dict) else {}
    for key in ("id", "instance_id"):
        if isinstance(value.get(key), str | int):
            return str(value[key])
    return f"{Path(name).name.split('.')[0]}-{index}"


def _documents(rows: Iterable[Row | UserError], formats: list[Format]) -> Iterator[Row | UserError]:
    """A JSON file's array is one document where a format says so (a log of events), else one row per item."""
    for row in rows:
        if isinstance(row, UserError) or _recognised(row, formats):
            yield row
        elif row.value == []:
            yield UserError(f"{row.where}: no rows in it")
        else:
            yield from split_array(row)


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
        and len(short.steps) < len(long.steps)
        and short.problem == long.problem
        and all(a.action == b.action for a, b in zip(short.steps, long.steps, strict=False))
    )


# --- files, folders, the Hub --------------------------------------------------------------------------


def _inputs(source: Source, found: Found) -> list[tuple[str, Iterator[Row | UserError]]]:
    path, name = Path(source.path), str(source.path)
    if path.is_dir():
        return _of_folder(path, found)
    if not path.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and suffix_of(path) not in SUFFIXES:
        return [(name, hub_rows(source))]
    return [(name, read_values(path))]


def _of_folder(folder: Path, found: Found) -> list[tuple[str, Iterator[Row | UserError]]]:
    """All readable files below a folder; a folder `events/` of numbered files is one log (OpenHands)."""
    inputs: list[tuple[str, Iterator[Row | UserError]]] = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and path.name == "events":
            inputs.append((str(path), _log_of_events(path)))
        if not path.is_file() or path.name.startswith(".") or path.name in _LIBRARY_FILES:
            continue
        if suffix_of(path) not in SUFFIXES:
            found.skipped_files.append(str(path))
        elif path.parent.name != "events":
            inputs.append((str(path), read_values(path)))
    if not inputs:
        raise UserError(f"{folder}: no {', '.join(SUFFIXES)} file in this folder")
    return inputs


def _log_of_events(folder: Path) -> Iterator[Row | UserError]:
    events = []
    for path in sorted(folder.glob("*.json"), key=lambda path: (len(path.stem), path.stem)):
        for row in read_values(path):
            if isinstance(row, UserError):
                yield row
                return
            events.append(row.value)
    yield Row(str(folder), events)


def hub_rows(source: Source) -> Iterator[Row | UserError]:
    """The rows of a Hub data set (or of a local folder that `datasets` can load), streamed.

    Raises:
        UserError: no such data set, subset, split or revision; no network.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(
            source.path, name=source.subset, split=source.split, revision=source.revision, streaming=True
        )
        for index, value in enumerate(rows):
            yield Row(f"{source.path}[{index}]", value)
    except (OSError, ValueError) as error:  # what `datasets` raises for every kind of absence
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{source.path}: no such file, and not to be had as a Hub data set ({reason:.300})") from None


# --- problems in a file of their own ------------------------------------------------------------------


def _by_id(path: Path) -> dict[str, Row]:
    rows = {str(row.value.get("id")): row for row in read_rows(path)}
    if "None" in rows:
        raise UserError(f"{rows['None'].where}: no field `id` to join problems by")
    return rows


def _joined(row: Row | UserError, problems: dict[str, Row] | None) -> Row | UserError:
    """The row with the fields of its problem; where both have a field, the problem's wins."""
    if problems is None or isinstance(row, UserError) or not isinstance(row.value, dict):
        return row
    problem = problems.get(str(row.value.get("id")))
    if problem is None:
        return UserError(f"{row.where}: no problem with id {row.value.get('id')!r} in the file given by --problems")
    return Row(row.where, {**row.value, **problem.value})
