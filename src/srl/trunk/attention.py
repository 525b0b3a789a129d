"""Attention over a pack, without a mask: each place sees its own ancestors and nothing else.

A softmax over all keys is a softmax over parts of them, weighted by the sum of exponentials of each part. So
causal attention inside each chain and plain attention of each block (`packing.AttentionPlan`) are merged by
their log-sum-exp. For the backward pass every part is given the merged output and log-sum-exp: its kernel
then recomputes the true probabilities of its keys, and the parts' gradients just add up. (The identity that
ring attention rests on: arXiv 2310.01889; merging as in Hydragen, arXiv 2402.05099.)

Registered with transformers as `TRUNK_ATTENTION`: any model that takes its attention from transformers'
interface runs packs unpatched. Calls without a plan (generation, evaluation) are `sdpa`, as before.

Shapes: B batch (1 for a pack), H heads (keys and values may have fewer), T places, D head size.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from srl.trunk.packing import AttentionPlan, Pack

logger = logging.getLogger(__name__)

TRUNK_ATTENTION = "srl_trunk"


def model_inputs(pack: Pack, device: torch.device | str) -> dict[str, Any]:
    """Keyword arguments with which a model in `TRUNK_ATTENTION` computes a pack, as a batch of one row."""
    return {
        "input_ids": torch.from_numpy(pack.ids_T)[None].to(device),
        "position_ids": torch.from_numpy(pack.positions_T)[None].to(device),
        # Given a mask of four dimensions, transformers builds none itself. Without one it would take every
        # jump of the positions for the beginning of an unrelated sequence.
        "attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device),
        "trunk_plan": pack.plan,
    }


def why_no_packs(model: Any) -> str | None:
    """What in a model rules packed rows out, for a message; None if nothing does."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "its adapter adds virtual tokens to the prompt"
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder"
    if unknown := {*(getattr(config, "layer_types", None) or ())} - {"full_attention"}:
        return f"it has layers of type {', '.join(sorted(unknown))}"
    if getattr(config, "sliding_window", None):
        return f"its attention sees a window of {config.sliding_window} tokens only"
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention scores are capped"
    if not model._supports_attention_backend:
        return "its architecture has an attention of its own, not transformers' interface"
    return None


