"""What a training run writes to the disk, from the size of its model; said before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from srl.errors import UserError
from srl.runs.recipe import Recipe
from srl.shared_prefix.cost import ModelSize
from srl.training.memory import adapter_weights

SMALL = 1e8
"""Bytes of a run that need no word."""


class Disk(NamedTuple):
    """Bytes."""

    model: float
    """Of `model/`."""
    checkpoint: float
    """Of each checkpoint: what is trained, and AdamW's two moments of it."""
    checkpoints: int
    """That there are at once, while one is written."""

    @property
    def peak(self) -> float:
        """The most that the run folder holds."""
        return self.model + self.checkpoints * self.checkpoint


def disk(recipe: Recipe, weights: int, adapters: int, *, evaluates: bool) -> Disk:
    """What a run of a model of so many weights writes; `adapters` are LoRA's."""
    per_weight = 2 if recipe.model.dtype == "bfloat16" else 4
    trained = adapters if recipe.model.use_peft else weights
    held = max(recipe.checkpoints.save_total_limit, 1 + evaluates) + 1  # the newest, the best, and the next
    if recipe.optim.max_steps > 0 and recipe.save_steps:
        held = min(held, -(-recipe.optim.max_steps // recipe.save_steps))
    # Without LoRA model/ is written when the checkpoints are; with it the adapters lie beside it.
    model = per_weight * (weights + (adapters if recipe.model.use_peft else 0))
    return Disk(model, 3 * per_weight * trained, held if recipe.save_steps else 0)


def check_disk(recipe: Recipe, model: Any, *, evaluates: bool, is_main: bool = True) -> None:
    """Say what a run will write, unless it is little.

    Raises:
        UserError: more than there is room for.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    adapters = adapter_weights(ModelSize.of(model.config.get_text_config()), recipe.model.lora_r)
    needs = disk(recipe, weights, adapters if recipe.model.use_peft else 0, evaluates=evaluates)
    if needs.peak < SMALL or not is_main:
        return
    free = free_bytes(recipe.output_dir)
    said = f"{recipe.output_dir} will hold up to {needs.peak / 1e9:.1f} GB: model/ of {needs.model / 1e9:.1f} GB"
    if needs.checkpoints:
        said += f" and, at once, {needs.checkpoints} checkpoint(s) of {needs.checkpoint / 1e9:.1f} GB"
    if needs.peak > free:
        raise UserError(
            f"{said}, and {free / 1e9:.1f} GB are free; make room, choose another output_dir, or save less: "
            "checkpoints.save_total_limit = 1, a higher validation.eval_steps or checkpoints.save_steps"
        )
    after = "" if recipe.checkpoints.keep_when_finished else "; the checkpoints go when it has finished"
    print(f"{said}{after}; {free / 1e9:.1f} GB are free", flush=True)


def free_bytes(folder: Path) -> float:
    """What can be written to a folder, which need not be there yet: all that is free, and what it holds already."""
    there = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return float(shutil.disk_usage(there).free + held)
