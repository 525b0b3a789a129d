"""Rows in, files out: every table format with line numbers (`rows`), and output that is whole or absent (`folders`)."""

from srl.files.folders import LOCK, check_output_folder, clear_folder, clear_left_overs, locked, new_folder, write_text
from srl.files.rows import (
    JSON_SUFFIXES,
    MAX_BYTES,
    SUFFIXES,
    Row,
    RowWriter,
    arrow_schema,
    json_line,
    read_rows,
    read_values,
    split_array,
    suffix_of,
    write_jsonl,
)

__all__ = [
    "JSON_SUFFIXES",
    "LOCK",
    "MAX_BYTES",
    "SUFFIXES",
    "Row",
    "RowWriter",
    "arrow_schema",
    "check_output_folder",
    "clear_folder",
    "clear_left_overs",
    "json_line",
    "locked",
    "new_folder",
    "read_rows",
    "read_values",
    "split_array",
    "suffix_of",
    "write_jsonl",
    "write_text",
]
