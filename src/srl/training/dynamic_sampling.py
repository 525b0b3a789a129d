"""Dynamic sampling without an engine: which groups carry signal, and where the next prompts come from.

A group is the G rollouts of one prompt. GRPO's advantage is (reward − mean) / std, so a group whose rewards
are all alike teaches nothing; the paper keeps a group only if its rewards spread, and samples on until the
batch is full (§4.3).
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Collection, Sequence


def is_informative(rewards: Sequence[float], min_reward_std: float) -> bool:
    """Whether the *population* standard deviation of a group's rewards (−1 included) exceeds the threshold.

    Exact for equal rewards: their deviation is 0.0, never float noise, so 0 is a safe threshold. Completions
    that no reward function scored (NaN) do not count.

    >>> is_informative([1.0, 0.0, 0.0, 0.0], 0.0), is_informative([0.1] * 6, 0.0)
    (True, False)
    """
    scored = [reward for reward in rewards if not math.isnan(reward)]
    return len(scored) > 1 and statistics.pstdev(scored) > min_reward_std


def refill_size(missing: int, kept: int, sampled: int, largest: int) -> int:
    """How many groups to sample so that `missing` are likely kept, given that `kept` of `sampled` were so far.

    >>> refill_size(missing=3, kept=10, sampled=20, largest=32), refill_size(3, 0, 20, 32)
    (6, 32)
    """
    return min(largest, math.ceil(missing * sampled / kept)) if kept else largest


RECENT_STEPS = 8
"""Of which the kept share is remembered: it drifts as the policy learns."""

MARGIN = 1.65
"""Standard deviations: so sized, 19 of 20 first rounds keep enough."""


def first_round_size(wanted: int, recent: Collection[tuple[int, int]], max_oversampling: float) -> int:
    """How many groups to sample so that `wanted` are very likely kept, by (kept, sampled) of recent steps.

    >>> [first_round_size(128, recent, 1.5) for recent in ([(109, 128), (326, 384)], [(128, 128)], [(9, 128)], [])]
    [160, 128, 192, 128]
    """
    kept, sampled = map(sum, zip(*recent, strict=True)) if recent else (1, 1)
    largest = math.floor(wanted * max_oversampling)
    if not kept:
        return largest
    share = kept / sampled
    return min(largest, math.ceil((wanted + MARGIN * math.sqrt(wanted * (1 - share))) / share))


class RefillCursor:
    """An endless, seeded walk over the rows of a data set: every row once per pass, each pass reshuffled.

    Its whole state is `position`, so a checkpoint stores one number.
    """

    def __init__(self, n_rows: int, seed: int, position: int = 0) -> None:
        self.n_rows = n_rows
        self.seed = seed
        self.position = position
        self._pass_index = -1
        self._order: list[int] = []

    def take(self, count: int) -> list[int]:
        """The next `count` row indices."""
        return [self._next() for _ in range(count)]

    def _next(self) -> int:
        pass_index, offset = divmod(self.position, self.n_rows)
        if pass_index != self._pass_index:
            self._order = list(range(self.n_rows))
            # An own generator: the global ones drive sampling and must not notice refills.
            random.Random(f"{self.seed}/{pass_index}").shuffle(self._order)
            self._pass_index = pass_index
        self.position += 1
        return self._order[offset]
