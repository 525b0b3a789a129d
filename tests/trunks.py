"""The shapes of benchmarks/shared_prefix.py and the models that were measured on them."""

import numpy as np

from srl.shared_prefix.cost import ModelSize

QWEN_05B = ModelSize(24, 896, 14, 2, 64, 4864, 151936, tied=True)
QWEN_7B = ModelSize(28, 3584, 28, 4, 128, 18944, 152064)
SMALL = ModelSize(6, 256, 8, 2, 32, 704, 4096)

MATH = 600, 6, 8, 150, 100
SWE = 4000, 20, 8, 100, 200
LONG = 600, 6, 8, 500, 100
SHORT = 60, 3, 8, 300, 30
"""Longest prompt, steps, samples, tokens of a completion, shortest prompt."""


def rows_of(longest, steps, samples, completion, problem):
    """A trajectory's rollouts, and the lengths of their prompts."""
    rng = np.random.default_rng(0)
    body, stem, rows = rng.integers(10, 4096, longest), rng.integers(10, 4096, 5), []
    for end in np.linspace(problem, longest, steps).round().astype(int):
        rows += [np.concatenate([body[:end], stem, rng.integers(10, 4096, completion)]) for _ in range(samples)]
    return rows, [len(row) - completion for row in rows]
