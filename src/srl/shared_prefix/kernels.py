"""Attention kernels that tell their log-sum-exp, so that parts of a softmax can be computed apart and merged.

A softmax over all keys is a softmax over parts of them, weighted by the sum of exponentials of each part: the outputs
of the parts are merged by their log-sum-exps (`merge_`). For the backward pass every part is given the merged output
and log-sum-exp: its kernel then recomputes the true probabilities of its keys, and the parts' gradients just add up.
(The identity that ring attention rests on: arXiv 2310.01889; merging as in Hydragen, arXiv 2402.05099.)

Shapes: B batch, H heads (keys and values may have fewer), T places, D head size.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class Kernel(NamedTuple):
    """Attention that tells its log-sum-exp, and its backward pass from a given output and log-sum-exp."""

    forward: Callable[..., tuple[Tensor, Tensor]]
    """(query, key, value, causal, scale) -> (output, log-sum-exp of (B, H, T))"""
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """(d_output, query, key, value, output, log-sum-exp, causal, scale) -> (d_query, d_key, d_value)

    Those of `masked_kernel_for` take a mask as well, which keys (…, keys) each query sees, one at least."""


def merge_(out: Tensor, lse: Tensor, part_out: Tensor, part_lse: Tensor) -> None:
    """Take further keys into a softmax, in place: outputs (…, D), and their log-sum-exps (…)."""
    out.lerp_(part_out.to(out.dtype), torch.sigmoid(part_lse - lse)[..., None])
    torch.logaddexp(lse, part_lse, out=lse)


def kernel_for(query: Tensor) -> Kernel:
    """torch's own kernel where there is one for the device and type, else plain arithmetic."""
    if query.device.type == "cpu":
        return CPU
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] % 8 == 0:
        return _checked_cuda_kernel(query.device, query.dtype, query.shape[-1])
    return MATH


def masked_kernel_for(query: Tensor) -> Kernel:
    """The same among the kernels that take a mask."""
    return CPU if query.device.type == "cpu" else MATH


@cache
def _checked_cuda_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> Kernel:
    """The flash kernel, if it proves itself."""
    try:
        if agrees_with_math(CUDA, device, dtype, head_size):
            return CUDA
        found = "gives other numbers than plain arithmetic"
    except RuntimeError as error:
        found = f"fails: {error}"
    logger.warning(f"packed prefixes: torch's flash attention for {dtype} {found}; computing without it")
    return MATH


def _cpu_forward(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=_added(mask, q), scale=scale
    )


def _cpu_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    scale: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        d_out, q, k, v, out, lse, 0.0, causal, attn_mask=_added(mask, q), scale=scale
    )


def _added(mask: Tensor | None, q: Tensor) -> Tensor | None:
    """A mask as what is added to the scores."""
    return None if mask is None else torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -math.inf)


def _cuda_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
    return out, lse


def _cuda_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    no_dropout_state = torch.empty(2, dtype=torch.uint64, device=q.device)
    return torch.ops.aten._scaled_dot_product_flash_attention_backward(
        *(d_out, q, k, v, out, lse.contiguous(), None, None, q.shape[2], k.shape[2]),
        *(0.0, causal, no_dropout_state, no_dropout_state),
        scale=scale,
    )


def _without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Plain arithmetic chooses its precision itself; autocast would round the products back."""

    @wraps(function)
    def run(first: Tensor, *others: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *others)

    return run


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float, mask: Tensor | None) -> Tensor:
    """Scaled scores in float32 at least, (B, H, queries, keys)."""
    precise = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(precise) @ k.to(precise).transpose(-1, -2) * scale
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    return scores if mask is None else scores.masked_fill(~mask, -math.inf)


@_without_autocast
def _math_forward(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = _scores(q, k, causal, scale, mask)
    lse = scores.logsumexp(-1)
    return ((scores - lse[..., None]).exp() @ v.to(scores.dtype)).to(q.dtype), lse


@_without_autocast
def _math_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    causal: bool,
    scale: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    n_kv = k.shape[1]
    k, v = (x.repeat_interleave(q.shape[1] // n_kv, dim=1) for x in (k, v))
    probs = (_scores(q, k, causal, scale, mask) - lse[..., None]).exp()
    d_out, out, q, k, v = (x.to(probs.dtype) for x in (d_out, out, q, k, v))
    d_v = probs.transpose(-1, -2) @ d_out
    d_probs = d_out @ v.transpose(-1, -2) - (d_out * out).sum(-1, keepdim=True)
    d_scores = probs * d_probs * scale
    d_k = d_scores.transpose(-1, -2) @ q
    d_k, d_v = (x.unflatten(1, (n_kv, -1)).sum(2) for x in (d_k, d_v))
    return d_scores @ k, d_k, d_v


CPU = Kernel(_cpu_forward, _cpu_backward)
CUDA = Kernel(_cuda_forward, _cuda_backward)
MATH = Kernel(_math_forward, _math_backward)
"""Any device, type and head size; holds the scores of one part at a time."""


def agrees_with_math(kernel: Kernel, device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether a kernel gives what plain arithmetic gives, forward and backward, on a small example."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, d_out = (
        torch.randn(1, heads, 48, head_size, generator=generator).to(device, dtype) for heads in (4, 2, 2, 4)
    )
    tolerance, scale = 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2, head_size**-0.5
    for causal, n_keys in ((True, 48), (False, 31)):
        parts = q, k[:, :, :n_keys], v[:, :, :n_keys]
        out, lse = MATH.forward(*parts, causal, scale)
        merged = d_out, *parts, out, lse + 0.5  # as if other keys had been merged in
        for expected, found in zip(
            (out, lse, *MATH.backward(*merged, causal, scale)),
            (*kernel.forward(*parts, causal, scale), *kernel.backward(*merged, causal, scale)),
            strict=True,
        ):
            if (expected.float() - found.float()).norm() > tolerance * expected.float().norm():
                return False
    return True
