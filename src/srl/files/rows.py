"""Rows in and out: every table format, with the place of each row for messages, in bounded memory."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from srl.errors import UserError

JSON_SUFFIXES = (".json", ".traj")
SUFFIXES = (".jsonl", *JSON_SUFFIXES, ".parquet", ".arrow")
"""Readable; the first three also with `.gz` behind."""

MAX_BYTES = 2**29
"""The longest line, or JSON file, that is read: what holds more is damaged, or should be JSONL."""

MAX_UNPACKED, UNPACKED_FACTOR = 2**31, 200
"""What a `.gz` may unpack to: so many bytes, or so many times its own size. JSON packs 5 to 50 times, a bomb 1,000."""

MAX_EMPTY_LINES = 1_000_000
"""In a row: a file of nothing else takes minutes to go through, and is no file of rows."""

BATCH_ROWS = 16
"""Rows of a parquet or Arrow file held as Python objects at a time: agents' rows reach megabytes."""


PARQUET_GROUP_ROWS = 256
"""Rows written together: prompts of agents have some ten thousand characters."""


class Row(NamedTuple):
    """One record of a file and where it stands, for messages."""

    where: str
    """`file.jsonl:17` (line, from 1), `file.json[16]`, `file.parquet[16]` (index, from 0) or `file.traj` (all)."""
    value: Any
    """Any JSON value; mostly an object."""


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of one file in order, a row at a time where the format allows (all but JSON).

    Raises:
        UserError: missing file, unknown suffix, no rows, broken JSON, a row that is not an object.
    """
    for row in read_values(path):
        if isinstance(row, UserError):
            raise row
        for part in split_array(row):
            if not isinstance(part.value, dict):
                raise UserError(f"{part.where}: expected a JSON object, found {type(part.value).__name__}")
            yield part


def read_values(path: Path) -> Iterator[Row | UserError]:
    """Yield the values of one file as they stand; for an unreadable one an error, and go on where that is possible.

    A JSON file is one value, also if it is an array (`split_array`), unless it holds one object per line.

    Raises:
        UserError: missing file, unknown suffix, no values.
    """
    suffix = suffix_of(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected one of {', '.join(SUFFIXES)}")
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: cannot read {suffix or 'a file without suffix'}; expected {', '.join(SUFFIXES)}")
    reader = {".parquet": _read_parquet, ".arrow": _read_arrow, ".jsonl": _read_jsonl}.get(suffix, _read_json)
    empty = True
    try:
        for value in reader(path):
            empty = False
            yield value
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, _Damaged) as error:
        yield UserError(f"{path}: damaged, or not a readable {suffix[1:]} file ({str(error).splitlines()[0]:.200})")
        return
    if empty:
        raise UserError(f"{path}: no rows in it")


def split_array(row: Row) -> Iterator[Row]:
    """The items of an array, each with its place; any other value by itself."""
    if isinstance(row.value, list) and suffix_of(Path(row.where)) in JSON_SUFFIXES:
        yield from (Row(f"{row.where}[{index}]", value) for index, value in enumerate(row.value))
    else:
        yield row


def suffix_of(path: Path) -> str:
    """The suffix that tells the format; what `.gz` hides is looked at."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def _open(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _read_jsonl(path: Path) -> Iterator[Row | UserError]:
    with _open(path) as file:
        yield from _lines(file, path)


def _lines(file: BinaryIO, path: Path) -> Iterator[Row | UserError]:
    unpacked, limit = 0, _most_bytes(path)
    number = n_empty = 0
    while line := file.readline(MAX_BYTES + 1):
        number += 1
        unpacked += len(line)
        where = f"{path}:{number}"
        n_empty = 0 if line.strip() else n_empty + 1
        if len(line) > MAX_BYTES:
            yield UserError(f"{where}: a line of over {MAX_BYTES >> 20} MiB; expected one row per line")
            while line and not line.endswith(b"\n") and unpacked <= limit:
                line = file.readline(MAX_BYTES)
                unpacked += len(line)
        elif not n_empty:
            yield _parse_json(line, where)
        if unpacked > limit:
            size = path.stat().st_size
            yield UserError(f"{where}: {size:,} bytes unpack to over {limit:,}; if it should, unpack the file first")
            return
        if n_empty > MAX_EMPTY_LINES:
            yield UserError(f"{where}: over {MAX_EMPTY_LINES:,} empty lines in a row; expected one row per line")
            return


def _most_bytes(path: Path) -> float:
    return max(MAX_UNPACKED, UNPACKED_FACTOR * path.stat().st_size) if path.suffix == ".gz" else math.inf


