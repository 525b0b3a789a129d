"""`srl swe predict`: ask a model for patches, and write them down as they come.

evaluation.json    what decides the samples; a run is resumed only with the same
samples.jsonl      one line per sample: what the model wrote, how it ended, its patch
predictions.jsonl  the greedy patches, as the official harness reads them; predictions-sampled-N.jsonl: the others
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from srl.engines.asking import append, ask_all, goes_on, read_journal
from srl.engines.endpoint import REQUEST_SECONDS, Endpoint
from srl.engines.engines import BatchEngine, EngineName, engine_name, load_engine, weights_digest
from srl.errors import UserError
from srl.evaluation.config import BenchmarkFacts, EvaluationConfig, chat_record
from srl.evaluation.evaluate import chat_options
from srl.evaluation.samples import Mode
from srl.evaluation.swe.instances import Instance, load_instances
from srl.evaluation.swe.predictions import Prediction, PredictionKey, write_predictions
from srl.evaluation.swe.protocols import REPAIR_SYSTEM_PROMPT, EndToEnd, OracleEdit, SweAttempt
from srl.evaluation.swe.repository import Repository, find_repositories
from srl.files import locked
from srl.runs.folder import resolve_model
from srl.runs.progress import Progress
from srl.runs.recipe import DEFAULT_CHAT, ChatOptions


@dataclass(frozen=True)
class PredictOptions:
    """What is asked of the model."""

    protocol: Literal["oracle", "end-to-end"] = "oracle"
    """oracle: the files to change are given; end-to-end: the model finds them in the list of files first."""
    samples: int = 0
    """Samples per instance at --temperature."""
    greedy: bool = False
    """Also one at temperature 0. Without --samples this is what is done."""
    temperature: float = 1.0
    """Of the samples."""
    max_tokens: int = 4096
    """Limit of one completion; one that is cut off makes no patch."""
    max_input_tokens: int = 60_000
    """Limit of one prompt, measured at three characters a token; what does not fit is left out or not asked."""
    system_prompt: str = REPAIR_SYSTEM_PROMPT
    """Of the repair; "" leaves the system turn out."""
    chat: ChatOptions = DEFAULT_CHAT
    """As in a recipe, for a model that no run of srl trained; a run's own are used by themselves."""
    seed: int = 0
    """The same seed gives the same samples on the same engine."""
    engine: EngineName = "auto"
    """In this process: vLLM if it is installed and there is a GPU, or else transformers."""
    batch_size: int = 8
    """Completions per batch in transformers. Another batch size draws other samples."""

    def check(self) -> None:
        """Raises UserError for options that make no sense."""
        if self.samples < 0 or min(self.batch_size, self.max_tokens, self.max_input_tokens) < 1:
            raise UserError("--samples must be 0 or more; --batch-size, --max-tokens and --max-input-tokens 1 or more")
        if self.temperature <= 0:
            raise UserError("--temperature must be above 0; --greedy takes the likeliest token")


@dataclass(frozen=True, slots=True)
class Asked:
    """One sample to ask for."""

    instance: Instance
    mode: Mode
    index: int
    seed: int

    @property
    def key(self) -> PredictionKey:
        """Its name within the run, as `Prediction.key`."""
        return (self.instance.id, self.mode, self.index)


