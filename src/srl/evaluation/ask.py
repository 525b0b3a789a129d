"""Ask an engine for the samples of a plan, and hand over each as it ends. What becomes of them is not known here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from itertools import groupby

from srl.engines.asking import ask_all
from srl.engines.endpoint import Endpoint
from srl.engines.engines import BatchEngine
from srl.engines.protocols import Attempt, OneAnswer, Stepwise
from srl.evaluation.config import EvaluationConfig
from srl.evaluation.samples import Key, PlannedSample

Ended = list[tuple[PlannedSample, Attempt]]
Record = Callable[[Ended], None]
"""Takes attempts that have ended; may be called from several threads."""


def ask_engine(
    engine: BatchEngine, plan: Sequence[PlannedSample], done: Collection[Key], config: EvaluationConfig, record: Record
) -> None:
    """Batches of the whole plan, leaving out those of which all is done.

    Batches are cut from the whole plan, so that an interrupted evaluation draws the samples that it would have.
    """
    size = config.batch_size if engine.name == "transformers" else 1024  # vLLM batches by itself
    for _, same_mode in groupby(plan, key=lambda sample: (sample.question.benchmark, sample.mode)):
        samples = list(same_mode)
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            if any(sample.key not in done for sample in batch):
                record(_complete(engine, batch, config))


def _complete(engine: BatchEngine, batch: Sequence[PlannedSample], config: EvaluationConfig) -> Ended:
    attempts = [(sample, _attempt(sample, config)) for sample in batch]
    while going := [(sample, attempt) for sample, attempt in attempts if attempt.end is None]:
        replies = engine.generate(
            [attempt.prompt for _, attempt in going],
            [sample.seed + len(attempt.replies) for sample, attempt in going],
            _temperature(batch[0], config),
        )
        for (_, attempt), reply in zip(going, replies, strict=True):
            attempt.take(reply)
    return attempts


async def ask_endpoint(
    endpoint: Endpoint, missing: Sequence[PlannedSample], config: EvaluationConfig, record: Record, concurrency: int
) -> None:
    """Up to `concurrency` samples at a time; the first failure ends the others, what had ended is recorded."""

    async def ask(sample: PlannedSample) -> None:
        attempt = _attempt(sample, config)
        while attempt.end is None:
            seed = sample.seed + len(attempt.replies)
            attempt.take(await endpoint.complete(attempt.prompt, seed, _temperature(sample, config)))
        await asyncio.to_thread(record, [(sample, attempt)])

    await ask_all(endpoint, missing, ask, concurrency)


def _attempt(sample: PlannedSample, config: EvaluationConfig) -> Attempt:
    """The start of a sample."""
    if config.protocol == "answer":
        return OneAnswer(sample.question.text, config.system_prompt)
    return Stepwise(sample.question.text, config.manner, config.max_steps)


def _temperature(sample: PlannedSample, config: EvaluationConfig) -> float:
    """0 means greedy."""
    return config.temperature if sample.mode == "sampled" else 0.0
