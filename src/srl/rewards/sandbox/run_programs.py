"""Runs many small programs in one sandbox, each with its tests in a process of its own, and reports which pass.

`programs.py` runs this file's text by `python -I -S -c` in a tree that holds nothing but programs.json. A program that
ends its process early has not passed: the tests' end is told through a pipe.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from types import ModuleType


def _run(name: str, source: str, tests: str, done: int) -> None:
    """In the child: the program as a module, then its tests, which raise where they fail."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    exec(compile(tests, f"test_{name}.py", "exec"), {"__name__": "__main__"})
    os.write(done, b"1")


def passes(name: str, source: str, tests: str, seconds: int, report: int) -> bool:
    """Whether the tests of one program pass within so many seconds of processor, and five times that on the clock."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        os.close(reading)
        os.close(report)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        try:
            _run(name, source, tests, writing)
        finally:
            os._exit(0)  # whatever was raised
    os.close(writing)
    ended, _, _ = select.select([reading], [], [], 5 * seconds)
    passed = bool(ended) and os.read(reading, 1) == b"1"
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:  # not yet a group of its own, or gone
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    return passed


def main() -> None:
    """Arguments: the report's descriptor, and the seconds of each program."""
    report, seconds = int(sys.argv[1]), int(sys.argv[2])
    with open("programs.json") as file:
        programs = json.load(file)
    for index, (name, source, tests) in enumerate(programs):
        passed = passes(name, source, tests, seconds, report)
        os.write(report, json.dumps([index, passed]).encode() + b"\n")


if __name__ == "__main__":
    main()
