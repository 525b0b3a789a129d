"""Verdicts that are kept beside the runs: which of them solved their problem.

{"resolved_ids": ["astropy__astropy-7166"], …}          a report of SWE-bench: all others failed
["astropy__astropy-7166"]                               a list, or a text with an id a line: likewise
{"run-1": true, "run-2": {"resolved": false}}           others are not known
{"instance_id": "run-1", "resolved": true}              JSONL: likewise
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srl.data.formats.labels import as_verdict, verdict
from srl.errors import UserError
from srl.files import JSON_SUFFIXES, read_values, suffix_of

IDS = ("instance_id", "id", "task_id", "trajectory_id", "problem_id", "unique_id", "uuid")
"""Fields by which rows are named, the more special first."""

_RESOLVED = ("resolved_ids", "resolved", "solved_ids", "success_ids", "successful_ids")
_FAILED = ("unresolved_ids", "error_ids", "empty_patch_ids", "incomplete_ids")


@dataclass
class Labels:
    """Verdicts by id."""

    path: Path
    known: Mapping[str, bool]
    others: bool | None
    """The verdict of an id that is not in the file."""
    used: set[str] = field(default_factory=set)

    def of(self, ids: Iterable[str]) -> bool | None:
        """The verdict of what goes by one of these names."""
        for name in ids:
            if name in self.known:
                self.used.add(name)
                return self.known[name]
        return self.others

    def check_used(self) -> None:
        """Refuse verdicts that belonged to nothing.

        Raises:
            UserError: not one id was met.
        """
        if not self.used:
            some = ", ".join(list(self.known)[:3])
            raise UserError(
                f"--labels {self.path}: none of its {len(self.known)} ids ({some}, …) names a trajectory; "
                f"expected values of {', '.join(IDS)}, or names of files"
            )


def read_labels(path: Path) -> Labels:
    """Read a file of verdicts: JSON, JSONL, or text.

    Raises:
        UserError: no such file, or nothing in it that names runs.
    """
    known: dict[str, bool] = {}
    others: bool | None = None
    for value in _values(path):
        if isinstance(value, dict) and (resolved := _resolved(value)) is not None:
            known |= {str(name): False for key in _FAILED for name in value.get(key) or []}
            known |= dict.fromkeys(map(str, resolved), True)
            others = False
        elif isinstance(value, str | int) and not isinstance(value, bool):
            known[str(value)] = True
            others = False
        elif isinstance(value, dict) and (name := name_of(value)) is not None:
            if (said := verdict(value)) is not None:
                known[name] = said
        elif isinstance(value, dict):
            told = ((key, verdict(each) if isinstance(each, dict) else as_verdict(each)) for key, each in value.items())
            known |= {key: said for key, said in told if said is not None}
    if not known:
        raise UserError(f"{path}: no verdicts in it; expected `resolved_ids`, a list of ids, or ids with true or false")
    return Labels(path, known, others)


def name_of(row: Mapping[str, Any]) -> str | None:
    """The id of a row."""
    return next((text for name in IDS if (text := id_text(row.get(name))) is not None), None)


def id_text(value: Any) -> str | None:
    """An id as text, None if it is none; pandas writes the whole numbers of a column with gaps as 7.0.

    >>> id_text(7), id_text(7.0), id_text("7"), id_text(7.5)
    ('7', '7', '7', None)
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, str | int) else None


def _resolved(value: dict[str, Any]) -> list[Any] | None:
    return next((value[name] for name in _RESOLVED if isinstance(value.get(name), list)), None)


def _values(path: Path) -> Iterable[Any]:
    if suffix_of(path) not in (*JSON_SUFFIXES, ".jsonl"):
        yield from _written(path)
        return
    for row in read_values(path):
        if isinstance(row, UserError):
            raise row
        yield from row.value if isinstance(row.value, list) else [row.value]


def _written(path: Path) -> Iterable[Any]:
    """The lines of a text: an id, or an id and what became of it."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    for line in path.read_text(encoding="utf-8").splitlines():
        name, *words = line.replace(",", " ").split() or [""]
        said = as_verdict(words[-1]) if words else None
        if said is not None:
            yield {name: said}
        elif name and not words:
            yield name
