"""Fields of a parsed row, as the type that a reader needs or refused with the place and the type found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srl.errors import UserError


def mapping(value: Any, name: str, where: str) -> dict[str, Any]:
    """The value if it is an object."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object in `{name}`, found {kind(value)}")
    return value


def items(value: Any, name: str, where: str) -> list[Any]:
    """The value if it is a list."""
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list in `{name}`, found {kind(value)}")
    return value


def text(value: Any, name: str, where: str) -> str:
    """The value if it is text."""
    if not isinstance(value, str):
        raise UserError(f"{where}: expected text in `{name}`, found {kind(value)}")
    return value


def optional_text(value: Any, name: str, where: str) -> str:
    """The value if it is text; "" for null."""
    return "" if value is None else text(value, name, where)


def submapping(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object that may be missing, or be something else, where only its facts are wanted."""
    value = row.get(name)
    return value if isinstance(value, dict) else {}


def first_text(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of these fields that holds text other than space."""
    return next((row[name] for name in names if isinstance(row.get(name), str) and row[name].strip()), None)


def kind(value: Any) -> str:
    """The type of a value in the words of JSON."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def facts(where: str, format_name: str, row: Any, **more: Any) -> dict[str, Any]:
    """The metadata of a trajectory: where it was read, as what, and what the row says in passing."""
    row = row if isinstance(row, dict) else {}
    known = {name: row[name] for name in ("instance_id", "model", "task_id") if isinstance(row.get(name), str | int)}
    return {"where": where, "format": format_name, **known, **{key: value for key, value in more.items() if value}}
