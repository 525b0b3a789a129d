"""Attempts that have ended are judged, and written down at once: a kill loses what was under way, nothing else."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from threading import Lock

from srl.engines.asking import append, goes_on
from srl.engines.protocols import Attempt, ProtocolName
from srl.evaluation.config import EvaluationConfig
from srl.evaluation.display import Display
from srl.evaluation.samples import JudgedSample, Key, PlannedSample, Tally, read_samples
from srl.rewards.answer_text import last_box
from srl.rewards.answers import Verdict, judge


def open_evaluation(folder: Path, config: EvaluationConfig, *, resume: bool, overwrite: bool) -> dict[Key, Tally]:
    """Prepare the output folder; returns what is already done.

    Raises:
        UserError: the folder is not empty and neither flag is given; it is no evaluation; another configuration.
    """
    if goes_on(folder / "evaluation.json", asdict(config), resume=resume, overwrite=overwrite):
        return {sample.key: Tally.of(sample) for sample in read_samples(folder, repair=True)}
    return {}


class Recorder:
    """Judges attempts and appends them to samples.jsonl. Safe to call from threads."""

    def __init__(self, folder: Path, protocol: ProtocolName, tallies: dict[Key, Tally], display: Display) -> None:
        """`tallies` is what is already done, and grows."""
        self.path, self.protocol, self.tallies, self.display = folder / "samples.jsonl", protocol, tallies, display
        self.lock = Lock()

    def record(self, ended: list[tuple[PlannedSample, Attempt]]) -> None:
        """Judge and write what is not yet written; each line is whole or, after a kill, recognisably not."""
        new = [(sample, attempt) for sample, attempt in ended if sample.key not in self.tallies]
        pairs = [(attempt.solution, answer) for sample, attempt in new for answer in sample.question.answers]
        verdicts = iter(judge([solution for solution, _ in pairs], [answer for _, answer in pairs]))
        judged = []
        for sample, attempt in new:
            found = [next(verdicts) for _ in sample.question.answers]
            judged.append(self._judged(sample, attempt, max(found, key=lambda verdict: verdict.correct)))
        with self.lock:
            append(self.path, map(asdict, judged))
            self.tallies |= {one.key: Tally.of(one) for one in judged}
            self.display.show({one.key: self.tallies[one.key] for one in judged})

    def _judged(self, sample: PlannedSample, attempt: Attempt, verdict: Verdict) -> JudgedSample:
        return JudgedSample.of_attempt(
            sample,
            attempt,
            self.protocol,
            boxed=last_box(attempt.solution) is not None,
            correct=verdict.correct,
            answer=verdict.answer,
            failure=verdict.failure,
        )
