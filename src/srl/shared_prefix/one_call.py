"""Attention over a whole pack in one call on CUDA, by FlexAttention (arXiv 2412.05496).

A pack is in depth-first order, so what hangs below a place lies in one run that begins with it: place q sees place k
iff k <= q < end[k] (`AttentionPlan.ends_T`), and with a sliding window iff it is near enough too. Which tiles of the
score matrix that leaves empty, and which it fills, is told from the ends of whole tiles.

Not run on a GPU since it was written, only a sketch of it was. So it is checked against plain arithmetic before its
first use; where it fails the parts compute. On a CPU FlexAttention has no backward pass.

Shapes: H heads, T places, D head size, N tiles of a row or column.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from srl.shared_prefix.batches import to_device
from srl.shared_prefix.packing import AttentionPlan, Block, Ids

logger = logging.getLogger(__name__)
_compiled_lengths: set[int] = set()

TILE = 128
MOST_LENGTHS = 8
"""Each length is compiled once, for some seconds. Beyond so many, torch would stop compiling and compute all scores."""

Attention = Callable[[Tensor, Tensor, Tensor, AttentionPlan, int | None, float], Tensor]


def attend(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, window: int | None, scale: float, flex: Any = flex_attention
) -> Tensor:
    """Attention of a pack, (1, H, T, D) each -> (1, T, H, D)."""
    n_places = plan.n_places
    length = rounded_up(n_places)
    q, k, v = (pad(x, (0, 0, 0, length - n_places)) for x in (q, k, v))
    mask = block_mask(plan, window, length, q.device)
    out_1HTD = flex(q, k, v, block_mask=mask, scale=scale, enable_gqa=True)
    return out_1HTD[:, :, :n_places].transpose(1, 2)


def rounded_up(n_places: int) -> int:
    """The next of few lengths, four in every doubling: tiles in a number that has three binary digits, and zeros.

    >>> [rounded_up(n) for n in (100, 128 * 5, 128 * 9, 128 * 11)]
    [128, 640, 1280, 1536]
    """
    tiles = -(-n_places // TILE)
    step = 1 << max(0, tiles.bit_length() - 3)
    return -(-tiles // step) * step * TILE


@lru_cache(maxsize=4)  # with and without a window, for the layers of one pass
def block_mask(plan: AttentionPlan, window: int | None, length: int, device: torch.device) -> BlockMask:
    """FlexAttention's mask for a pack that is padded to `length`: what is added sees nothing and is not seen."""
    ends_T, depths_T = (pad_to(length, of_places) for of_places in (plan.ends_T, plan.depths_T))
    some_NN, all_NN = tiles(ends_T, depths_T, window, TILE)
    partial, full = (_in_order(chosen, device) for chosen in (some_NN & ~all_NN, all_NN))
    ends, depths = (to_device(x.astype(np.int32), device) for x in (ends_T, depths_T))

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key])

    def sees_near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key]) & (depths[query] - depths[key] < reach)

    reach = torch.full((), window or 0, device=device)
    return BlockMask.from_kv_blocks(
        *partial, *full, BLOCK_SIZE=TILE, mask_mod=sees if window is None else sees_near, seq_lengths=(length, length)
    )


def pad_to(length: int, of_places: Ids) -> Ids:
    """Zeros after the last place: an end that nothing lies before."""
    return np.pad(of_places, (0, length - len(of_places)))


