"""The samples of an evaluation: as planned, as judged and written to samples.jsonl, and as counted.

PlannedSample  ->  an attempt (`srl.engines.protocols`)  ->  JudgedSample, a line of the file  ->  Tally
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from srl.engines.asking import read_journal
from srl.engines.protocols import ProtocolName, Reply, tokens_of
from srl.errors import UserError
from srl.evaluation.benchmarks import Question

Mode = Literal["greedy", "sampled"]

Key = tuple[str, str, Mode, int]
"""The name of a sample within its evaluation: benchmark, problem, mode, index."""


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One answer to ask for."""

    question: Question
    mode: Mode
    index: int
    seed: int

    @property
    def key(self) -> Key:
        """Its name within the evaluation."""
        return (self.question.benchmark, self.question.id, self.mode, self.index)


class Answered(Protocol):
    """What an attempt of any kind has come to."""

    replies: list[Reply]
    end: str | None


@dataclass(frozen=True, slots=True)
class JudgedSample:
    """One answer with its verdict: a line of samples.jsonl, whose keys these are."""

    benchmark: str
    problem_id: str
    protocol: ProtocolName
    mode: Mode
    index: int
    seed: int
    problem: str
    known_answers: tuple[str, ...]
    completions: tuple[str, ...]
    """One; stepwise, one per step."""
    end: str
    """Why it ended: `stop`, or what makes it wrong."""
    boxed: bool
    correct: bool
    answer: str | None
    """As it was read."""
    failure: str | None
    """What the comparison took too much of, time or memory."""
    tokens: int | None
    """None where the engine does not say."""

    @classmethod
    def of_attempt(
        cls,
        planned: PlannedSample,
        attempt: Answered,
        protocol: ProtocolName,
        *,
        boxed: bool,
        correct: bool,
        answer: str | None,
        failure: str | None = None,
    ) -> JudgedSample:
        """What was planned and came of it, with the verdict."""
        return cls(
            benchmark=planned.question.benchmark,
            problem_id=planned.question.id,
            protocol=protocol,
            mode=planned.mode,
            index=planned.index,
            seed=planned.seed,
            problem=planned.question.text,
            known_answers=planned.question.answers,
            completions=tuple(reply.text for reply in attempt.replies),
            end=str(attempt.end),
            boxed=boxed,
            correct=correct,
            answer=answer,
            failure=failure,
            tokens=tokens_of(attempt.replies),
        )

    @classmethod
    def of(cls, values: dict[str, Any]) -> JudgedSample:
        """Raises TypeError for other keys than those of a sample."""
        return cls(**values | {name: tuple(values.get(name, ())) for name in ("known_answers", "completions")})

    @property
    def key(self) -> Key:
        """Its name within the evaluation."""
        return (self.benchmark, self.problem_id, self.mode, self.index)


@dataclass(frozen=True, slots=True)
class Tally:
    """What the numbers need of one sample; all that is kept in memory of it."""

    correct: bool
    truncated: bool
    boxed: bool
    failed: bool
    """No comparison within the limits of time and memory; counted as wrong."""
    tokens: int | None

    @classmethod
    def of(cls, sample: JudgedSample) -> Tally:
        """Count a sample."""
        truncated, failed = sample.end == "truncated", sample.failure is not None
        return cls(sample.correct, truncated, sample.boxed, failed, sample.tokens)


Tallies = Mapping[Key, Tally]


def read_samples(folder: Path, *, repair: bool = False) -> Iterator[JudgedSample]:
    """The samples of a folder, one at a time; `repair` takes off the line that a kill cut short.

    Raises:
        UserError: a damaged line.
    """
    path = folder / "samples.jsonl"
    for number, values in enumerate(read_journal(path, repair=repair), 1):
        try:
            yield JudgedSample.of(values)
        except TypeError:
            raise UserError(f"{path}:{number}: not a sample of srl; take the line out and --resume") from None
