"""A table as a flag: tyro has none for tables whose keys are open."""

from __future__ import annotations

import tomllib
from typing import Any

from tyro.constructors import PrimitiveConstructorSpec


def _toml_table(given: list[str]) -> dict[str, Any]:
    """A table as a flag, written as in a recipe."""
    try:
        table = tomllib.loads(f"table = {given[0]}")["table"]
    except (tomllib.TOMLDecodeError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise ValueError(f"expected a TOML table such as '{{enable_thinking = true}}', found {given[0]!r}")
    return table


TABLE_FLAG = PrimitiveConstructorSpec[dict[str, Any]](
    nargs=1,
    metavar="TOML",
    instance_from_str=_toml_table,
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda table: [str(table)],
)
