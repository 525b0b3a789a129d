"""Unified diffs as text: which files one changes, and the diff that takes it back.

What a patch does to files is git's business (`checkout.py`, `sandbox.py`); this is only what must be known before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_HUNK = re.compile(r"@@ -(\d+(?:,\d+)?) \+(\d+(?:,\d+)?) @@(.*)", re.DOTALL)
_SWAPPED = {
    "new file mode ": "deleted file mode ",
    "rename from ": "rename to ",
    "copy from ": "copy to ",
    "old mode ": "new mode ",
}
_SWAPPED_HEADERS = _SWAPPED | {there: here for here, there in _SWAPPED.items()}


def changed_files(patch: str) -> tuple[str, ...]:
    r"""The files that a patch changes, deletes or renames, by their names before it; added files are left out.

    >>> changed_files("--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+a\n")
    ('x.py',)

    Raises:
        ValueError: a hunk that is shorter or longer than it says.
    """
    headers = [line.rstrip("\r\n") for line, in_hunk in _lines(patch) if not in_hunk]
    names = [_file_name(line[4:]) for line in headers if line.startswith("--- ")]
    names += [line.removeprefix("rename from ") for line in headers if line.startswith("rename from ")]
    return tuple(dict.fromkeys(name for name in names if name))


def reversed_patch(patch: str) -> str:
    r"""The patch that takes this one back, as `git apply --reverse` would.

    >>> print(reversed_patch("--- a/x.py\n+++ b/x.py\n@@ -1 +1,2 @@\n-a\n+b\n+c\n"), end="")
    --- a/x.py
    +++ b/x.py
    @@ -1,2 +1 @@
    +a
    -b
    -c

    Raises:
        ValueError: a binary patch, or a hunk that is shorter or longer than it says.
    """
    turned: list[str] = []
    lines = _lines(patch)
    for line, in_hunk in lines:
        if in_hunk:
            turned.append({"-": "+", "+": "-"}.get(line[:1], line[:1]) + line[1:])
        elif match := _HUNK.match(line):
            turned.append("@@ -{1} +{0} @@{2}".format(*match.groups()))
        elif line.startswith("--- "):
            after, _ = next(lines, ("", False))
            if not after.startswith("+++ "):
                raise ValueError(f"no +++ line after {line.strip()!r}")
            turned += ["--- " + _on_side("a/", after[4:]), "+++ " + _on_side("b/", line[4:])]
        elif line.startswith(("GIT binary patch", "Binary files ")):
            raise ValueError("it is a binary patch")
        else:
            turned.append(_turned_header(line))
    return "".join(turned)


def _lines(patch: str) -> Iterator[tuple[str, bool]]:
    """Each line with its end, and whether it is part of a hunk. Only "\\n" ends a line of a diff."""
    before = after = 0  # lines that the hunk still has to show of either side
    for line in re.findall(r"[^\n]*\n|[^\n]+", patch):
        sign = line[:1]
        in_hunk = before > 0 or after > 0 or sign == "\\"
        if before > 0 or after > 0:
            if sign not in "-+ \\\n\r":
                raise ValueError("a hunk is shorter than its header says")
            before -= sign in " -\n\r"
            after -= sign in " +\n\r"
            if min(before, after) < 0:
                raise ValueError("a hunk is longer than its header says")
        elif match := _HUNK.match(line):
            before, after = (int(side.partition(",")[2] or 1) for side in match.groups()[:2])
        yield line, in_hunk
    if before or after:
        raise ValueError("a hunk is shorter than its header says")


def _file_name(field: str) -> str | None:
    name = field.split("\t")[0].strip()
    if name.startswith('"') and name.endswith('"'):  # git writes bytes beyond ASCII as octal escapes
        name = name[1:-1].encode("latin-1").decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")
    return None if name == "/dev/null" else name.removeprefix("a/")


def _on_side(side: str, name: str) -> str:
    quote = name[: name.startswith('"')]
    bare = name.removeprefix(quote)
    return quote + side + bare[2:] if bare[:2] in ("a/", "b/") else name


def _turned_header(line: str) -> str:
    for here, there in _SWAPPED_HEADERS.items():
        if line.startswith(here):
            return there + line.removeprefix(here)
    if match := re.match(r"index (\w+)\.\.(\w+)(.*)", line, re.DOTALL):
        return "index {1}..{0}{2}".format(*match.groups())
    if match := re.fullmatch(r"diff --git a/(.+) b/(.+)(\r?\n)?", line):
        return "diff --git a/{1} b/{0}{2}".format(*match.groups(""))
    return line
