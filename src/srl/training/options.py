"""A recipe as options of TRL's `SFTConfig`, or of `SRLConfig`, which extends TRL's `GRPOConfig`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.utils import is_liger_kernel_available
from trl import SFTConfig

from srl.errors import UserError
from srl.rewards import reward_functions
from srl.runs.recipe import Optim, Recipe, Rollout, refuse_quantized
from srl.runs.toml import suggest
from srl.training.config import SRLConfig, usual_oversampling

LARGEST_BATCH = 512
"""The paper's (table 8)."""

STEPS_PER_EPOCH = 4
"""At least so many where the recipe leaves the batch open, so that a small data set still trains in several steps."""


def fit_to_data(recipe: Recipe, n_rows: int, num_processes: int) -> Recipe:
    """The recipe with its batch, and how far to oversample, where it leaves them open.

    Raises:
        UserError: the rows do not fill one batch: TRL would make no step, or repeat rows within one.
    """
    if recipe.stage == "sft":  # its last batch may be a small one
        return recipe
    rollout = recipe.rollout
    rows_per_pass = recipe.optim.per_device_train_batch_size * num_processes
    # Each process takes whole groups, in whole passes.
    unit = math.lcm(num_processes, rows_per_pass // math.gcd(rows_per_pass, rollout.num_generations))
    asked = min(LARGEST_BATCH, n_rows // STEPS_PER_EPOCH) // unit * unit
    size = rollout.prompts_per_step or max(unit, asked)
    if size > n_rows:
        largest = n_rows // unit * unit
        remedy = f"set rollout.prompts_per_step to {largest} or less" if largest else "lower the passes, or use fewer"
        raise UserError(
            f"{recipe.data.path}: {n_rows} rows to train on do not fill one batch of {size} prompts ({num_processes} "
            f"process(es), passes of {recipe.optim.per_device_train_batch_size} rows); {remedy}"
        )
    fitted = {"prompts_per_step": size, "max_oversampling": rollout.max_oversampling or usual_oversampling()}
    return recipe.model_copy(update={"rollout": rollout.model_copy(update=fitted)})


def trainer_options(recipe: Recipe, num_processes: int, *, has_validation: bool) -> dict[str, Any]:
    """The recipe as keyword arguments of `SFTConfig` or `SRLConfig`.

    Raises:
        UserError: a batch that the processes cannot share out evenly; an unknown or doubly set TRL option.
    """
    if recipe.unused_reward:
        raise UserError(recipe.unused_reward)
    rollout, validation = recipe.rollout, recipe.validation
    options = recipe.optim.model_dump(exclude={"max_num_tokens"}) | {
        "output_dir": str(recipe.output_dir),
        "seed": recipe.seed,
        "gradient_accumulation_steps": passes_per_batch(recipe, num_processes),
        "use_cpu": not torch.accelerator.is_available(),  # without it several CPU processes run apart
        "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps" if recipe.save_steps else "no",
        "save_steps": recipe.save_steps or 1,
        "save_total_limit": None,  # WholeCheckpoints deletes old ones
        "logging_nan_inf_filter": False,  # NaN would be logged as 0; DivergenceGuard stops at it
    }
    if has_validation:
        options |= {
            "eval_strategy": "steps",
            "eval_steps": validation.eval_steps,
            "eval_on_start": True,
            "per_device_eval_batch_size": validation.per_device_eval_batch_size,
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss" if recipe.stage == "sft" else "eval_reward",
            "greater_is_better": recipe.stage != "sft",
        }
    if recipe.stage == "sft":
        options |= {"max_length": None, "completion_only_loss": True}  # prompts are checked, not cut
    else:
        options |= rollout.model_dump(exclude={"prompts_per_step", "min_well_formed"})
        options |= {"num_generations_eval": validation.num_generations}
        options |= {"expert_logprob_gain": recipe.reward.expert_logprob_weight > 0}
        if recipe.reward.format_term == "separate":
            options |= {"multi_objective_aggregation": "normalize_then_sum"}
    return options | _further_options(recipe, options)


def passes_per_batch(recipe: Recipe, num_processes: int) -> int:
    """How many forward and backward passes each process makes for one batch.

    Raises:
        UserError: the processes cannot share the batch out evenly.
    """
    rollout = recipe.rollout
    batch_rows = (
        recipe.sft.rows_per_step if recipe.stage == "sft" else rollout.prompts_per_step * rollout.num_generations
    )
    rows_per_pass = recipe.optim.per_device_train_batch_size * num_processes
    if batch_rows % rows_per_pass:
        raise UserError(
            f"a batch of {batch_rows} rows cannot be shared by {num_processes} process(es) in passes of "
            f"{recipe.optim.per_device_train_batch_size}: it must be a multiple of {rows_per_pass}"
        )
    return batch_rows // rows_per_pass


def trainer_config(recipe: Recipe, options: dict[str, Any]) -> SFTConfig | SRLConfig:
    """TRL's configuration of these options.

    Raises:
        UserError: TRL refuses them.
    """
    config = SFTConfig if recipe.stage == "sft" else SRLConfig
    try:
        made = config(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"[trl] {config.__name__} refuses these options: {' '.join(str(error).split())}") from None
    n_weights = len(getattr(made, "reward_weights", None) or ())
    if n_weights and n_weights != (n_rewards := len(reward_functions(recipe))):
        raise UserError(f"[trl] reward_weights: expected {n_rewards}, one for each reward function, found {n_weights}")
    if made.use_liger_kernel and not is_liger_kernel_available():
        raise UserError("[trl] use_liger_kernel: liger-kernel is not installed here; pip install it, or leave it out")
    installed = {"none", *get_available_reporting_integrations()}
    for name in made.report_to:
        if name not in INTEGRATION_TO_CALLBACK and name not in installed:
            raise UserError(f"[trl] report_to: unknown `{name}`{suggest(name, sorted(INTEGRATION_TO_CALLBACK))}")
        if name not in installed:
            raise UserError(f"[trl] report_to: `{name}` is not installed here; pip install it, or leave it out")
    return made


@contextmanager
def refusals_of_trl(recipe: Recipe) -> Iterator[None]:
    """While a trainer is built: TRL looks at some options only then.

    Raises:
        UserError: TRL refuses an option of [trl], or misses a package for it.
    """
    try:
        yield
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:
        if not recipe.trl:
            raise
        raise UserError(f"[trl] TRL refuses these options: {' '.join(str(error).split())}") from error


BATCH = "`rollout.prompts_per_step` (sft: `sft.rows_per_step`) and `optim.per_device_train_batch_size`"

OWNED = {
    "gradient_accumulation_steps": BATCH,
    "generation_batch_size": BATCH,
    "per_device_eval_batch_size": "`validation.per_device_eval_batch_size`",
    "num_generations_eval": "`validation.num_generations`",
    "eval_strategy": "`validation.eval_steps`",
    "eval_steps": "`validation.eval_steps`",
    "save_strategy": "`checkpoints.save_steps`",
    "save_steps": "`checkpoints.save_steps`",
    "save_total_limit": "`checkpoints.save_total_limit`",
    "logging_nan_inf_filter": "nowhere: a run ends at the first number that is not finite",
    "chat_template_kwargs": "`chat.template_kwargs`",
    "resume_from_checkpoint": "the flag `--resume`",
    "push_to_hub": "nowhere: `hf upload USER/NAME RUN/model` sends what a run has made",
    "expert_logprob_gain": "`reward.expert_logprob_weight`",
    **{name: f"`optim.{name}`" for name in Optim.model_fields},
    **{name: f"`rollout.{name}`" for name in Rollout.model_fields},
    **{name: f"`{name}`" for name in ("output_dir", "seed")},
}
"""Options of TRL that a recipe decides -> where."""


def _further_options(recipe: Recipe, options: dict[str, Any]) -> dict[str, Any]:
    """The table [trl], without what `policy.py` gives to the model itself."""
    config = SFTConfig if recipe.stage == "sft" else SRLConfig
    known = {field.name for field in dataclasses.fields(config)} | {"chat_template_kwargs"}
    owned = OWNED | (
        {"multi_objective_aggregation": "`reward.format_term`"} if "multi_objective_aggregation" in options else {}
    )
    for name in recipe.trl:
        if name not in known:
            raise UserError(f"[trl] unknown option `{name}` of {config.__name__}{suggest(name, sorted(known))}")
        if name in owned:
            raise UserError(f"[trl] `{name}` has its own place in the recipe: {owned[name]}")
    try:
        refuse_quantized(recipe.model_init_kwargs)
    except ValueError as error:
        raise UserError(f"[trl.model_init_kwargs] {error}") from None
    if dtypes := {"dtype", "torch_dtype"} & recipe.model_init_kwargs.keys():
        raise UserError(f"[trl.model_init_kwargs] `{dtypes.pop()}` has its own place in the recipe: `model.dtype`")
    # `policy.py` loads the model; only a reference model, which a beta asks for, is loaded by TRL.
    elsewhere = {"model_init_kwargs"} if not recipe.trl.get("beta") else set()
    return {name: value for name, value in recipe.trl.items() if name not in elsewhere}