def predict(
    source: str,
    instances_path: Path,
    out: Path | None,
    options: PredictOptions,
    *,
    model: str | None = None,
    clones: Path | None = None,
    limit: int | None = None,
    concurrency: int = 16,
    request_seconds: float = REQUEST_SECONDS,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Ask a model (a run folder, a model folder, a Hub id, or the URL of a server) for patches of all instances.

    Raises:
        UserError: model, instances, their repositories, options or output folder are not as they must be; a server
            that fails.
    """
    options.check()
    served = source.startswith(("http://", "https://"))
    if served != (model is not None):
        raise UserError("--model names the model of a server: srl swe predict http://localhost:8000/v1 --model NAME")
    path = source if served else resolve_model(source)
    instances = load_instances(instances_path)[:limit]
    repositories = find_repositories(instances, instances_path, clones)
    folder = out or Path("runs") / f"{(model or source).rstrip('/').split('/')[-1]}-swe"
    chat = chat_options(source, options.chat, folder if resume else None)
    asked = {name: value for name, value in asdict(options).items() if name != "chat"} | chat_record(chat)
    config = EvaluationConfig(
        model=model or source,
        weights=None if served else weights_digest(path),
        **asked | {"engine": Endpoint.name if served else engine_name(options.engine)},
        max_steps=1 if options.protocol == "oracle" else 2,
        benchmarks={instances_path.stem: instance_facts(instances_path, instances)},
    )
    with locked(folder):
        done = open_predictions(folder, config, resume=resume, overwrite=overwrite)
        plan = make_plan(instances, options)
        with Progress("samples", len(plan), len(done)) as progress:
            if done:
                progress.line(f"{len(done)} of {len(plan)} samples are there already")
            recorder = _Recorder(folder, options, repositories, done, progress)
            missing = [asked for asked in plan if asked.key not in done]
            if served and missing:
                endpoint = Endpoint(path, str(model), options.max_tokens, request_seconds, chat.template_kwargs)
                asyncio.run(_ask_endpoint(endpoint, missing, recorder, concurrency))
            elif missing:
                engine = load_engine(config.engine, path, options.max_tokens, **chat.model_dump())
                _ask_engine(engine, plan, recorder)
        files = write_predictions(folder, config.model, done.values())
    ends = [prediction.end for prediction in done.values()]
    for end in sorted(set(ends), key=ends.count, reverse=True):
        print(f"{ends.count(end):6}  {end}")
    print(f"wrote {', '.join(map(str, files))}; next: srl swe grade {folder} --instances {instances_path}")
    return folder


def instance_facts(path: Path, instances: Sequence[Instance]) -> BenchmarkFacts:
    """What decides the problems of a run, for its record and for `srl compare`."""
    rows = [[one.id, one.problem_statement, one.fail_to_pass, one.pass_to_pass] for one in instances]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return BenchmarkFacts(path.stem, str(path), len(instances), digest, scorer="tests", unscorable={})


def make_plan(instances: Sequence[Instance], options: PredictOptions) -> list[Asked]:
    """Every sample of the run, in order; greedy ones first."""
    counts: dict[Mode, int] = {"greedy": int(options.greedy or not options.samples), "sampled": options.samples}
    return [
        Asked(instance, mode, index, _seed(options.seed, instance.id, mode, index))
        for mode, count in counts.items()
        for instance in instances
        for index in range(count)
    ]


def _seed(seed: int, *name: object) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4]) >> 1  # servers take 31 bits


def open_predictions(
    folder: Path, config: EvaluationConfig, *, resume: bool, overwrite: bool
) -> dict[PredictionKey, Prediction]:
    """Prepare the output folder; returns what is already done.

    Raises:
        UserError: the folder is not empty and neither flag is given; another configuration.
    """
    record = folder / "evaluation.json"
    return read_done(folder, repair=True) if goes_on(record, asdict(config), resume=resume, overwrite=overwrite) else {}


def read_done(folder: Path, *, repair: bool = False) -> dict[PredictionKey, Prediction]:
    """The predictions of a folder, by name; `repair` takes off the line that a kill cut short.

    Raises:
        UserError: a damaged line.
    """
    path = folder / "samples.jsonl"
    fields = ("instance_id", "patch", "end", "mode", "index", "tokens")
    found = {}
    for number, line in enumerate(read_journal(path, repair=repair), 1):
        if not all(name in line for name in fields):
            raise UserError(f"{path}:{number}: not a sample of srl swe predict; take the line out and --resume")
        prediction = Prediction(**{name: line[name] for name in fields})
        found[prediction.key] = prediction
    return found


class _Recorder:
    """Starts attempts and writes down those that have ended."""

    def __init__(
        self,
        folder: Path,
        options: PredictOptions,
        repositories: dict[str, Repository],
        done: dict[PredictionKey, Prediction],
        progress: Progress,
    ) -> None:
        self.path, self.options, self.repositories = folder / "samples.jsonl", options, repositories
        self.done, self.progress = done, progress

    def attempt(self, asked: Asked) -> SweAttempt:
        """The start of a sample."""
        issue, repository = asked.instance.problem_statement, self.repositories[asked.instance.id]
        budget, system_prompt = self.options.max_input_tokens, self.options.system_prompt
        if self.options.protocol == "oracle":
            return OracleEdit(issue, repository, asked.instance.files_to_change, budget, system_prompt)
        return EndToEnd(issue, repository, budget, system_prompt)

    def temperature(self, asked: Asked) -> float:
        """0 means greedy."""
        return self.options.temperature if asked.mode == "sampled" else 0.0

    def record(self, asked: Asked, attempt: SweAttempt) -> None:
        """Write one sample, unless it is there."""
        if asked.key in self.done:
            return
        tokens = [reply.tokens for reply in attempt.replies]
        total = None if None in tokens else sum(token for token in tokens if token is not None)
        prediction = Prediction(asked.instance.id, attempt.patch, str(attempt.end), asked.mode, asked.index, total)
        completions = [reply.text for reply in attempt.replies]
        append(self.path, [{**asdict(prediction), "seed": asked.seed, "completions": completions}])
        self.done[asked.key] = prediction
        self.progress.update(len(self.done))


def _ask_engine(engine: BatchEngine, plan: list[Asked], recorder: _Recorder) -> None:
    """Batches of the whole plan, leaving out those with nothing missing, so that a resumed run draws the same."""
    size = recorder.options.batch_size if engine.name == "transformers" else 1024  # vLLM batches by itself
    for _, same_mode in groupby(plan, key=lambda asked: asked.mode):
        samples = list(same_mode)
        for batch in (samples[start : start + size] for start in range(0, len(samples), size)):
            if all(asked.key in recorder.done for asked in batch):
                continue
            attempts = [(asked, recorder.attempt(asked)) for asked in batch]
            while going := [(asked, attempt) for asked, attempt in attempts if attempt.end is None]:
                prompts = [attempt.prompt for _, attempt in going]
                seeds = [asked.seed + len(attempt.replies) for asked, attempt in going]
                replies = engine.generate(prompts, seeds, recorder.temperature(batch[0]))
                for (_, attempt), reply in zip(going, replies, strict=True):
                    attempt.take(reply)
            for asked, attempt in attempts:
                recorder.record(asked, attempt)


async def _ask_endpoint(endpoint: Endpoint, missing: list[Asked], recorder: _Recorder, concurrency: int) -> None:
    """Up to `concurrency` samples at a time; the first failure ends the others, what was written stays."""

    async def ask(asked: Asked) -> None:
        # Prompts and patches are git's and the disk's work: the others go on meanwhile.
        attempt = await asyncio.to_thread(recorder.attempt, asked)
        while attempt.end is None:
            prompt = await asyncio.to_thread(lambda: attempt.prompt)
            seed = asked.seed + len(attempt.replies)
            reply = await endpoint.complete(prompt, seed, recorder.temperature(asked))
            await asyncio.to_thread(attempt.take, reply)
        recorder.record(asked, attempt)

    await ask_all(endpoint, missing, ask, concurrency)
