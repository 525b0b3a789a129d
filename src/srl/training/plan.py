"""What `srl plan` prints of a forecast."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from srl.errors import UserError
from srl.runs.recipe import Recipe
from srl.training.forecast import Forecast, Sharing, forecast
from srl.training.machines import GPUS, Gpu, duration
from srl.training.memory import checkpoints


def print_plan(recipe: Recipe, completion_tokens: int, gpu_name: str | None = None, devices: int = 1) -> None:
    """Print what the recipe takes on so many GPUs of a type, or on this machine's CPU.

    Raises:
        UserError: as `forecast`; an unknown GPU.
    """
    gpu = gpu_named(gpu_name, devices)
    found = forecast(recipe, completion_tokens, gpu, devices)
    recipe, console = found.step.recipe, Console(width=None if Console().is_terminal else 160)
    if found.step.assumed:
        console.print(found.step.assumed, highlight=False)
    console.print(_work(recipe, completion_tokens, found))
    console.print(_needs(recipe, found, gpu))
    print(_in_words(recipe, completion_tokens, found, gpu_name, devices))
    print(summary(found, gpu_name, devices))


def gpu_named(name: str | None, devices: int) -> Gpu | None:
    """The type of GPU; None is this machine's CPU.

    Raises:
        UserError: there is no data sheet of such a GPU; several CPUs.
    """
    if name is not None and name not in GPUS:
        raise UserError(f"srl plan: expected one of the GPUs {', '.join(GPUS)}, found {name}")
    if devices < 1 or (devices > 1 and name is None):
        raise UserError("srl plan: --gpus is a number of GPUs from 1; it needs --gpu, their type")
    return GPUS[name] if name else None


def taken(found: Forecast) -> Sharing:
    """The kind of sharing that the recipe asks for."""
    asked = found.step.recipe.rollout.share_prefix
    return found.kinds[asked if asked in found.kinds else "rows"]


def summary(found: Forecast, gpu_name: str | None, devices: int) -> str:
    """The line that stands in the heads of srl's own recipes."""
    held = taken(found).memory
    most = max(held.training, held.sampling)
    where = f"{devices} × {gpu_name}" if gpu_name else "this machine's CPU"
    room = ""
    if gpu_name:
        size = GPUS[gpu_name].memory
        fits = "fits" if most < 0.9 * size else "DOES NOT FIT"
        room = f" {fits} in {size / 1e9:.0f} GB, of which a tenth is kept free;"
    return (
        f"{where}: {most / 1e9:.1f} GB{room or ' of memory;'} {found.disk / 1e9:.3g} GB of disk; "
        f"{found.steps:,} steps in {duration(found.steps * sum(taken(found).seconds))}"
    )


def _in_words(recipe: Recipe, completion_tokens: int, found: Forecast, gpu_name: str | None, devices: int) -> str:
    """One step and the whole run."""
    one = taken(found)
    where = f"{devices} × {gpu_name}" if gpu_name else "this machine's CPU"
    if recipe.stage == "sft":
        how, rollouts, without = "padded rows", "", "Evaluation comes on top."
    else:
        n_rollouts = len(found.step.prompts) * recipe.rollout.num_generations
        how = f"share_prefix = {recipe.rollout.share_prefix}"
        tokens = found.steps * n_rollouts * completion_tokens
        rollouts = f"{found.steps * n_rollouts:,} rollouts, {tokens / 1e6:,.3g} M tokens sampled, "
        without = "Groups that are dropped, and evaluation, come on top."
    return (
        f"{where}, {how}: a step takes {sum(one.seconds):.3g} s, {one.seconds.sampling:.3g} of them for sampling and "
        f"{one.seconds.optimizer:.2g} for AdamW. The run: {rollouts}{found.steps * one.cost.raw_tokens / 1e6:,.3g} M "
        f"tokens trained on, {found.steps * one.cost.flops / 1e15:,.3g} PFLOP of training. {without}"
    )


def _work(recipe: Recipe, completion_tokens: int, found: Forecast) -> Table:
    n, rollout = len(found.step.prompts), recipe.rollout
    if recipe.stage == "sft":
        rows = f"{n} rows of {sum(map(len, found.step.prompts)) / n:.0f} tokens in the mean"
    else:
        rows = (
            f"{n} prompts × {rollout.num_generations} completions of {completion_tokens} tokens, "
            f"{rollout.step_order} order"
        )
    title = f"training of one step: {rows}, passes of {recipe.optim.per_device_train_batch_size}"
    table = Table("shared", "tokens", "attention pairs", "TFLOP", "seconds", title=title, title_justify="left")
    for sharing, (one, _, seconds) in found.kinds.items():
        table.add_row(
            "padded" if recipe.stage == "sft" else sharing,
            f"{one.unique_tokens:,} of {one.raw_tokens:,}",
            f"{one.attention_pairs:,}",
            f"{one.flops / 1e12:,.3f}",
            f"{seconds.passes:.3g}",
        )
    return table


def _needs(recipe: Recipe, found: Forecast, gpu: Gpu | None) -> Table:
    again = checkpoints(recipe, on_gpu=gpu is not None)
    heads = ("shared", "weights", "gradients", "AdamW", "activations", "checkpointed", "logits", "KV cache", "vLLM")
    table = Table(*heads, "training", "sampling", title_justify="left")
    table.title = f"GB on each device; activations count {'checkpointed' if again else 'as they are'}"
    for sharing, (_, held, _) in found.kinds.items():
        tokens = held.activations / found.activations[again]
        activations = (tokens * found.activations[kind] for kind in (False, True))
        numbers = (held.weights, held.gradients, held.optimizer, *activations, held.logits, held.cache, held.vllm)
        table.add_row(
            "padded" if recipe.stage == "sft" else sharing,
            *(f"{number / 1e9:.3g}" for number in (*numbers, held.training, held.sampling)),
        )
    return table
