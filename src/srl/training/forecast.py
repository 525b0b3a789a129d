"""`srl plan`: what one optimizer step and the whole run will take, before anything runs.

Prompts are the data's own (`first_step.py`); completions are not known yet, so they are taken to have a given length
and nothing in common. The weights are not loaded.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from srl.runs.recipe import Recipe
from srl.shared_prefix.cost import COARSER, Cost, cost
from srl.shared_prefix.packing import Ids, Pack, pack
from srl.training.disk import disk
from srl.training.first_step import FirstStep, first_step
from srl.training.machines import (
    Gpu,
    Pass,
    cpu_flops,
    seconds_of_optimizer,
    seconds_of_pass,
    seconds_of_sampling,
)
from srl.training.memory import Memory, activation_bytes, checkpoints, memory, precision, trained_weights


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

    step: FirstStep
    steps: int
    """Of the run."""
    kinds: dict[str, Sharing]
    """"trajectory", "prompt" and "rows" (not shared, not padded); of the stage sft "rows", padded."""
    activations: dict[bool, float]
    """Bytes per computed token, without and with checkpointing."""
    disk: float
    """Bytes of the run folder, rollouts aside."""


def forecast(recipe: Recipe, completion_tokens: int, gpu: Gpu | None = None, devices: int = 1) -> Forecast:
    """What one step takes on so many GPUs, or on this machine's CPU.

    Raises:
        UserError: as `first_step`.
    """
    step = first_step(recipe, devices)
    machine = Machine(step, completion_tokens, gpu, devices)
    epochs = recipe.optim.num_train_epochs
    if recipe.stage == "sft":
        of_epochs = math.ceil(epochs * math.ceil(step.rows / recipe.sft.rows_per_step))
    else:
        of_epochs = math.ceil(epochs * (step.rows // len(step.prompts)))
    computes_in = precision(recipe, on_gpu=gpu is not None)
    return Forecast(
        step,
        recipe.optim.max_steps if recipe.optim.max_steps > 0 else of_epochs,
        {sharing: machine.takes(sharing) for sharing in COARSER if recipe.stage != "sft" or sharing == "rows"},
        {again: activation_bytes(step.size, computes_in, checkpointing=again) for again in (False, True)},
        disk(step.recipe, step.size).peak,
    )


class Machine:
    """Where a step runs."""

    def __init__(self, step: FirstStep, completion_tokens: int, gpu: Gpu | None = None, devices: int = 1) -> None:
        self.recipe, self.size, self.gpu, self.devices = step.recipe, step.size, gpu, devices
        self.completion = completion_tokens
        self.lengths = [len(prompt) for prompt in step.prompts]
        self.is_sft = step.recipe.stage == "sft"
        self.rows = 0 if self.is_sft else len(step.prompts) * step.recipe.rollout.num_generations // devices
        self.passes = _padded_passes(step) if self.is_sft else _passes(step, completion_tokens)

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
        of_device = self.gpu.memory if self.gpu else 0.0
        return memory(
            self.recipe,
            self.size,
            pass_tokens,
            sampled,
            on_gpu=on_gpu,
            devices=self.devices,
            device_memory=of_device,
        )

    def largest_pass(self, sharing: Any) -> int:
        """Tokens that are computed in it."""
        return max(sum(one.plan.n_places for one in pack(*each, sharing)) for each in self.passes)

    def _seconds(self, passes: list[list[Pack]], costs: list[Cost]) -> Seconds:
        size, recipe, mean = self.size, self.recipe, sum(self.lengths) / len(self.lengths)
        if self.gpu is None:
            tokens = 0 if self.is_sft else self.rows * self.completion + sum(self.lengths)
            sampling = 2 * size.matrix_weights * tokens / (self.cpu_flops / 2)
            return Seconds(sampling, sum(one.total for one in costs) / self.cpu_flops, 0.0)
        options = precision(recipe, on_gpu=True), checkpoints(recipe, on_gpu=True)
        passing = sum(
            seconds_of_pass(_as_one(packs, masked=self.is_sft), size, self.gpu, options[0], checkpointing=options[1])
            for packs in passes
        )
        sampling = 0.0 if self.is_sft else seconds_of_sampling(self.rows, mean, self.completion, size, self.gpu)
        return Seconds(
            sampling,
            passing / self.devices,
            seconds_of_optimizer(
                trained_weights(recipe, size) / (self.devices if recipe.trl.get("fsdp") else 1), self.gpu
            ),
        )


def _as_one(packs: list[Pack], *, masked: bool) -> Pass:
    """The packs of one pass; attention is one call."""
    return Pass(
        tokens=sum(one.plan.n_places for one in packs),
        labelled=sum(int((one.labels_T >= 0).sum()) for one in packs),
        pairs=sum(one.plan.n_pairs for one in packs) * (2 if masked else 1),
        masked=masked,
    )


def _passes(step: FirstStep, completion_tokens: int) -> list[tuple[list[Ids], list[int]]]:
    """The rows of each forward and backward pass, with their prompt lengths: sorted, as the trainer sorts them."""
    rng = np.random.default_rng(step.recipe.seed)
    rows = [
        (np.array([*prompt, *rng.integers(step.size.vocabulary, size=completion_tokens)]), len(prompt))
        for prompt in sorted(step.prompts)
        for _ in range(step.recipe.rollout.num_generations)
    ]
    size = step.recipe.optim.per_device_train_batch_size
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [([row for row, _ in part], [length for _, length in part]) for part in parts]


def _padded_passes(step: FirstStep) -> list[tuple[list[Ids], list[int]]]:
    """The same for the stage sft, whose rows come in any order, padded to the longest of their pass."""
    size, passes = step.recipe.optim.per_device_train_batch_size, []
    for start in range(0, len(step.prompts), size):
        longest = max(len(row) for row in step.prompts[start : start + size])
        learned = step.targets[start : start + size]
        passes.append(([np.zeros(longest, dtype=np.int64) for _ in learned], [longest - n for n in learned]))
    return passes


def sum_of(costs: list[Cost]) -> Cost:
    """Of several passes, one after another."""
    return Cost(
        unique_tokens=sum(one.unique_tokens for one in costs),
        raw_tokens=sum(one.raw_tokens for one in costs),
        attention_pairs=sum(one.attention_pairs for one in costs),
        flops=sum(one.flops for one in costs),
        overhead=sum(one.overhead for one in costs),
    )
