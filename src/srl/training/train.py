"""One recipe -> data, model, trainer, run folder. The whole way from `srl train` to TRL.

Stages differ in rows and objective only: "sft" is TRL's `SFTTrainer`; "srl" and "rlvr" are `SRLTrainer`
with another reward.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
)
from trl import SFTConfig, SFTTrainer

from srl.chat.tokenizer import load_tokenizer
from srl.errors import UserError
from srl.recipe import Recipe, Reward, suggest
from srl.rewards import StepReward, answer_correctness, format_penalty
from srl.run_folder import last_checkpoint, open_run, read_metrics, resolve_model, write_run_facts
from srl.training.model_card import write_model_card
from srl.training.progress import RunProgress
from srl.training.rows import load_rows
from srl.training.trainer import SRLConfig, SRLTrainer


def train(recipe: Recipe, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Run one stage to its end and return the folder of the trained model.

    Raises:
        UserError: data, model, recipe or run folder are not as they must be; nothing has been written then.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL would report each run to its makers
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of TRL's calls, not ours
    processes = PartialState(cpu=not torch.accelerator.is_available())

    model_path = resolve_model(recipe.model.model_name_or_path)
    tokenizer = load_tokenizer(model_path)
    train_rows = load_rows(recipe, "train", tokenizer)
    eval_rows = load_rows(recipe, "validation", tokenizer) if recipe.validation.eval_steps else None
    if not train_rows:
        raise UserError(f"{recipe.data.path}: no rows to train on")
    if recipe.validation.eval_steps and not eval_rows and processes.is_main_process:
        print(f"{recipe.data.path}: no held-out problems; the model will be the last one, not the best")
    options = trainer_options(recipe, processes.num_processes, has_validation=bool(eval_rows))
    step_reward = None
    if recipe.stage == "srl":
        step_reward = StepReward(recipe.reward, tokenize=partial(tokenizer.encode, add_special_tokens=False))

    checkpoint = None
    with processes.main_process_first():
        if processes.is_main_process:
            checkpoint = open_run(recipe, resume=resume, overwrite=overwrite)
            write_run_facts(recipe.output_dir, starts_from=model_path, system_prompt=_system_prompt(train_rows))
        elif resume:
            checkpoint = last_checkpoint(recipe.output_dir)

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, recipe.model.dtype))
    if checkpoint:
        options |= {"eval_on_start": False}
    trainer = build_trainer(recipe, options, model, tokenizer, train_rows, eval_rows, step_reward)
    if checkpoint and isinstance(trainer, SFTTrainer):  # TRL counts from 0; SRLTrainer's count is saved
        trainer._total_train_tokens = int(read_metrics(recipe.output_dir)[-1].get("num_tokens", 0))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return save_model(recipe, trainer, model_path, processes)


def trainer_options(recipe: Recipe, num_processes: int, *, has_validation: bool) -> dict[str, Any]:
    """The recipe as keyword arguments of `SFTConfig` or `SRLConfig`.

    Raises:
        UserError: a batch that the processes cannot share out evenly; an unknown or doubly set TRL option.
    """
    if recipe.stage != "srl" and recipe.reward != Reward():
        raise UserError(f"[reward] is for the stage srl, and the stage is {recipe.stage}; take the table out")
    rollout, validation = recipe.rollout, recipe.validation
    batch_rows = (
        recipe.sft.rows_per_step if recipe.stage == "sft" else rollout.prompts_per_step * rollout.num_generations
    )
    rows_per_pass = recipe.optim.per_device_train_batch_size * num_processes
    if batch_rows % rows_per_pass:
        raise UserError(
            f"a batch of {batch_rows} rows cannot be shared by {num_processes} process(es) in passes of "
            f"{recipe.optim.per_device_train_batch_size}: it must be a multiple of {rows_per_pass}"
        )
    options = recipe.optim.model_dump(exclude={"max_num_tokens"}) | {
        "output_dir": str(recipe.output_dir),
        "seed": recipe.seed,
        "gradient_accumulation_steps": batch_rows // rows_per_pass,
        "use_cpu": not torch.accelerator.is_available(),  # without it several CPU processes run apart
        "bf16": torch.cuda.is_available(),
        "gradient_checkpointing": torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps" if recipe.save_steps else "no",
        "save_steps": recipe.save_steps or 1,
        "save_total_limit": recipe.checkpoints.save_total_limit,
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
        options |= {"max_length": None}  # prompts are checked, not cut
    else:
        options |= rollout.model_dump(exclude={"prompts_per_step"})
        options |= {"num_generations_eval": validation.num_generations}
        options |= {"expert_logprob_gain": recipe.reward.expert_logprob_weight > 0}
        if recipe.reward.format_term == "separate":
            options |= {"multi_objective_aggregation": "normalize_then_sum"}
    return options | _trl_options(recipe, options)


def _trl_options(recipe: Recipe, options: dict[str, Any]) -> dict[str, Any]:
    config = SFTConfig if recipe.stage == "sft" else SRLConfig
    known = [field.name for field in dataclasses.fields(config)]
    ours = {
        *recipe.optim.model_dump(),
        *recipe.rollout.model_dump(),
        "output_dir",
        "seed",
        "eval_steps",
        "save_steps",
        "expert_logprob_gain",
        "multi_objective_aggregation",
    }
    for name in recipe.trl:
        if name not in known:
            raise UserError(f"[trl] unknown option `{name}` of {config.__name__}{suggest(name, known)}")
        if name in ours & set(options):
            raise UserError(f"[trl] `{name}` has its own place in the recipe; set it there")
    return recipe.trl


def build_trainer(
    recipe: Recipe,
    options: dict[str, Any],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: Dataset,
    eval_rows: Dataset | None,
    step_reward: StepReward | None,
) -> Trainer:
    """TRL's trainer for the stage, with our progress and run folder attached."""
    common = {
        "model": model,
        "train_dataset": train_rows,
        "eval_dataset": eval_rows,
        "processing_class": tokenizer,
        "peft_config": _lora(recipe) if recipe.model.use_peft else None,
        "callbacks": [RunProgress(recipe.output_dir, recipe.optim.max_num_tokens)],
    }
    if recipe.stage == "sft":
        trainer = SFTTrainer(args=SFTConfig(**options), **common)
    else:
        rewards: list[Any] = [step_reward or answer_correctness]
        if recipe.reward.format_term == "separate":
            rewards.append(format_penalty)
        trainer = SRLTrainer(args=SRLConfig(**options), reward_funcs=rewards, **common)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _lora(recipe: Recipe) -> LoraConfig:
    modules = recipe.model.lora_target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.model.lora_r,
        lora_alpha=recipe.model.lora_alpha,
        target_modules=modules if modules == "all-linear" else modules.split(","),
    )


def save_model(recipe: Recipe, trainer: Trainer, model_path: str, processes: PartialState) -> Path:
    """Write `model/` whole or not at all. LoRA is merged, so that a later stage starts from what was trained."""
    folder = recipe.output_dir
    written = folder / ".model"
    trainer.save_model(str(written))
    processes.wait_for_everyone()
    if processes.is_main_process:
        if recipe.model.use_peft:
            shutil.rmtree(folder / "adapter", ignore_errors=True)
            written.rename(folder / "adapter")
            base = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, recipe.model.dtype))
            PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload().save_pretrained(written)
            trainer.processing_class.save_pretrained(written)
        write_model_card(recipe, written, trainer.state.global_step)
        written.rename(folder / "model")
        state = trainer.state
        write_run_facts(
            folder,
            finished_steps=state.global_step,
            best_step=state.best_global_step,
            best_metric=state.best_metric,
        )
        print(f"wrote {folder / 'model'}/", flush=True)
    processes.wait_for_everyone()
    return folder / "model"


def _system_prompt(rows: Dataset) -> str:
    first = rows[0]["prompt"][0]
    return first["content"] if first["role"] == "system" else ""
