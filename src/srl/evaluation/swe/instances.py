"""Instances: an issue, a repository at a commit, and the tests that a right patch makes pass.

One loader for the rows of SWE-bench (`FAIL_TO_PASS` is JSON in a string), SWE-bench Pro (lower-case names, Python's
notation), SWE-smith (lists; its `patch` *introduces* the bug) and srl's own local instances (`local.py`).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srl.errors import UserError
from srl.evaluation.swe.patches import changed_files, reversed_patch
from srl.files import Row, read_rows

INSTANCES_FILE = "instances.jsonl"
SOURCES = "sources"
"""In a folder of local instances: the file, and the folder of the packages."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One issue to resolve."""

    id: str
    repo: str
    """`owner/name`; a package's name for local instances."""
    base_commit: str
    """Of the repository; for local instances the folder under `sources/` that holds the package."""
    problem_statement: str
    patch: str
    """The known fix, a unified diff."""
    fail_to_pass: tuple[str, ...]
    """Tests that fail without the fix and pass with it. Never empty."""
    pass_to_pass: tuple[str, ...]
    """Tests that pass both without and with the fix."""
    test_patch: str = ""
    """What adds the tests to the repository; empty where they are there already."""
    bug_patch: str = ""
    """What must be applied to `base_commit` first, where the bug was put in; empty where the commit has it."""
    tests: tuple[str, ...] = ()
    """Local instances: the folders and files that hold the tests."""
    import_from: str = "."
    """Local instances: the folder that the package is imported from."""

    @property
    def files_to_change(self) -> tuple[str, ...]:
        """The files that the known fix changes and that exist before it: what the oracle setting shows."""
        return changed_files(self.patch)


def load_instances(path: Path) -> list[Instance]:
    """The instances of a parquet, JSONL or JSON file, or of a folder of local instances.

    Raises:
        UserError: no such file, a row without a needed field, a list of tests or a patch that cannot be read, an
            instance that stands twice.
    """
    file = path / INSTANCES_FILE if path.is_dir() else path
    instances: dict[str, Instance] = {}
    for row in read_rows(file):
        instance = read_instance(row)
        if instance.id in instances:
            raise UserError(f"{row.where}: the instance {instance.id} stands twice")
        instances[instance.id] = instance
    return list(instances.values())


def instance_row(instance: Instance, **more: Any) -> dict[str, Any]:
    """The row that `read_instance` reads, in SWE-bench's names and notation."""
    row = asdict(instance) | {
        "instance_id": instance.id,
        "FAIL_TO_PASS": json.dumps(instance.fail_to_pass),
        "PASS_TO_PASS": json.dumps(instance.pass_to_pass),
    }
    return {name: value for name, value in (row | more).items() if name not in ("id", "fail_to_pass", "pass_to_pass")}


def read_instance(row: Row) -> Instance:
    """One instance from a row of any of the known data sets."""
    fields: Mapping[str, Any] = row.value
    patch, bug_patch = _text(row, "patch"), fields.get("bug_patch") or ""
    if _is_swe_smith(fields):
        patch, bug_patch = _reversed(row, patch), patch
    instance = Instance(
        id=_text(row, "instance_id"),
        repo=_text(row, "repo"),
        base_commit=_text(row, "base_commit"),
        problem_statement=_text(row, "problem_statement").replace("\r\n", "\n"),
        patch=patch,
        fail_to_pass=_tests(row, "FAIL_TO_PASS"),
        pass_to_pass=_tests(row, "PASS_TO_PASS"),
        test_patch=fields.get("test_patch") or "",
        bug_patch=bug_patch,
        tests=tuple(fields.get("tests") or ()),
        import_from=fields.get("import_from") or ".",
    )
    if not instance.fail_to_pass:
        raise UserError(f"{row.where}: FAIL_TO_PASS is empty, so no patch could be told from none")
    return instance


def _is_swe_smith(fields: Mapping[str, Any]) -> bool:
    """SWE-smith's rows name their image or their mirror of the repository, and bring no tests of their own."""
    names = f"{fields.get('image_name', '')} {fields.get('repo', '')}"
    return "swesmith" in names and not fields.get("test_patch")


def _reversed(row: Row, patch: str) -> str:
    try:
        return reversed_patch(patch)
    except ValueError as error:
        raise UserError(f"{row.where}: `patch` puts the bug in and cannot be turned round: {error}") from None


def _text(row: Row, field: str) -> str:
    value = row.value.get(field)
    if not isinstance(value, str) or not value:
        known = ", ".join(row.value)
        raise UserError(f"{row.where}: expected a text `{field}`, found {value!r:.80}; the row has {known:.300}")
    return value


def _tests(row: Row, field: str) -> tuple[str, ...]:
    """Names of tests from a list, from JSON in a string, or from a list in Python's notation in a string."""
    value = row.value.get(field, row.value.get(field.lower()))
    parsed = _parse_list(value) if isinstance(value, str) else value
    if not isinstance(parsed, list) or not all(isinstance(name, str) for name in parsed):
        raise UserError(f"{row.where}: expected a list of tests in `{field}`, found {value!r:.80}")
    return tuple(parsed)


def _parse_list(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
