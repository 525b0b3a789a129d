"""`srl warm-up`: a model learns the format of a completion from rows of its own data. No other model is needed.

A row's target is a thought and the expert's step. The thought is the expert's, where the row has one that is short
enough; else the model is told the step and asked, in plain words, how one comes to it. Any instruct model answers that.
SFT on a few such rows teaches the format, and hardly anything else.

    OUT/warm-up.json   how many completions were well formed, before and after each round
    OUT/examples/      a data folder with those rows
    OUT/warm-up.toml   the recipe of the SFT: `srl train OUT/warm-up.toml` repeats it
    OUT/run/           its run folder: the model for the stages srl and rlvr
"""

from __future__ import annotations

import json
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from srl.chat.own_words import is_in_the_format, spoken_thought, thought_request
from srl.chat.prompts import format_completion
from srl.chat.tokenizer import Chat, load_chat
from srl.engines.transformers import TransformersEngine
from srl.errors import UserError
from srl.files import check_output_folder, clear_folder, write_jsonl, write_text
from srl.runs.folder import RunFolder, resolve_model
from srl.runs.model import max_positions
from srl.runs.progress import Progress, shown_while
from srl.runs.recipe import Checkpoints, Data, Optim, Recipe, Reward, Sft, Validation, recipe_toml
from srl.runs.warm_up import WarmUpOptions
from srl.training.preflight import Seen, begun, fault_of
from srl.training.rows import load_rows
from srl.training.train import train

TRIES, POOL = 4, 16
"""For each example: thoughts asked for, and rows looked at, at most."""

ROWS_PER_STEP, ROWS_PER_PASS = 4, 2

ROOM = 0.75
"""Of the limit of a completion, for the targets: sampled ones vary in length, and none may be cut off."""

Row = dict[str, Any]


def warm_up(recipe: Recipe, out: Path, options: WarmUpOptions, *, overwrite: bool = False) -> Path | None:
    """Make rows, train on them until enough completions are well formed, and return the run folder.

    `recipe` is the SRL run's: its model, chat, data and limits. None: the model needs no warm-up.

    Raises:
        UserError: as `train`; `out` is not empty; too few rows fit, or the model has nothing to say for them.
    """
    options.check()
    datasets.disable_progress_bars()
    check_output_folder(out, overwrite=overwrite, marker="warm-up.json")
    stepwise = recipe.model_copy(update={"stage": "srl", "reward": Reward()})
    path = resolve_model(recipe.model.model_name_or_path)
    chat = load_chat(path, **recipe.chat.model_dump())
    with shown_while("loading the rows"):
        rows = load_rows(stepwise, "train", chat, max_positions(path))
    if not rows:
        raise UserError(f"{recipe.data.path}: no rows to train on")
    order = random.Random(recipe.seed).sample(range(len(rows)), len(rows))
    checked, others = rows.select(order[: options.checked]), rows.select(order[options.checked :])
    if not others:
        raise UserError(f"{recipe.data.path}: {len(rows)} rows, expected more than the {options.checked} for the check")

    engine = _engine(path, recipe)
    rate = options.rate(engine.model.num_parameters())
    before = _check(engine, checked, recipe, options, 0)
    if _is_enough(before, options) and len(checked):
        clear_folder(out)
        _write_measured(out, [before], finished=True)
        print("it needs no warm-up; next: srl train RECIPE", flush=True)
        return None
    engine.chat = load_chat(path, **{**recipe.chat.model_dump(), "open_thought": False})
    examples = _examples(engine, others, recipe, options, chat)
    del engine

    clear_folder(out)
    _write_measured(out, [before], finished=False)
    (out / "examples").mkdir()
    write_jsonl(out / "examples/train.steps.jsonl", examples)
    write_text(out / "examples/report.json", json.dumps(_report(recipe.data.path)) + "\n")
    seen = [before, *_rounds(recipe, _sft(stepwise, out, rate), checked, options)]

    after, run = seen[-1], out / "run"
    counts = {"before": before.n_well_formed, "after": after.n_well_formed}
    facts = {"examples": len(examples), "checked": len(checked), "well_formed": counts}
    RunFolder(run).add_facts(warm_up=facts)
    _write_measured(out, seen, finished=True)
    print(f"well formed: {counts['before']} of {after.n} before, {counts['after']} of {after.n} after the warm-up")
    if not _is_enough(after, options):
        print(f"--well-formed {options.well_formed:g} was not reached: {after.commonest}")
    print(f"next: srl train RECIPE --model.model-name-or-path {run}")
    return run


def _rounds(recipe: Recipe, sft: Recipe, checked: Dataset, options: WarmUpOptions) -> Iterator[Seen]:
    """Train, and look, until it is enough; each round begins anew, with twice the epochs of the one before."""
    for number in range(1, options.rounds + 1):
        epochs = options.epochs * 2 ** (number - 1)
        sft = sft.model_copy(update={"optim": sft.optim.model_copy(update={"num_train_epochs": epochs})})
        write_text(sft.output_dir.parent / "warm-up.toml", recipe_toml(sft))
        train(sft, overwrite=True)
        seen = _check(_engine(str(sft.output_dir / "model"), recipe), checked, recipe, options, number)
        yield seen
        if _is_enough(seen, options):
            return
        if number < options.rounds:
            print(f"fewer than --well-formed {options.well_formed:g}: once more, with twice the epochs", flush=True)


def _is_enough(seen: Seen, options: WarmUpOptions) -> bool:
    return seen.n_well_formed >= options.well_formed * seen.n


def _engine(path: str, recipe: Recipe) -> TransformersEngine:
    chat = load_chat(path, **recipe.chat.model_dump())
    with shown_while("loading the model"):
        return TransformersEngine(path, recipe.rollout.max_completion_length, chat)


