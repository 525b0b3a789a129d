"""Answers judged per second: srl's workers beside math-verify called one by one in one process.

    python benchmarks/scoring.py [SAMPLES]     # about 3 minutes on 2 cores; 42,208 = 1,319 problems × 32 samples

The samples are like those of a benchmark run: 32 per problem, a solution of about 1,000 characters with a box at its
end; most repeat the few answers that a problem attracts, 3 in 100 have no box. A second row has no repetition at all,
and a third repeats nothing and is short: what the workers alone give. Rates are after the first thousand answers, for
the workers take seconds to start. The last line is the memory of this process and of all workers, at its highest.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator

import psutil
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from srl.rewards.answers import are_correct

SAMPLES = 1319 * 32
PER_PROBLEM = 32
BATCH = 1000
ONE_BY_ONE = 1000
SENTENCE = "so we have $x = {}$ and then $\\frac{{{}}}{{3}}$ follows from the equation; "


def main() -> None:
    """Print a table."""
    n_samples = int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES
    memory = Memory()
    print("| answers | one by one /s | srl /s | ratio | one by one /CPU s | srl /CPU s | ratio |\n" + "|---" * 7 + "|")
    for label, kind, n in [
        ("32 per problem, as in a run", samples, n_samples),
        ("no answer twice", different, max(n_samples // 8, 2 * BATCH)),
        ("no answer twice, a box alone", short, max(n_samples // 8, 2 * BATCH)),
    ]:
        *theirs, verdicts = one_by_one(list(take(kind(), BATCH + ONE_BY_ONE)))
        *ours, found = through_workers(kind(), n)
        assert found[: len(verdicts)] == verdicts, "the two ways must agree"
        cells = [f"{a:.0f} | {b:.0f} | {b / a:.1f}×" for a, b in zip(theirs, ours, strict=True)]
        print(f"| {label} ({n:,}) | {' | '.join(cells)} |", flush=True)
    print(f"\nhighest memory: {memory.highest / 2**20:.0f} MB, this process alone {memory.highest_own / 2**20:.0f} MB")


Pair = tuple[str, str]


def samples() -> Iterator[Pair]:
    """Solutions of many problems: half of the samples right, the others one of a few wrong answers, or none."""
    rng = random.Random(0)
    while True:
        known = answer(rng)
        attracted = [answer(rng) for _ in range(6)]
        for _ in range(PER_PROBLEM):
            found = known if rng.random() < 0.5 else rng.choice(attracted)
            end = f"The final answer is {found}." if rng.random() < 0.03 else rf"The answer is \boxed{{{found}}}."
            yield prose(rng) + end, known


def different() -> Iterator[Pair]:
    """As `samples`, no pair twice."""
    rng = random.Random(1)
    while True:
        yield prose(rng) + rf"The answer is \boxed{{{answer(rng)}}}.", answer(rng)


def short() -> Iterator[Pair]:
    """No pair twice, nothing but the answer."""
    rng = random.Random(2)
    while True:
        yield rf"\boxed{{{answer(rng)}}}", answer(rng)


def answer(rng: random.Random) -> str:
    """An integer, a fraction or a root."""
    a, b = rng.randrange(1000), rng.randrange(2, 100)
    return rng.choice([str(a), rf"\frac{{{a}}}{{{b}}}", rf"{b}\sqrt{{{a}}}", f"{a}.{b}"])


def prose(rng: random.Random) -> str:
    """About 1,000 characters with formulas."""
    return "".join(SENTENCE.format(rng.randrange(100), rng.randrange(100)) for _ in range(14))


def take(pairs: Iterator[Pair], n: int) -> Iterator[Pair]:
    return (next(pairs) for _ in range(n))


def one_by_one(pairs: list[Pair]) -> tuple[float, float, list[bool]]:
    """math-verify as its documentation has it, on whole solutions: answers per second, per CPU second, verdicts."""
    targets = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    verdicts, clock = [], Clock()
    for number, (text, known) in enumerate(pairs):
        if number == BATCH:
            clock = Clock()
        verdicts.append(verify(parse(f"${known}$"), parse(text, targets)))
    return *clock.rates(len(pairs) - BATCH), verdicts


def through_workers(pairs: Iterator[Pair], n: int) -> tuple[float, float, list[bool]]:
    """The same through `srl.rewards.answers`, in batches."""
    verdicts, clock = [], Clock()
    for number in range(0, n, BATCH):
        if number == BATCH:
            clock = Clock()
        texts, known = zip(*take(pairs, BATCH), strict=True)
        verdicts += are_correct(list(texts), list(known))
    return *clock.rates(len(verdicts) - BATCH), verdicts


class Clock:
    """Wall time and the CPU time of this process and its workers, from now on."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), cpu_seconds()

    def rates(self, n: int) -> tuple[float, float]:
        """n per second and per CPU second since the start."""
        return n / (time.perf_counter() - self.wall), n / (cpu_seconds() - self.cpu)


def cpu_seconds() -> float:
    """Of this process and its children."""
    processes = [psutil.Process(), *psutil.Process().children()]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


class Memory:
    """Watches resident memory of this process and its children."""

    def __init__(self) -> None:
        self.highest = self.highest_own = 0
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        """Five times a second."""
        this = psutil.Process()
        while True:
            own = this.memory_info().rss
            workers = 0
            for child in this.children():
                try:
                    workers += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.highest, self.highest_own = max(self.highest, own + workers), max(self.highest_own, own)
            time.sleep(0.2)


if __name__ == "__main__":
    main()
