"""A recipe as options of verl's `main_ppo`, by verl's own names, or a refusal of what verl has not.

Each option is `Owned` by a key of the recipe, or free: the table `[verl]` may set free ones, and any further of verl's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from srl.errors import UserError
from srl.runs.recipe import Recipe

LOSSES = {"grpo": "seq-mean-token-mean", "dapo": "token-mean", "dr_grpo": "seq-mean-token-sum-norm"}
"""TRL's `loss_type` -> verl's `loss_agg_mode`: over what the loss of tokens is averaged."""

SCHEDULES = {"constant": "constant", "constant_with_warmup": "constant", "cosine": "cosine"}

SCALES: dict[Any, bool] = {"group": True, True: True, "none": False, False: False}
"""TRL's `scale_rewards` -> whether advantages are divided by the group's deviation."""

PASSED_OVER: dict[str, tuple[Any, ...]] = {
    "fsdp": (True, "", "full_shard", "full_shard auto_wrap"),
    "use_vllm": (True,),
    "vllm_mode": ("colocate",),
    "log_completions": (True,),
    "logging_steps": (1,),
}
"""TRL's options for what verl does anyway, and the values that say so."""

COMPUTED = ("param_dtype", "reduce_dtype", "buffer_dtype")
"""verl's names of what is computed in some dtype; bfloat16 by default."""

PLUGIN = "pkg://srl.verl.plugin"

PLAIN = re.compile(r"(?!true$|false$|null$|nan$|inf$)[a-z/][\w./:-]*", re.IGNORECASE)
"""Texts that Hydra reads as such without quotes."""

ONLY_AT_THE_END = 10**9
"""As a number of steps between checkpoints: verl saves after the last step in any case."""


class Owned(NamedTuple):
    """A value that a key of the recipe decides."""

    value: Any
    place: str


