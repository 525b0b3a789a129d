"""Keys and values of prompts that begin alike, each once, and attention of many completions over them.

    t r u n k A ──── 8 completions      A step of decoding, per layer: every run of the prompts' keys meets the
              └ X Y ──── 8              queries of all rows beneath it in one product, every row its own tail of new
          └ P ──── 8                    keys; the parts of a row's softmax are merged by their log-sum-exps
                                        (Hydragen, arXiv 2402.05099).

No key or value is copied per completion, nothing is padded or masked. Grouped queries need no copies either: the
queries of all heads that share a key head are the rows of one matrix.

Shapes: B rows (completions being decoded), H heads, K key heads, R query heads that share one, T tokens, D head size.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface

from srl.shared_prefix.attention import shared_prefix_attention
from srl.shared_prefix.kernels import kernel_for, masked_kernel_for, merge_
from srl.shared_prefix.packing import AttentionPlan, Ids, Pack

BRANCH_ATTENTION = "srl_branches"
LONGEST_STEM = 32
"""So many tokens that only one prompt has may be copied to its rows: cheaper than many small products."""
TAIL_ROOM = 64
"""Room for a row's own tokens when it begins; doubled when full."""


@dataclass(frozen=True)
class _Run:
    """Places [start, stop) of a pack, which exactly the pack's prompts [first, last) have in their past."""

    start: int
    stop: int
    first: int
    last: int
    depth: int
    """Of the place `start`."""


@dataclass
class _Layer:
    """What one layer keeps."""

    n_packs: int = 0
    runs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Keys and values of the prompts, (1, K, T, D) each."""
    tails: list[Tensor] = field(default_factory=list)
    """Keys and values of the rows' own tokens, (K, B, room, D)."""
    tail_length: int = 0


class BranchCache:
    """Keys and values of packed prompts, and of the completions that branch off them.

    Run the model on the packs, one after another, which have one row per prompt; `repeat_rows` says how many
    completions each prompt gets; then run it on one new token per row, in the order of the packs' `rows`.
    """

    def __init__(self, packs: Sequence[Pack]) -> None:
        self._runs = [_runs_of(packed) for packed in packs]
        self._ends = [np.array([places[0] for places in packed.places]) for packed in packs]
        ends = zip(packs, self._ends, strict=True)
        self._prompt_length_B = np.concatenate([packed.positions_T[end] + 1 for packed, end in ends])
        # Rows begin with the last tokens of their prompt: equally many, so that no row has gaps to mask.
        own = [run.stop - run.start for runs in self._runs for run in runs if run.last - run.first == 1]
        self._stem_length = min(LONGEST_STEM, *own)
        first_row = np.cumsum([0] + [len(packed.rows) for packed in packs])
        self._rows_of_run = [
            (offset + run.first, offset + run.last)
            for offset, runs in zip(first_row.tolist(), self._runs, strict=False)
            for run in runs
        ]
        self._depth_of_run = [run.depth for runs in self._runs for run in runs]
        self._layers: dict[int, _Layer] = defaultdict(_Layer)

    @property
    def n_layers(self) -> int:
        """How many layers have asked for attention."""
        return len(self._layers)

    def fill(self, layer_index: int, key_1KTD: Tensor, value_1KTD: Tensor) -> None:
        """Keep a layer's keys and values of its next pack."""
        layer = self._layers[layer_index]
        # Copies: a view would keep alive whatever the model computed it in.
        keys, values = (x.clone(memory_format=torch.contiguous_format) for x in (key_1KTD, value_1KTD))
        for run in self._runs[layer.n_packs]:
            places = slice(run.start, run.stop - self._stem_length if run.last - run.first == 1 else run.stop)
            layer.runs.append((keys[:, :, places], values[:, :, places]))
        stem_PS = self._ends[layer.n_packs][:, None] + np.arange(1 - self._stem_length, 1)
        stems = [x[0, :, torch.from_numpy(stem_PS)] for x in (keys, values)]
        earlier = layer.tails or [x[:, :0] for x in stems]
        layer.tails = [torch.cat(pair, dim=1) for pair in zip(earlier, stems, strict=True)]
        layer.tail_length = self._stem_length
        layer.n_packs += 1

    def repeat_rows(self, times_B: Tensor) -> None:
        """Each row becomes so many rows: as many as a prompt has completions; none when it has finished."""
        edges = [0, *times_B.cumsum(0).tolist()]
        self._prompt_length_B = self._prompt_length_B.repeat(np.diff(edges))
        self._rows_of_run = [(edges[first], edges[last]) for first, last in self._rows_of_run]
        for layer in self._layers.values():
            layer.tails = [x.repeat_interleave(times_B.to(x.device), dim=1) for x in layer.tails]

    def attend(
        self,
        layer_index: int,
        query_HBD: Tensor,
        key_KBD: Tensor,
        value_KBD: Tensor,
        scale: float,
        window: int | None = None,
    ) -> Tensor:
        """Attention of one new token per row, (B, H, D): to its own tail and to the runs of its prompt.

        With a `window`, to so many latest tokens of both, itself included.
        """
        layer = self._layers[layer_index]
        attention = kernel_for(query_HBD).forward
        query_KBRD = query_HBD.unflatten(0, (len(key_KBD), -1)).transpose(1, 2).contiguous()
        keys, values = _lengthened(layer, key_KBD, value_KBD)
        if window is not None:
            keys, values = keys[:, :, -window:], values[:, :, -window:]
        out, lse = attention(query_KBRD, keys, values, False, scale)
        out_KBRD, lse_KBR = out.to(lse.dtype), lse.contiguous()
        n_new = layer.tail_length - self._stem_length
        for (first, last), depth, (keys, values) in zip(self._rows_of_run, self._depth_of_run, layer.runs, strict=True):
            if first == last or keys.shape[2] == 0:
                continue
            merged_out, merged_lse = out_KBRD[:, first:last], lse_KBR[:, first:last]
            query_1KQD = query_KBRD[None, :, first:last].flatten(2, 3)
            if window is None:
                out, lse = attention(query_1KQD, keys, values, False, scale)
            else:
                oldest_B = self._prompt_length_B[first:last] + n_new - window - depth
                seen = _attend_in_window(query_1KQD, keys, values, scale, oldest_B)
                if seen is None:
                    continue
                out, lse = seen
            merge_(merged_out, merged_lse, out.reshape(merged_out.shape), lse.reshape(merged_lse.shape))
        return out_KBRD.permute(1, 0, 2, 3).flatten(1, 2).to(value_KBD.dtype)


