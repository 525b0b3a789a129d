"""Runs shell commands in a sandbox, one after another on one tree, and answers with what each of them printed.

`shell.py` runs this file's text by `python -P -c` in the tree. Requests and answers are lines of JSON on a socket.
What a command started ends with it: behind walls by a signal to all that is there, else to its session.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time

SECONDS_TO_DRAIN = 5.0
GIT_SETTINGS = ("-c", "core.autocrlf=false", "-c", "commit.gpgsign=false")


def main() -> None:
    """The argument: the socket's descriptor, whether there are walls, where Python imports from, a command's limits."""
    descriptor, isolated, import_from, seconds, most_bytes = json.loads(sys.argv[1])
    os.environ["PYTHONPATH"] = os.path.abspath(import_from)
    tree = "/testbed" if isolated else os.getcwd()
    for arguments in (
        ("init", "-q", "-b", "main"),
        ("add", "-A", "-f"),
        ("commit", "-q", "--allow-empty", "-m", "issue"),
    ):
        subprocess.run(["git", *GIT_SETTINGS, *arguments], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    connection = socket.socket(fileno=descriptor)
    for request in connection.makefile("rb"):
        try:
            answer = run(json.loads(request)["command"], tree, isolated, seconds, most_bytes)
        except OSError as error:  # the tree is gone, or there is no room for one more process
            answer = {"output": f"{error}\n", "code": 126, "end": "exit"}
        connection.sendall(json.dumps(answer).encode() + b"\n")


def run(command: str, tree: str, isolated: bool, seconds: float, most_bytes: int) -> dict[str, object]:
    """What a command printed, its exit code, and what ended it: "exit", "time" or "output"."""
    shell = shutil.which("bash") or "/bin/sh"
    process = subprocess.Popen(
        [shell, "-c", command],
        cwd=tree,
        env=os.environ | {"PWD": tree},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout
    descriptor = process.stdout.fileno()
    os.set_blocking(descriptor, False)
    output, end, deadline = bytearray(), "exit", time.monotonic() + seconds
    with process, selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while process.poll() is None and end == "exit":
            closed = bool(selector.select(0.02)) and not read(descriptor, output)
            if closed:  # it goes on without an output
                time.sleep(0.02)
            if time.monotonic() > deadline:
                end = "time"
            elif len(output) > most_bytes:
                end = "output"
        kill(process, isolated)
        code = process.wait()
        deadline = time.monotonic() + SECONDS_TO_DRAIN
        while len(output) <= most_bytes and time.monotonic() < deadline and selector.select(0.5):
            if not read(descriptor, output):
                break
    end = "output" if end == "exit" and len(output) > most_bytes else end
    return {"output": output[:most_bytes].decode("utf-8", "replace"), "code": code, "end": end}


def read(descriptor: int, output: bytearray) -> int:
    """Add what is there to the output; how many bytes, 0 at the end."""
    try:
        piece = os.read(descriptor, 65536)
    except BlockingIOError:
        return 1
    output += piece
    return len(piece)


def kill(process: subprocess.Popen[bytes], isolated: bool) -> None:
    """End a command and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if isolated:
            os.kill(-1, signal.SIGKILL)  # all in this PID namespace but its first process and this one
        else:
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
