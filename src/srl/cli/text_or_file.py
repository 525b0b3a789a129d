"""Texts as flags: `@FILE` stands for what a file holds."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from srl.errors import UserError

T = TypeVar("T")


def text_or_file(given: T) -> T | str:
    """The value of a flag for a text; `@FILE` stands for what the file holds.

    Raises:
        UserError: no such file.
    """
    if not isinstance(given, str) or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{given}: expected a text file after @; {error}") from None
