"""Rows for SFT on whole trajectories of agents: the loss is on all of the assistant's turns, and on nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from srl.chat.tokenizer import Chat
from srl.errors import UserError
from srl.records import Message
from srl.runs.recipe import Recipe


def whole_run_rows(rows: Dataset, recipe: Recipe, chat: Chat, path: Path, positions: int | None) -> Dataset:
    """The tokens of each trajectory, and which of them are learned.

    Raises:
        UserError: one that is longer than `data.max_prompt_length` or than the model takes; a chat template that does
            not leave earlier turns as they were.
    """

    def tokens(row: dict[str, Any]) -> dict[str, Any]:
        input_ids, said = conversation_ids(chat, row["prompt"], row["turns"])
        return {"input_ids": input_ids, "completion_mask": said}

    rows = rows.map(tokens, remove_columns=[name for name in rows.column_names if name != "prompt"])
    limit = min(recipe.data.max_prompt_length, positions or recipe.data.max_prompt_length)
    lengths = [len(ids) for ids in rows["input_ids"]]
    fitting = [index for index, length in enumerate(lengths) if length <= limit]
    n_long = len(rows) - len(fitting)
    if n_long and not recipe.data.drop_long_prompts:
        line = next(index for index, length in enumerate(lengths) if length > limit)
        raise UserError(
            f"{path}:{line + 1}: a trajectory of {lengths[line]} tokens, the limit is {limit} ({n_long} of {len(rows)} "
            "are longer); raise data.max_prompt_length, as far as the model goes, or set data.drop_long_prompts"
        )
    if n_long:
        print(f"{path}: {n_long} of {len(rows)} trajectories are longer than {limit} tokens and are left out")
    return rows.select(fitting) if n_long else rows


def conversation_ids(chat: Chat, prompt: Sequence[Message], turns: Sequence[Message]) -> tuple[list[int], list[int]]:
    """The tokens of a conversation, and for each whether the assistant says it (1) or reads it (0).

    Before each of its turns stand exactly the tokens that the model is given when it is asked for that turn.

    Raises:
        UserError: the chat template writes an earlier turn otherwise when another follows, so there are no such tokens.
    """
    messages = list(prompt)
    text = chat.prompt_text(messages)
    (ids,) = chat.prompt_ids([messages])
    said = [0] * len(ids)
    for index, turn in enumerate(turns):
        messages.append(turn)
        if turn["role"] != "assistant":
            continue
        target = chat.target_ids(turn["content"])
        ids, said = [*ids, *target], [*said, *([1] * len(target))]
        if index + 1 == len(turns):
            break
        longer = chat.prompt_text([*messages, turns[index + 1]])
        new = chat.tokenizer.encode(longer.removeprefix(text), add_special_tokens=False)
        if not longer.startswith(text) or new[: len(target)] != target:
            raise UserError(
                "the chat template writes an earlier turn of the assistant otherwise when another follows (it may drop "
                'thoughts), so whole trajectories cannot be learned as they are asked; use sft.target = "steps"'
            )
        ids, said, text = [*ids, *new[len(target) :]], [*said, *([0] * (len(new) - len(target)))], longer
    return ids, said
