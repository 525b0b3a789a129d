"""`srl profile`: sample every step with the model that training starts from, and keep those it can learn from.

    profile.json       what decides the samples; a run goes on only with the same
    samples.jsonl      the completions of every step, written when they are there
    profile.jsonl      per step: its rewards, their mean and deviation, and why it was left out
    train.steps.*      the steps that were kept, as they stood; all else of the data folder as it was

A step whose rollouts all earn the same teaches GRPO nothing, and dynamic sampling pays for them in every epoch anew.
PivotRL (arXiv 2603.21383) therefore profiles once, before training, and keeps what it calls pivots.

The rows may be problems as well, sampled as whole solutions and rewarded as RLVR does. And what is kept may be the
model's own completions, those that earn 1: SFT on them is rejection-sampling fine-tuning (RFT, arXiv 2308.01825).

Rewards are worked out from samples.jsonl: another reward or other bounds need no new samples (--resume).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from srl.chat.prompts import parse_completion
from srl.data.folder import COLUMNS, rows_file
from srl.engines.asking import append, ask_all, goes_on, read_journal
from srl.engines.endpoint import REQUEST_SECONDS, Endpoint, PromptTooLong
from srl.engines.engines import EngineName, engine_name, load_engine, weights_digest
from srl.engines.protocols import PROMPT_TOO_LONG, Reply
from srl.errors import UserError
from srl.files import Row, RowWriter, locked, read_rows, write_text
from srl.records import Message
from srl.rewards import StepReward, answer_correctness
from srl.rewards.answer_text import known_answer
from srl.runs.folder import resolve_model
from srl.runs.progress import Progress
from srl.runs.recipe import Reward

RECORD, SAMPLES, PROFILE = "profile.json", "samples.jsonl", "profile.jsonl"


class NothingKept(UserError):
    """The model has learned all of the rows already, or can learn from none."""


@dataclass(frozen=True)
class ProfileOptions:
    """How steps are sampled; as in the training that follows."""

    rows: Literal["steps", "problems"] = "steps"
    """What is sampled: single steps, or whole solutions of the problems whose answer is known."""
    samples: int = 8
    """Completions per row."""
    temperature: float = 1.0
    """Temperature of the samples."""
    max_completion_length: int = 2048
    """In tokens. A longer completion counts as malformed."""
    max_prompt_length: int = 2048
    """In tokens. Steps with a longer prompt are left out. A server decides by itself."""
    open_thought: bool = False
    """End every prompt with <think>, as `chat.open_thought` of a recipe does."""
    seed: int = 0
    """The same seed gives the same samples on the same engine."""
    engine: EngineName = "auto"
    """What runs the model in this process; auto: vLLM if it is installed and there is a GPU, otherwise transformers."""
    batch_size: int = 32
    """Completions per batch in transformers. Another batch size draws other samples."""


@dataclass(frozen=True)
class Bounds:
    """What is kept."""

    min_std: float = 0.01
    """The deviation of a step's rewards must be above this, as `rollout.min_reward_std` wants it in training."""
    max_mean: float = 1.0
    """The mean of a step's rewards must be below this: 1 leaves out only what the model always gets right."""
    own: bool = False
    """Keep the model's own completions instead, all that earn 1, as rows for SFT (RFT): steps that equal the expert's,
    solutions with the right answer. The other two bounds do not matter then."""


