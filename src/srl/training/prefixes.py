"""Where the prompts of a trajectory share less than they could: said before training."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from datasets import Dataset

from srl.chat.tokenizer import Chat

PREFIX_CHECKED_ROWS = 1000
"""A template that breaks prefixes shows in the first trajectories."""


def say_where_prefixes_break(rows: Dataset, chat: Chat, path: Path) -> None:
    """Print where a step's tokens do not go on from those of the step before, although its text does.

    Nothing is computed wrongly then, but less of it is shared.
    """
    first = rows.select(range(min(PREFIX_CHECKED_ROWS, len(rows)))).to_list()
    prompts = chat.prompt_ids([row["prompt"] for row in first])
    pairs = [
        (row, ids, next_row, next_ids)
        for (row, ids), (next_row, next_ids) in pairwise(zip(first, prompts, strict=True))
        if row["trajectory_id"] == next_row["trajectory_id"] and _goes_on(row["prompt"], next_row["prompt"])
    ]
    broken = []
    for row, ids, next_row, next_ids in pairs:
        shared, ending = _alike(ids, next_ids), _alike(ids[::-1], next_ids[::-1])
        if shared + ending < len(ids):  # beside the template's closing, which both end with
            broken.append((shared, row, ids, next_row, next_ids))
    if broken:
        shared, row, ids, next_row, next_ids = broken[0]
        found, expected = (chat.tokenizer.decode(some[shared : shared + 1]) for some in (next_ids, ids))
        print(
            f"{path}: in {len(broken)} of {len(pairs)} cases a prompt's text goes on where that of the step before "
            f"ends, but its tokens do not, so less is shared; first in trajectory {row['trajectory_id']}, steps "
            f"{row['step_index']} and {next_row['step_index']}: token {shared + 1} of {len(ids)} is {found!r}, not "
            f"{expected!r}. Either the chat template writes what varies before the text, or the tokenizer joins steps."
        )


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens two prompts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _goes_on(prompt: list[dict[str, Any]], later: list[dict[str, Any]]) -> bool:
    """Whether a later prompt's text begins with all of an earlier one's."""
    return prompt[:-1] == later[:-1] and later[-1]["content"].startswith(prompt[-1]["content"])
