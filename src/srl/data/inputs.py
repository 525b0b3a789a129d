"""Files, folders and Hub data sets -> their rows: what is to be read, and where one row ends and the next begins."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from srl.data.formats import session_log
from srl.data.labels import name_of
from srl.errors import UserError
from srl.files import JSON_SUFFIXES, SUFFIXES, Row, read_rows, read_values, split_array, suffix_of

_LIBRARY_FILES = {"dataset_info.json", "state.json", "dataset_dict.json"}
"""What `datasets` saves beside its tables."""


class Input(NamedTuple):
    """Something to read."""

    name: str
    rows: Iterator[Row | UserError]
    """Empty where the file is passed over."""
    passed_over: str = ""
    """Why it is."""


class HubSource(NamedTuple):
    """A data set on the Hub."""

    path: str
    subset: str | None
    split: str
    revision: str | None


def inputs(source: HubSource, set_aside: Collection[Path]) -> list[Input]:
    """All files that a path means, or the Hub data set of that name; `set_aside` are files with another purpose.

    Raises:
        UserError: a folder without a readable file.
    """
    path = Path(source.path)
    if path.is_dir():
        return _of_folder(path, {each.resolve() for each in set_aside})
    if not path.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source.path) and suffix_of(path) not in SUFFIXES:
        return [Input(source.path, hub_rows(source))]
    return [Input(source.path, read_values(path))]


def _of_folder(folder: Path, set_aside: Collection[Path]) -> list[Input]:
    """All readable files below a folder; a folder `events/` of numbered files is one log (OpenHands)."""
    found: list[Input] = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and path.name == "events":
            found.append(Input(str(path), _log_of_events(path)))
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not path.is_file() or hidden or path.name in _LIBRARY_FILES:
            continue
        if path.resolve() in set_aside:
            found.append(Input(str(path), iter(()), "given for another purpose"))
        elif suffix_of(path) not in SUFFIXES:
            found.append(Input(str(path), iter(()), f"not one of {', '.join(SUFFIXES)}"))
        elif path.parent.name != "events":
            found.append(Input(str(path), read_values(path)))
    if all(each.passed_over for each in found):
        raise UserError(f"{folder}: no {', '.join(SUFFIXES)} file in this folder")
    return found


def _log_of_events(folder: Path) -> Iterator[Row | UserError]:
    events = []
    for path in sorted(folder.glob("*.json"), key=lambda path: (len(path.stem), path.stem)):
        for row in read_values(path):
            if isinstance(row, UserError):
                yield row
                return
            events.append(row.value)
    yield Row(str(folder), events)


def hub_rows(source: HubSource) -> Iterator[Row | UserError]:
    """The rows of a Hub data set (or of a local folder that `datasets` can load), streamed.

    Raises:
        UserError: no such data set, subset, split or revision; no network.
    """
    from datasets import load_dataset

    from srl.runs.hub import offline_without_network, why_not_loaded

    offline_without_network()
    try:
        rows = load_dataset(
            source.path, name=source.subset, split=source.split, revision=source.revision, streaming=True
        )
        for index, value in enumerate(rows):
            yield Row(f"{source.path}[{index}]", value)
    except (OSError, ValueError) as error:  # what `datasets` raises for every kind of absence
        raise UserError(
            f"{source.path}: no such file, and not to be had as a Hub data set ({why_not_loaded(error):.300})"
        ) from None


def documents(rows: Iterable[Row | UserError], is_known: Callable[[Any], bool]) -> Iterator[Row | UserError]:
    """The values of a file as rows.

    A JSON file's array or object is one row where a format knows it (a log of events, a run), else one row per item,
    or per value if they are all objects. Lines that are events of one session are one row together.
    """
    session: list[Row] = []
    for row in rows:
        if isinstance(row, Row) and session_log.is_event(row.value):
            if session and not session_log.same_session(session[0].value, row.value):
                yield _as_one(session)
                session = []
            session.append(row)
            continue
        if session:
            yield _as_one(session)
            session = []
        if isinstance(row, UserError) or is_known(row.value):
            yield row
        elif row.value == []:
            yield UserError(f"{row.where}: no rows in it")
        else:
            yield from _rows_of_object(row, is_known) or split_array(row)
    if session:
        yield _as_one(session)


def _as_one(rows: list[Row]) -> Row:
    return Row(rows[0].where, [row.value for row in rows])


def _rows_of_object(row: Row, is_known: Callable[[Any], bool]) -> list[Row]:
    """The rows of a JSON file that is one object with a row under each key, which becomes its id."""
    value = row.value
    if not isinstance(value, dict) or suffix_of(Path(row.where)) not in JSON_SUFFIXES:
        return []
    if not value or not all(isinstance(each, dict) for each in value.values()):
        return []
    if not is_known(next(iter(value.values()))):
        return []
    return [Row(f"{row.where}[{index}]", {"id": key, **each}) for index, (key, each) in enumerate(value.items())]


# --- problems in a file of their own ------------------------------------------------------------------


def problems_by_id(path: Path) -> dict[str, Row]:
    """The rows of a file of problems by their ids.

    Raises:
        UserError: an unreadable file, a row without id, or two that differ with one id.
    """
    problems: dict[str, Row] = {}
    for row in read_rows(path):
        name = name_of(row.value)
        if name is None:
            raise UserError(f"{row.where}: no field `id` to join problems by")
        before = problems.setdefault(name, row)
        if before.value != row.value:
            raise UserError(f"{row.where}: id {name!r} stands at {before.where} too, with other fields")
    return problems
