"""One sampled completion -> its reward and parts, as in TRL's path; and the advantages of a group. Knows no verl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from srl.chat.tokenizer import Chat, as_list, read_chat
from srl.rewards import reward_functions
from srl.runs.recipe import Recipe
from srl.training.dynamic_sampling import is_informative

STD_OFFSET = 1e-4
"""What TRL adds to a group's deviation before it divides by it; verl's own is 1e-6."""


@dataclass(frozen=True)
class Scored:
    """A completion's reward, and what the reward function told of it."""

    reward: float
    columns: dict[str, Any]
    """For the table of rollouts: thought, action, format_error, …"""
    metrics: dict[str, float]
    """format_error_rate, exact_step_rate, and step_similarity if it is well formed."""
    truncated: bool
    """Cut off by the length limit."""


@dataclass(frozen=True)
class Scorer:
    """Scores completions by the recipe's reward."""

    recipe: Recipe
    chat: Chat

    def __call__(self, completion_ids: Sequence[int], row: Mapping[str, Any]) -> Scored:
        """The score of a completion's tokens.

        `row` is that of the data folder: prompt, expert_action or answer, trajectory_id, …
        """
        (reward_function,) = reward_functions(self.recipe)
        columns: dict[str, Any] = {}
        metrics: dict[str, float] = {}
        truncated = self._is_truncated(completion_ids)
        (reward,) = reward_function(
            [self.chat.text(completion_ids)],
            prompts=[row["prompt"]],
            truncated=[truncated],
            log_extra=lambda name, values: columns.__setitem__(name, values[0]),
            log_metric=metrics.__setitem__,
            **{name: [value] for name, value in row.items() if name != "prompt"},
        )
        return Scored(float(reward), columns, metrics, truncated)

    def _is_truncated(self, completion_ids: Sequence[int]) -> bool:
        """TRL's rule: the last token does not end the text."""
        ends = {*self.chat.end_ids, self.chat.tokenizer.pad_token_id}
        return len(completion_ids) == 0 or completion_ids[-1] not in ends


def exported_chat(folder: Path, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Chat:
    """The `Chat` of an exported tokenizer, which has template and date of the run in it."""
    stops = as_list(GenerationConfig.from_pretrained(folder / "tokenizer").eos_token_id)
    return read_chat(tokenizer, str(folder), stop_ids=stops, today=recipe.chat.today)


def advantages(reward_G: torch.Tensor, *, divide: bool, min_reward_std: float | None) -> torch.Tensor:
    """The advantages of a group as TRL computes them: (G,).

    A group without signal, which a batch that could not be filled holds, has zeros; `min_reward_std` None takes every
    group for informative.
    """
    if min_reward_std is not None and not is_informative(reward_G.tolist(), min_reward_std):
        return torch.zeros_like(reward_G)
    centred_G = reward_G - reward_G.mean()
    return centred_G / (reward_G.std() + STD_OFFSET) if divide else centred_G
