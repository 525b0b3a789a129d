"""Sliding windows over a pack: each place sees so many of its latest ancestors, itself included.

A chain with the ancestors that its window reaches is one row of keys, short wherever the window is: so the queries of
a chain, some at a time, meet their keys in one call, and no parts are merged.

Shapes: H heads (keys and values may have fewer), T places, D head size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from srl.shared_prefix.batches import to_device
from srl.shared_prefix.kernels import masked_kernel_for
from srl.shared_prefix.packing import AttentionPlan, Ids

LONGEST_SEGMENT = 512
"""Queries in one call, as far as windows are not longer: n of them read n + window keys and mask most of them."""


class Segment(NamedTuple):
    """Places [start, stop) of one chain, and the places of their keys by depth: the last ones are their own."""

    start: int
    stop: int
    keys: Ids


@lru_cache(maxsize=8)  # the layers of one pass
def segments(plan: AttentionPlan, window: int) -> tuple[Segment, ...]:
    """The whole pack in segments, in order."""
    blocks = np.array([(b.start, b.stop, b.key_start, b.key_stop) for b in plan.blocks], np.int64).reshape(-1, 4)
    found = []
    for start, stop in plan.chains:
        above = blocks[(blocks[:, 0] <= start) & (start < blocks[:, 1])]
        runs = [np.arange(*keys) for keys in above[np.argsort(plan.depths_T[above[:, 2]]), 2:]]
        path = np.concatenate([*runs, np.arange(start, stop)])
        size, depth = max(window, LONGEST_SEGMENT), len(path) - (stop - start)
        for first in range(start, stop, size):
            last = min(first + size, stop)
            reach = max(0, depth + first - start - (window - 1))
            found.append(Segment(first, last, path[reach : depth + last - start]))
    return tuple(found)


class WindowAttention(torch.autograd.Function):
    """Attention of a plan's segments. Sums are kept in float32 at least; keys are gathered anew for the gradients."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, window: int, scale: float) -> Tensor:
        """(1, T, H, D)"""
        kernel = masked_kernel_for(q)
        out_1HTD = q.new_empty(*q.shape[:3], v.shape[3])
        lse_1HT = q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
        for segment in segments(plan, window):
            own, keys = slice(segment.start, segment.stop), _index(segment, k)
            parts = q[:, :, own], k[:, :, keys], v[:, :, keys]
            mask = _band(segment, window, q.device)
            out_1HTD[:, :, own], lse_1HT[:, :, own] = kernel.forward(*parts, False, scale, mask)
        ctx.save_for_backward(q, k, v, out_1HTD, lse_1HT)
        ctx.plan, ctx.window, ctx.scale = plan, window, scale
        return out_1HTD.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, d_out_1THD: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of query, key and value."""
        q, k, v, out, lse = ctx.saved_tensors
        kernel, d_out = masked_kernel_for(q), d_out_1THD.transpose(1, 2)
        d_q, d_k, d_v = (torch.zeros_like(x, dtype=lse.dtype) for x in (q, k, v))
        for segment in segments(ctx.plan, ctx.window):
            own, keys = slice(segment.start, segment.stop), _index(segment, k)
            parts = d_out[:, :, own], q[:, :, own], k[:, :, keys], v[:, :, keys], out[:, :, own], lse[:, :, own]
            mask = _band(segment, ctx.window, q.device)
            d_q[:, :, own], part_k, part_v = kernel.backward(*parts, False, ctx.scale, mask)
            d_k.index_add_(2, keys, part_k.to(d_k.dtype))
            d_v.index_add_(2, keys, part_v.to(d_v.dtype))
        return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), None, None, None


def _index(segment: Segment, like: Tensor) -> Tensor:
    return to_device(segment.keys, like.device)


def _band(segment: Segment, window: int, device: torch.device) -> Tensor:
    """Which of its keys each query sees, (queries, keys)."""
    n_queries, n_keys = segment.stop - segment.start, len(segment.keys)
    itself = n_keys - n_queries
    seen = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return seen.tril(itself).triu(itself - window + 1)
