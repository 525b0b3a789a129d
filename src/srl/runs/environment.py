"""When, where and with what versions something was run: for run folders, evaluations and bug reports."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from srl import __version__

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "math-verify", "scipy", "openai")


def environment() -> dict[str, Any]:
    """Start time, command, git commit, machine and versions."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of srl and of the packages that decide what it computes, by name."""
    return {"srl": __version__} | {name: metadata.version(name) for name in PACKAGES}


def _git_commit() -> str | None:
    """The commit of the folder the command runs in, "-dirty" if changed; None outside git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None
