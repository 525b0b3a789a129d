"""`srl plan`: what one optimizer step and the whole run will take, before anything runs.

Prompts are the data's own; completions are not known yet, so they are taken to have a given length and nothing in
common. The weights are not loaded.
"""

from __future__ import annotations

import math
from datetime import timedelta
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig
from trl.trainer.utils import RepeatSampler

from srl.chat.tokenizer import load_chat
from srl.errors import UserError
from srl.runs.folder import resolve_model
from srl.runs.model import loading, max_positions
from srl.runs.recipe import Recipe
from srl.shared_prefix.cost import COARSER, Cost, ModelSize, cost
from srl.shared_prefix.packing import Ids, Pack, pack
from srl.shared_prefix.trainer import TrajectorySampler
from srl.training.machines import (
    GPUS,
    Gpu,
    Pass,
    cpu_flops,
    seconds_of_optimizer,
    seconds_of_pass,
    seconds_of_sampling,
)
from srl.training.memory import Memory, adapter_weights, checkpoints, memory, precision
from srl.training.options import fit_to_data
from srl.training.rows import load_rows


class Seconds(NamedTuple):
    """Of one step: one round of sampling, of which nothing is dropped, and one update."""

    sampling: float
    passes: float
    optimizer: float


class Sharing(NamedTuple):
    """A step with one kind of sharing."""

    cost: Cost
    memory: Memory
    """On one device."""
    seconds: Seconds


class Forecast(NamedTuple):
    """What training will take."""

    prompts: int
    """Of one step."""
    steps: int
    """Of the run."""
    kinds: dict[str, Sharing]
    """"trajectory", "prompt" and "rows" (not shared, not padded)."""


class FirstStep(NamedTuple):
    """What a step computes, as far as the recipe's data and model decide it."""

    recipe: Recipe
    """With its batch."""
    prompts: list[list[int]]
    rows: int
    """Of the data."""
    size: ModelSize


def first_step(recipe: Recipe, devices: int = 1) -> FirstStep:
    """The prompts of the first step, drawn as the trainer draws them, and the size of the model.

    Raises:
        UserError: a stage without rollouts, no data, a model without configuration.
    """
    if recipe.stage == "sft":
        raise UserError("srl plan: expected a recipe of the stage srl or rlvr, found sft, which samples nothing")
    path = resolve_model(recipe.model.model_name_or_path)
    chat = load_chat(path, **recipe.chat.model_dump())
    rows = load_rows(recipe, "train", chat, max_positions(path))
    if not rows:
        raise UserError(f"{recipe.data.path}: no rows to train on")
    recipe = fit_to_data(recipe, len(rows), num_processes=devices)
    prompts = chat.prompt_ids([rows[index]["prompt"] for index in _step(recipe, list(rows["trajectory_id"]))])
    with loading(path, "configuration"):
        size = ModelSize.of(AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config())
    return FirstStep(recipe, prompts, len(rows), size)