def profile(
    data: Path,
    source: str,
    out: Path,
    options: ProfileOptions,
    reward: Reward,
    bounds: Bounds,
    *,
    model: str | None = None,
    concurrency: int = 4,
    request_seconds: float = REQUEST_SECONDS,
    resume: bool = False,
    overwrite: bool = False,
) -> Counter[str]:
    """Sample the training rows of a data folder and write those to keep into `out`; how many of each outcome.

    `source` is the model: a run folder, a model folder, a Hub id, or the URL of a server, where it is named `model`.

    Raises:
        UserError: options, data, model or `out` are not as they must be; a server that fails.
        NothingKept: there is nothing to write.
    """
    _check(options, reward)
    served = source.startswith(("http://", "https://"))
    if served != (model is not None):
        raise UserError("--served-as names the model of a server: --model http://localhost:8000/v1 --served-as NAME")
    path = source if served else resolve_model(source)
    file = rows_file(data, f"train.{options.rows}")
    if out.resolve() == data.resolve():
        raise UserError(f"{out}: --out must be another folder than the data")
    rows = list(read_rows(file)) if file.stat().st_size else []
    if options.rows == "problems":
        rows = [row for row in rows if known_answer(row.value["answer"]) is not None]
    if not rows:
        raise UserError(f"{file}: no {options.rows} to profile" + " with a known answer" * (options.rows == "problems"))
    config = {
        **asdict(options),
        "data": hashlib.sha256(file.read_bytes()).hexdigest(),
        "model": model or source,
        "weights": None if served else weights_digest(path),
        "engine": Endpoint.name if served else engine_name(options.engine),
        "today": _today(out, resume=resume),
    }
    with locked(out):
        done: dict[int, dict[str, Any]] = {}
        if goes_on(out / RECORD, config, resume=resume, overwrite=overwrite):
            done = {line["row"]: line for line in read_journal(out / SAMPLES, repair=True)}
            print(f"{len(done)} of {len(rows)} {options.rows} are sampled already")
        with Progress(options.rows, len(rows), len(done)) as progress:
            record = _Record(out / SAMPLES, done, progress)
            if served:
                endpoint = Endpoint(path, str(model), options.max_completion_length, request_seconds)
                missing = [index for index in range(len(rows)) if index not in done]
                asyncio.run(_ask_endpoint(endpoint, rows, missing, options, record, concurrency))
            elif len(done) < len(rows):
                _ask_engine(path, config, rows, options, record)
        return _write(data, out, rows, done, options.rows, reward, bounds)


def _check(options: ProfileOptions, reward: Reward) -> None:
    if options.samples < 2 or options.temperature <= 0 or min(options.batch_size, options.max_completion_length) < 1:
        raise UserError("--samples must be 2 or more; --temperature, --batch-size and --max-completion-length above 0")
    check_reward(reward)


def check_reward(reward: Reward) -> None:
    """Whether a profile can work out such a reward.

    Raises:
        UserError: only the trainer can.
    """
    if reward.expert_logprob_weight or reward.format_term != "in_group":
        raise UserError("[reward]: a profile takes similarity, elements and copy_penalty; the others need the trainer")


def _today(out: Path, *, resume: bool) -> str:
    """The date for chat templates that print one: a profile that goes on keeps the day it started on."""
    record = out / RECORD
    if resume and record.is_file():
        return str(json.loads(record.read_text())["config"].get("today"))
    return date.today().isoformat()


class _Record:
    """Writes down the completions of a step, and shows how far the work is. Safe to call from threads."""

    def __init__(self, path: Path, done: dict[int, dict[str, Any]], progress: Progress) -> None:
        self.path, self.done, self.progress = path, done, progress
        self.lock = Lock()

    def __call__(self, index: int, replies: Sequence[Reply] | None) -> None:
        """`replies` None: the prompt is too long."""
        said = [[reply.text, reply.truncated] for reply in replies] if replies is not None else None
        with self.lock:
            if index not in self.done:
                self.done[index] = {"row": index, "completions": said}
                append(self.path, [self.done[index]])
            self.progress.update(len(self.done))


def _seeds(options: ProfileOptions, index: int) -> list[int]:
    """A seed per completion of a step, made from the names of both."""
    names = (f"{options.seed}/{index}/{number}" for number in range(options.samples))
    return [int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) >> 1 for name in names]


