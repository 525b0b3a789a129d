"""How sure a score is. The unit is the problem: samples of one problem are not independent of each other.

Scores are one number per problem in [0, 1]: right or wrong (greedy), or the share of right samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000
SEED = 0
"""Fixed, so that the same scores have the same interval wherever they are computed."""
LEVEL = 0.05
POWER = 0.8


class Estimate(NamedTuple):
    """A mean over problems, its standard error, and the ends of its 95% interval."""

    value: float
    standard_error: float | None
    """None for one problem, and for averages of several benchmarks."""
    low: float
    high: float


def mean_score(scores: Sequence[float]) -> Estimate:
    """The mean with its percentile bootstrap interval over problems.

    Where every problem scores the same, all resamples agree, which says nothing about other problems: a column of
    only wrong (or only right) answers has the exact binomial interval (Clopper and Pearson) instead.
    """
    value = sum(scores) / len(scores)
    if value in (0.0, 1.0):
        low, high = _exact_interval(round(value * len(scores)), len(scores))
    else:
        low, high = _percentiles(_resampled_means([scores])[0])
    return Estimate(value, _standard_error(scores), low, high)


def mean_of_columns(columns: Sequence[Sequence[Sequence[float]]]) -> Estimate:
    """The mean of several columns of a table; the outer list is benchmarks, whose columns share problems.

    A resample draws problems once per benchmark, for all its columns: greedy and sampled scores of the same
    problems are not independent. Where all resamples agree, the interval is the mean of the columns' own.
    """
    import numpy as np

    # A stream of its own for each benchmark: benchmarks of one size would else be resampled alike.
    means = [mean for stream, benchmark in enumerate(columns) for mean in _resampled_means(benchmark, stream)]
    estimates = [mean_score(scores) for benchmark in columns for scores in benchmark]
    value, low, high = (sum(getattr(e, end) for e in estimates) / len(estimates) for end in ("value", "low", "high"))
    if np.ptp(resampled := np.mean(means, axis=0)):
        low, high = _percentiles(resampled)
    return Estimate(value, None, low, high)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """The mean of after − before over the same problems, with its paired bootstrap interval.

    Where no problem differs, the interval is what so many problems without a change can still hide.
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    value = sum(differences) / len(differences)
    if any(differences):
        low, high = _percentiles(_resampled_means([differences])[0])
    else:
        high = _exact_interval(0, len(differences))[1]
        low = -high
    return Estimate(value, _standard_error(differences), low, high)


Scores = Sequence[Sequence[float]]
"""(seeds, problems)"""


def mean_over_seeds(scores: Scores) -> Estimate:
    """The mean over seeds and problems, with its bootstrap interval: a resample draws seeds and problems.

    A few seeds show less than their true spread: with five, the part of the interval that is due to them is about a
    tenth too narrow. Where all scores are equal the interval is that of one seed.
    """
    return _over_seeds(scores) or mean_score(scores[0])


def difference_over_seeds(before: Scores, after: Scores) -> Estimate:
    """The mean of after − before, paired by seed and problem; likewise."""
    pairs = list(zip(before, after, strict=True))
    differences = [[b - a for a, b in zip(one, other, strict=True)] for one, other in pairs]
    return _over_seeds(differences) or paired_difference(*pairs[0])


def _over_seeds(values: Scores) -> Estimate | None:
    """None where all values are equal: resamples tell nothing then."""
    import numpy as np

    values_SP = np.asarray(values, dtype=float)
    if not np.ptp(values_SP):
        return None
    rng = np.random.default_rng(SEED)
    n_seeds, n_problems = values_SP.shape
    means = []
    for _ in range(RESAMPLES // 1000):
        seeds_RS = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=1000) / n_seeds
        problems_RP = rng.multinomial(n_problems, np.full(n_problems, 1 / n_problems), size=1000) / n_problems
        means.append(np.einsum("rs,sp,rp->r", seeds_RS, values_SP, problems_RP, optimize=True))
    return Estimate(float(values_SP.mean()), None, *_percentiles(np.concatenate(means)))


def mcnemar(before: Sequence[float], after: Sequence[float]) -> float:
    """Exact two-sided p-value that right and wrong answers (1 and 0) change equally often in both directions."""
    from scipy.stats import binomtest

    won = sum(b > a for a, b in zip(before, after, strict=True))
    lost = sum(b < a for a, b in zip(before, after, strict=True))
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def pass_at_k(n_samples: int, n_right: int, k: int) -> float | None:
    """Probability that one of k samples is right: 1 − C(n−c, k)/C(n, k), unbiased (arXiv 2107.03374).

    None below k samples: nothing is known about k of them.
    """
    if k > n_samples:
        return None
    return 1.0 - math.comb(n_samples - n_right, k) / math.comb(n_samples, k)


def detectable_difference(scores: Sequence[float], *, greedy: bool) -> float | None:
    """The smallest true difference that two runs with scores such as these would show in 4 of 5 repetitions.

    For two independent runs at the 5% level; runs that agree on many problems can see less. A greedy difference
    is never below `smallest_significant_change`. None where the scores tell nothing about their spread.
    """
    from scipy.stats import norm

    error = _standard_error(scores)
    seen = (norm.ppf(1 - LEVEL / 2) + norm.ppf(POWER)) * math.sqrt(2) * error if error else None
    floor = smallest_significant_change(len(scores)) if greedy else None
    return max((float(bound) for bound in (seen, floor) if bound is not None), default=None)


def smallest_significant_change(n_problems: int) -> float | None:
    """The least share of problems that must change, all one way, for McNemar's p to fall below 5%: 6 of them.

    None where there are fewer problems: then no result can be significant.
    """
    least = math.ceil(1 - math.log2(LEVEL))  # 2 · (1/2)^least <= LEVEL
    return least / n_problems if n_problems >= least else None


def _standard_error(scores: Sequence[float]) -> float | None:
    if len(scores) < 2:
        return None
    mean = sum(scores) / len(scores)
    variance = sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)
    return math.sqrt(variance / len(scores))


def _resampled_means(columns: Sequence[Sequence[float]], stream: int = 0) -> np.ndarray:
    """Means of bootstrap resamples of the problems, (columns, resamples)."""
    import numpy as np

    rng = np.random.default_rng([SEED, stream])
    scores_CP = np.asarray(columns, dtype=float)
    n_problems = scores_CP.shape[1]
    uniform = np.full(n_problems, 1 / n_problems)
    blocks = []
    for _ in range(RESAMPLES // 1000):  # in blocks: counts of 1,319 problems in all resamples would take 100 MB
        counts_RP = rng.multinomial(n_problems, uniform, size=1000)
        blocks.append(scores_CP @ counts_RP.T / n_problems)
    return np.concatenate(blocks, axis=1)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
    return float(low), float(high)


def _exact_interval(successes: int, n: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(1 - LEVEL)
    return float(interval.low), float(interval.high)