def forecast(recipe: Recipe, completion_tokens: int, gpu: Gpu | None = None, devices: int = 1) -> Forecast:
    """What one step takes on so many GPUs, or on this machine's CPU.

    Raises:
        UserError: as `first_step`.
    """
    step = first_step(recipe, devices)
    machine = Machine(step, completion_tokens, gpu, devices)
    of_epochs = math.ceil(recipe.optim.num_train_epochs * (step.rows // len(step.prompts)))
    steps = recipe.optim.max_steps if recipe.optim.max_steps > 0 else of_epochs
    return Forecast(len(step.prompts), steps, {sharing: machine.takes(sharing) for sharing in COARSER})


class Machine:
    """Where a step runs."""

    def __init__(self, step: FirstStep, completion_tokens: int, gpu: Gpu | None = None, devices: int = 1) -> None:
        self.recipe, self.size, self.gpu, self.devices = step.recipe, step.size, gpu, devices
        self.completion = completion_tokens
        self.lengths = [len(prompt) for prompt in step.prompts]
        self.rows = len(step.prompts) * step.recipe.rollout.num_generations // devices
        self.passes = _passes(step.prompts, step.recipe, completion_tokens, step.size.vocabulary)

    @cached_property
    def cpu_flops(self) -> float:
        """Tried once."""
        return cpu_flops()

    def takes(self, sharing: Any) -> Sharing:
        """One step with this sharing."""
        packed = [(pack(rows, lengths, sharing), rows) for rows, lengths in self.passes]
        costs = [cost(packs, rows, self.size) for packs, rows in packed]
        held = self.memory(max(one.unique_tokens for one in costs), on_gpu=self.gpu is not None)
        return Sharing(sum_of(costs), held, self._seconds([packs for packs, _ in packed], costs))

    def memory(self, pass_tokens: int, *, on_gpu: bool) -> Memory:
        """Of each device."""
        sampled = self.rows * (max(self.lengths) + self.completion)
        return memory(self.recipe, self.size, pass_tokens, sampled, on_gpu=on_gpu, devices=self.devices)

    def largest_pass(self, sharing: Any) -> int:
        """Tokens that are computed in it."""
        return max(sum(one.plan.n_places for one in pack(*each, sharing)) for each in self.passes)

    def _seconds(self, passes: list[list[Pack]], costs: list[Cost]) -> Seconds:
        size, recipe, mean = self.size, self.recipe, sum(self.lengths) / len(self.lengths)
        if self.gpu is None:
            tokens = self.rows * self.completion + sum(self.lengths)
            sampling = 2 * size.matrix_weights * tokens / (self.cpu_flops / 2)
            return Seconds(sampling, sum(one.total for one in costs) / self.cpu_flops, 0.0)
        trained = adapter_weights(size, recipe.model.lora_r) if recipe.model.use_peft else size.weights
        options = precision(recipe, on_gpu=True), checkpoints(recipe, on_gpu=True)
        passing = sum(
            seconds_of_pass(_as_one(packs), size, self.gpu, options[0], checkpointing=options[1]) for packs in passes
        )
        return Seconds(
            seconds_of_sampling(self.rows, mean, self.completion, size, self.gpu),
            passing / self.devices,
            seconds_of_optimizer(trained / (self.devices if recipe.trl.get("fsdp") else 1), self.gpu),
        )


def _as_one(packs: list[Pack]) -> Pass:
    """The packs of one pass; attention is one call."""
    return Pass(
        tokens=sum(one.plan.n_places for one in packs),
        labelled=sum(int((one.labels_T >= 0).sum()) for one in packs),
        pairs=sum(one.plan.n_pairs for one in packs),
    )


def print_forecast(recipe: Recipe, completion_tokens: int, gpu_name: str | None = None, devices: int = 1) -> None:
    """Print `forecast` as tables.

    Raises:
        UserError: as `forecast`; an unknown GPU.
    """
    if gpu_name is not None and gpu_name not in GPUS:
        raise UserError(f"srl plan: expected one of the GPUs {', '.join(GPUS)}, found {gpu_name}")
    if devices > 1 and gpu_name is None:
        raise UserError("srl plan: several devices need --gpu, their type")
    gpu = GPUS[gpu_name] if gpu_name else None
    found = forecast(recipe, completion_tokens, gpu, devices)
    console = Console()
    console.print(_work(recipe, completion_tokens, found))
    console.print(_needs(recipe, found, gpu))
    taken = found.kinds[recipe.rollout.share_prefix if recipe.rollout.share_prefix in found.kinds else "rows"]
    where = f"{devices} × {gpu_name}" if gpu else "this machine's CPU"
    sampling, _, optimizer = taken.seconds
    per_step = sum(taken.seconds)
    rollouts = found.steps * found.prompts * recipe.rollout.num_generations
    console.print(
        f"{where}, share_prefix = {recipe.rollout.share_prefix}: a step takes {per_step:.3g} s, {sampling:.3g} of them "
        f"for sampling and {optimizer:.2g} for AdamW. The run: {found.steps} steps, "
        f"{timedelta(seconds=round(found.steps * per_step))}, {rollouts:,} rollouts, "
        f"{found.steps * taken.cost.raw_tokens:,} tokens, {found.steps * taken.cost.flops / 1e15:.3g} PFLOP of "
        "training. Groups that are dropped, and evaluation, come on top.",
        highlight=False,
    )
    if gpu:
        most = max(taken.memory.training, taken.memory.sampling)
        word = "fits" if most < 0.9 * gpu.memory else "does not fit"
        console.print(f"{most / 1e9:.1f} GB {word} in {gpu.memory / 1e9:.0f} GB, of which a tenth is kept free")


def _work(recipe: Recipe, completion_tokens: int, found: Forecast) -> Table:
    rollout = recipe.rollout
    table = Table(
        *("shared", "tokens", "attention pairs", "TFLOP", "seconds"),
        title=f"training of one step: {found.prompts} prompts × {rollout.num_generations} completions of "
        f"{completion_tokens} tokens, {rollout.step_order} order, passes of {recipe.optim.per_device_train_batch_size}",
        title_justify="left",
    )
    for sharing, (one, _, seconds) in found.kinds.items():
        table.add_row(
            sharing,
            f"{one.unique_tokens:,} of {one.raw_tokens:,}",
            f"{one.attention_pairs:,}",
            f"{one.flops / 1e12:,.3f}",
            f"{seconds.passes:.3g}",
        )
    return table


def _needs(recipe: Recipe, found: Forecast, gpu: Gpu | None) -> Table:
    again = ", layers checkpointed" if checkpoints(recipe, on_gpu=gpu is not None) else ""
    table = Table(
        *("shared", "weights", "gradients", "AdamW", "activations", "logits", "training", "KV cache", "sampling"),
        title=f"GB on each device{again}",
        title_justify="left",
    )
    for sharing, (_, held, _) in found.kinds.items():
        *trained, cache = held
        numbers = *trained, held.training, cache, held.sampling
        table.add_row(sharing, *(f"{number / 1e9:.3g}" for number in numbers))
    return table


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


def sum_of(costs: list[Cost]) -> Cost:
    """Of several passes, one after another."""
    return Cost(
        unique_tokens=sum(one.unique_tokens for one in costs),
        raw_tokens=sum(one.raw_tokens for one in costs),
        attention_pairs=sum(one.attention_pairs for one in costs),
        flops=sum(one.flops for one in costs),
        overhead=sum(one.overhead for one in costs),
    )
