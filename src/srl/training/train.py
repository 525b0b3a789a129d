"""One recipe -> data, model, trainer, run folder. The whole way from `srl train` to TRL.

Stages differ in rows and objective only: "sft" is TRL's `SFTTrainer`; "srl" and "rlvr" are `SRLTrainer`
with another reward.
"""

from __future__ import annotations

import os
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from accelerate import PartialState
from datasets import Dataset
from transformers import PrinterCallback, Trainer
from trl import SFTConfig, SFTTrainer

from srl.chat.tokenizer import Chat, load_chat
from srl.errors import UserError
from srl.rewards import reward_functions
from srl.runs.checkpoints import tokens_at
from srl.runs.folder import RunFolder, resolve_model
from srl.runs.model import max_positions
from srl.runs.progress import shown_while
from srl.runs.recipe import Recipe
from srl.training.asked import system_prompt, trained_prompts
from srl.training.attend import attended, check_launch
from srl.training.callbacks import run_callbacks
from srl.training.checkpoints import reading
from srl.training.config import SRLConfig
from srl.training.disk import check_disk
from srl.training.options import fit_to_data, refusals_of_trl, trainer_config, trainer_options
from srl.training.policy import load_policy, lora, save_model
from srl.training.preflight import Preflight
from srl.training.rows import load_parts
from srl.training.signals import stopping_at_signals
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
    check_launch(recipe, processes)

    model_path = resolve_model(recipe.model.model_name_or_path)
    run = RunFolder(recipe.output_dir)
    recipe = dated(recipe, run if resume else None)
    chat = load_chat(model_path, **recipe.chat.model_dump())
    with shown_while("loading the rows"):
        train_rows, eval_rows = load_parts(recipe, chat, max_positions(model_path))
    if recipe.validation.eval_steps and not eval_rows and processes.is_main_process:
        print(f"{recipe.data.path}: no held-out problems; the model will be the last one, not the best")
    asked, recipe = recipe, fit_to_data(recipe, len(train_rows), processes.num_processes)
    if recipe.rollout.prompts_per_step != asked.rollout.prompts_per_step and processes.is_main_process:
        print(f"batches of {recipe.rollout.prompts_per_step} prompts, for {len(train_rows)} rows to train on")
    options = trainer_options(recipe, processes.num_processes, has_validation=bool(eval_rows))
    config = trainer_config(recipe, options)

    with shown_while("loading the model"):
        model = load_policy(recipe, model_path, chat)
    lora(recipe, model)  # refused here, before the run folder is opened
    check_disk(recipe, model, is_main=processes.is_main_process)

    with attended(recipe, processes, resume=resume, overwrite=overwrite) as run:
        if processes.is_main_process:
            prompts = trained_prompts(recipe)
            run.add_facts(starts_from=model_path, system_prompt=system_prompt(train_rows[0]), prompts=prompts)
            run.add_facts(held_out_rows=len(eval_rows or ()))
        checkpoint = run.last_checkpoint
        if checkpoint:
            config.eval_on_start = False
        with shown_while("preparing"), refusals_of_trl(recipe):  # a trainer tries its first passes
            trainer = build_trainer(recipe, config, model, chat, train_rows, eval_rows)
        if checkpoint and isinstance(trainer, SFTTrainer):  # TRL counts from 0; SRLTrainer's count is saved
            trainer._total_train_tokens = tokens_at(checkpoint)
        with stopping_at_signals(trainer, run), reading(checkpoint, trainer):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if not trainer.state.global_step:
            raise UserError(f"{recipe.output_dir}: not one optimizer step was made, so there is no model to write")
        return save_model(recipe, trainer, model_path, chat, processes)


def dated(recipe: Recipe, resumed: RunFolder | None) -> Recipe:
    """The recipe with a date for chat templates that print one: a run that goes on keeps the day it started on."""
    goes_on = resumed is not None and (resumed.path / "config.toml").is_file()
    today = recipe.chat.today or (goes_on and resumed and resumed.recipe.chat.today) or date.today()
    return recipe.model_copy(update={"chat": recipe.chat.model_copy(update={"today": today})})


def build_trainer(
    recipe: Recipe,
    config: SFTConfig | SRLConfig,
    model: Any,
    chat: Chat,
    train_rows: Dataset,
    eval_rows: Dataset | None,
) -> Trainer:
    """TRL's trainer for the stage, with our progress and run folder attached."""
    common = {
        "model": model,
        "train_dataset": train_rows,
        "eval_dataset": eval_rows,
        "processing_class": chat.tokenizer,
        "peft_config": lora(recipe, model),
        "callbacks": run_callbacks(recipe),
    }
    if recipe.stage == "sft":
        trainer = SFTTrainer(args=config, **common)
    else:
        rewards = reward_functions(recipe)
        trainer = SRLTrainer(args=config, reward_funcs=rewards, chat=chat, **common)
        trainer.preflight = Preflight(recipe, chat)
        trainer.add_callback(trainer.preflight)
        trainer.told = common["callbacks"][0].tell
    trainer.remove_callback(PrinterCallback)
    trainer.create_model_card = lambda **_: None  # with each checkpoint, TRL's own; ours lies in model/
    return trainer
