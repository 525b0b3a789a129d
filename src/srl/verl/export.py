"""A recipe as files that verl trains from: rows, tokenizer and command.

recipe.toml             the resolved recipe, which our code in verl's processes reads
train.parquet           rows in verl's schema; validation.parquet, if problems are held out
tokenizer/              with the chat template and the ends of a turn as srl found them
run.sh                  the command
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import transformers
from datasets import Dataset
from transformers import AutoConfig, GenerationConfig

from srl.chat.tokenizer import Chat, load_chat
from srl.files import new_folder, write_text
from srl.runs.folder import RunFolder, resolve_model
from srl.runs.model import loading, max_positions
from srl.runs.recipe import Recipe, recipe_toml
from srl.training.options import fit_to_data, passes_per_batch
from srl.training.rows import load_parts
from srl.training.train import dated
from srl.verl.options import arguments, n_workers, verl_options

LOG = "metrics.jsonl"
"""verl's own log of metrics, in the folder of the export."""

NEEDED = ("trajectory_id", "step_index", "prompt", "expert_action", "answer")
"""Columns of the data folder that rewards and tables of rollouts use."""


@dataclass(frozen=True)
class Job:
    """All that verl needs to know of a run."""

    recipe: Recipe
    model_path: str
    chat: Chat
    train_rows: Dataset
    eval_rows: Dataset | None
    steps: int

    def options(self, folder: Path) -> dict[str, Any]:
        """verl's options for a job whose files are in `folder`."""
        dropouts = _dropouts(self.model_path) if self.recipe.model.disable_dropout else {}
        options = verl_options(
            self.recipe, folder.resolve(), self.model_path, steps=self.steps, has_validation=self.eval_rows is not None
        )
        return {f"+actor_rollout_ref.model.override_config.{name}": 0.0 for name in dropouts} | options

    def write(self, folder: Path) -> None:
        """Write the files, but the command."""
        write_text(folder / "recipe.toml", recipe_toml(self.recipe))
        for name, rows in (("train", self.train_rows), ("validation", self.eval_rows)):
            if rows is not None:
                _verl_rows(rows, self.chat).to_parquet(folder / f"{name}.parquet")
        tokenizer, template = self.chat.tokenizer, self.chat.tokenizer.chat_template
        tokenizer.chat_template = self.chat.template  # with the date of the run
        tokenizer.save_pretrained(folder / "tokenizer")
        tokenizer.chat_template = template
        # Nothing else: what else a model recommends there, vLLM would sample by.
        GenerationConfig(eos_token_id=list(self.chat.end_ids)).save_pretrained(folder / "tokenizer")


def prepare(recipe: Recipe, resumed: RunFolder | None = None) -> Job:
    """Read and check all that a run needs, as for TRL.

    Raises:
        UserError: data, model or recipe are not as they must be, or ask for what verl lacks.
    """
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    recipe = dated(recipe, resumed)
    model_path = resolve_model(recipe.model.model_name_or_path)
    if Path(model_path).exists():
        model_path = str(Path(model_path).resolve())  # Ray's workers are in folders of their own
    verl_options(recipe, Path(), model_path, steps=1, has_validation=False)  # refuses before anything is read
    chat = load_chat(model_path, **recipe.chat.model_dump())
    train_rows, eval_rows = load_parts(recipe, chat, max_positions(model_path))
    recipe = fit_to_data(recipe, len(train_rows), n_workers(recipe))
    passes_per_batch(recipe, n_workers(recipe))
    per_epoch = len(train_rows) // recipe.rollout.prompts_per_step
    steps = recipe.optim.max_steps if recipe.optim.max_steps > 0 else round(recipe.optim.num_train_epochs) * per_epoch
    return Job(recipe, model_path, chat, train_rows, eval_rows, steps)


def export(recipe: Recipe, out: Path, *, overwrite: bool = False) -> None:
    """Write a folder from which verl trains, with the command in run.sh.

    Raises:
        UserError: as `prepare`; the folder is not empty.
    """
    job = prepare(recipe)
    with new_folder(out, overwrite=overwrite, marker="run.sh") as folder:
        job.write(folder)
        lines = [
            "#!/usr/bin/env bash",
            "# Made by `srl export verl`. The Python that runs this has verl and, without its dependencies, srl.",
            "set -euo pipefail",
            f"export VERL_FILE_LOGGER_PATH={shlex.quote(str(out.resolve() / LOG))}",
            " \\\n  ".join(
                ['exec "${PYTHON:-python}" -m verl.trainer.main_ppo', *map(shlex.quote, arguments(job.options(out)))]
            ),
        ]
        write_text(folder / "run.sh", "\n".join(lines) + ' "$@"\n')
        (folder / "run.sh").chmod(0o755)


def _verl_rows(rows: Dataset, chat: Chat) -> Dataset:
    def as_verl(row: dict[str, Any], index: int) -> dict[str, Any]:
        return {
            "data_source": "srl",
            "prompt": chat.turns(row["prompt"]),
            "reward_model": {"style": "rule", "ground_truth": row.get("expert_action", row.get("answer"))},
            "extra_info": {"index": index},
            "srl_row": {name: row[name] for name in NEEDED if name in row},
        }

    return rows.map(as_verl, with_indices=True, remove_columns=rows.column_names)


def _dropouts(model_path: str) -> list[str]:
    """The rates of dropout in a model's configuration that are not 0."""
    with loading(model_path, "configuration"):
        config = AutoConfig.from_pretrained(model_path, trust_remote_code=False).get_text_config()
    return [
        name for name, value in config.to_dict().items() if "dropout" in name and isinstance(value, float) and value
    ]
