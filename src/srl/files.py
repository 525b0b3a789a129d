"""Rows in, files out: reading JSONL, JSON and parquet with line numbers, and writing all or nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from srl.errors import UserError

SUFFIXES = (".jsonl", ".json", ".parquet")


class Row(NamedTuple):
    """One record of a file and where it stands, for messages."""

    where: str
    """`file.jsonl:17` (line, from 1) or `file.json[16]`, `file.parquet[16]` (index, from 0)."""
    value: dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of one file in order, a row at a time where the format allows (JSONL, parquet).

    Raises:
        UserError: missing file, unknown suffix, no rows, broken JSON, a row that is not an object.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected one of {', '.join(SUFFIXES)}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: cannot read {path.suffix or 'a file without suffix'}; expected {', '.join(SUFFIXES)}")
    reader = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet}[path.suffix]
    empty = True
    for where, value in reader(path):
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a JSON object, found {type(value).__name__}")
        empty = False
        yield Row(where, value)
    if empty:
        raise UserError(f"{path}: no rows in it")


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, _parse_json(line, where)


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    values = _parse_json(path.read_bytes(), str(path))
    if not isinstance(values, list):
        raise UserError(f"{path}: expected a JSON array of objects, found {type(values).__name__}")
    for index, value in enumerate(values):
        yield f"{path}[{index}]", value


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=256)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a readable parquet file ({error})") from None
    values = (value for batch in batches for value in batch.to_pylist())
    for index, value in enumerate(values):
        yield f"{path}[{index}]", value


def _parse_json(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: broken JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise UserError(f"{where}: JSON nested too deeply") from None


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows one per line; returns how many. Not atomic by itself: write inside `new_folder`."""
    count = 0
    with path.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_text(path: Path, text: str) -> None:
    """Write a whole file or leave the old one: never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False, marker: str = "") -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `path` when the block ends without error.

    An interrupted or failed block leaves `path` as it was.

    Raises:
        UserError: as `check_output_folder`.
    """
    check_output_folder(path, overwrite=overwrite, marker=marker)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output_folder(
    path: Path, *, overwrite: bool = False, marker: str = "", remedies: str = "--overwrite it"
) -> None:
    """Make sure that nothing is lost by writing to `path`.

    Raises:
        UserError: `path` holds something, and `overwrite` is False or the file `marker`, which srl leaves in
            such folders, is not among it.
    """
    if path.is_file():
        raise UserError(f"{path}: expected a folder to write, found a file")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{path}: not empty, and nothing is overwritten silently; choose another folder or {remedies}")
    if not (path / marker).is_file():
        raise UserError(f"{path}: --overwrite deletes only what srl wrote, and this folder has no {marker}")
