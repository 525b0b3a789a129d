"""The policy: the model that is trained, from its folder to the run's `model/`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftModel
from transformers import Trainer

from srl.chat.tokenizer import Chat
from srl.errors import UserError
from srl.runs.checkpoints import delete_all, step_of
from srl.runs.folder import RunFolder, evaluated, held_out, is_better
from srl.runs.model import load_model
from srl.runs.recipe import Recipe
from srl.runs.toml import suggest
from srl.training.model_card import write_model_card


def load_policy(recipe: Recipe, path: str, chat: Chat) -> Any:
    """The model, which from here on also stops where its chat template ends a turn.

    Raises:
        UserError: the folder holds no whole causal model, or another tokenizer's.
    """
    model = load_model(path, getattr(torch, recipe.model.dtype), chat.tokenizer, **recipe.model_init_kwargs)
    model.generation_config.eos_token_id = list(chat.end_ids)
    model._keys_to_ignore_on_save.update(model.all_tied_weights_keys)  # or transformers misses them in checkpoints
    if recipe.model.disable_dropout:
        _disable_dropout(model)
    return model


def _disable_dropout(model: Any) -> None:
    """Also where a layer keeps its rate as a number and drops by itself, as attention does."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def lora(recipe: Recipe, model: Any) -> LoraConfig | None:
    """The adapters to train, if the recipe wants some.

    Raises:
        UserError: a module that the model does not have, or one whose weights it uses twice.
    """
    if not recipe.model.use_peft:
        return None
    wanted: str | list[str] = recipe.model.lora_target_modules
    if wanted != "all-linear":
        wanted = [name.strip() for name in recipe.model.lora_target_modules.split(",")]
        _check_modules(model, [name.rpartition(".")[2] for name in wanted])
    return LoraConfig(
        task_type="CAUSAL_LM", r=recipe.model.lora_r, lora_alpha=recipe.model.lora_alpha, target_modules=wanted
    )


def _check_modules(model: Any, wanted: list[str]) -> None:
    modules = {name.rpartition(".")[2]: module for name, module in model.named_modules() if name}
    for name in wanted:
        if name not in modules:
            raise UserError(f"model.lora_target_modules: the model has no module `{name}`{suggest(name, [*modules])}")
    embedding = model.get_input_embeddings().weight
    tied = [name for name, module in modules.items() if getattr(module, "weight", None) is embedding]
    if len(tied) > 1 and (shared := sorted({*tied} & {*wanted})):
        raise UserError(
            f"model.lora_target_modules: this model has one matrix for {' and '.join(sorted(tied))}, so an adapter of "
            f"{' and '.join(shared)} cannot be merged into it; leave it out"
        )
    if "lm_head" in wanted:  # TRL computes losses from the head's own weight, past an adapter
        raise UserError("model.lora_target_modules: TRL trains no adapter of lm_head; leave it out")


def save_model(recipe: Recipe, trainer: Trainer, model_path: str, chat: Chat, processes: PartialState) -> Path:
    """Write `model/` whole or not at all. LoRA is merged, so that a later stage starts from what was trained.

    It holds the weights of the best checkpoint; those of the start where no checkpoint was better on held-out rows.
    """
    folder = recipe.output_dir
    written = folder / ".model"
    trainer.save_model(str(written))
    processes.wait_for_everyone()
    if processes.is_main_process:
        run = RunFolder(folder)
        kept = _kept_step(trainer, evaluated(run.metrics))
        if recipe.model.use_peft:
            shutil.rmtree(folder / "adapter", ignore_errors=True)
            written.rename(folder / "adapter")
        if recipe.model.use_peft or kept == 0:
            policy = load_policy(recipe, model_path, chat)
            if kept:
                policy = PeftModel.from_pretrained(policy, folder / "adapter").merge_and_unload()
            else:
                shutil.rmtree(folder / "adapter", ignore_errors=True)
            policy.save_pretrained(written)
            trainer.processing_class.save_pretrained(written)
        metric = trainer.state.best_metric if kept else None
        run.add_facts(finished_steps=trainer.state.global_step, best_step=kept, best_metric=metric)
        write_model_card(recipe, written)
        written.rename(folder / "model")
        print(f"wrote {folder / 'model'}/{described(run, kept)}", flush=True)
        if not recipe.checkpoints.keep_when_finished:
            delete_all(folder)
    processes.wait_for_everyone()
    return folder / "model"


def _kept_step(trainer: Trainer, evaluations: list[dict[str, Any]]) -> int:
    """The step of the weights to keep: of the checkpoint that transformers has loaded as the best, or the last.

    0 if the start was better: transformers compares checkpoints, and the start is none.
    """
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    step = step_of(Path(best)) if best else trainer.state.global_step
    of_step = next((line for line in evaluations if line["step"] == step), None)
    start = next((line for line in evaluations if line["step"] == 0), None)
    return 0 if start and of_step and is_better(start, of_step) else step


def described(run: RunFolder, kept: int) -> str:
    """Which weights they are, where there was a choice."""
    found = held_out(run.metrics, run.facts)
    if found is None:
        return ""
    name, (before, after) = next(iter(found.means.items()))
    if kept == 0:
        return f": the weights of the start, for no checkpoint was better on held-out rows ({name} {before:.3f})"
    return f": the weights of step {kept} (held-out {name} {after:.3f}, at the start {before:.3f})"
