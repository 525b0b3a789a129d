"""The rollouts of a prompt, and who trains on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor


class Rollout(NamedTuple):
    """One completion of a prompt, as TRL passes it on."""

    prompt_ids: list[int]
    completion_ids: list[int]
    message: Any
    """A list of one message, or a string."""
    logprobs: list[float] | None
    """When sampled; by vLLM or a `rollout_func`."""
    env_mask: list[int] | None
    """1 for the model's tokens, 0 for an environment's; by a `rollout_func`."""


@dataclass(frozen=True, eq=False)
class Group:
    """The rollouts of one prompt: G of everything."""

    rows: list[dict[str, Any]]
    """With the columns that a `rollout_func` adds."""
    rollouts: list[Rollout]
    rewards_GF: Tensor
    """(G, reward functions), on the CPU: groups travel between processes."""
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


def weighted_sum(rewards_BF: Tensor, weights_F: Tensor) -> Tensor:
    """A completion's reward as TRL sums it up: (B,), NaN where no reward function scored."""
    reward_B = (rewards_BF * weights_F.to(rewards_BF.device)).nansum(dim=1)
    return reward_B.masked_fill(rewards_BF.isnan().all(dim=1), torch.nan)


def share_out(groups: list[Group], wanted: int, process: int) -> tuple[list[Group], list[Group]]:
    """Of the groups sampled here: (`wanted` to train on here, those that no process trains on).

    A process trains on the first informative groups of its own. What it has beyond the batch goes to the processes that
    have too few, in order of both; a process that is still short adds groups without signal. Every process must call
    this.
    """
    own = [group for group in groups if group.informative]
    others = [group for group in groups if not group.informative]
    own, surplus = own[:wanted], own[wanted:]
    n_needed, n_surplus = zip(*gather_object([(wanted - len(own), len(surplus))]), strict=True)
    pool = gather_object(surplus) if any(n_needed) and any(n_surplus) else []
    first = sum(n_needed[:process])
    received = pool[first : first + n_needed[process]]
    n_given = max(0, min(len(surplus), sum(n_needed) - sum(n_surplus[:process])))
    n_short = wanted - len(own) - len(received)
    chosen = own + received + [group.without_signal() for group in others[:n_short]]
    return chosen, surplus[n_given:] + others[n_short:]
