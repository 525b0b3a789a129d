"""The metrics of an evaluation as means over its rows. TRL averages its batches, and those differ in size."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl.trainer.utils import nanstd

from srl.training.rollouts import weighted_sum


class RowMeans:
    """What one evaluation has measured so far."""

    def __init__(self, n_rows: float) -> None:
        """`n_rows`: completions that there will be, over all processes."""
        self.n_rows = n_rows
        self.batches: list[float] = []
        """Rows of each batch that count, over all processes."""
        self.rewards: list[Tensor] = []
        """Of each batch and all processes: (B, reward functions)."""
        self.logged: defaultdict[str, list[float]] = defaultdict(list)
        """What the reward functions logged on this process."""

    def marked(self, rows: list[dict[str, Any]], process: int, n_processes: int) -> list[dict[str, Any]]:
        """The rows of this process's next batch, each with a column `repeated`.

        Several processes have equally many rows in every batch: the last one is filled up with rows from the start,
        which must not count twice.
        """
        left = self.n_rows - sum(self.batches)
        self.batches.append(min(left, len(rows) * n_processes))
        return [{**row, "repeated": process * len(rows) + i >= left} for i, row in enumerate(rows)]

    def add(self, rewards_BF: Tensor, logged: dict[str, list[float]]) -> None:
        """Add a batch's rewards, NaN where a function did not score, and what the reward functions logged."""
        self.rewards.append(rewards_BF)
        for name, values in logged.items():
            self.logged[name] += values

    def means(self, metrics: dict[str, list[float]], weights_F: Tensor, names: list[str]) -> dict[str, float]:
        """The metrics of all batches as one each: rewards over all rows that were scored, others weighted by rows.

        `metrics` are TRL's, per batch. Every process must call this.
        """
        found = {name: self._mean(values) for name, values in metrics.items() if len(values) == len(self.batches)}
        rewards_BF = torch.cat(self.rewards)
        columns = {"reward": (weighted_sum(rewards_BF, weights_F), "reward_std")} | {
            f"rewards/{name}/mean": (rewards_BF[:, f], f"rewards/{name}/std") for f, name in enumerate(names)
        }
        for name, (reward_B, std_name) in columns.items():
            found |= {name: reward_B.nanmean().item(), std_name: nanstd(reward_B).item()}
        processes = gather_object([{name: (math.fsum(values), len(values)) for name, values in self.logged.items()}])
        for name in sorted({name for sums in processes for name in sums}):
            total, count = map(sum, zip(*(sums.get(name, (0.0, 0)) for sums in processes), strict=True))
            found[name] = total / count
        return found

    def _mean(self, values: list[float]) -> float:
        pairs = [(v, n) for v, n in zip(values, self.batches, strict=True) if not math.isnan(v)]
        return math.fsum(v * n for v, n in pairs) / sum(n for _, n in pairs) if pairs else math.nan
