"""Search/replace edits, as a model writes them, and the unified diff that they come to.

The form is that of Agentless (arXiv 2407.01489) and SWE-RL (arXiv 2502.18449): a heading `### path/of/the/file.py`, and
below it blocks of three lines of their own, SEARCH, MIDDLE and REPLACE, with the lines of the file after the first and
those to put in their place after the second. `protocols.REPAIR_SYSTEM_PROMPT` shows one.

Edits are of whole lines and of bytes: line ends and bytes that are no UTF-8 stay as they are in the file. What cannot
be done as written is not done at all, and counted by why: nothing is guessed.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

SEARCH, MIDDLE, REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"


class NotApplicable(ValueError):
    """A completion that comes to no patch. The message is a few words to count by."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One block: `search` is replaced by `replace` in the file at `path`."""

    path: str
    search: tuple[str, ...]
    """Lines without their ends. Empty: the file is new."""
    replace: tuple[str, ...]


def parse_edits(text: str) -> list[Edit]:
    """The edits in a completion, in order; text around them is left alone. Blocks without a heading follow the last.

    Raises:
        NotApplicable: no block, a block that does not end, one without a file.
    """
    edits: list[Edit] = []
    path = ""
    lines = iter(text.replace("\r\n", "\n").split("\n"))
    for line in lines:
        if heading := re.fullmatch(r"###\s+`?([^`\s](?:[^`]*[^`\s])?)`?\s*", line):
            path = heading[1]
        elif line.rstrip() == SEARCH:
            if not path:
                raise NotApplicable("a block without a file")
            parts: list[list[str]] = []
            for end in (MIDDLE, REPLACE):
                parts.append([])
                for inner in lines:
                    if inner.rstrip() == end:
                        break
                    if inner.rstrip() in (SEARCH, REPLACE):
                        raise NotApplicable("a block that does not end")
                    parts[-1].append(inner)
                else:
                    raise NotApplicable("a block that does not end")
            edits.append(Edit(path, tuple(parts[0]), tuple(parts[1])))
    if not edits:
        raise NotApplicable("no edit")
    return edits


def apply_edits(edits: list[Edit], read: Callable[[str], bytes | None]) -> dict[str, tuple[bytes | None, bytes]]:
    """Path -> the file before (None: it is new) and after all edits; `read` gives a file, None where none is.

    Raises:
        NotApplicable: a path that leads out of the tree, a file that is not there, a search text that is not in the
            file, stands there twice, or differs from it in white space only; edits that change nothing.
    """
    before: dict[str, bytes | None] = {}
    after: dict[str, bytes | None] = {}
    for edit in edits:
        if not _stays_inside(edit.path):
            raise NotApplicable("a path that leads out of the repository")
        if edit.path not in before:
            before[edit.path] = after[edit.path] = read(edit.path)
        after[edit.path] = _edited(edit, after[edit.path])
    changed = {path: (before[path], now) for path, now in after.items() if now is not None and now != before[path]}
    if not changed:
        raise NotApplicable("nothing changed")
    return changed


def _stays_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and not {"..", ".git"} & set(parts) and path.isprintable()


def _edited(edit: Edit, content: bytes | None) -> bytes:
    if content is None:
        if edit.search:
            raise NotApplicable("a file that is not there")
        return b"".join(line.encode("utf-8", "replace") + b"\n" for line in edit.replace)
    if not any(line.strip() for line in edit.search):
        raise NotApplicable("an empty search text")
    # One line end before each line: what is found there are whole lines. Both kinds of line ends look alike.
    lines = b"\n" + content.replace(b"\r\n", b"\n")
    lines += b"" if lines.endswith(b"\n") else b"\n"
    wanted = b"".join(b"\n" + line.encode("utf-8", "replace") for line in edit.search) + b"\n"
    start = lines.find(wanted)
    if start < 0:
        near = _squeezed(wanted) in _squeezed(lines)
        raise NotApplicable(f"a search text that {'differs in white space' if near else 'is not there'}")
    if lines.find(wanted, start + 1) >= 0:
        raise NotApplicable("a search text that stands twice")
    return _replaced(content, lines.count(b"\n", 0, start), edit)


def _replaced(content: bytes, first: int, edit: Edit) -> bytes:
    """Put the new lines in place of those from `first` on (from 0), with the line ends that were there."""
    starts = _line_starts(content, first, len(edit.search))
    old = content[starts[0] : starts[-1]]
    end = b"\r\n" if old.endswith(b"\r\n") or (b"\r\n" in old and b"\n" not in old.replace(b"\r\n", b"")) else b"\n"
    new = end.join(line.encode("utf-8", "replace") for line in edit.replace)
    if edit.replace and (old.endswith(b"\n")):
        new += end
    return content[: starts[0]] + new + content[starts[-1] :]


def _line_starts(content: bytes, first: int, count: int) -> list[int]:
    """Where lines `first` … `first + count` begin; the last may be the end of the file."""
    place, starts = 0, []
    for number in range(first + count + 1):
        if number >= first:
            starts.append(place)
        newline = content.find(b"\n", place)
        place = newline + 1 if newline >= 0 else len(content)
    return starts


def _squeezed(text: bytes) -> bytes:
    """Lines without indentation, blank lines and repeated spaces; with a line end before the first, too."""
    lines = (b" ".join(line.split()) for line in text.split(b"\n"))
    return b"\n" + b"".join(line + b"\n" for line in lines if line)


def unified_diff(files: Mapping[str, tuple[bytes | None, bytes]]) -> str:
    """The diff of changed files, as `git apply` takes it.

    Where it would not be UTF-8, which the JSON of a predictions file must be, that file's change is a binary patch.
    """
    return "".join(_diff(path, *files[path]) for path in sorted(files))


def _diff(path: str, before: bytes | None, after: bytes) -> str:
    with tempfile.TemporaryDirectory(prefix="srl-diff-") as folder:
        for side, content in (("a", before), ("b", after)):
            (Path(folder) / side / path).parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                (Path(folder) / side / path).write_bytes(content)
        try:
            return _git_diff(folder, path, "--text").decode("utf-8")
        except UnicodeDecodeError:
            (Path(folder) / "binary").write_text("* -diff\n")
            return _git_diff(folder, path, "--binary", attributes=f"{folder}/binary").decode("utf-8")


def _git_diff(folder: str, path: str, *options: str, attributes: str = "/dev/null") -> bytes:
    settings = ("-c", "core.autocrlf=false", "-c", f"core.attributesFile={attributes}", "-c", "diff.noprefix=false")
    command = ["git", *settings, "diff", "--no-index", "--no-prefix", "--no-color", "--no-ext-diff", *options, "a", "b"]
    made = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    if made.returncode != 1:  # 0: no difference
        raise RuntimeError(f"git diff of {path}: {made.stderr.decode(errors='replace').strip()}")
    return made.stdout
