"""Out of memory: what to change in the recipe, and to what, by the memory model."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState

from srl.errors import UserError
from srl.runs.recipe import Recipe
from srl.training.first_step import first_step
from srl.training.forecast import Machine
from srl.training.memory import Memory

FREE = 0.9
"""Of the device, what the model may fill: allocators leave holes."""


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU, or of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def what_to_change(recipe: Recipe, processes: PartialState) -> str:
    """One line: how much memory there is, what is needed, and the options with which it fits."""
    on_gpu = processes.device.type == "cuda"
    if on_gpu:
        room = torch.cuda.get_device_properties(processes.device).total_memory
    else:
        room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"out of memory: {'a GPU' if on_gpu else 'a machine'} of {room / 1e9:.1f} GB"
    if recipe.stage == "sft":
        size = recipe.optim.per_device_train_batch_size
        return f"{found}; set optim.per_device_train_batch_size = {max(1, size // 2)} (now {size})"
    try:
        return f"{found}; {remedy(recipe, FREE * room, on_gpu=on_gpu, devices=processes.num_processes)}"
    except UserError as error:  # data or model are no longer there
        return f"{found}; lower optim.per_device_train_batch_size or rollout.max_completion_length ({error})"


def remedy(recipe: Recipe, room: float, *, on_gpu: bool, devices: int) -> str:
    """What the recipe needs by the memory model, with completions of full length; what to set so that it fits."""
    step = first_step(recipe, devices)

    def needs(one: Recipe) -> Memory:
        fitted = step.recipe.model_copy(update={"optim": one.optim, "rollout": one.rollout})
        machine = Machine(step._replace(recipe=fitted), one.rollout.max_completion_length, devices=devices)
        sharing = one.rollout.share_prefix
        return machine.memory(machine.largest_pass("rows" if sharing == "off" else sharing), on_gpu=on_gpu)

    recipe, now = step.recipe, needs(step.recipe)
    rows, length = recipe.optim.per_device_train_batch_size, recipe.rollout.max_completion_length
    said = (
        f"by the memory model passes of {rows} rows need {now.training / 1e9:.3g} GB and sampling needs "
        f"{now.sampling / 1e9:.3g} GB with completions of {length} tokens"
    )
    if max(now.training, now.sampling) <= room:
        return f"{said}, which fits: is another program using the memory? Or set {_as_set('optim', BATCH, rows // 2)}"
    changes = []
    if now.sampling > room:
        recipe = _halved(recipe, "rollout", LENGTH, lambda one: needs(one).sampling <= room)
        changes.append(_as_set("rollout", LENGTH, recipe.rollout.max_completion_length))
    if recipe.rollout.share_prefix == "off" and needs(recipe).training > room:
        recipe = _changed(recipe, "rollout", share_prefix="trajectory")
        changes.append('rollout.share_prefix = "trajectory"')
    if needs(recipe).training > room:
        recipe = _halved(recipe, "optim", BATCH, lambda one: needs(one).training <= room)
        changes.append(_as_set("optim", BATCH, recipe.optim.per_device_train_batch_size))
    then = needs(recipe)
    if max(then.training, then.sampling) > room:
        return f"{said}; that cannot fit: train adapters (model.use_peft), shard (trl.fsdp) or take a smaller model"
    return f"{said}; set {' and '.join(changes)}, which need {max(then.training, then.sampling) / 1e9:.3g} GB"


BATCH, LENGTH = "per_device_train_batch_size", "max_completion_length"


def _as_set(table: str, name: str, value: int) -> str:
    return f"{table}.{name} = {max(1, value)}"


def _halved(recipe: Recipe, table: str, name: str, fits: Callable[[Recipe], bool]) -> Recipe:
    """With the option halved until it fits, or cannot be halved any more."""
    while not fits(recipe) and (value := getattr(getattr(recipe, table), name)) % 2 == 0:
        recipe = _changed(recipe, table, **{name: value // 2})
    return recipe


def _changed(recipe: Recipe, table: str, **values: Any) -> Recipe:
    return recipe.model_copy(update={table: getattr(recipe, table).model_copy(update=values)})