def _attend_in_window(
    query_1KQD: Tensor, keys: Tensor, values: Tensor, scale: float, oldest_B: Ids
) -> tuple[Tensor, Tensor] | None:
    """Attention of rows to a run of keys, each from its oldest one on; None where none sees any."""
    n_keys, skipped = keys.shape[2], max(0, int(oldest_B.min()))
    if skipped >= n_keys:
        return None
    keys, values, oldest_B = keys[:, :, skipped:], values[:, :, skipped:], oldest_B - skipped
    if oldest_B.max() <= 0:
        return kernel_for(query_1KQD).forward(query_1KQD, keys, values, False, scale)
    oldest_Q = torch.from_numpy(oldest_B).to(keys.device).repeat_interleave(query_1KQD.shape[2] // len(oldest_B))
    blind_Q = oldest_Q >= keys.shape[2]  # see all for now: a softmax over nothing is none
    mask_QT = (torch.arange(keys.shape[2], device=keys.device) >= oldest_Q[:, None]) | blind_Q[:, None]
    out, lse = masked_kernel_for(query_1KQD).forward(query_1KQD, keys, values, False, scale, mask_QT)
    return out, lse.masked_fill(blind_Q, -torch.inf)


def _lengthened(layer: _Layer, key_KBD: Tensor, value_KBD: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of the tails with one more token, (K, B, T, D)."""
    used, room = layer.tail_length, layer.tails[0].shape[2]
    if used == room:
        more = max(room, TAIL_ROOM)
        layer.tails = [torch.cat([x, x.new_empty(*x.shape[:2], more, x.shape[3])], dim=2) for x in layer.tails]
    keys, values = layer.tails
    keys[:, :, used], values[:, :, used] = key_KBD, value_KBD
    layer.tail_length += 1
    return keys[:, :, : used + 1], values[:, :, : used + 1]


def _runs_of(packed: Pack) -> list[_Run]:
    """A pack's places, cut where the set of prompts that have them in their past changes."""
    chain_starts = [start for start, _ in packed.plan.chains]
    pasts = []
    for place, *_ in packed.places:
        own = chain_starts[bisect_right(chain_starts, place) - 1], int(place) + 1
        blocks = (b for b in packed.plan.blocks if b.start <= place < b.stop)
        pasts.append([own, *((b.key_start, b.key_stop) for b in blocks)])
    cuts = sorted({cut for past in pasts for span in past for cut in span})
    prompts: list[list[int]] = [[] for _ in cuts]
    for prompt, past in enumerate(pasts):
        for start, stop in past:
            for i in range(bisect_left(cuts, start), bisect_left(cuts, stop)):
                prompts[i].append(prompt)
    # Depth first, all that branches off a run lies together.
    between = zip(pairwise(cuts), prompts, strict=False)
    depth_of = packed.positions_T
    return [_Run(start, stop, which[0], which[-1] + 1, depth_of[start]) for (start, stop), which in between if which]


def branch_attention(
    module: torch.nn.Module,
    query_1HQD: Tensor,
    key_1KQD: Tensor,
    value_1KQD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    attention_plan: AttentionPlan | None = None,
    branch_cache: BranchCache | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function, (1, Q, H, D): the tokens of a pack, or one new token per row."""
    if branch_cache is None:
        raise NotImplementedError("shared prefixes: the model does not hand its arguments on to its attention")
    # Autocast may leave queries and keys in float32 (Qwen3's norms); torch's own attention would cast them too.
    query_1HQD, key_1KQD = query_1HQD.to(value_1KQD.dtype), key_1KQD.to(value_1KQD.dtype)
    scale = query_1HQD.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_plan is None:
        new_token = query_1HQD[0], key_1KQD[0], value_1KQD[0]
        out_BHD = branch_cache.attend(module.layer_idx, *new_token, scale, sliding_window)
        return out_BHD[None], None
    branch_cache.fill(module.layer_idx, key_1KQD, value_1KQD)
    return shared_prefix_attention(
        module,
        query_1HQD,
        key_1KQD,
        value_1KQD,
        attention_mask,
        scaling=scale,
        sliding_window=sliding_window,
        attention_plan=attention_plan,
        **options,
    )


AttentionInterface.register(BRANCH_ATTENTION, branch_attention)
