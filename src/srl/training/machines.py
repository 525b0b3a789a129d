"""How long a step takes on a machine, by arithmetic (docs/performance.md, "Will it fit", has formula and sources).

The constants for GPUs were fitted to passes on one H200, those for CPUs to benchmarks/shared_prefix.py; both are within
20% of what was measured there (`tests/test_machines.py`), and nothing else is promised.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch

from srl.shared_prefix.cost import ModelSize
from srl.training.memory import activation_bytes


class Gpu(NamedTuple):
    """A type of GPU, from its maker's data sheet."""

    memory: float
    """Bytes."""
    flops: float
    """Of dense products in bfloat16, per second."""
    bandwidth: float
    """Bytes per second."""


GPUS = {
    "A100": Gpu(80e9, 312e12, 2.0e12),
    "H100": Gpu(80e9, 989e12, 3.35e12),
    "H200": Gpu(141e9, 989e12, 4.8e12),
    "B200": Gpu(180e9, 2250e12, 8.0e12),
    "L4": Gpu(24e9, 121e12, 0.3e12),
    "L40S": Gpu(48e9, 362e12, 0.864e12),
    "RTX3090": Gpu(24e9, 71e12, 0.936e12),
    "RTX4090": Gpu(24e9, 165e12, 1.008e12),
}

OF_PEAK, WIDE = 0.65, 3584
"""Of a GPU's peak, in products of a model this wide; in narrower ones as the root of the width."""
CAUSAL, MASKED = 0.35, 0.15
"""Of the peak, in attention: causal, and with a mask for padding."""
TRAFFIC = 4
"""Times that what is kept for the backward pass goes to and from memory, beside products."""
LAUNCHES = 4.2e-3
"""Seconds for which the host is busy with one layer, forward and backward: the least that a layer takes."""
PART = 0.2e-3
"""The same for each part of a layer's attention, where it is not one call."""
DECODING = 1.1e-3
"""The same for one layer of one decoding step of `generate`."""
OF_PRODUCTS = 0.43
"""Of the speed of one core's products of large matrices, in passes on a CPU; sampling has half of that."""


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass."""

    tokens: int
    """Computed, padding included."""
    labelled: int
    """With a label, for which the language-model head runs."""
    pairs: float
    """Of a query and a key, in one layer and head."""
    parts: int = 0
    """Of the attention, where it is not one call."""
    masked: bool = False


def seconds_of_pass(one: Pass, size: ModelSize, gpu: Gpu, computes_in: str, *, checkpointing: bool) -> float:
    """Forward and backward on a GPU."""
    head = size.hidden * size.vocabulary
    again = 4 / 3 if checkpointing else 1
    # The head recomputes its logits for the backward pass.
    products = 6 * (again * one.tokens * (size.matrix_weights - head) + 4 / 3 * one.labelled * head)
    attention = 14 * again * size.layers * size.heads * size.head_size * one.pairs
    moved = TRAFFIC * again * one.tokens * activation_bytes(size, computes_in, checkpointing=False)
    busy = (
        products / (gpu.flops * OF_PEAK * min(1, size.hidden / WIDE) ** 0.5)
        + attention / (gpu.flops * (MASKED if one.masked else CAUSAL))
        + moved / gpu.bandwidth
    )
    return max(busy, size.layers * LAUNCHES * again) + size.layers * PART * again * one.parts


def seconds_of_sampling(rows: int, prompt: float, completion: int, size: ModelSize, gpu: Gpu) -> float:
    """One round of `generate` on a GPU, all rows at once, on weights in bfloat16."""
    speed = gpu.flops * OF_PEAK * min(1, size.hidden / WIDE) ** 0.5
    prefill = 2 * size.matrix_weights * rows * prompt / speed
    keys = 2 * size.cache_numbers * rows * (prompt + completion / 2)
    step = max(
        DECODING * size.layers,
        (2 * size.matrix_weights + keys) / gpu.bandwidth,
        2 * size.matrix_weights * rows / speed,
    )
    return prefill + completion * step


def seconds_of_optimizer(trained: float, gpu: Gpu) -> float:
    """AdamW reads a weight, its gradient and two moments, and writes three of them."""
    return 7 * 4 * trained / gpu.bandwidth


def cpu_flops(seconds: float = 0.3) -> float:
    """FLOPs per second of passes on this machine, all of torch's threads together, by a short trial of products."""
    a, b = torch.randn(1024, 512), torch.randn(512, 512)
    for _ in range(3):
        a @ b
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        a @ b
        done += 1
    return OF_PRODUCTS * 2 * 1024 * 512 * 512 * done / (time.perf_counter() - start)


def duration(seconds: float, digits: int = 3) -> str:
    """A time for people, to so many digits.

    >>> duration(29.4), duration(500), duration(9000), duration(666_000)
    ('29.4 s', '8.33 min', '2.5 h', '185 h')
    >>> duration(0.123, 2), duration(99.7, 2), duration(5e6)
    ('0.12 s', '100 s', '1,390 h')
    """
    number, unit = (seconds, "s") if seconds < 100 else (seconds / 60, "min")
    if seconds > 6000:
        number, unit = seconds / 3600, "h"
    return f"{float(f'{number:.{digits}g}'):,g} {unit}"
