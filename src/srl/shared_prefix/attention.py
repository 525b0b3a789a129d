"""Attention over a pack, without a mask: each place sees its own ancestors and nothing else.

Causal attention inside each chain and plain attention of each block (`packing.AttentionPlan`) are parts of one
softmax, merged by their log-sum-exp (`kernels`). Layers with a sliding window: `windows`. On CUDA: `one_call`.

Registered with transformers as `SHARED_PREFIX_ATTENTION`: any model that takes its attention from transformers'
interface runs packs unpatched. Calls without a plan (generation, evaluation) are `sdpa`, as before.

Shapes: B batch (1 for a pack), H heads (keys and values may have fewer), T places, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from srl.shared_prefix.batches import to_device
from srl.shared_prefix.kernels import kernel_for, merge_
from srl.shared_prefix.one_call import one_call_for
from srl.shared_prefix.packing import AttentionPlan, Pack
from srl.shared_prefix.windows import WindowAttention

SHARED_PREFIX_ATTENTION = "srl_shared_prefix"


def model_inputs(pack: Pack, device: torch.device | str) -> dict[str, Any]:
    """Keyword arguments with which a model in `SHARED_PREFIX_ATTENTION` computes a pack, as a batch of one row."""
    return {
        "input_ids": to_device(pack.ids_T, device)[None],
        "position_ids": to_device(pack.positions_T, device)[None],
        # Given a mask of four dimensions, transformers builds none itself. Without one it would take every
        # jump of the positions for the beginning of an unrelated sequence.
        "attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device),
        "attention_plan": pack.plan,
    }


def shared_prefix_attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    attention_plan: AttentionPlan | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function; (B, T, H, D).

    Raises:
        NotImplementedError: the model wants of its attention what packs do not have.
    """
    if attention_plan is None:
        return sdpa_attention_forward(
            module, query_BHTD, key_BHTD, value_BHTD, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    for option in ("softcap", "s_aux", "position_bias"):
        if options.get(option) is not None:
            raise NotImplementedError(f"packed prefixes: attention with {option} is not supported")
    if dropout:
        raise NotImplementedError("packed prefixes: attention with dropout is not supported")
    if query_BHTD.shape[2] != attention_plan.n_places or key_BHTD.shape[2] != attention_plan.n_places:
        raise NotImplementedError("packed prefixes: the model gave its attention other tokens than the pack's")
    scale = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
    # Autocast may leave queries and keys in float32 (Qwen3's norms); torch's own attention would cast them too.
    query_BHTD, key_BHTD = query_BHTD.to(value_BHTD.dtype), key_BHTD.to(value_BHTD.dtype)
    given = query_BHTD, key_BHTD, value_BHTD, attention_plan
    if sliding_window is not None and sliding_window > attention_plan.depths_T.max():
        sliding_window = None
    if one_call := one_call_for(query_BHTD, key_BHTD, attention_plan):
        return one_call(*given, sliding_window, scale), None
    if sliding_window is not None:
        return WindowAttention.apply(*given, sliding_window, scale), None
    return _SharedPrefixAttention.apply(*given, scale), None


AttentionInterface.register(SHARED_PREFIX_ATTENTION, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX_ATTENTION, sdpa_mask)


class _SharedPrefixAttention(torch.autograd.Function):
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
            merge_(out_THD[own], lse_TH[own], out[0].transpose(0, 1), lse[0].T)
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
