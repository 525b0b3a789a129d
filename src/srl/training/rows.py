"""A data folder -> the rows that a stage's trainer takes, checked against the tokenizer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features
from datasets.exceptions import DatasetGenerationError

from srl.chat.prompts import format_completion
from srl.chat.tokenizer import Chat, special_tokens
from srl.data.folder import COLUMNS, rows_file
from srl.errors import UserError
from srl.files import arrow_schema
from srl.rewards.answer_text import known_answer
from srl.runs.recipe import Recipe
from srl.training.asked import check_reward_fits
from srl.training.prefixes import say_where_prefixes_break
from srl.training.preflight import say_if_thoughts_are_missing
from srl.training.whole_runs import whole_run_rows

FEATURES = {kind: Features.from_arrow_schema(arrow_schema(columns)) for kind, columns in COLUMNS.items()}
"""Guessed types would break where a column is empty for the first 10 MB."""


def load_parts(recipe: Recipe, chat: Chat, positions: int | None) -> tuple[Dataset, Dataset | None]:
    """The rows to train on and, where the recipe evaluates, the held-out ones.

    Raises:
        UserError: as `load_rows`; there are no rows to train on.
    """
    train_rows = load_rows(recipe, "train", chat, positions)
    eval_rows = load_rows(recipe, "validation", chat, positions) if recipe.validation.eval_steps else None
    if not train_rows:
        raise UserError(f"{recipe.data.path}: no rows to train on")
    return train_rows, eval_rows


def load_rows(recipe: Recipe, split: str, chat: Chat, positions: int | None = None) -> Dataset | None:
    """The rows of one split in the shape that the stage's trainer takes; None if there is no such split.

    `positions` is how many tokens the model takes. Memory-mapped: memory does not grow with the number of rows.
    """
    path = rows_file(recipe.data.path, f"{split}.{recipe.row_kind}")
    if path.stat().st_size == 0:
        return None
    read = Dataset.from_parquet if path.suffix == ".parquet" else Dataset.from_json
    try:
        rows = read(str(path), features=FEATURES[recipe.row_kind])
    except DatasetGenerationError as error:
        raise UserError(f"{path}: expected rows as `srl steps` writes them; {error.__cause__}".split("\n")[0]) from None
    if not len(rows):
        return None
    check_reward_fits(recipe, rows[0], path)
    if recipe.stage == "rlvr":
        rows = _with_known_answer(rows, path)
    rows = _without_special_tokens(rows, chat, path)
    if recipe.row_kind != "trajectories":
        rows = _within_length(rows, recipe, chat, path, positions)
    if not len(rows):  # all left out, which was said
        return None
    if recipe.stage == "srl" and split == "train" and recipe.rollout.share_prefix == "trajectory":
        say_where_prefixes_break(rows, chat, path)
    if recipe.row_kind == "trajectories":
        rows = whole_run_rows(rows, recipe, chat, path, positions)
    elif recipe.stage == "sft":
        if split == "train" and recipe.row_kind == "steps":
            say_if_thoughts_are_missing(rows, path)
        if recipe.row_kind == "problems":
            rows = _with_solution(rows, recipe.sft.target, path)
        others = [name for name in rows.column_names if name != "prompt"]
        rows = rows.map(partial(_sft_row, chat, recipe.sft.target), remove_columns=others)
        if positions and (longest := max(map(len, rows["input_ids"]))) > positions:
            line = list(map(len, rows["input_ids"])).index(longest) + 1
            raise UserError(f"{path}:{line}: {longest} tokens with its target, the model has {positions} positions")
    limit = recipe.validation.max_rows if split == "validation" else 0
    return rows.select(range(min(limit, len(rows)))) if limit else rows


def _sft_row(chat: Chat, target: str, row: dict[str, Any]) -> dict[str, Any]:
    """Tokens, and which of them are learned: TRL would render the target with the template, which may change it."""
    thought = None if target == "solution" else row["thought"]
    completion = format_completion(thought, row["expert_action" if target == "steps" else "solution"])
    (prompt_ids,), target_ids = chat.prompt_ids([row["prompt"]]), chat.target_ids(completion)
    return {
        "input_ids": [*prompt_ids, *target_ids],
        "completion_mask": [0] * len(prompt_ids) + [1] * len(target_ids),
    }


def _with_solution(rows: Dataset, target: str, path: Path) -> Dataset:
    needed = ("solution", "thought") if target == "reasoning" else ("solution",)
    kept = rows.filter(lambda row: all(row[name] for name in needed))
    what = "reasoning before a written solution" if target == "reasoning" else "written solution"
    if not kept:
        raise UserError(f'{path}: none of {len(rows)} problems has a {what}, which sft.target = "{target}" trains on')
    if len(kept) < len(rows):
        print(f"{path}: {len(rows) - len(kept)} of {len(rows)} problems have no {what} and are left out")
    return kept


def _with_known_answer(rows: Dataset, path: Path) -> Dataset:
    known = rows.filter(lambda row: known_answer(row["answer"]) is not None)
    if not known:
        raise UserError(f"{path}: none of {len(rows)} problems has a known answer; give srl steps an --answer-field")
    if len(known) < len(rows):
        print(f"{path}: {len(rows) - len(known)} of {len(rows)} problems have no known answer and are left out")
    return known


def _without_special_tokens(rows: Dataset, chat: Chat, path: Path) -> Dataset:
    """Leave out rows whose texts hold a special token: it would end a turn where none ends, and none can be written."""
    pattern = special_tokens(chat.tokenizer)

    def found(row: dict[str, Any]) -> list[str]:
        texts = [row.get(name) for name in ("expert_action", "thought", "solution")]
        prompt = [message["content"] for message in (*row["prompt"], *row.get("turns", ()))]
        return [match[0] for text in (*texts, *prompt) if text and (match := pattern.search(text))]

    all_found = [found(row) for row in rows]
    kept = [index for index, tokens in enumerate(all_found) if not tokens]
    if len(kept) == len(rows):
        return rows
    names = ", ".join(sorted({token for tokens in all_found for token in tokens}))
    if not kept:
        raise UserError(f"{path}: all {len(rows)} rows hold special tokens of the tokenizer ({names:.200})")
    lost = len(rows) - len(kept)
    print(f"{path}: {lost} of {len(rows)} rows hold special tokens of the tokenizer ({names:.200}) and are left out")
    return rows.select(kept)


def _within_length(rows: Dataset, recipe: Recipe, chat: Chat, path: Path, positions: int | None) -> Dataset:
    """Check every prompt's length: cutting one silently would change the question."""
    limit = recipe.data.max_prompt_length
    completion = 0 if recipe.stage == "sft" else recipe.rollout.max_completion_length

    def lengths(batch: dict[str, list[Any]]) -> dict[str, list[int]]:
        return {"length": [len(ids) for ids in chat.prompt_ids(batch["prompt"])]}

    all_lengths = rows.map(lengths, batched=True, remove_columns=rows.column_names)["length"]
    fitting = [index for index, length in enumerate(all_lengths) if length <= limit]
    n_long = len(rows) - len(fitting)
    if n_long and not recipe.data.drop_long_prompts:
        line = next(i for i, length in enumerate(all_lengths) if length > limit) + 1
        raise UserError(
            f"{path}:{line}: a prompt of {all_lengths[line - 1]} tokens, the limit is {limit} ({n_long} of {len(rows)} "
            "are longer); raise data.max_prompt_length or set data.drop_long_prompts"
        )
    longest = max((all_lengths[index] for index in fitting), default=0)
    if positions and longest + completion > positions:
        remedy = "rollout.max_completion_length or data.max_prompt_length" if completion else "data.max_prompt_length"
        raise UserError(
            f"{path}:{all_lengths.index(longest) + 1}: a prompt of {longest} tokens and a completion of up to "
            f"{completion} are more than the {positions} positions of the model; lower {remedy}"
        )
    if n_long:
        print(f"{path}: {n_long} of {len(rows)} prompts are longer than {limit} tokens and are left out")
    return rows.select(fitting) if n_long else rows
