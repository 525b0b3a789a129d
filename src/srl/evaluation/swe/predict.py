"""`srl swe predict`: ask a model for patches, and write them down as they come.

evaluation.json    what decides the samples; a run is resumed only with the same
samples.jsonl      one line per sample: what the model wrote, how it ended, its patch
predictions.jsonl  the greedy patches, as the official harness reads them; predictions-sampled-N.jsonl: the others
trajectories/      of agents: their runs in mini-swe-agent's format, which `srl steps` reads
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from srl.engines.asking import append, ask_all, goes_on, read_journal
from srl.engines.endpoint import REQUEST_SECONDS, Endpoint, PromptTooLong
from srl.engines.engines import BatchEngine, engine_name, load_engine, weights_digest
from srl.engines.protocols import tokens_of
from srl.errors import UserError
from srl.evaluation.config import BenchmarkFacts, EvaluationConfig, chat_record
from srl.evaluation.evaluate import chat_options
from srl.evaluation.samples import Mode
from srl.evaluation.swe.instances import Instance, load_instances
from srl.evaluation.swe.options import PredictOptions, require_mini
from srl.evaluation.swe.predictions import Prediction, PredictionKey, trajectory_path, write_predictions
from srl.evaluation.swe.protocols import EndToEnd, OracleEdit, SweAttempt
from srl.evaluation.swe.repository import Repository, find_repositories
from srl.files import locked, write_text
from srl.rewards.sandbox.walls import Sandbox, open_sandbox
from srl.runs.folder import RunFolder, resolve_model
from srl.runs.progress import Progress

if TYPE_CHECKING:
    from srl.evaluation.swe.agent import AgentRun


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
    allow_unsandboxed: bool = False,
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
    sandbox = None
    if options.protocol == "agent":
        options = as_trained(source, options)
        sandbox = open_agent(source, options, allow_unsandboxed=allow_unsandboxed)
    asked = options.record() | chat_record(chat)
    config = EvaluationConfig(
        model=model or source,
        weights=None if served else weights_digest(path),
        **asked | {"engine": Endpoint.name if served else engine_name(options.engine)},
        benchmarks={instances_path.stem: instance_facts(instances_path, instances)},
    )
    with locked(folder):
        done = open_predictions(folder, config, resume=resume, overwrite=overwrite)
        plan = make_plan(instances, options)
        with Progress("samples", len(plan), len(done)) as progress:
            if done:
                progress.line(f"{len(done)} of {len(plan)} samples are there already")
            recorder = _Recorder(folder, options, repositories, sandbox, done, progress)
            missing = [asked for asked in plan if asked.key not in done]
            try:
                if served and missing:
                    endpoint = Endpoint(path, str(model), options.max_tokens, request_seconds, chat.template_kwargs)
                    asyncio.run(_ask_endpoint(endpoint, missing, recorder, concurrency))
                elif missing:
                    engine = load_engine(config.engine, path, options.max_tokens, **chat.model_dump())
                    _ask_engine(engine, plan, recorder)
            finally:
                recorder.close()
        files = write_predictions(folder, config.model, done.values())
    ends = [prediction.end for prediction in done.values()]
    for end in sorted(set(ends), key=ends.count, reverse=True):
        print(f"{ends.count(end):6}  {end}")
    print(f"wrote {', '.join(map(str, files))}; next: srl swe grade {folder} --instances {instances_path}")
    return folder


def as_trained(source: str, options: PredictOptions) -> PredictOptions:
    """The options with `asked_in` as the run was trained, where neither is given."""
    run = RunFolder(Path(source))
    whole_runs = run.exists and run.recipe.row_kind == "trajectories"
    return replace(options, asked_in=options.asked_in or ("turns" if whole_runs else "steps"))


def open_agent(source: str, options: PredictOptions, *, allow_unsandboxed: bool) -> Sandbox:
    """See that an agent can run here; says what its commands run in, and where a run was trained to be asked otherwise.

    Raises:
        UserError: no mini-swe-agent, or one of another version; no sandbox.
    """
    require_mini()
    sandbox = open_sandbox(allow_unsandboxed=allow_unsandboxed)
    run = RunFolder(Path(source))
    trained = run.prompts.get("step") if run.exists else None
    if trained is not None:
        from srl.evaluation.swe.agent import mini_config

        instructions = mini_config()["agent"]["system_template"].strip()
        if trained.strip() != "\n\n".join(filter(None, (options.asked_with, instructions))).strip():
            print(
                f"{source}: trained with another system prompt than mini-swe-agent's ({trained!r:.60}…), "
                "so perhaps for another form of actions; --system-prompt gives what stands before mini-swe-agent's own"
            )
    return sandbox


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
        sandbox: Sandbox | None,
        done: dict[PredictionKey, Prediction],
        progress: Progress,
    ) -> None:
        self.folder, self.options, self.repositories = folder, options, repositories
        self.sandbox, self.done, self.progress = sandbox, done, progress
        self.replies = 0
        self.going: set[AgentRun] = set()

    def attempt(self, asked: Asked) -> SweAttempt | AgentRun:
        """The start of a sample."""
        issue, repository = asked.instance.problem_statement, self.repositories[asked.instance.id]
        budget, system_prompt = self.options.max_input_tokens, self.options.asked_with
        if self.sandbox:
            return self._agent(asked.instance, repository, self.sandbox)
        if self.options.protocol == "oracle":
            return OracleEdit(issue, repository, asked.instance.files_to_change, budget, system_prompt)
        return EndToEnd(issue, repository, budget, system_prompt)

    def _agent(self, instance: Instance, repository: Repository, sandbox: Sandbox) -> AgentRun:
        from srl.evaluation.swe.agent import AgentBudget, AgentRun

        of_agents = ("max_steps", "max_agent_tokens", "max_input_tokens", "command_seconds", "context", "asked_in")
        limits = {name: getattr(self.options, name) for name in of_agents}
        run = AgentRun(instance, repository, sandbox, AgentBudget(**limits, system_prompt=self.options.asked_with))
        self.going.add(run)
        return run

    def close(self) -> None:
        """End what is still going."""
        for run in self.going:
            run.close()

    def replied(self) -> None:
        """Something moved, though no sample has ended."""
        self.replies += 1
        self.progress.update(len(self.done), f"{self.replies} completions")

    def temperature(self, asked: Asked) -> float:
        """0 means greedy."""
        return self.options.temperature if asked.mode == "sampled" else 0.0

    def record(self, asked: Asked, attempt: SweAttempt | AgentRun) -> None:
        """Write one sample, unless it is there."""
        if not isinstance(attempt, OracleEdit | EndToEnd):
            self.going.discard(attempt)
        if asked.key in self.done:
            return
        tokens = tokens_of(attempt.replies)
        prediction = Prediction(asked.instance.id, attempt.patch, str(attempt.end), asked.mode, asked.index, tokens)
        completions = [reply.text for reply in attempt.replies]
        if not isinstance(attempt, OracleEdit | EndToEnd):
            path = trajectory_path(self.folder, prediction)
            path.parent.mkdir(exist_ok=True)
            write_text(path, json.dumps(attempt.trajectory, indent=1) + "\n")
        row = {**asdict(prediction), "seed": asked.seed, "completions": completions}
        append(self.folder / "samples.jsonl", [row])
        self.done[asked.key] = prediction
        self.progress.update(len(self.done), f"{self.replies} completions")


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
                    recorder.replied()
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
            try:
                reply = await endpoint.complete(prompt, seed, recorder.temperature(asked))
            except PromptTooLong:
                await asyncio.to_thread(attempt.refuse)
            else:
                await asyncio.to_thread(attempt.take, reply)
            recorder.replied()
        recorder.record(asked, attempt)

    await ask_all(endpoint, missing, ask, concurrency)
