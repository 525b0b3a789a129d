"""Errors that are no bugs: a message to the user, a row that holds no expert trajectory, a disk that fails."""

from __future__ import annotations

import errno
import os
import re


class UserError(Exception):
    """Something outside the program is wrong: a file, a field, a flag, a folder.

    The message is one line that says what was expected, what was found, where (`file.jsonl:17`) and what to
    do. The command line prints it and exits with 2; nothing inside srl catches it.
    """


class Unusable(ValueError):
    """A well-formed row without a usable expert trajectory: counted by `reason` and left out."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason

    def __str__(self) -> str:
        return ": ".join(filter(None, self.args))


DISK_FAULTS = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "ESTALE", "ENOTCONN")}
NAMED_FAULT = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]", re.IGNORECASE)
CUT_SHORT = "inline_container.cc"
"""All that torch says when it could not write a file."""


def disk_fault(error: BaseException) -> str | None:
    """What is wrong with the disk, if that is why something was raised: "No space left on device", say.

    safetensors and torch keep the reason in their message, or leave it out.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for one in chain:
        named = NAMED_FAULT.search(str(one))
        code = one.errno if isinstance(one, OSError) else None
        code = code or (int(named[1] or named[2]) if named else None)
        if code is not None and code in DISK_FAULTS:
            name = f": {one.filename}" if isinstance(one, OSError) and one.filename else ""
            return f"{os.strerror(code)}{name}"
    return "a file could not be written in full" if any(CUT_SHORT in str(one) for one in chain) else None
