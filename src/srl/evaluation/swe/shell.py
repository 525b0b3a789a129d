"""A shell in the sandbox: commands one after another on one copy of a tree, as an agent gives them.

What a command changes stays for the next, in the tree, in /tmp and in the home folder; what it started ends with it.
The tree is a git repository with one commit, so that `git diff` says what was changed. `run_shell.py` runs inside.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from subprocess import Popen

from srl.evaluation.swe.testing import ENVIRONMENT
from srl.rewards.sandbox.walls import TRIAL_SECONDS, Limits, Sandbox, resident_bytes

SECONDS_BETWEEN_LOOKS = 0.1
GRACE_SECONDS = 30.0
"""Beyond the limit of a command, which the inside keeps: to end what was started, and to answer."""
GIT_PERSON = {f"GIT_{who}_{what}": "agent" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class ShellEnded(Exception):
    """The shell is gone; says why in a few words to count by."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command came to."""

    output: str
    """Standard output and error together; bytes that are no UTF-8 are replaced."""
    code: int
    """Negative after a signal."""
    end: str
    """"exit", or the limit that it was ended at: "time" or "output"."""


class Shell:
    """Made by `open_shell`."""

    def __init__(self, process: Popen[bytes], connection: socket.socket, limits: Limits) -> None:
        self.process, self.connection, self.limits = process, connection, limits
        self._received = bytearray()
        self._seconds = float(TRIAL_SECONDS)  # of the first, for which the walls are still being built

    def run(self, command: str) -> Answer:
        """Run a command and wait for its end.

        Raises:
            ShellEnded: the shell has been killed, by its command or for the memory that it took.
        """
        try:
            self.connection.sendall(json.dumps({"command": command}).encode() + b"\n")
        except OSError:
            raise ShellEnded("ended its own sandbox") from None
        line = self._line(self._seconds + self.limits.seconds + GRACE_SECONDS)
        self._seconds = 0.0
        try:
            answer = json.loads(line)
            return Answer(str(answer["output"]), int(answer["code"]), str(answer["end"]))
        except (ValueError, TypeError, KeyError):
            raise ShellEnded("ended its own sandbox") from None

    def end(self) -> None:
        """End the command that runs, and with it the shell; from another thread than the one that waits for it."""
        with suppress(OSError):  # it has ended
            self.connection.shutdown(socket.SHUT_RDWR)

    def _line(self, seconds: float) -> bytes:
        """The next line from inside; nothing that comes from there is trusted."""
        deadline = time.monotonic() + seconds
        most = 8 * self.limits.output_bytes + 4096  # JSON may take six bytes for one
        while b"\n" not in self._received:
            if select.select([self.connection], [], [], SECONDS_BETWEEN_LOOKS)[0]:
                piece = self.connection.recv(65536)
                if not piece or len(self._received) > most:
                    raise ShellEnded("ended its own sandbox")
                self._received += piece
            elif time.monotonic() > deadline:
                raise ShellEnded("ended at the limit of time")
            elif resident_bytes(self.process.pid) > self.limits.memory_bytes:
                raise ShellEnded("ended at the limit of memory")
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return line


@contextmanager
def open_shell(
    sandbox: Sandbox,
    source: Path,
    *,
    patches: Sequence[str] = (),
    import_from: str = ".",
    limits: Limits = Limits(),  # noqa: B008
) -> Iterator[Shell]:
    """A shell on a copy of `source` with patches applied.

    Args:
        sandbox: Where.
        source: The tree.
        patches: Applied in turn, before the repository's one commit.
        import_from: The folder in it that Python imports from.
        limits: Time and output of one command; memory, processes and disk of all.

    Raises:
        RuntimeError: the walls could not be built, or a patch does not apply.
    """
    here, there = socket.socketpair()
    settings = ["{report}", sandbox.walls != "none", import_from, limits.seconds, limits.output_bytes]
    command = [sys.executable, "-P", "-c", _script(), json.dumps(settings).replace('"{report}"', "{report}")]
    path = f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin"
    environment = ENVIRONMENT | GIT_PERSON | {"PATH": path, "PYTHONHASHSEED": "0", "PAGER": "cat", "TQDM_DISABLE": "1"}
    with (
        here,
        sandbox.started(
            command, source, there.detach(), patches=patches, environment=environment, limits=limits
        ) as process,
    ):
        shell = Shell(process, here, limits)
        try:
            problem = json.loads(shell._line(TRIAL_SECONDS))["problem"]
        except ShellEnded:
            assert process.stdout
            said = process.stdout.read(65536).decode(errors="replace")
            raise RuntimeError(said.strip().rpartition("\n")[2][-300:] or "the sandbox did not start") from None
        if problem is not None:
            raise RuntimeError(f"a patch does not apply: {problem}")
        yield shell


@cache
def _script() -> str:
    return (Path(__file__).parent / "run_shell.py").read_text(encoding="utf-8")
