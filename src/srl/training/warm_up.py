"""`srl warm-up`: a model learns the format of a completion from completions of its own. No other model is needed.

It is asked twice, in plain words: what it would do next and why, then for the step itself. Any instruct model answers
that. The two answers become a row, a thought and a step after the prompt that SRL asks with; SFT on a few of those rows
teaches the format, and hardly anything else, for the words are the model's own.

    OUT/examples/      a data folder with those rows
    OUT/warm-up.toml   the recipe of the SFT: `srl train OUT/warm-up.toml` repeats it
    OUT/run/           its run folder: the model for the stages srl and rlvr
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from srl.chat.own_words import is_in_the_format, spoken_step, spoken_thought, step_request, thought_request
from srl.chat.tokenizer import load_chat
from srl.engines.transformers import TransformersEngine
from srl.errors import UserError
from srl.files import check_output_folder, clear_folder, write_jsonl, write_text
from srl.runs.folder import RunFolder, resolve_model
from srl.runs.model import max_positions
from srl.runs.progress import Progress
from srl.runs.recipe import Checkpoints, Data, Optim, Recipe, Reward, Sft, Validation, recipe_toml
from srl.runs.warm_up import WarmUpOptions
from srl.training.preflight import fault_of
from srl.training.rows import load_rows
from srl.training.train import train

TRIES = 4
"""Per prompt."""

ROWS_PER_STEP, ROWS_PER_PASS = 4, 2

Row = dict[str, Any]


def warm_up(recipe: Recipe, out: Path, options: WarmUpOptions, *, overwrite: bool = False) -> Path:
    """Make rows, train on them, and return the run folder. `recipe` is the SRL run's: its model, chat, data and limits.

    Raises:
        UserError: as `train`; `out` is not empty; the model writes no well-formed completion.
    """
    options.check()
    datasets.disable_progress_bars()
    check_output_folder(out, overwrite=overwrite, marker="warm-up.toml")
    stepwise = recipe.model_copy(update={"stage": "srl", "reward": Reward()})
    path = resolve_model(recipe.model.model_name_or_path)
    rows = load_rows(stepwise, "train", load_chat(path, **recipe.chat.model_dump()), max_positions(path))
    if not rows:
        raise UserError(f"{recipe.data.path}: no rows to train on")
    order = random.Random(recipe.seed).sample(range(len(rows)), len(rows))
    checked, others = rows.select(order[: options.checked]), rows.select(order[options.checked :])
    if not others:
        raise UserError(f"{recipe.data.path}: {len(rows)} rows, expected more than the {options.checked} for the check")

    engine = _engine(path, recipe)
    before = _check(engine, checked, recipe, options, "before")
    engine.chat = load_chat(path, **{**recipe.chat.model_dump(), "open_thought": False})
    examples = _write_examples(engine, others, recipe, options)
    del engine

    clear_folder(out)
    (out / "examples").mkdir()
    sft = _sft(stepwise, out, options)
    write_jsonl(out / "examples/train.steps.jsonl", examples)
    write_text(out / "examples/report.json", json.dumps(_report(recipe.data.path)) + "\n")
    write_text(out / "warm-up.toml", recipe_toml(sft))
    train(sft)

    after = _check(_engine(str(sft.output_dir / "model"), recipe), checked, recipe, options, "after")
    RunFolder(sft.output_dir).add_facts(
        warm_up={"examples": len(examples), "checked": len(checked), "well_formed": {"before": before, "after": after}}
    )
    print(f"well formed: {before} of {len(checked)} before, {after} of {len(checked)} after the warm-up")
    print(f"next: srl train RECIPE --model.model-name-or-path {sft.output_dir}")
    return sft.output_dir


def _engine(path: str, recipe: Recipe) -> TransformersEngine:
    return TransformersEngine(path, recipe.rollout.max_completion_length, load_chat(path, **recipe.chat.model_dump()))


def _check(engine: TransformersEngine, rows: Dataset, recipe: Recipe, options: WarmUpOptions, when: str) -> int:
    """How many completions of these prompts, sampled as in training, are well formed."""
    n_well_formed = 0
    with Progress(f"well formed {when}", len(rows)) as progress:
        for start in range(0, len(rows), options.batch_size):
            batch = rows[start : start + options.batch_size]["prompt"]
            seeds = [recipe.seed + start + i for i in range(len(batch))]
            replies = engine.generate([tuple(prompt) for prompt in batch], seeds, recipe.rollout.temperature)
            n_well_formed += sum(fault_of(reply.text, reply.truncated, "srl") is None for reply in replies)
            progress.update(start + len(batch), f"{n_well_formed} well formed")
    return n_well_formed


def _write_examples(engine: TransformersEngine, rows: Dataset, recipe: Recipe, options: WarmUpOptions) -> list[Row]:
    """Rows with thoughts and steps of the model's own; each prompt is asked until it has one, up to `TRIES` times.

    Raises:
        UserError: the model has written too few.
    """
    examples: dict[int, Row] = {}
    wanted, asked = min(options.examples, len(rows)), 0
    with Progress("format examples", wanted) as progress:
        for number in range(TRIES * math.ceil(wanted / options.batch_size)):
            places = [place for place in range(wanted) if place not in examples][: options.batch_size]
            if not places:
                break
            seed = recipe.seed + number * options.batch_size
            batch = [rows[place] for place in places]
            for place, example in zip(places, _in_own_words(engine, batch, seed, recipe, options), strict=True):
                examples |= {place: example} if example else {}
            asked += len(places)
            progress.update(len(examples), f"of {asked} asked for")
    if len(examples) < wanted / 2:
        raise UserError(
            f"{recipe.model.model_name_or_path}: of {asked} thoughts and steps asked for, {len(examples)} can be used, "
            f"expected {wanted}; raise rollout.max_completion_length, or start from a larger instruct model"
        )
    return [examples[place] for place in sorted(examples)]


def _in_own_words(
    engine: TransformersEngine, rows: list[Row], seed: int, recipe: Recipe, options: WarmUpOptions
) -> list[Row | None]:
    """Each row with a thought and a step of the model's; None where what it said makes none."""
    prompts = [row["prompt"] for row in rows]
    seeds = [seed + i for i in range(len(rows))]
    limit = recipe.rollout.max_completion_length
    engine.max_tokens = limit // 2  # together with the tags they must fit a completion
    replies = engine.generate([thought_request(prompt) for prompt in prompts], seeds, options.temperature)
    thoughts = [spoken_thought(reply.text, reply.truncated) for reply in replies]
    engine.max_tokens = limit * 2 // 5
    requests = [step_request(prompt, thought) for prompt, thought in zip(prompts, thoughts, strict=True)]
    replies = engine.generate(requests, seeds, options.temperature)
    steps = [spoken_step(reply.text, reply.truncated) for reply in replies]
    return [
        {**row, "thought": thought, "expert_action": step} if is_in_the_format(thought, step) else None
        for row, thought, step in zip(rows, thoughts, steps, strict=True)
    ]


def _sft(recipe: Recipe, out: Path, options: WarmUpOptions) -> Recipe:
    """The SFT on the examples. Its batches are small: the format is learned by the number of steps."""
    return recipe.model_copy(
        update={
            "stage": "sft",
            "output_dir": out / "run",
            "data": Data(path=out / "examples", max_prompt_length=recipe.data.max_prompt_length),
            "optim": Optim(
                learning_rate=options.learning_rate,
                lr_scheduler_type="linear",
                num_train_epochs=options.epochs,
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