def _ask_engine(
    path: str, config: dict[str, Any], rows: Sequence[Row], options: ProfileOptions, record: _Record
) -> None:
    """Batches of all steps, leaving out those of which all is done, so that the same samples are drawn after a stop."""
    from srl.runs.model import max_positions

    length = options.max_completion_length
    today = date.fromisoformat(config["today"])
    engine = load_engine(config["engine"], path, length, open_thought=options.open_thought, today=today)
    limit = min(options.max_prompt_length, (max_positions(path) or options.max_prompt_length + length) - length)
    size = max(1, options.batch_size // options.samples) if engine.name == "transformers" else 256
    for start in range(0, len(rows), size):
        batch = range(start, min(start + size, len(rows)))
        if all(index in record.done for index in batch):
            continue
        prompts = {index: _prompt(rows[index]) for index in batch}
        lengths = [len(ids) for ids in engine.chat.prompt_ids([list(prompt) for prompt in prompts.values()])]
        fitting = [index for index, n_tokens in zip(batch, lengths, strict=True) if n_tokens <= limit]
        asked = [(prompts[index], seed) for index in fitting for seed in _seeds(options, index)]
        replies = iter(
            engine.generate([prompt for prompt, _ in asked], [seed for _, seed in asked], options.temperature)
            if asked
            else []
        )
        for index in batch:
            record(index, [next(replies) for _ in range(options.samples)] if index in fitting else None)


async def _ask_endpoint(
    endpoint: Endpoint,
    rows: Sequence[Row],
    missing: Sequence[int],
    options: ProfileOptions,
    record: Callable[[int, Sequence[Reply] | None], None],
    concurrency: int,
) -> None:
    async def ask(index: int) -> None:
        prompt, seeds = _prompt(rows[index]), _seeds(options, index)
        try:
            replies = await asyncio.gather(*(endpoint.complete(prompt, seed, options.temperature) for seed in seeds))
        except PromptTooLong:
            replies = None
        await asyncio.to_thread(record, index, replies)

    if missing:
        await ask_all(endpoint, missing, ask, concurrency)


def _prompt(row: Row) -> tuple[Message, ...]:
    return tuple(Message(role=turn["role"], content=turn["content"]) for turn in row.value["prompt"])


def _write(
    data: Path,
    out: Path,
    rows: Sequence[Row],
    done: dict[int, dict[str, Any]],
    kind: Literal["steps", "problems"],
    reward: Reward,
    bounds: Bounds,
) -> Counter[str]:
    """Judge the samples, write the data folder, and print the outcomes; the kept rows come last, in one move."""
    target = out / rows_file(data, f"train.{kind}").name
    target.unlink(missing_ok=True)  # of other bounds
    judge = _judge_of(kind, reward)
    lines = [_judged(judge, row.value, done[index]["completions"], bounds) for index, row in enumerate(rows)]
    outcomes = Counter(line["left_out"] or "kept" for line in lines)
    malformed = [share for line in lines if (share := line["malformed"]) is not None]
    facts = {"reward": reward.model_dump(), "bounds": asdict(bounds), kind: len(rows), "outcomes": dict(outcomes)}
    write_text(out / PROFILE, "".join(json.dumps(line) + "\n" for line in lines))
    for name in (f"{split}.{other}" for split in ("train", "validation") for other in COLUMNS):
        for path in data.glob(f"{name}.*") if name != f"train.{kind}" else ():
            shutil.copyfile(path, out / path.name)
    report = json.loads((data / "report.json").read_text()) if (data / "report.json").is_file() else {}
    write_text(out / "report.json", json.dumps({**report, "profile": facts}, indent=2) + "\n")
    print(f"{len(rows)} {kind}, kept {outcomes['kept']} ({outcomes['kept'] / len(rows):.1%})")
    for reason, count in outcomes.most_common():
        if reason != "kept":
            print(f"  {count:8d}  left out: {reason}")
    if malformed:
        print(f"malformed completions: {statistics.mean(malformed):.1%}; rewards of each row: {out / PROFILE}")
    if not outcomes["kept"]:
        hint = " (if all are −1, the model does not write <think>: srl warm-up)" if malformed else ""
        raise NothingKept(f"{out}: none of {len(rows)} {kind} can be kept; {PROFILE} has the rewards of each{hint}")
    n_written = 0
    half = target.with_name(f".{target.stem}.half{target.suffix}")
    with RowWriter(half, COLUMNS[kind]) as file:
        for index, (row, line) in enumerate(zip(rows, lines, strict=True)):
            if line["left_out"]:
                continue
            completions = done[index]["completions"]
            for each in _own(row.value, completions, line["rewards"]) if bounds.own else [row.value]:
                file.write(each)
                n_written += 1
    os.replace(half, target)
    print(f"{n_written} rows with the model's own completions\n" * bounds.own, end="")
    print(f"wrote {out}/; next: srl train RECIPE --data.path {out}")
    return outcomes


Judge = Callable[[dict[str, Any], list[str], list[bool]], tuple[list[float | None], float]]
"""(a row, its completions, which were cut off) -> (their rewards, the share that is malformed)."""


def _judge_of(kind: Literal["steps", "problems"], reward: Reward) -> Judge:
    """SRL's reward for steps, RLVR's for whole solutions."""
    step_reward = StepReward(reward)

    def judge_steps(row: dict[str, Any], texts: list[str], cut: list[bool]) -> tuple[list[float | None], float]:
        experts = [row["expert_action"]] * len(texts)
        penalties = step_reward.format_penalty(texts, experts, truncated=cut)
        rewards = step_reward(texts, experts, prompts=[row["prompt"]] * len(texts), truncated=cut)
        return rewards, -statistics.fmean(penalties)

    def judge_solutions(row: dict[str, Any], texts: list[str], cut: list[bool]) -> tuple[list[float | None], float]:
        return answer_correctness(texts, [row["answer"]] * len(texts), truncated=cut), statistics.fmean(cut)

    return judge_steps if kind == "steps" else judge_solutions


def _judged(judge: Judge, row: dict[str, Any], completions: list[Any] | None, bounds: Bounds) -> dict[str, Any]:
    """The line of one row in profile.jsonl."""
    name: dict[str, Any] = {key: row[key] for key in ("trajectory_id", "step_index") if key in row}
    if completions is None:
        return {**name, "rewards": None, "mean": None, "std": None, "malformed": None, "left_out": PROMPT_TOO_LONG}
    rewards, malformed = judge(row, [text for text, _ in completions], [cut for _, cut in completions])
    earned = [value for value in rewards if value is not None]
    mean, std = statistics.fmean(earned), statistics.pstdev(earned)
    left_out = None
    if bounds.own:
        left_out = None if max(earned) >= 1 else "nothing right: none of its completions earns 1"
    elif std <= bounds.min_std:
        left_out = "no spread: all its completions earn the same"
    elif mean >= bounds.max_mean:
        left_out = "too easy: its mean is not below --max-mean"
    return {**name, "rewards": earned, "mean": mean, "std": std, "malformed": malformed, "left_out": left_out}


def _own(row: dict[str, Any], completions: list[Any], rewards: list[float]) -> list[dict[str, Any]]:
    """The row with each different completion that earns 1 in place of the expert's."""
    right = dict.fromkeys(text for (text, _), reward in zip(completions, rewards, strict=True) if reward >= 1)
    if "expert_action" not in row:
        return [{**row, "solution": text, "thought": None} for text in right]  # what it thought is in its text
    parsed = [(text, parse_completion(text)) for text in right]  # with thoughts anywhere: the text as it stands
    parts = [(None, text) if one.format_error else (one.thought, one.action) for text, one in parsed]
    return [{**row, "thought": thought, "expert_action": action} for thought, action in parts]
