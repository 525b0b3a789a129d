"""The rollouts of a prompt, and TRL's table of rollouts, which it writes to completions/."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import gather_object


@dataclass(frozen=True, eq=False)
class Group:
    """The rollouts of one prompt on this process: G of everything."""

    rows: list[dict[str, Any]]
    generated: list[tuple[Any, ...]]
    """Per rollout: prompt ids, completion ids, message, sampling log-probs (None without vLLM)."""
    rewards_GF: torch.Tensor
    """(G, reward functions)"""
    reward_G: list[float]
    """The weighted sum over reward functions; NaN where none scored."""
    extra: dict[str, list[Any]]
    """What the reward functions logged per rollout."""
    informative: bool

    def table_columns(self, *, kept: bool) -> dict[str, list[Any]]:
        """Columns for the table of rollouts, one value per rollout."""
        return {**self.extra, "reward": self.reward_G, "kept": [kept] * len(self.rows)}

    def without_signal(self) -> Group:
        """The same rollouts with levelled rewards, so that every advantage is 0: fills a short batch."""
        level_F = self.rewards_GF.nanmean(dim=0, keepdim=True)
        return replace(self, rewards_GF=level_F.expand_as(self.rewards_GF))


def empty_table() -> dict[str, Any]:
    """TRL's table of rollouts without its bound of one batch: with refills a step has more."""
    return {
        "images": [],
        "prompt": [],
        "completion": [],
        "rewards": defaultdict(list),
        "advantages": [],
        "extra": defaultdict(list),
    }


def add_rollouts(table: dict[str, Any], groups: list[Group], reward_names: list[str]) -> None:
    """Add the groups that are not trained on, of all processes, with advantage 0. Every process must call this."""
    table["prompt"].extend(gather_object([row["prompt"] for group in groups for row in group.rows]))
    table["completion"].extend(gather_object([rollout[2] for group in groups for rollout in group.generated]))
    table["advantages"].extend([0.0] * (len(table["prompt"]) - len(table["advantages"])))
    for f, name in enumerate(reward_names):
        rewards = [reward for group in groups for reward in group.rewards_GF[:, f].tolist()]
        table["rewards"][name].extend(gather_object(rewards))
    columns = [group.table_columns(kept=False) for group in groups]
    for name in sorted(table["extra"]):
        table["extra"][name].extend(gather_object([value for one in columns for value in one[name]]))