def trunk_attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    trunk_plan: AttentionPlan | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function; (B, T, H, D).

    Raises:
        NotImplementedError: the model wants of its attention what packs do not have.
    """
    if trunk_plan is None:
        return sdpa_attention_forward(
            module, query_BHTD, key_BHTD, value_BHTD, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    for option in ("sliding_window", "softcap", "s_aux", "position_bias"):
        if options.get(option) is not None:
            raise NotImplementedError(f"packed prefixes: attention with {option} is not supported")
    if dropout:
        raise NotImplementedError("packed prefixes: attention with dropout is not supported")
    if query_BHTD.shape[2] != trunk_plan.n_places or key_BHTD.shape[2] != trunk_plan.n_places:
        raise NotImplementedError("packed prefixes: the model gave its attention other tokens than the pack's")
    scale = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
    # Autocast may leave queries and keys in float32 (Qwen3's norms); torch's own attention would cast them too.
    query_BHTD, key_BHTD = query_BHTD.to(value_BHTD.dtype), key_BHTD.to(value_BHTD.dtype)
    return _TrunkAttention.apply(query_BHTD, key_BHTD, value_BHTD, trunk_plan, scale), None


AttentionInterface.register(TRUNK_ATTENTION, trunk_attention)
AttentionMaskInterface.register(TRUNK_ATTENTION, sdpa_mask)


class _TrunkAttention(torch.autograd.Function):
    """The parts of a plan, merged. Sums are kept in float32 at least."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
        kernel = kernel_for(q)
        precise = torch.promote_types(q.dtype, torch.float32)
        out_THD = q.new_empty(q.shape[2], q.shape[1], v.shape[3], dtype=precise)
        lse_TH = q.new_empty(q.shape[2], q.shape[1], dtype=precise)
        for start, stop in plan.chains:
            own = slice(start, stop)
            out, lse = kernel.forward(q[:, :, own], k[:, :, own], v[:, :, own], True, scale)
            out_THD[own], lse_TH[own] = out[0].transpose(0, 1), lse[0].T
        for block in plan.blocks:
            own, keys = slice(block.start, block.stop), slice(block.key_start, block.key_stop)
            out, lse = kernel.forward(q[:, :, own], k[:, :, keys], v[:, :, keys], False, scale)
            share_TH1 = torch.sigmoid(lse[0].T - lse_TH[own])[..., None]
            out_THD[own].lerp_(out[0].transpose(0, 1).to(precise), share_TH1)
            lse_TH[own] = torch.logaddexp(lse_TH[own], lse[0].T)
        out_BTHD = out_THD[None].to(q.dtype)
        ctx.save_for_backward(q, k, v, out_BTHD, lse_TH)
        ctx.plan, ctx.scale = plan, scale
        return out_BTHD

    @staticmethod
    def backward(ctx: Any, d_out_BTHD: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out_BTHD, lse_TH = ctx.saved_tensors
        kernel = kernel_for(q)
        d_out, out, lse = d_out_BTHD.transpose(1, 2), out_BTHD.transpose(1, 2), lse_TH.T[None]
        d_q, d_k, d_v = (torch.empty_like(x, dtype=lse.dtype) for x in (q, k, v))

        def backward(own: slice, keys: slice, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            merged = out[:, :, own], lse[:, :, own]
            parts = q[:, :, own], k[:, :, keys], v[:, :, keys]
            return kernel.backward(d_out[:, :, own], *parts, *merged, causal, ctx.scale)

        for start, stop in ctx.plan.chains:  # they tile the pack: nothing to add to yet
            own = slice(start, stop)
            d_q[:, :, own], d_k[:, :, own], d_v[:, :, own] = backward(own, own, True)
        for block in ctx.plan.blocks:
            own, keys = slice(block.start, block.stop), slice(block.key_start, block.key_stop)
            part_q, part_k, part_v = backward(own, keys, False)
            d_q[:, :, own] += part_q
            d_k[:, :, keys] += part_k
            d_v[:, :, keys] += part_v
        return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), None, None


class Kernel(NamedTuple):
    """Attention that tells its log-sum-exp, and its backward pass from a given output and log-sum-exp."""

    forward: Callable[[Tensor, Tensor, Tensor, bool, float], tuple[Tensor, Tensor]]
    """(query, key, value, causal, scale) -> (output, log-sum-exp of (B, H, T))"""
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """(d_output, query, key, value, output, log-sum-exp, causal, scale) -> (d_query, d_key, d_value)"""


def kernel_for(query: Tensor) -> Kernel:
    """torch's own kernel where there is one for the device and type, else plain arithmetic."""
    if query.device.type == "cpu":
        return CPU
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] % 8 == 0:
        return _checked_cuda_kernel(query.device, query.dtype, query.shape[-1])
    return MATH


@cache
def _checked_cuda_kernel(device: torch.device, dtype: torch.dtype, head_size: int) -> Kernel:
    """The flash kernel, if it proves itself: no GPU was at hand when this was written."""
    try:
        if agrees_with_math(CUDA, device, dtype, head_size):
            return CUDA
        found = "gives other numbers than plain arithmetic"
    except RuntimeError as error:
        found = f"fails: {error}"
    logger.warning(f"packed prefixes: torch's flash attention for {dtype} {found}; computing without it")
    return MATH


def _cpu_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)


def _cpu_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        d_out, q, k, v, out, lse, 0.0, causal, scale=scale
    )


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


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """Scaled scores in float32 at least, (B, H, queries, keys)."""
    precise = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(precise) @ k.to(precise).transpose(-1, -2) * scale
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, -math.inf) if causal else scores


def _math_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = _scores(q, k, causal, scale)
    lse = scores.logsumexp(-1)
    return ((scores - lse[..., None]).exp() @ v.to(scores.dtype)).to(q.dtype), lse


def _math_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    n_kv = k.shape[1]
    k, v = (x.repeat_interleave(q.shape[1] // n_kv, dim=1) for x in (k, v))
    probs = (_scores(q, k, causal, scale) - lse[..., None]).exp()
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
