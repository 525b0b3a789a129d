"""`srl plan`: what one optimizer step will compute, before anything runs, with and without shared prefixes.

Prompts are the data's own; completions are not known yet, so they are taken to have a given length and nothing in
common. The weights are not loaded.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig
from trl.trainer.utils import RepeatSampler

from srl.chat.tokenizer import load_tokenizer, prompt_ids, set_template_options
from srl.errors import UserError
from srl.runs.folder import resolve_model
from srl.runs.recipe import Recipe
from srl.shared_prefix.cost import COARSER, Cost, ModelSize, cost
from srl.shared_prefix.packing import Ids, pack
from srl.shared_prefix.trainer import TrajectorySampler
from srl.training.options import fit_to_data
from srl.training.rows import load_rows


class Forecast(NamedTuple):
    """What one optimizer step will compute."""

    prompts: int
    costs: dict[str, Cost]
    """For each kind of sharing: "trajectory", "prompt" and "rows" (not shared, not padded)."""


def forecast(recipe: Recipe, completion_tokens: int) -> Forecast:
    """The cost of one step.

    Raises:
        UserError: a stage without rollouts, no data, a model without configuration.
    """
    if recipe.stage == "sft":
        raise UserError("srl plan: expected a recipe of the stage srl or rlvr, found sft, which samples nothing")
    path = resolve_model(recipe.model.model_name_or_path)
    tokenizer = load_tokenizer(path)
    set_template_options(tokenizer, recipe.chat_template_kwargs)
    rows = load_rows(recipe, "train", tokenizer)
    if not rows:
        raise UserError(f"{recipe.data.path}: no rows to train on")
    recipe = fit_to_data(recipe, len(rows), num_processes=1)
    asked = [rows[index]["prompt"] for index in _step(recipe, list(rows["trajectory_id"]))]
    prompts = prompt_ids(tokenizer, asked)
    size = ModelSize.of(AutoConfig.from_pretrained(path).get_text_config())
    passes = _passes(prompts, recipe, completion_tokens, size.vocabulary)
    costs = {sharing: [_cost(rows, lengths, sharing, size) for rows, lengths in passes] for sharing in COARSER}
    return Forecast(len(asked), {sharing: sum_of(parts) for sharing, parts in costs.items()})


def print_forecast(recipe: Recipe, completion_tokens: int) -> None:
    """Print `forecast` as a table."""
    rollout = recipe.rollout
    prompts, costs = forecast(recipe, completion_tokens)
    table = Table(
        "shared",
        "tokens",
        "attention pairs",
        "TFLOP",
        "activations of a pass, GiB",
        title=f"one step: {prompts} prompts × {rollout.num_generations} completions of "
        f"{completion_tokens} tokens, {rollout.step_order} order, passes of {recipe.optim.per_device_train_batch_size}",
        title_justify="left",
    )
    for sharing, found in costs.items():
        table.add_row(
            sharing,
            f"{found.unique_tokens:,} of {found.raw_tokens:,}",
            f"{found.attention_pairs:,}",
            f"{found.flops / 1e12:,.3f}",
            f"{found.activation_bytes / 2**30:.2f}",
        )
    Console().print(table)


def _step(recipe: Recipe, trajectory_ids: list[Any]) -> list[int]:
    """The rows of the first step, drawn as the trainer draws them."""
    sampler = RepeatSampler if recipe.rollout.step_order == "shuffle" else TrajectorySampler
    size = recipe.rollout.prompts_per_step
    return list(islice(sampler(trajectory_ids, mini_repeat_count=1, batch_size=size, seed=recipe.seed), size))


def _passes(
    prompts: list[list[int]], recipe: Recipe, completion_tokens: int, vocabulary: int
) -> list[tuple[list[Ids], list[int]]]:
    """The rows of each forward and backward pass, with their prompt lengths: sorted, as the trainer sorts them."""
    rng = np.random.default_rng(recipe.seed)
    rows = [
        (np.array([*prompt, *rng.integers(vocabulary, size=completion_tokens)]), len(prompt))
        for prompt in sorted(prompts)
        for _ in range(recipe.rollout.num_generations)
    ]
    size = recipe.optim.per_device_train_batch_size
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [([row for row, _ in part], [length for _, length in part]) for part in parts]


def _cost(rows: list[Ids], lengths: list[int], sharing: Any, size: ModelSize) -> Cost:
    return cost(pack(rows, lengths, sharing), rows, size)


def sum_of(costs: list[Cost]) -> Cost:
    """Of several passes, one after another: activations do not add up."""
    return Cost(
        unique_tokens=sum(one.unique_tokens for one in costs),
        raw_tokens=sum(one.raw_tokens for one in costs),
        attention_pairs=sum(one.attention_pairs for one in costs),
        flops=sum(one.flops for one in costs),
        overhead=sum(one.overhead for one in costs),
        activation_bytes=max(one.activation_bytes for one in costs),
    )
