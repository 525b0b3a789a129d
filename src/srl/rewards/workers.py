"""Worker processes with a hard limit of time and memory per task.

The kernel ends a worker at its limit, whatever code it is in: by the default action of SIGPROF, and by RLIMIT_AS.
Each worker has a pipe of its own and shares no lock, so that one which ends takes only its own task with it; another
takes its place. (Pools of `concurrent.futures` and Pebble break as a whole when a worker is killed from outside.)
Tasks travel in batches, results one by one: what was done before a worker ended is not done again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from threading import Lock
from typing import Any, NamedTuple

from srl.errors import UserError

BATCH = 64
"""Tasks given to a worker at once, at most."""
STANDSTILL = 10
"""So many times its limit of processor time may pass on the clock: a worker that waits for nothing is not busy."""
OUT_OF_MEMORY = 77
"""Exit code of a worker at its limit of memory."""


class Failure(NamedTuple):
    """Instead of a result."""

    reason: str


TIME, MEMORY, DIED = Failure("time"), Failure("memory"), Failure("a crash")


class Workers:
    """Applies one function, importable by name, to tasks; at most `count` processes, which start when needed.

    Raises:
        UserError: a system without such limits (Windows).
    """

    def __init__(
        self, function: Callable[[Any], Any], count: int, memory_bytes: int, prepare: Callable[[], None]
    ) -> None:
        if find_spec("resource") is None:
            raise UserError(
                "checking final answers needs processes with a limit of memory: expected Python's module `resource`, "
                "found a system without it; use Linux, macOS or WSL"
            )
        self.arguments = (function, memory_bytes, prepare)
        self.count = count
        self.lock = Lock()
        self.workers: list[_Worker] = []

    def map(self, tasks: Sequence[Any], cpu_seconds: float) -> list[Any]:
        """The results in order, with a `Failure` for each task over its limits. Safe to call from threads, in turn.

        A task whose worker dies is given to another one once: it may have been killed from outside.

        Raises:
            Exception: what the function raised.
        """
        with self.lock:
            try:
                return self._map(tasks, cpu_seconds)
            except BaseException:
                for worker in self.workers:  # one of them may still answer what nobody asks any more
                    worker.process.kill()
                self.workers = []
                raise

    def _map(self, tasks: Sequence[Any], cpu_seconds: float) -> list[Any]:
        results: list[Any] = [None] * len(tasks)
        waiting = deque(range(len(tasks)))
        size = max(1, min(BATCH, len(tasks) // (8 * self.count)))
        died: set[int] = set()
        while waiting or any(worker.tasks for worker in self.workers):
            while len(self.workers) < min(self.count, len(tasks)):
                self.workers.append(_Worker(*self.arguments))
            for worker in self.workers:
                if waiting and worker.idle:
                    batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
                    worker.give(batch, [tasks[index] for index in batch], cpu_seconds)
            ready = wait([worker.connection for worker in self.workers if not worker.idle])
            for worker in [worker for worker in self.workers if worker.connection in ready]:
                task, result = worker.take()
                if worker.ended:
                    self.workers.remove(worker)
                    waiting.extendleft(reversed(worker.tasks))
                if task is None:  # it had none yet: it was starting
                    continue
                if result == DIED and task not in died:
                    died.add(task)
                    waiting.append(task)
                else:
                    results[task] = result
        return results


class _Worker:
    def __init__(self, *arguments: Any) -> None:
        # Forking a process that holds torch's threads can deadlock; spawned workers start clean.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.idle = False  # until it says that it is prepared
        self.ended = False
        self.tasks: deque[int] = deque()
        """Given and not yet answered; the first is the one it works on."""

    def give(self, indices: Sequence[int], tasks: Sequence[Any], cpu_seconds: float) -> None:
        self.idle, self.tasks = False, deque(indices)
        with suppress(OSError):  # it has ended; `take` will find so
            self.connection.send((tasks, cpu_seconds))

    def take(self) -> tuple[int | None, Any]:
        """The task that has ended and its result; no task if it has just started."""
        task = self.tasks.popleft() if self.tasks else None
        try:
            result = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.ended = True
            if task is None and self.process.exitcode == 1:  # an exception; its traceback is on standard error
                raise RuntimeError("a worker process could not start") from None
            limits = {-signal.SIGPROF: TIME, -signal.SIGALRM: TIME, OUT_OF_MEMORY: MEMORY}
            return task, limits.get(self.process.exitcode or 0, DIED)
        self.idle = not self.tasks
        if isinstance(result, Exception):
            raise result
        return task, result


def _work(connection: Connection, function: Callable[[Any], Any], memory: int, prepare: Callable[[], None]) -> None:
    import resource  # not on Windows, where the rest of srl works

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent ends us
    prepare()
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    connection.send(None)
    while True:
        try:
            tasks, cpu_seconds = connection.recv()
        except EOFError:
            return
        for task in tasks:
            signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
            signal.setitimer(signal.ITIMER_REAL, STANDSTILL * cpu_seconds)
            try:
                result = function(task)
            except MemoryError:
                os._exit(OUT_OF_MEMORY)
            except Exception as error:
                result = error
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(result)
