"""`srl evaluate`: ask a model for samples, judge them as they come, and keep every one of them.

    evaluation.json   what decides the samples; a run is resumed only with the same
    samples.jsonl     one line per sample, written when it is judged
    results.json, model-card.yaml   written at the end (`results.py`)

A sample has a name (benchmark, problem, mode, index) and a seed of its own, made from that name. Batches are cut
from the whole plan, whatever is already done, so that an interrupted run draws the samples that it would have.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from srl.chat.prompts import ANSWER_SYSTEM_PROMPT, STEP_SYSTEM_PROMPT
from srl.engines.asking import append, ask_all, goes_on, read_journal
from srl.engines.endpoint import REQUEST_SECONDS, Endpoint
from srl.engines.engines import BatchEngine, EngineName, engine_name, load_engine, weights_digest
from srl.engines.protocols import Attempt, OneAnswer, ProtocolName, Stepwise
from srl.errors import UserError
from srl.evaluation.benchmarks import LoadedBenchmark, Problem, facts, load_benchmarks, self_check_lines
from srl.evaluation.display import Display
from srl.evaluation.results import Key, Tally, write_results
from srl.files import locked
from srl.rewards.answer_text import last_box
from srl.rewards.answers import judge
from srl.runs.folder import RunFolder, resolve_model

Mode = Literal["greedy", "sampled"]


@dataclass(frozen=True)
class EvaluationOptions:
    """What is asked of the model."""

    samples: int = 0
    """Samples per problem at --temperature; their mean is the column avg@N. None of benchmarks read greedily only."""
    greedy: bool = False
    """Also one answer per problem at temperature 0. Without --samples this is what is done."""
    temperature: float = 1.0
    """Of the samples."""
    protocol: ProtocolName = "answer"
    """answer: the whole solution at once, as in the paper; stepwise: a thought and a step at a time."""
    max_tokens: int = 2048
    """Limit of one completion (stepwise: of one step); an answer that is cut off is wrong."""
    max_steps: int = 30
    """Stepwise: give up after so many steps."""
    system_prompt: str | None = None
    """In place of the protocol's own; "" leaves the system turn out."""
    seed: int = 0
    """The same seed gives the same samples on the same engine."""
    engine: EngineName = "auto"
    """In this process: vLLM if it is installed and there is a GPU, or else transformers."""
    batch_size: int = 32
    """Completions at a time in transformers; part of what decides the samples."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to ask for."""

    problem: Problem
    mode: Mode
    index: int
    seed: int

    @property
    def key(self) -> Key:
        """Its name within the run."""
        return (self.problem.benchmark, self.problem.id, self.mode, self.index)


