"""What a batch costs before it runs, and which sharing costs least.

Sharing never adds tokens or attention pairs, but every further part of the attention has a price: a kernel
call, and reading and writing the outputs that are merged. Where prefixes are short that is more than they save.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from srl.shared_prefix.packing import Ids, Pack, Sharing, pack

START_OF_A_PART = {"cpu": 3e6, "cuda": 1e10}
"""FLOPs that a device could do in the time that one part of one layer's attention takes beside its arithmetic,
forward and backward. Measured on one CPU core (60 µs at 50 GFLOP/s) and, 0.2 ms at 50 TFLOP/s, on one H200."""

PAIRS_OF_A_PART = 128 * 128
"""Where attention is one call, a part starts in the middle of a tile of the score matrix, which is computed whole."""

MERGING = 1000
"""The same for merging one number of an attention output, in FLOPs: it is read and written some six times. Measured
on one CPU core, where sharing across steps saves 73 of 7,347 tokens and costs 3% (benchmarks/shared_prefix.py)."""

COARSER: dict[Sharing, tuple[Sharing, ...]] = {
    "trajectory": ("trajectory", "prompt", "rows"),
    "prompt": ("prompt", "rows"),
    "rows": ("rows",),
}


@dataclass(frozen=True)
class ModelSize:
    """What the cost of a decoder depends on."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    vocabulary: int
    tied: bool = False
    """Whether the embeddings are the language-model head."""

    @classmethod
    def of(cls, config: Any) -> ModelSize:
        """From a transformers configuration (Llama's names, which nearly all decoders use)."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            mlp=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            vocabulary=config.vocab_size,
            tied=bool(getattr(config, "tie_word_embeddings", False)),
        )

    @property
    def cache_numbers(self) -> int:
        """Of the keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_size

    @property
    def matrix_weights(self) -> int:
        """Weights that every token is multiplied with, the language-model head included."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp) + self.hidden * self.vocabulary

    @property
    def weights(self) -> int:
        """All but biases and norms."""
        return self.matrix_weights + (0 if self.tied else self.hidden * self.vocabulary)


@dataclass(frozen=True)
class Cost:
    """Forward and backward of some packs."""

    unique_tokens: int
    raw_tokens: int
    """Tokens of the rows without padding."""
    attention_pairs: int
    """Pairs of a query and a key, in one layer and head."""
    flops: float
    """Arithmetic: 2 per weight and token or per pair and number, backward twice forward (attention 2.5 times)."""
    overhead: float
    """Further time for the parts of the attention, as FLOPs that would take as long."""

    @property
    def total(self) -> float:
        """What is compared."""
        return self.flops + self.overhead

    @property
    def sharing_ratio(self) -> float:
        """Raw tokens for one unique token."""
        return self.raw_tokens / max(1, self.unique_tokens)


def cost(
    packs: Sequence[Pack], rows: Sequence[Ids], size: ModelSize, device_type: str = "cpu", one_call: bool = False
) -> Cost:
    """The cost of packs of these rows; `one_call`: a layer's attention over a pack is one call (`one_call.py`)."""
    unique = sum(one.plan.n_places for one in packs)
    pairs = sum(one.plan.n_pairs for one in packs)
    parts = sum(len(one.plan.chains) + len(one.plan.blocks) for one in packs)
    merged = sum(block.stop - block.start for one in packs for block in one.plan.blocks)
    width = size.heads * size.head_size
    if one_call:
        overhead = 14.0 * width * PAIRS_OF_A_PART * parts
    else:
        overhead = START_OF_A_PART.get(device_type, START_OF_A_PART["cuda"]) * parts + MERGING * width * merged
    return Cost(
        unique_tokens=unique,
        raw_tokens=sum(len(rows[i]) for one in packs for i in one.rows),
        attention_pairs=pairs,
        flops=6.0 * size.matrix_weights * unique + 14.0 * size.layers * width * pairs,
        overhead=size.layers * overhead,
    )


def cheapest(
    rows: Sequence[Ids],
    prompt_lengths: Sequence[int],
    sharing: Sharing,
    size: ModelSize,
    device_type: str = "cpu",
    one_call: bool = False,
) -> tuple[list[Pack], Cost]:
    """The packs that cost least, among those that share as far as `sharing` or less."""
    choices = [pack(rows, prompt_lengths, each) for each in COARSER[sharing]]
    found = [(packs, cost(packs, rows, size, device_type, one_call)) for packs in choices]
    return min(found, key=lambda choice: choice[1].total)