def _check(engine: TransformersEngine, rows: Dataset, recipe: Recipe, options: WarmUpOptions, number: int) -> Seen:
    """How completions of these prompts, sampled as in training, are formed after so many rounds; says it.

    Each round draws numbers of its own: of chances that are the same for all, the luckiest round would be taken.
    """
    faulty: list[tuple[str, str]] = []
    n_tokens = n_truncated = 0
    when = f"after round {number}" if number else "before"
    with Progress(f"well formed {when}", len(rows)) as progress:
        for start in range(0, len(rows), options.batch_size):
            batch = rows[start : start + options.batch_size]["prompt"]
            seeds = [recipe.seed + number * len(rows) + start + i for i in range(len(batch))]
            for reply in engine.generate([tuple(prompt) for prompt in batch], seeds, recipe.rollout.temperature):
                n_tokens, n_truncated = n_tokens + (reply.tokens or 0), n_truncated + reply.truncated
                if fault := fault_of(reply.text, reply.truncated, "srl"):
                    faulty.append((fault, begun(reply.text)))
            done = start + len(batch)
            progress.update(done, f"{done - len(faulty)} well formed")
    seen = Seen(len(rows), Counter(fault for fault, _ in faulty), dict(reversed(faulty)), n_tokens, n_truncated)
    if len(rows):
        low, high = seen.interval
        commonest = f"; {seen.commonest}" if seen.faults else ""
        share = f"{seen.n_well_formed} of {seen.n}, {seen.well_formed:.0%} (95% interval {low:.0%} to {high:.0%})"
        print(f"well formed {when}: {share}{commonest}", flush=True)
    return seen


def _write_measured(out: Path, seen: Sequence[Seen], *, finished: bool) -> None:
    """What `srl start` goes on from, and what says that srl wrote the folder."""
    facts = {"finished": finished, "checked": seen[0].n, "well_formed": [one.n_well_formed for one in seen]}
    write_text(out / "warm-up.json", json.dumps(facts) + "\n")


def _examples(
    engine: TransformersEngine, rows: Dataset, recipe: Recipe, options: WarmUpOptions, chat: Chat
) -> list[Row]:
    """Rows with thoughts, the expert's own or the model's, whose targets fit a completion with room to spare.

    Raises:
        UserError: there are too few.
    """
    room = int(ROOM * recipe.rollout.max_completion_length)

    def fits(row: Row, thought: str) -> bool:
        target = format_completion(thought, row["expert_action"])
        return is_in_the_format(thought.strip(), row["expert_action"]) and len(chat.target_ids(target)) <= room

    wanted = min(options.examples, len(rows))
    examples, short = [], []
    for row in rows.select(range(min(len(rows), POOL * wanted))):
        if options.thoughts == "data" and row["thought"] and fits(row, row["thought"]):
            examples.append(row)
        elif fits(row, "So."):
            short.append(row)
        if len(examples) == wanted:
            return examples
    examples += _in_own_words(engine, short, wanted - len(examples), recipe, options, fits)
    if len(examples) < wanted / 2:
        raise UserError(
            f"{recipe.data.path}: {len(examples)} rows have or got a thought that, with its step, fits {room} tokens, "
            f"expected {wanted}; raise rollout.max_completion_length ({recipe.rollout.max_completion_length}), or "
            "start from a larger instruct model"
        )
    return examples


def _in_own_words(
    engine: TransformersEngine,
    rows: list[Row],
    wanted: int,
    recipe: Recipe,
    options: WarmUpOptions,
    fits: Callable[[Row, str], bool],
) -> list[Row]:
    """So many of the rows, with thoughts of the model's; of rows for which it has no usable one the next are asked."""
    found: list[Row] = []
    waiting, asked = deque(rows), 0
    engine.max_tokens = max(1, recipe.rollout.max_completion_length // 2)
    with Progress("thoughts", wanted) as progress:
        while len(found) < wanted and waiting and asked < TRIES * wanted:
            size = min(options.batch_size, len(waiting), 2 * (wanted - len(found)))
            batch = [waiting.popleft() for _ in range(size)]
            requests = [thought_request(row["prompt"], row["expert_action"]) for row in batch]
            seeds = [recipe.seed + asked + i for i in range(size)]
            for row, reply in zip(batch, engine.generate(requests, seeds, options.temperature), strict=True):
                thought = spoken_thought(reply.text, reply.truncated)
                if fits(row, thought):
                    found.append({**row, "thought": thought})
                else:
                    waiting.append(row)
            asked += size
            progress.update(min(wanted, len(found)), f"of {asked} asked for")
    return found[:wanted]


def _sft(recipe: Recipe, out: Path, learning_rate: float) -> Recipe:
    """The SFT on the examples. Its batches are small: the format is learned by the number of steps."""
    return recipe.model_copy(
        update={
            "stage": "sft",
            "output_dir": out / "run",
            "data": Data(path=out / "examples", max_prompt_length=recipe.data.max_prompt_length),
            "optim": Optim(
                learning_rate=learning_rate,
                lr_scheduler_type="linear",
                per_device_train_batch_size=ROWS_PER_PASS,
            ),
            "sft": Sft(rows_per_step=ROWS_PER_STEP),
            "validation": Validation(eval_steps=0),
            "checkpoints": Checkpoints(),
            "trl": {name: value for name, value in recipe.trl.items() if name == "model_init_kwargs"},
        }
    )


def _report(data: Path) -> dict[str, Any]:
    """Of the data folder's report what later stages ask for: how prompts were made, and of what."""
    path = data / "report.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: found[name] for name in ("options", "source") if name in found}