def tiles(
    ends_T: Ids, depths_T: Ids, window: int | None, size: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which tiles (of queries, of keys) have any pair that sees, or may have; and which have nothing else."""
    first_N = np.arange(0, len(ends_T), size)
    end_N = first_N + size
    ends_NS, depths_NS = ends_T.reshape(-1, size), depths_T.reshape(-1, size)
    below_NN = first_N[:, None] >= end_N
    some_NN = below_NN & (ends_NS.max(1) > first_N[:, None]) | np.eye(len(first_N), dtype=bool)
    all_NN = below_NN & (ends_NS.min(1) >= end_N[:, None])
    if window is not None:
        some_NN &= depths_NS.min(1)[:, None] - depths_NS.max(1) < window
        all_NN &= depths_NS.max(1)[:, None] - depths_NS.min(1) < window
    return some_NN, all_NN


def _in_order(chosen_NN: npt.NDArray[np.bool_], device: torch.device) -> tuple[Tensor, Tensor]:
    """Per tile of queries, how many tiles of keys are chosen, and all of them, the chosen ones first."""
    order_NN = np.argsort(~chosen_NN, axis=1, kind="stable")
    counts_N = chosen_NN.sum(1)
    return tuple(to_device(x.astype(np.int32)[None, None], device) for x in (counts_N, order_NN))


# --- where it is used -----------------------------------------------------------------------------------


def is_meant_for(device_type: str, dtype: torch.dtype) -> bool:
    """Where one call is tried at all."""
    return device_type == "cuda" and dtype in (torch.float16, torch.bfloat16)


def one_call_for(query: Tensor, key: Tensor, plan: AttentionPlan) -> Attention | None:
    """`attend`, compiled, where it is right; None where the parts shall compute."""
    if not is_meant_for(query.device.type, query.dtype):
        return None
    length = rounded_up(plan.n_places)
    if length not in _compiled_lengths and len(_compiled_lengths) == MOST_LENGTHS:
        return None
    if not _is_right(query.device, query.dtype, query.shape[1], key.shape[1], query.shape[-1]):
        return None
    _compiled_lengths.add(length)
    return _compiled


def _compiled(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, window: int | None, scale: float) -> Tensor:
    return attend(q, k, v, plan, window, scale, _compiled_flex())


@cache
def _compiled_flex() -> Any:
    # A length is compiled up to four times: with and without gradients, with and without a window.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 8 * MOST_LENGTHS)
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


@cache
def _is_right(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_size: int) -> bool:
    """Whether it gives what dense plain arithmetic gives; says so once if not."""
    try:
        if agrees_with_dense(_compiled, device, dtype, (heads, kv_heads, head_size)):
            return True
        found = "gives other numbers than plain arithmetic"
    except Exception as error:  # whatever a compiler raises
        found = f"fails: {(str(error) or type(error).__name__).strip().splitlines()[0]}"
    logger.warning(f"packed prefixes: FlexAttention for {dtype} {found}; computing without it")
    return False


def agrees_with_dense(
    attention: Attention, device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int], backward: bool = True
) -> bool:
    """Whether an attention of packs gives what a mask of all pairs gives, on a small example.

    `sizes`: heads, heads of keys and values, head size.
    """
    chains = (0, 150), (150, 190), (190, 260), (260, 300)
    plan = AttentionPlan(chains, (Block(150, 260, 0, 100), Block(190, 260, 150, 160), Block(260, 300, 0, 20)))
    heads, kv_heads, head_size = sizes
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 3e-2
    # Asked for in the middle of a model, whatever that is in.
    with torch.inference_mode(False), torch.set_grad_enabled(backward), torch.autocast(device.type, enabled=False):
        generator = torch.Generator().manual_seed(0)
        q, k, v, d_out = (
            torch.randn(1, n, plan.n_places, head_size, generator=generator).to(device, dtype).requires_grad_(backward)
            for n in (heads, kv_heads, kv_heads, heads)
        )
        for window in (None, 40):
            results = []
            for attend_to in (attention, _dense):
                out = attend_to(q, k, v, plan, window, head_size**-0.5)
                gradients = torch.autograd.grad(out, (q, k, v), d_out.transpose(1, 2)) if backward else ()
                results.append((out, *gradients))
            for found, expected in zip(*results, strict=True):
                if not (found.float() - expected.float()).norm() <= tolerance * expected.float().norm():
                    return False
    return True


def _dense(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, window: int | None, scale: float) -> Tensor:
    """The same with a mask of all pairs, in float32 at least."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    places = torch.arange(plan.n_places, device=q.device)
    ends, depths = (torch.from_numpy(x).to(q.device) for x in (plan.ends_T, plan.depths_T))
    mask = (places <= places[:, None]) & (places[:, None] < ends)
    if window is not None:
        mask &= depths[:, None] - depths < window
    with torch.autocast(q.device.type, enabled=False):
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1).to(dtype) for x in (k, v))
        scores = (q.to(dtype) @ k.transpose(-1, -2) * scale).masked_fill(~mask, -torch.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).to(q.dtype)
