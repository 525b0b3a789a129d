"""What this machine will take for a recipe, and what its choices depend on: looked up and tried, nothing is trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import datasets
import torch

from srl.chat.tokenizer import load_chat
from srl.runs.folder import resolve_model
from srl.runs.model import max_positions
from srl.runs.recipe import Data, Model, Recipe
from srl.training.disk import Disk, disk, free_bytes
from srl.training.fitting import Facts
from srl.training.forecast import forecast
from srl.training.machines import GPUS, Gpu
from srl.training.rows import load_parts
from srl.training.sizes import model_size

OF_THE_LIMIT = 0.75
"""Of a completion's limit, for its length in a forecast."""


class Outlook(NamedTuple):
    """What training by a recipe takes on this machine. Seconds are None on a GPU whose data sheet srl does not have."""

    steps: int
    rollouts: int
    """Of a step, if nothing is dropped."""
    seconds: float | None
    """Of a step."""
    per_sampled_token: float | None
    """Seconds, many at a time."""
    per_learned_token: float | None
    """Seconds, prompts included."""
    prompt_tokens: float
    """In the mean."""
    disk: Disk
    free: float
    """Bytes."""


def facts_of(model: str, data: Path) -> Facts:
    """The size of a model, and the rows of a data folder in its tokens.

    Raises:
        UserError: no such model or rows.
    """
    datasets.disable_progress_bars()
    path = resolve_model(model)
    chat = load_chat(path)
    any_length = Data(path=data, max_prompt_length=2**31)
    recipe = Recipe(stage="srl", output_dir=data, model=Model(model_name_or_path=model), data=any_length)
    rows, held_out = load_parts(recipe, chat, None)
    prompts = [
        len(ids) for start in range(0, len(rows), 512) for ids in chat.prompt_ids(rows[start : start + 512]["prompt"])
    ]
    steps = sorted(len(chat.encode(f"<think>{action}")) for action in rows["expert_action"])
    return Facts(
        weights=model_size(recipe)[0].weights,
        positions=max_positions(path),
        rows=len(rows),
        held_out=len(held_out or ()),
        longest_prompt=max(prompts),
        step_tokens=steps[math.ceil(0.95 * len(steps)) - 1],
        gpu_bytes=torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None,
    )


def outlook(recipe: Recipe) -> Outlook:
    """As `srl plan`, for this machine, and the disk."""
    completion = int(OF_THE_LIMIT * recipe.rollout.max_completion_length)
    gpu = _this_gpu()
    found = forecast(recipe, completion, gpu)
    rollouts = len(found.step.prompts) * recipe.rollout.num_generations
    raw = found.kinds["rows"]
    prompt = raw.cost.raw_tokens / rollouts - completion
    taken = found.kinds.get(recipe.rollout.share_prefix, raw).seconds
    is_known = gpu is not None or not torch.cuda.is_available()
    return Outlook(
        steps=found.steps,
        rollouts=rollouts,
        seconds=sum(taken) if is_known else None,
        per_sampled_token=taken.sampling / (rollouts * completion) if is_known else None,
        per_learned_token=raw.seconds.passes / raw.cost.raw_tokens if is_known else None,
        prompt_tokens=prompt,
        disk=disk(recipe, found.step.size),
        free=free_bytes(recipe.output_dir),
    )


def _this_gpu() -> Gpu | None:
    """None without one, or where its data sheet is not known."""
    name = torch.cuda.get_device_name(0).replace(" ", "") if torch.cuda.is_available() else ""
    return next((GPUS[key] for key in sorted(GPUS, key=len, reverse=True) if key in name), None)
