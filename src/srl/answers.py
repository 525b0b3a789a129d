"""Is a final answer right? `math-verify` decides; here it runs where it can neither hang nor eat the memory.

Its own time limit is an alarm signal, which works only in a process's main thread and cannot stop C code.
So the comparison runs in a worker process that is killed after a hard limit.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import cache
from typing import Any

TIMEOUT_SECONDS = 10.0
MEMORY_BYTES = 4 * 2**30


def are_correct(texts: list[str], answers: list[str]) -> list[bool]:
    """Whether the final answer in each text (a whole solution) equals the known one; in parallel on all cores.

    A text without an answer, or one that takes over 10 s or 4 GiB to compare, is wrong.
    """
    pending = [
        _pool().schedule(_verify, args=pair, timeout=TIMEOUT_SECONDS) for pair in zip(texts, answers, strict=True)
    ]
    return [_outcome(future) for future in pending]


def _outcome(future: Any) -> bool:
    from pebble import ProcessExpired

    try:
        return bool(future.result())
    except (FutureTimeoutError, ProcessExpired, MemoryError):
        return False  # too expensive to be an answer: data, not an error


@cache
def _pool() -> Any:
    from pebble import ProcessPool

    # Forking a process that holds torch's threads can deadlock; spawned workers start clean.
    pool = ProcessPool(
        max_workers=os.cpu_count() or 1,
        initializer=_limit_memory,
        context=multiprocessing.get_context("spawn"),
    )
    atexit.register(lambda: (pool.stop(), pool.join()))
    return pool


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _verify(text: str, answer: str) -> bool:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    # A bare answer such as "\frac59" is LaTeX only between dollar signs.
    gold = parse(f"${answer}$", [LatexExtractionConfig()]) or parse(answer)
    found = parse(text, [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()])
    return bool(verify(gold, found))