def flattened(table: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables as dotted names.

    >>> flattened({"trainer": {"nnodes": 2}, "data.seed": 1})
    {'trainer.nnodes': 2, 'data.seed': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= flattened(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return flat


def n_workers(recipe: Recipe) -> int:
    """How many workers train: one per GPU, on all nodes."""
    further = flattened(recipe.verl)
    counts = [further.get(name, 1) for name in ("trainer.n_gpus_per_node", "trainer.nnodes")]
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise UserError(f"[verl] trainer.n_gpus_per_node and trainer.nnodes: expected numbers from 1, found {counts}")
    return counts[0] * counts[1]


def verl_options(recipe: Recipe, folder: Path, model_path: str, *, steps: int, has_validation: bool) -> dict[str, Any]:
    """Options of `verl.trainer.main_ppo`, by dotted name; a `+` before a name is Hydra's sign for a new one.

    `folder` is where the exported files are, `steps` how many optimizer steps the run will make.

    Raises:
        UserError: the recipe asks for what verl lacks here; `[verl]` sets what the recipe decides.
    """
    _refuse_what_verl_lacks(recipe)
    options = {
        **_files(recipe, folder, model_path, has_validation=has_validation),
        **_batches(recipe),
        **_objective(recipe),
        **_course(recipe, steps, has_validation=has_validation),
    }
    further = flattened(recipe.verl)
    for name in further:
        owned = options.get(name.removeprefix("+"))
        if isinstance(owned, Owned):
            raise UserError(f"[verl] `{name}` has its own place in the recipe: {owned.place}")
    plain = {name: option.value if isinstance(option, Owned) else option for name, option in options.items()}
    return plain | further


def _refuse_what_verl_lacks(recipe: Recipe) -> None:
    optim, rollout = recipe.optim, recipe.rollout
    lacking = {
        f"stage = {recipe.stage!r}: train it with TRL": recipe.stage == "sft",
        "model.use_peft: verl's checkpoints do not have adapters merged": recipe.model.use_peft,
        "optim.max_num_tokens": optim.max_num_tokens,
        "optim.num_train_epochs that is no whole number": optim.max_steps < 0 and optim.num_train_epochs % 1,
        f"optim.lr_scheduler_type = {optim.lr_scheduler_type!r}": optim.lr_scheduler_type not in SCHEDULES,
        "rollout.step_order = 'trajectory'": rollout.step_order != "shuffle",
        "reward.expert_logprob_weight": recipe.reward.expert_logprob_weight,
        "reward.format_term = 'separate'": recipe.reward.format_term != "in_group",
        "checkpoints.keep_when_finished = false": not recipe.checkpoints.keep_when_finished,
    }
    if missing := [what for what, asked in lacking.items() if asked]:
        raise UserError(f"the engine verl cannot do this: {missing[0]}; use the engine trl, or change the recipe")
    if recipe.unused_reward:
        raise UserError(recipe.unused_reward)


def _files(recipe: Recipe, folder: Path, model_path: str, *, has_validation: bool) -> dict[str, Any]:
    """What is read and what is written, and our code, by where verl loads such."""
    train = str(folder / "train.parquet")
    data = Owned(train, "`data.path`")
    return {
        "data.train_files": data,
        # verl always wants some; one row is loaded and never asked.
        "data.val_files": Owned(str(folder / "validation.parquet"), data.place) if has_validation else data,
        "data.val_max_samples": -1 if has_validation else 1,
        "data.truncation": "error",
        "data.dataloader_num_workers": 0,  # rows are small and memory-mapped
        "actor_rollout_ref.model.path": Owned(model_path, "`model.model_name_or_path`"),
        "actor_rollout_ref.model.tokenizer_path": Owned(str(folder / "tokenizer"), "`[chat]`"),
        # vLLM takes the tokens that end a turn from here.
        "+actor_rollout_ref.rollout.engine_kwargs.vllm.generation_config": str(folder / "tokenizer"),
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.module.path": PLUGIN,
        "reward.reward_manager.name": Owned("StepRewards", "`stage` and `[reward]`"),
        "trainer.v1.sampler.custom_sampler.path": PLUGIN,
        "trainer.v1.sampler.custom_sampler.name": Owned("InformativeGroups", "`rollout.dynamic_sampling`"),
        "+trainer.v1.sampler.sampler_kwargs.folder": str(folder),
        "trainer.v1.trainer_mode": Owned("sync", "nowhere: the filter of groups is for verl's synchronous trainer"),
        "trainer.checkpoint_callback_class": Owned("srl.verl.plugin.Rotation", "`checkpoints.save_total_limit`"),
        "trainer.default_local_dir": Owned(str(folder / "checkpoints"), "`output_dir`"),
        # verl's model merger would round to bfloat16 and lose what a step at 5e-7 changes; this keeps the dtype.
        "actor_rollout_ref.actor.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
    }


def _batches(recipe: Recipe) -> dict[str, Any]:
    rollout = recipe.rollout
    prompts = Owned(rollout.prompts_per_step, "`rollout.prompts_per_step`")
    rows = Owned(recipe.optim.per_device_train_batch_size, "`optim.per_device_train_batch_size`")
    return {
        "data.train_batch_size": prompts,
        "actor_rollout_ref.actor.ppo_mini_batch_size": prompts,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": rows,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": rows.value,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": rows.value,
        "data.max_prompt_length": Owned(recipe.data.max_prompt_length, "`data.max_prompt_length`"),
        "data.max_response_length": Owned(rollout.max_completion_length, "`rollout.max_completion_length`"),
        "data.seed": Owned(recipe.seed, "`seed`"),
        "actor_rollout_ref.rollout.seed": recipe.seed,
        "actor_rollout_ref.actor.fsdp_config.seed": recipe.seed,
        "actor_rollout_ref.rollout.name": "vllm",
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
        "actor_rollout_ref.rollout.n": Owned(rollout.num_generations, "`rollout.num_generations`"),
        "actor_rollout_ref.rollout.temperature": Owned(rollout.temperature, "`rollout.temperature`"),
        # Held-out problems are sampled as those to train on: verl's own default is greedy.
        "actor_rollout_ref.rollout.val_kwargs.do_sample": True,
        "actor_rollout_ref.rollout.val_kwargs.temperature": rollout.temperature,
        "actor_rollout_ref.rollout.val_kwargs.n": Owned(
            recipe.validation.num_generations, "`validation.num_generations`"
        ),
        "trainer.n_gpus_per_node": 1,
        "trainer.nnodes": 1,
    }


def _objective(recipe: Recipe) -> dict[str, Any]:
    """GRPO with our advantages, and what `[trl]` asks of it."""
    trl = dict(recipe.trl)
    for name in trl.keys() & PASSED_OVER.keys():
        if (value := trl.pop(name)) not in PASSED_OVER[name]:
            raise UserError(f"[trl] {name} = {value!r}: verl has no choice here; expected {PASSED_OVER[name][0]!r}")
    loss, scale = trl.pop("loss_type", "grpo"), trl.pop("scale_rewards", "group")
    if loss not in LOSSES:
        raise UserError(f"[trl] loss_type = {loss!r}: expected one that verl has too: {', '.join(LOSSES)}")
    if scale not in SCALES:
        raise UserError(f"[trl] scale_rewards = {scale!r}: expected one that verl has too: group, none")
    if beta := trl.pop("beta", 0.0):
        raise UserError(
            f"the engine verl cannot do this: [trl] beta = {beta!r}: a reference model under verl was never tried; "
            "use the engine trl, or set it to 0"
        )
    low = trl.pop("epsilon", 0.2)
    high = trl.pop("epsilon_high", None)
    options = {
        "algorithm.adv_estimator": "srl_grpo",
        "algorithm.norm_adv_by_std_in_grpo": Owned(SCALES[scale], "`[trl] scale_rewards`"),
        "algorithm.filter_groups.enable": Owned(recipe.rollout.dynamic_sampling, "`rollout.dynamic_sampling`"),
        "critic.enable": False,
        "actor_rollout_ref.actor.loss_agg_mode": Owned(LOSSES[loss], "`[trl] loss_type`"),
        "actor_rollout_ref.actor.loss_scale_factor": recipe.rollout.max_completion_length,
        "actor_rollout_ref.actor.clip_ratio_low": Owned(low, "`[trl] epsilon`"),
        "actor_rollout_ref.actor.clip_ratio_high": Owned(low if high is None else high, "`[trl] epsilon_high`"),
        "actor_rollout_ref.actor.use_kl_loss": Owned(False, "`[trl] beta`"),
        # Where sampler and trainer compute differently; TRL's own is a mask at the same limit.
        "algorithm.rollout_correction.rollout_is": "sequence",
        "algorithm.rollout_correction.rollout_is_threshold": 3.0,
        **_engine(recipe, trl),
    }
    if trl:
        raise UserError(
            f"[trl] `{next(iter(trl))}`: the engine verl has no such option; take it out, or use engine trl"
        )
    return options


def _engine(recipe: Recipe, trl: dict[str, Any]) -> dict[str, Any]:
    """How the model is computed; takes what it understands out of `trl`."""
    fsdp = trl.pop("fsdp_config", None) or {}
    if further := fsdp.keys() - {"activation_checkpointing"}:
        raise UserError(
            f"[trl.fsdp_config] `{min(further)}`: say it in [verl], under actor_rollout_ref.actor.fsdp_config"
        )
    checkpointing = trl.pop("gradient_checkpointing", True) or fsdp.get("activation_checkpointing", False)
    report_to = trl.pop("report_to", "none")
    trackers = [report_to] if isinstance(report_to, str) else list(report_to)
    init = trl.pop("model_init_kwargs", None) or {}
    options = {
        "actor_rollout_ref.actor.strategy": "fsdp2",
        "actor_rollout_ref.actor.fsdp_config.model_dtype": Owned(
            {"float32": "fp32", "bfloat16": "bf16"}[recipe.model.dtype], "`model.dtype`"
        ),
        "actor_rollout_ref.model.enable_gradient_checkpointing": bool(checkpointing),
        "trainer.logger": ["console", "file", *(name for name in trackers if name != "none")],
        "trainer.project_name": "srl",
        "trainer.experiment_name": recipe.output_dir.resolve().name,
    }
    if not trl.pop("bf16", True):
        options |= {f"+actor_rollout_ref.actor.fsdp_config.mixed_precision.{name}": "fp32" for name in COMPUTED}
    if "vllm_gpu_memory_utilization" in trl:
        options["actor_rollout_ref.rollout.gpu_memory_utilization"] = trl.pop("vllm_gpu_memory_utilization")
    if "vllm_tensor_parallel_size" in trl:
        options["actor_rollout_ref.rollout.tensor_model_parallel_size"] = trl.pop("vllm_tensor_parallel_size")
    return options | {f"+actor_rollout_ref.model.override_config.{name}": value for name, value in init.items()}


def _course(recipe: Recipe, steps: int, *, has_validation: bool) -> dict[str, Any]:
    """The optimizer, the length of training, evaluation and checkpoints."""
    optim = recipe.optim
    warms_up = optim.lr_scheduler_type != "constant"  # transformers' schedule of this name does not
    warmup = optim.warmup_steps if warms_up else 0
    prefix = "actor_rollout_ref.actor"
    return {
        f"{prefix}.optim.lr": Owned(optim.learning_rate, "`optim.learning_rate`"),
        f"{prefix}.optim.lr_scheduler_type": Owned(SCHEDULES[optim.lr_scheduler_type], "`optim.lr_scheduler_type`"),
        f"{prefix}.optim.lr_warmup_steps": Owned(
            round(warmup if warmup >= 1 else warmup * steps), "`optim.warmup_steps`"
        ),
        f"{prefix}.optim.weight_decay": Owned(optim.weight_decay, "`optim.weight_decay`"),
        f"{prefix}.grad_clip": Owned(optim.max_grad_norm, "`optim.max_grad_norm`"),
        f"{prefix}.optim.clip_grad": optim.max_grad_norm,
        "trainer.total_training_steps": Owned(steps, "`optim.max_steps`"),
        "trainer.total_epochs": steps,  # one step is at most one epoch, so the number of steps decides
        "trainer.test_freq": Owned(recipe.validation.eval_steps if has_validation else -1, "`validation.eval_steps`"),
        "trainer.val_before_train": has_validation,
        "trainer.save_freq": Owned(recipe.save_steps or ONLY_AT_THE_END, "`checkpoints.save_steps`"),
        "trainer.resume_mode": Owned("auto", "the flag `--resume`"),
    }


def arguments(options: dict[str, Any]) -> list[str]:
    """The options as arguments of `python -m verl.trainer.main_ppo`, in Hydra's grammar.

    >>> arguments({"data.seed": 1, "trainer.logger": ["console"], "data.path": "it's", "x": None, "y": True})
    ['data.seed=1', 'trainer.logger=[console]', "data.path='it\\\\'s'", 'x=null', 'y=true']
    """
    return [f"{name}={_value(value)}" for name, value in options.items()]


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str) and PLAIN.fullmatch(value):
        return value
    if isinstance(value, str):
        return "'" + value.replace("'", "\\'") + "'"  # Hydra takes any other backslash for itself
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    return repr(value)
