"""`srl evaluate`: ask a model for samples, judge them as they come, and keep every one of them.

    evaluation.json   what decides the samples (`config.py`); a run is resumed only with the same
    samples.jsonl     one line per sample, written when it is judged (`samples.py`, `recorder.py`)
    results.json, model-card.yaml   written at the end (`results.py`)

A sample has a name (benchmark, problem, mode, index) and a seed of its own, made from that name.
"""

from __future__ import annotations

import asyncio
import hashlib
from datetime import date
from pathlib import Path

from srl.engines.endpoint import REQUEST_SECONDS, Endpoint
from srl.engines.engines import engine_name, load_engine, weights_digest
from srl.engines.protocols import Manner, chat_of, manner_of
from srl.errors import UserError
from srl.evaluation.ask import ask_endpoint, ask_engine
from srl.evaluation.benchmarks import LoadedBenchmark, Question, load_benchmarks, self_check_lines
from srl.evaluation.config import EvaluationConfig, EvaluationOptions, read_config
from srl.evaluation.display import Display
from srl.evaluation.recorder import Recorder, open_evaluation
from srl.evaluation.results import write_results
from srl.evaluation.samples import Mode, PlannedSample
from srl.files import locked
from srl.runs.folder import resolve_model
from srl.runs.recipe import ChatOptions


def evaluate(
    source: str,
    out: Path | None,
    benchmarks: str,
    options: EvaluationOptions,
    *,
    model: str | None = None,
    manner: Manner | None = None,
    benchmark_files: tuple[str, ...] = (),
    limit: int | None = None,
    concurrency: int = 16,
    request_seconds: float = REQUEST_SECONDS,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Evaluate a model (a run folder, a model folder, a Hub id, or the URL of a server) and print the table.

    `limit` takes the first so many problems of each benchmark. `manner` is how to ask, in place of what the options say
    of prompts and titles, and the run that the model is of.

    Raises:
        UserError: model, benchmarks, options or output folder are not as they must be; a server that fails.
    """
    options.check()
    served = source.startswith(("http://", "https://"))
    if served != (model is not None):
        raise UserError("--model names the model of a server: srl evaluate http://localhost:8000/v1 --model NAME")
    path = source if served else resolve_model(source)
    loaded = load_benchmarks(benchmarks, benchmark_files, limit)
    plan = make_plan(loaded, options)
    manner = manner or manner_of(source, options.protocol, options.system_prompt, options.give_title)
    folder = out or Path("runs") / f"{(model or source).rstrip('/').split('/')[-1]}-eval"
    chat = chat_options(source, options.chat, folder if resume else None)
    config = EvaluationConfig.of(
        options,
        model=model or source,
        weights=None if served else weights_digest(path),
        engine=Endpoint.name if served else engine_name(options.engine),
        manner=manner,
        benchmarks={item.name: item.facts for item in loaded},
        chat=chat,
    )
    with locked(folder):
        tallies = open_evaluation(folder, config, resume=resume, overwrite=overwrite)
        print("\n".join([*self_check_lines(loaded), f"asked with {manner.describe(options.protocol)}"]), flush=True)
        with Display(len(plan), tallies) as display:
            recorder = Recorder(folder, options.protocol, tallies, display)
            done = set(tallies)
            missing = [sample for sample in plan if sample.key not in done]
            if served and missing:
                endpoint = Endpoint(path, str(model), config.max_tokens, request_seconds, chat.template_kwargs)
                asyncio.run(ask_endpoint(endpoint, missing, config, recorder.record, concurrency))
            elif missing:
                engine = load_engine(config.engine, path, config.max_tokens, **chat.model_dump())
                ask_engine(engine, plan, done, config, recorder.record)
        write_results(folder, tallies)
    return folder


def chat_options(source: str, given: ChatOptions, resumed: Path | None) -> ChatOptions:
    """How conversations become tokens; the date is the one given, of the evaluation that goes on, of the run, or today.

    Raises:
        UserError: options that only whoever renders the prompts can follow, and that is a server.
    """
    if source.startswith(("http://", "https://")) and (given.open_thought or given.today):
        raise UserError(
            "--chat.open-thought and --chat.today are for a model that srl loads; a server renders the prompts itself"
        )
    record = resumed / "evaluation.json" if resumed else None
    before = read_config(record).today if record and record.is_file() else None
    chat = chat_of(source, given)
    today = given.today or (date.fromisoformat(before) if before else chat.today or date.today())
    return chat.model_copy(update={"today": today})


def make_plan(loaded: list[LoadedBenchmark], options: EvaluationOptions) -> list[PlannedSample]:
    """Every sample of the run, in order; greedy ones first within a benchmark."""
    plan = []
    for item in loaded:
        modes: dict[Mode, int] = {"greedy": int(options.greedy or not options.samples)}
        modes["sampled"] = 0 if item.benchmark.greedy_only else options.samples
        if not any(modes.values()):
            raise UserError(f"{item.name} is read greedily only; add --greedy")
        for mode, count in modes.items():
            for question in item.questions:
                plan += [PlannedSample(question, mode, i, _seed(options.seed, question, mode, i)) for i in range(count)]
    return plan


def _seed(seed: int, question: Question, mode: Mode, index: int) -> int:
    name = f"{seed}/{question.benchmark}/{question.id}/{mode}/{index}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) >> 1  # servers take 31 bits
