"""What a training run writes to the disk, from the size of its model; said before it starts."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from srl.errors import UserError
from srl.runs.recipe import Recipe
from srl.shared_prefix.cost import ModelSize
from srl.training.memory import trained_weights

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


def disk(recipe: Recipe, size: ModelSize) -> Disk:
    """What a run writes. Rollouts, which come on top, are a few bytes for each of their tokens."""
    per_weight = 2 if recipe.model.dtype == "bfloat16" else 4
    trained = trained_weights(recipe, size)
    evaluates = recipe.validation.eval_steps > 0
    held = max(recipe.checkpoints.save_total_limit, 1 + evaluates) + 1  # the newest, the best, and the next
    if recipe.optim.max_steps > 0 and recipe.save_steps:
        held = min(held, math.ceil(recipe.optim.max_steps / recipe.save_steps))
    model = per_weight * (size.weights + trained * recipe.model.use_peft)  # merged, and adapter/
    return Disk(model, 3 * per_weight * trained, held if recipe.save_steps else 0)


def check_disk(recipe: Recipe, model: Any, *, is_main: bool = True) -> None:
    """Say what a run will write, unless it is little.

    Raises:
        UserError: more than there is room for.
    """
    needs = disk(recipe, ModelSize.of(model.config.get_text_config()))
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
