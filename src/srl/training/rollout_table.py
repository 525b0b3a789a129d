"""TRL's table of rollouts, which it writes to completions/: all that were sampled, not just a batch."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from accelerate.utils import gather_object

from srl.training.rollouts import Group


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
    table["completion"].extend(gather_object([rollout.message for group in groups for rollout in group.rollouts]))
    table["advantages"].extend([0.0] * (len(table["prompt"]) - len(table["advantages"])))
    for f, name in enumerate(reward_names):
        rewards = [reward for group in groups for reward in group.rewards_GF[:, f].tolist()]
        table["rewards"][name].extend(gather_object(rewards))
    columns = [group.table_columns(kept=False) for group in groups]
    for name in sorted(table["extra"]):
        table["extra"][name].extend(gather_object([value for one in columns for value in one[name]]))