def evaluate(
    source: str,
    out: Path | None,
    benchmarks: str,
    options: EvaluationOptions,
    *,
    model: str | None = None,
    benchmark_files: tuple[str, ...] = (),
    concurrency: int = 16,
    request_seconds: float = REQUEST_SECONDS,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Evaluate a model (a run folder, a model folder, a Hub id, or the URL of a server) and print the table.

    Raises:
        UserError: model, benchmarks, options or output folder are not as they must be; a server that fails.
    """
    if options.samples < 0 or options.batch_size < 1 or options.max_tokens < 1 or options.temperature <= 0:
        raise UserError("--samples must be 0 or more; --batch-size, --max-tokens and --temperature above 0")
    served = source.startswith(("http://", "https://"))
    if served != (model is not None):
        raise UserError("--model names the model of a server: srl evaluate http://localhost:8000/v1 --model NAME")
    path = source if served else resolve_model(source)
    loaded = load_benchmarks(benchmarks, benchmark_files)
    plan = make_plan(loaded, options)
    config = {
        "model": model or source,
        "weights": None if served else weights_digest(path),
        **asdict(options),
        "engine": Endpoint.name if served else engine_name(options.engine),
        "system_prompt": _system_prompt(source, options),
        "benchmarks": {item.name: dict(facts(item)) for item in loaded},
    }
    folder = out or Path("runs") / f"{(model or source).rstrip('/').split('/')[-1]}-eval"
    with locked(folder):
        tallies = open_evaluation(folder, config, resume=resume, overwrite=overwrite)
        print("\n".join(self_check_lines(loaded)), flush=True)
        with Display(len(plan), tallies) as display:
            recorder = Recorder(folder, config, tallies, display)
            missing = [sample for sample in plan if sample.key not in tallies]
            if served and missing:
                endpoint = Endpoint(path, str(model), options.max_tokens, request_seconds)
                asyncio.run(ask_endpoint(endpoint, missing, recorder, concurrency))
            elif missing:
                ask_engine(load_engine(config["engine"], path, options.max_tokens), plan, recorder)
        write_results(folder, tallies)
    return folder


def make_plan(loaded: list[LoadedBenchmark], options: EvaluationOptions) -> list[Sample]:
    """Every sample of the run, in order; greedy ones first within a benchmark."""
    plan = []
    for item in loaded:
        modes: dict[Mode, int] = {"greedy": int(options.greedy or not options.samples)}
        modes["sampled"] = 0 if item.benchmark.greedy_only else options.samples
        if not any(modes.values()):
            raise UserError(f"{item.name} is read greedily only; add --greedy")
        for mode, count in modes.items():
            for problem in item.problems:
                plan += [Sample(problem, mode, i, _seed(options.seed, problem, mode, i)) for i in range(count)]
    return plan


def _seed(seed: int, problem: Problem, mode: Mode, index: int) -> int:
    name = f"{seed}/{problem.benchmark}/{problem.id}/{mode}/{index}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) >> 1  # servers take 31 bits


def _system_prompt(source: str, options: EvaluationOptions) -> str:
    if options.system_prompt is not None:
        return options.system_prompt
    if options.protocol == "answer":
        return ANSWER_SYSTEM_PROMPT
    run = RunFolder(Path(source))
    trained = run.step_prompt if run.exists else None
    return STEP_SYSTEM_PROMPT if trained is None else trained


def open_evaluation(folder: Path, config: dict[str, Any], *, resume: bool, overwrite: bool) -> dict[Key, Tally]:
    """Prepare the output folder; returns what is already done.

    Raises:
        UserError: the folder is not empty and neither flag is given; it is no evaluation; another configuration.
    """
    if goes_on(folder / "evaluation.json", config, resume=resume, overwrite=overwrite):
        return {key_of(line): Tally.of(line) for line in read_samples(folder, repair=True)}
    return {}


def key_of(line: dict[str, Any]) -> Key:
    """The name of the sample in a line of samples.jsonl."""
    return (line["benchmark"], line["problem_id"], line["mode"], line["index"])


def read_samples(folder: Path, *, repair: bool = False) -> Iterator[dict[str, Any]]:
    """The samples of a folder, one at a time; `repair` takes off the line that a kill cut short."""
    return read_journal(folder / "samples.jsonl", repair=repair)


class Recorder:
    """Judges attempts that have ended, and writes each down at once. Safe to call from threads."""

    def __init__(self, folder: Path, config: dict[str, Any], tallies: dict[Key, Tally], display: Display) -> None:
        self.path, self.config, self.tallies, self.display = folder / "samples.jsonl", config, tallies, display
        self.lock = Lock()

    def attempt(self, sample: Sample) -> Attempt:
        """The start of a sample."""
        if self.config["protocol"] == "answer":
            return OneAnswer(sample.problem.text, self.config["system_prompt"])
        return Stepwise(sample.problem.text, self.config["system_prompt"], self.config["max_steps"])

    def temperature(self, sample: Sample) -> float:
        """0 means greedy."""
        return float(self.config["temperature"]) if sample.mode == "sampled" else 0.0

    def record(self, ended: list[tuple[Sample, Attempt]]) -> None:
        """Judge and write what is not yet written; each line is whole or, after a kill, recognisably not."""
        new = [(sample, attempt) for sample, attempt in ended if sample.key not in self.tallies]
        pairs = [(attempt.solution, answer) for sample, attempt in new for answer in sample.problem.answers]
        verdicts = iter(judge([solution for solution, _ in pairs], [answer for _, answer in pairs]))
        lines = []
        for sample, attempt in new:
            found = [next(verdicts) for _ in sample.problem.answers]
            best = max(found, key=lambda verdict: verdict.correct)
            lines.append(self._line(sample, attempt, best._asdict()))
        with self.lock:
            append(self.path, lines)
            self.tallies |= {key_of(line): Tally.of(line) for line in lines}
            self.display.show({key_of(line): self.tallies[key_of(line)] for line in lines})

    def _line(self, sample: Sample, attempt: Attempt, verdict: dict[str, Any]) -> dict[str, Any]:
        tokens = [reply.tokens for reply in attempt.replies]
        return {
            "benchmark": sample.problem.benchmark,
            "problem_id": sample.problem.id,
            "protocol": self.config["protocol"],
            "mode": sample.mode,
            "index": sample.index,
            "seed": sample.seed,
            "problem": sample.problem.text,
            "known_answers": list(sample.problem.answers),
            "completions": [reply.text for reply in attempt.replies],
            "end": attempt.end,
            "boxed": last_box(attempt.solution) is not None,
            **verdict,
            "tokens": sum(token for token in tokens if token is not None) if None not in tokens else None,
        }


def ask_engine(engine: BatchEngine, plan: list[Sample], recorder: Recorder) -> None:
    """Batches of the whole plan, leaving out those with nothing missing."""
    size = recorder.config["batch_size"] if engine.name == "transformers" else 1024  # vLLM batches by itself
    for _, same_mode in groupby(plan, key=lambda sample: (sample.problem.benchmark, sample.mode)):
        samples = list(same_mode)
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            if any(sample.key not in recorder.tallies for sample in batch):
                recorder.record(_complete(engine, batch, recorder))


def _complete(engine: BatchEngine, batch: list[Sample], recorder: Recorder) -> list[tuple[Sample, Attempt]]:
    attempts = [(sample, recorder.attempt(sample)) for sample in batch]
    while going := [(sample, attempt) for sample, attempt in attempts if attempt.end is None]:
        replies = engine.generate(
            [attempt.prompt for _, attempt in going],
            [sample.seed + len(attempt.replies) for sample, attempt in going],
            recorder.temperature(batch[0]),
        )
        for (_, attempt), reply in zip(going, replies, strict=True):
            attempt.take(reply)
    return attempts


async def ask_endpoint(endpoint: Endpoint, missing: list[Sample], recorder: Recorder, concurrency: int) -> None:
    """Up to `concurrency` samples at a time; the first failure ends the others, what was judged is written."""

    async def ask(sample: Sample) -> None:
        attempt = recorder.attempt(sample)
        while attempt.end is None:
            seed = sample.seed + len(attempt.replies)
            attempt.take(await endpoint.complete(attempt.prompt, seed, recorder.temperature(sample)))
        await asyncio.to_thread(recorder.record, [(sample, attempt)])

    await ask_all(endpoint, missing, ask, concurrency)
