"""Processes of a run watch one another: one that is stopped, or whose machine is gone, is named within a minute.

Without it the others wait in a collective and say nothing until its limit, half an hour. A thread of each process
counts on in the process group's store, which a stopped process does not and a busy one does.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState

BEAT_SECONDS, SILENCE_SECONDS = 5.0, 60.0


@contextmanager
def watched_by_one_another(
    processes: PartialState, beat: float = BEAT_SECONDS, silence: float = SILENCE_SECONDS
) -> Iterator[None]:
    """Meanwhile, say which process has not answered for `silence` seconds, and when it answers again."""
    if processes.num_processes == 1:
        yield
        return
    store = torch.distributed.PrefixStore("heartbeat", torch.distributed.distributed_c10d._get_default_store())
    store.set(f"who/{processes.process_index}", f"pid {os.getpid()} on {platform.node()}")
    ended = threading.Event()
    watch = threading.Thread(
        target=_watch, args=(store, processes.process_index, processes.num_processes, beat, silence, ended), daemon=True
    )
    watch.start()
    try:
        yield
    finally:
        ended.set()


def _watch(
    store: torch.distributed.Store, rank: int, n_ranks: int, beat: float, silence: float, ended: threading.Event
) -> None:
    """A thread's work. The lowest process that answers speaks for all."""
    beats, heard = [0] * n_ranks, [time.monotonic()] * n_ranks
    reported: set[int] = set()
    while not ended.wait(beat):
        woke = time.monotonic()
        try:
            counts = [store.add(f"beats/{other}", int(other == rank)) for other in range(n_ranks)]
        except RuntimeError:  # the store is gone, and with it the run: who waits in a collective says so
            return
        now = time.monotonic()
        if now - woke > silence:  # it was this process that was stopped
            heard = [now] * n_ranks
        heard = [now if new != old else at for new, old, at in zip(counts, beats, heard, strict=True)]
        beats = counts
        silent = {other for other in range(n_ranks) if now - heard[other] > silence}
        if rank == min(set(range(n_ranks)) - silent, default=rank):
            for other in silent - reported:
                who = store.get(f"who/{other}").decode()
                _say(
                    f"process {other} of {n_ranks} ({who}) has not answered for {silence:g} s: it is stopped, or its "
                    "machine is gone; the others wait for it"
                )
            for other in reported - silent:
                _say(f"process {other} of {n_ranks} answers again")
        reported = silent


def _say(line: str) -> None:
    print(f"srl: {line}", file=sys.stderr, flush=True)