def _read_json(path: Path) -> Iterator[Row | UserError]:
    with _open(path) as file:
        first = file.readline(MAX_BYTES + 1)
        rest = file.read(MAX_BYTES + 1)
        if len(first) + len(rest) > MAX_BYTES:
            yield UserError(f"{path}: over {MAX_BYTES >> 20} MiB of JSON in one piece; write .jsonl, a row per line")
        elif not first.strip() + rest.strip():
            return
        else:
            whole = _parse_json(first + rest, str(path))
            if isinstance(whole, UserError) and not isinstance(_parse_json(first, ""), UserError):
                yield from _read_jsonl(path)  # many a .json file is JSON lines
            else:
                yield whole


def _parse_json(text: bytes, where: str) -> Row | UserError:
    try:
        return Row(where, orjson.loads(text))
    except orjson.JSONDecodeError:
        pass  # the standard parser also takes NaN, huge integers and a byte-order mark; it explains the rest
    try:
        value = json.loads(text.decode("utf-8-sig"))
        json.dumps(value, ensure_ascii=False).encode()
        return Row(where, value)
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        return UserError(f"{where}: {half!r} is half a character, which no text file can hold")
    except UnicodeDecodeError as error:
        return UserError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})")
    except json.JSONDecodeError as error:
        return UserError(f"{where}: broken JSON ({error.msg} at column {error.colno})")
    except RecursionError:
        return UserError(f"{where}: JSON nested too deeply")
    except ValueError as error:  # an integer of over 4300 digits
        return UserError(f"{where}: broken JSON ({str(error).split(';')[0]})")


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    with _arrow_errors(), pyarrow.parquet.ParquetFile(path) as file:
        yield from _batches(path, file.iter_batches(batch_size=BATCH_ROWS))


def _read_arrow(path: Path) -> Iterator[Row]:
    """An Arrow stream, as `datasets` saves it, or an Arrow (feather) file."""
    import pyarrow.ipc

    with _arrow_errors(), pyarrow.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = pyarrow.ipc.open_file(source)
            yield from _batches(path, (file.get_batch(i) for i in range(file.num_record_batches)))
        else:
            source.seek(0)
            yield from _batches(path, pyarrow.ipc.open_stream(source))


def _batches(path: Path, batches: Iterable[Any]) -> Iterator[Row]:
    index = 0
    for batch in batches:
        for start in range(0, len(batch), BATCH_ROWS):
            for value in batch.slice(start, BATCH_ROWS).to_pylist():
                yield Row(f"{path}[{index}]", value)
                index += 1


class _Damaged(Exception):
    """What pyarrow raised, so that only functions which need pyarrow import it."""


@contextmanager
def _arrow_errors() -> Iterator[None]:
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise _Damaged(str(error)) from None


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows one per line; returns how many. Not atomic by itself: write inside `new_folder`."""
    count = 0
    with path.open("wb") as out:
        for row in rows:
            out.write(json_line(row))
            count += 1
    return count


def json_line(row: Mapping[str, Any]) -> bytes:
    """One line of JSONL."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


class RowWriter:
    """Writes rows one by one to a JSONL or parquet file. Not atomic by itself: write inside `new_folder`."""

    def __init__(self, path: Path, columns: Mapping[str, Any]) -> None:
        """`columns`, for parquet: name -> type, as in `arrow_schema`."""
        self._rows: list[Mapping[str, Any]] = []
        if path.suffix == ".parquet":
            import pyarrow.parquet

            self._schema = arrow_schema(columns)
            self._table = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        else:
            self._table = None
            self._file = path.open("wb")

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        if self._table is None:
            self._file.write(json_line(row))
            return
        self._rows.append(row)
        if len(self._rows) == PARQUET_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            self._table.write_table(pyarrow.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._table is None:
            self._file.close()
        else:
            self._flush()
            self._table.close()


def arrow_schema(columns: Mapping[str, Any]) -> Any:
    """The Arrow schema of columns given as `str`, `int`, `[item type]` or `{field: type}`."""
    import pyarrow

    def arrow_type(kind: Any) -> Any:
        if isinstance(kind, list):
            return pyarrow.list_(arrow_type(kind[0]))
        if isinstance(kind, dict):
            return pyarrow.struct([(name, arrow_type(inner)) for name, inner in kind.items()])
        return {str: pyarrow.string(), int: pyarrow.int64()}[kind]

    return pyarrow.schema([(name, arrow_type(kind)) for name, kind in columns.items()])
