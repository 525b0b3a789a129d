"""Output that is whole or absent: files and folders that appear at once, and folders that one process has to itself."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO

from srl.errors import UserError

LOCK = ".lock"
"""In a folder that a process has to itself; holds who that is. Left behind by a kill it means nothing."""

LEFT_OVER = re.compile(r"\.model|\..+\.[0-9a-f]{8}")
"""A run's name for a model, and `write_text`'s for a file, that is not yet whole."""


def write_text(path: Path, text: str) -> None:
    """Write a whole file or leave the old one: never half of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # two containers may have equal process ids
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:  # of a full disk does not say which file
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False, marker: str = "") -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `path` when the block ends without error.

    An interrupted or failed block leaves `path` as it was; a kill in the very moment of the exchange leaves the old
    folder beside it, and the next call puts it back.

    Raises:
        UserError: as `check_output_folder`.
    """
    _make(path.parent)
    _clear_earlier_calls(path)
    check_output_folder(path, overwrite=overwrite, marker=marker)
    name = secrets.token_hex(4)
    temporary, aside = path.with_name(f".{path.name}.new-{name}"), path.with_name(f".{path.name}.old-{name}")
    try:
        with locked(temporary):
            yield temporary
            check_output_folder(path, overwrite=overwrite, marker=marker)  # another process may have been faster
            if path.exists():
                path.rename(aside)
            temporary.rename(path)
            (path / LOCK).unlink()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def _clear_earlier_calls(path: Path) -> None:
    """Remove what killed calls of `new_folder` have left; an old folder whose place is empty is put back."""
    for aside in path.parent.glob(f".{_escaped(path.name)}.old-*"):
        if _is_free(aside.with_name(aside.name.replace(".old-", ".new-"))):
            if path.exists():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                aside.rename(path)
    for temporary in path.parent.glob(f".{_escaped(path.name)}.new-*"):
        if _is_free(temporary):
            shutil.rmtree(temporary, ignore_errors=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{folder}: expected a folder to write in; it cannot be made: {error.strerror}") from None


def _escaped(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def _is_free(folder: Path) -> bool:
    """Whether no process has it to itself; also if it is not there."""
    if not (folder / LOCK).exists():
        return True
    with (folder / LOCK).open("r+") as file:
        return _try_lock(file) == "free"


@contextmanager
def locked(folder: Path, remedy: str = "wait for it, or end it") -> Iterator[None]:
    """Have a folder (made if it is not there) to oneself, against other processes of this and other machines.

    The lock is the kernel's (`flock`): it ends with its process, however that ends, so none is ever stale. What lies
    in the file is for the message.

    Raises:
        UserError: another process has the folder; says which.
    """
    is_new = not folder.exists()
    _make(folder)
    file = _take(folder, remedy)
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone, or have become another
            if os.path.samestat(os.stat(folder / LOCK), os.fstat(file.fileno())):
                (folder / LOCK).unlink()
        file.close()
        if is_new:
            with suppress(OSError):  # it holds something now
                folder.rmdir()


def _take(folder: Path, remedy: str) -> TextIO:
    path = folder / LOCK
    while True:
        file = path.open("a+", encoding="utf-8")
        state = _try_lock(file)
        if state == "taken":
            file.seek(0)
            raise UserError(f"{folder}: in use by {_owner(file.read())}; {remedy}")
        if state == "unsupported":
            print(
                f"{folder}: no locks here; make sure that nothing else writes there",
                file=sys.stderr,
            )
        with suppress(FileNotFoundError):  # else its owner has just removed it: make another
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                break
        file.close()
    file.truncate(0)
    me = {
        "host": platform.node(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv)[:200],
    }
    file.write(json.dumps(me))
    file.flush()
    return file


def _try_lock(file: TextIO) -> Literal["free", "taken", "unsupported"]:
    try:
        import fcntl
    except ImportError:  # Windows
        return "unsupported"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError:
        return "unsupported"
    return "free"


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']} since {owner['since']} ({owner['command']})"
    except (ValueError, TypeError, KeyError):
        return "another process"


def clear_folder(folder: Path) -> None:
    """Empty a folder, or make it; its lock stays with its owner."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != LOCK:
            _delete(path)


def clear_left_overs(folder: Path) -> None:
    """Delete what a killed process was writing in a folder that it had to itself."""
    for path in folder.iterdir():
        if LEFT_OVER.fullmatch(path.name):
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


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
    if not path.is_dir() or not any(entry.name != LOCK for entry in path.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{path}: not empty, and nothing is overwritten silently; choose another folder or {remedies}")
    if not (path / marker).is_file():
        raise UserError(f"{path}: --overwrite deletes only what srl wrote, and this folder has no {marker}")
