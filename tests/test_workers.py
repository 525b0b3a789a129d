"""Worker processes: each task costs at most its limit, and once."""

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from srl.rewards.workers import DIED, MEMORY, TIME, Workers

LIMIT = 0.4


def note_and_do(task):
    folder, name = task
    with (Path(folder) / "log").open("a") as log:
        log.write(name + "\n")
    if name == "spin":
        while True:
            pass
    if name == "wait":
        time.sleep(100)
    if name == "eat":
        bytearray(2**40)
    if name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "raise":
        raise KeyError(name)
    return name.upper()


def nothing():
    pass


@pytest.fixture
def workers():
    return Workers(note_and_do, 2, 4 * 2**30, prepare=nothing)


def times_done(folder):
    return Counter((folder / "log").read_text().split())


@pytest.mark.slow
def test_what_is_over_its_limits_is_done_once_and_loses_no_other(workers, tmp_path):
    names = [f"t{i}" for i in range(200)]
    names[3], names[70], names[71] = "spin", "eat", "wait"
    results = workers.map([(str(tmp_path), name) for name in names], LIMIT)
    expected = [name.upper() for name in names]
    expected[3], expected[70], expected[71] = TIME, MEMORY, TIME
    assert results == expected
    assert set(times_done(tmp_path).values()) == {1}


def test_what_kills_its_worker_is_tried_once_more(workers, tmp_path):
    assert workers.map([(str(tmp_path), name) for name in ("a", "die", "b")], LIMIT) == ["A", DIED, "B"]
    assert times_done(tmp_path) == {"a": 1, "b": 1, "die": 2}


def test_exceptions_fly_and_the_next_call_works(workers, tmp_path):
    with pytest.raises(KeyError):
        workers.map([(str(tmp_path), name) for name in ("a", "raise", "b")], LIMIT)
    assert workers.map([(str(tmp_path), "c")], LIMIT) == ["C"]


def test_only_time_of_the_processor_counts(workers, tmp_path):
    """On a busy machine a right answer stays right: a stopped worker uses none."""
    import threading

    def stop_and_go():
        while not (tmp_path / "log").exists():
            time.sleep(0.01)
        for worker in workers.workers:
            os.kill(worker.process.pid, signal.SIGSTOP)
        time.sleep(2 * LIMIT)
        for worker in workers.workers:
            os.kill(worker.process.pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    names = [f"t{i}" for i in range(3000)]
    assert workers.map([(str(tmp_path), name) for name in names], LIMIT) == [name.upper() for name in names]
    thread.join()
