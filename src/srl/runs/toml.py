"""TOML read as typed models, and what is wrong with it in one line: recipes, experiments and benchmarks alike."""

from __future__ import annotations

import difflib
import re
import tomllib
from importlib.resources.abc import Traversable
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from srl.errors import UserError

MAX_TOML_BYTES = 100_000
"""No recipe or experiment is larger."""

MAX_TOML_DEPTH = 20

LONG_KEY = re.compile(rf"(?<![\w-])(?:(?:[\w-]++|\"[^\"\n]*+\"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{MAX_TOML_DEPTH}}}")
"""A key of more parts than tables may be nested: tomllib takes minutes and gigabytes for some tens of thousands."""

Read = TypeVar("Read", bound=BaseModel)


def own_or_given(path: Path, folder: Traversable, kind: str) -> str:
    """The text of a file, or of the one of srl's own of that bare name in `folder`.

    Raises:
        UserError: neither is there; says which names there are.
    """
    if path.is_file():
        if (size := path.stat().st_size) > MAX_TOML_BYTES:
            raise UserError(f"{path}: {size:,} bytes, expected a {kind} file of at most {MAX_TOML_BYTES:,}")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not valid TOML: not UTF-8 text ({error.reason} at byte {error.start})") from None
    if (own := folder / f"{path}.toml").is_file():
        return own.read_text(encoding="utf-8")
    names = sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.is_file())
    raise UserError(f"{path}: no such {kind} file; or one of srl's own: {', '.join(names)}")


def from_toml(model: type[Read], text: str, name: str) -> Read:
    """Read TOML as a model: recipes, experiments and benchmarks alike.

    Raises:
        UserError: broken TOML, an unknown key (with the one that was meant), a missing key, a wrong value.
    """
    return from_values(model, parsed(text, name), name)


def parsed(text: str, name: str) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        UserError: broken TOML, or such as nobody writes.
    """
    if LONG_KEY.search(text):
        raise UserError(f"{name}: a key of over {MAX_TOML_DEPTH} parts; no recipe or experiment needs that")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name}: not valid TOML: {error}") from None
    except RecursionError:
        raise UserError(f"{name}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # an integer of over 4300 digits
        raise UserError(f"{name}: not valid TOML: {str(error).split(';')[0]}") from None
    if _is_deeper(values, MAX_TOML_DEPTH):
        raise UserError(f"{name}: tables nested more than {MAX_TOML_DEPTH} deep; no recipe or experiment needs that")
    return values


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Values with changes: a table is changed key by key, what stands in it is replaced.

    >>> changed({"seed": 1, "optim": {"a": 1, "b": {"c": 2}}}, {"optim": {"b": {"d": 3}}})
    {'seed': 1, 'optim': {'a': 1, 'b': {'d': 3}}}
    """
    merged = dict(values)
    for key, change in changes.items():
        before = merged.get(key)
        merged[key] = before | change if isinstance(before, dict) and isinstance(change, dict) else change
    return merged


def from_values(model: type[Read], values: dict[str, Any], name: str) -> Read:
    """The same for values that have been read; `name` says whose they are."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{name}: {explain(model, error)}") from None


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether tables and arrays are nested more than `depth` deep; never goes deeper itself."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(depth == 0 or _is_deeper(one, depth - 1) for one in inner)


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """The first problem in one line; a misspelt key comes before the missing one that it stands for."""
    problems = error.errors()
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    place = problem["loc"]
    key = ".".join(map(str, place))
    if problem["type"] == "extra_forbidden":
        return f"unknown key `{key}`{_meant(model, place)}"
    if problem["type"] == "missing":
        return f"missing key `{key}`"
    if problem["type"] == "value_error":  # raised by a check of ours, which says all
        return (f"`{key}`: " if key else "") + str(problem["ctx"]["error"])
    return f"`{key:.200}`: {problem['msg']}, found {problem['input']!r:.200}"


def _meant(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """The key that was meant: one of the same table with a similar name, or one of that name in another table."""
    table: Any = model
    for part in place[:-1]:
        table = _within(table, part)
    name = str(place[-1])
    elsewhere = [key for key in _keys(model) if key.endswith(f".{name}")]
    return suggest(name, list(table.model_fields)) or (f"; did you mean `{elsewhere[0]}`?" if elsewhere else "")


def _within(table: Any, part: int | str) -> Any:
    """What stands at `part` of a table; of a `dict[str, Model]` or `tuple[Model, ...]` its model."""
    if not _is_model(table):
        return next(kind for kind in get_args(table) if _is_model(kind))
    kind = table.model_fields[str(part)].annotation
    return _within(kind, part) if isinstance(kind, UnionType) else kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def suggest(name: str, known: list[str]) -> str:
    """`; did you mean x?`, or nothing if no known name is near."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def _keys(table: type[BaseModel]) -> list[str]:
    """All keys, those of inner tables as `table.key`."""
    keys = []
    for name, field in table.model_fields.items():
        keys.append(name)
        inner: Any = field.annotation
        if _is_model(inner):
            keys += [f"{name}.{key}" for key in _keys(inner)]
    return keys
