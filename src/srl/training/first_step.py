"""What the first optimizer step of a recipe computes: its prompts and the size of its model, before anything runs.

They are the data's own. Where data or model are not there yet, the recipe's [plan] says what to take for granted.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from trl.trainer.utils import RepeatSampler

from srl.chat.tokenizer import Chat, load_chat
from srl.errors import UserError
from srl.runs.folder import resolve_model
from srl.runs.model import max_positions
from srl.runs.recipe import Recipe
from srl.shared_prefix.cost import ModelSize
from srl.shared_prefix.trainer import TrajectorySampler
from srl.training.options import fit_to_data
from srl.training.rows import load_rows
from srl.training.sizes import model_size


class FirstStep(NamedTuple):
    """What a step computes, as far as data and model decide it."""

    recipe: Recipe
    """With its batch."""
    prompts: list[list[int]]
    """The tokens of each; of the stage sft, with the target."""
    targets: list[int]
    """How many tokens at the end of each are learned, for the stage sft."""
    rows: int
    """To train on."""
    size: ModelSize
    assumed: str
    """What was taken for granted, for people; "" if all was there."""


def first_step(recipe: Recipe, devices: int = 1) -> FirstStep:
    """The rows of the first step, drawn as the trainer draws them, and the size of the model.

    Raises:
        UserError: no data and no [plan] in its place; a model without configuration; too few rows for a batch.
    """
    size, model = model_size(recipe)
    given = recipe.model.model_name_or_path
    missing = [] if model == given else [f"{given} is taken to be of the size of {model}"]
    chat = None
    try:
        path = resolve_model(given)
        chat = load_chat(path, **recipe.chat.model_dump()) if recipe.data.path.is_dir() else None
    except UserError:
        if Path(given).exists() or not _says_what_to_assume(recipe):
            raise
    if chat is not None:
        rows = load_rows(recipe, "train", chat, max_positions(path))
        if not rows:
            raise UserError(f"{recipe.data.path}: no rows to train on")
        return _of_data(recipe, rows, chat, size, devices, "; ".join(missing))
    if not _says_what_to_assume(recipe):
        raise UserError(
            f"{recipe.data.path}: no such data folder; write it with srl steps, or say what to take for granted: "
            "--plan.rows and --plan.prompt-tokens"
        )
    plan = recipe.plan
    why = f"{recipe.data.path} is not there" if not recipe.data.path.is_dir() else f"no tokenizer of {given}"
    missing.append(f"{why}: {plan.rows:,} rows of {plan.prompt_tokens:,} tokens are assumed")
    return _assumed(recipe, size, devices, "; ".join(missing))


def _says_what_to_assume(recipe: Recipe) -> bool:
    return bool(recipe.plan.rows and recipe.plan.prompt_tokens)


def _of_data(recipe: Recipe, rows: Dataset, chat: Chat, size: ModelSize, devices: int, assumed: str) -> FirstStep:
    recipe = fit_to_data(recipe, len(rows), num_processes=devices)
    if recipe.stage == "sft":
        taken = rows.select(range(min(recipe.sft.rows_per_step, len(rows))))
        targets = [sum(mask) for mask in taken["completion_mask"]]
        return FirstStep(recipe, list(taken["input_ids"]), targets, len(rows), size, assumed)
    drawn = _drawn(recipe, list(rows["trajectory_id"]))
    prompts = chat.prompt_ids([rows[index]["prompt"] for index in drawn])
    return FirstStep(recipe, prompts, [], len(rows), size, assumed)


def _assumed(recipe: Recipe, size: ModelSize, devices: int, assumed: str) -> FirstStep:
    """Rows of random tokens; those of a trajectory begin alike, if its steps are drawn together."""
    plan, rng = recipe.plan, np.random.default_rng(recipe.seed)
    recipe = fit_to_data(recipe, plan.rows, num_processes=devices)
    is_sft = recipe.stage == "sft"
    n = min(recipe.sft.rows_per_step, plan.rows) if is_sft else recipe.rollout.prompts_per_step
    common = min(plan.common_tokens, plan.prompt_tokens) if recipe.rollout.step_order == "trajectory" else 0
    begun = rng.integers(size.vocabulary, size=common).tolist()
    rest = rng.integers(size.vocabulary, size=(n, plan.prompt_tokens - common)).tolist()
    targets = [min(plan.completion_tokens, plan.prompt_tokens)] * n if is_sft else []
    return FirstStep(recipe, [begun + row for row in rest], targets, plan.rows, size, assumed)


def _drawn(recipe: Recipe, trajectory_ids: list[Any]) -> list[int]:
    """The rows of the first step, drawn as the trainer draws them."""
    sampler = RepeatSampler if recipe.rollout.step_order == "shuffle" else TrajectorySampler
    size = recipe.rollout.prompts_per_step
    return list(islice(sampler(trajectory_ids, mini_repeat_count=1, batch_size=size, seed=recipe.seed), size))
