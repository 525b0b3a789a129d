"""One recipe -> data, model, trainer, run folder. The whole way from `srl train` to TRL.

Stages differ in rows and objective only: "sft" is TRL's `SFTTrainer`; "srl" and "rlvr" are `SRLTrainer`
with another reward.
"""

from __future__ import annotations

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

from srl.chat.tokenizer import load_tokenizer, set_template_options
from srl.errors import UserError
from srl.rewards import StepReward, answer_correctness, format_penalty
from srl.runs.folder import RunFolder, open_run, resolve_model
from srl.runs.recipe import Recipe
from srl.training.config import SRLConfig
from srl.training.model_card import write_model_card
from srl.training.options import fit_to_data, trainer_config, trainer_options
from srl.training.progress import RunProgress
from srl.training.rows import load_rows, system_prompt, trained_prompts
from srl.training.trainer import SRLTrainer


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
    set_template_options(tokenizer, recipe.chat_template_kwargs)
    train_rows = load_rows(recipe, "train", tokenizer)
    eval_rows = load_rows(recipe, "validation", tokenizer) if recipe.validation.eval_steps else None
    if not train_rows:
        raise UserError(f"{recipe.data.path}: no rows to train on")
    if recipe.validation.eval_steps and not eval_rows and processes.is_main_process:
        print(f"{recipe.data.path}: no held-out problems; the model will be the last one, not the best")
    asked, recipe = recipe, fit_to_data(recipe, len(train_rows), processes.num_processes)
    if recipe != asked and processes.is_main_process:
        print(f"batches of {recipe.rollout.prompts_per_step} prompts, for {len(train_rows)} rows to train on")
    options = trainer_options(recipe, processes.num_processes, has_validation=bool(eval_rows))
    config = trainer_config(recipe, options)

    run = RunFolder(recipe.output_dir)
    with processes.main_process_first():
        if processes.is_main_process:
            run = open_run(recipe, resume=resume, overwrite=overwrite)
            prompts = trained_prompts(recipe)
            run.add_facts(starts_from=model_path, system_prompt=system_prompt(train_rows[0]), prompts=prompts)
        checkpoint = run.last_checkpoint

    model = load_model(recipe, model_path)
    if checkpoint:
        config.eval_on_start = False
    trainer = build_trainer(recipe, config, model, tokenizer, train_rows, eval_rows)
    if checkpoint and isinstance(trainer, SFTTrainer):  # TRL counts from 0; SRLTrainer's count is saved
        trainer._total_train_tokens = int(run.metrics[-1].get("num_tokens", 0))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not trainer.state.global_step:
        raise UserError(f"{recipe.output_dir}: not one optimizer step was made, so there is no model to write")
    return save_model(recipe, trainer, model_path, processes)


def load_model(recipe: Recipe, path: str) -> Any:
    """The model to train, in the recipe's type of weights."""
    dtype = getattr(torch, recipe.model.dtype)
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **recipe.model_init_kwargs)


def build_trainer(
    recipe: Recipe,
    config: SFTConfig | SRLConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    train_rows: Dataset,
    eval_rows: Dataset | None,
) -> Trainer:
    """TRL's trainer for the stage, with our progress and run folder attached."""
    common = {
        "model": model,
        "train_dataset": train_rows,
        "eval_dataset": eval_rows,
        "processing_class": tokenizer,
        "peft_config": _lora(recipe) if recipe.model.use_peft else None,
        "callbacks": [RunProgress(RunFolder(recipe.output_dir), recipe.optim.max_num_tokens)],
    }
    if recipe.stage == "sft":
        trainer = SFTTrainer(args=config, **common)
    else:
        trainer = SRLTrainer(args=config, reward_funcs=_rewards(recipe, tokenizer), **common)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _rewards(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """The reward functions of the stages srl and rlvr."""
    if recipe.stage == "rlvr":
        return [answer_correctness]
    step_reward = StepReward(recipe.reward, tokenize=partial(tokenizer.encode, add_special_tokens=False))
    return [step_reward, format_penalty] if recipe.reward.format_term == "separate" else [step_reward]


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
            base = load_model(recipe, model_path)
            PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload().save_pretrained(written)
            trainer.processing_class.save_pretrained(written)
        write_model_card(recipe, written, trainer.state.global_step)
        written.rename(folder / "model")
        state = trainer.state
        RunFolder(folder).add_facts(
            finished_steps=state.global_step,
            best_step=state.best_global_step,
            best_metric=state.best_metric,
        )
        print(f"wrote {folder / 'model'}/", flush=True)
    processes.wait_for_everyone()
    return folder / "model"
