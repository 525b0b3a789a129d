"""What a training run holds in memory, from the size of the model (docs/performance.md, "Will it fit")."""

from __future__ import annotations

from typing import NamedTuple

from srl.runs.recipe import Recipe
from srl.shared_prefix.cost import ModelSize

KEPT = {"float32": (24, 8, 8, 16), "autocast": (26, 4, 4, 8), "bfloat16": (16, 4, 4, 8)}
"""Bytes that a layer keeps of a token for the backward pass: per number of the hidden state, the queries, the keys and
the MLP. By what is computed in; autocast is float32 weights under bfloat16. `tests/test_memory.py` counts them."""

VLLM_SHARE = 0.3
"""TRL's default of `vllm_gpu_memory_utilization`."""

LOGITS_TILE = 4096 * 32768
"""TRL's language-model head holds the logits of so many tokens and so many words at a time."""


class Memory(NamedTuple):
    """Bytes on one device."""

    weights: float
    """With the copies that autocast makes."""
    gradients: float
    optimizer: float
    """AdamW's two moments."""
    activations: float
    """Of the largest pass, kept for its backward pass."""
    logits: float
    """With the sum of the head's gradient."""
    cache: float
    """Keys and values of all rows that are sampled at once."""
    vllm: float = 0.0
    """vLLM's share of the device, with weights and keys of its own."""

    @property
    def training(self) -> float:
        """While a pass is computed."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.vllm

    @property
    def sampling(self) -> float:
        """Without gradients, which an optimizer step drops."""
        return self.weights + self.optimizer + self.cache + self.vllm


def memory(
    recipe: Recipe,
    size: ModelSize,
    pass_tokens: int,
    sampled_tokens: int,
    *,
    on_gpu: bool,
    devices: int = 1,
    device_memory: float = 0.0,
) -> Memory:
    """What one device holds: passes of so many unique tokens, and so many tokens, padding included, sampled at once.

    `device_memory` is what the device has, for vLLM's share.
    """
    per_weight = 2 if recipe.model.dtype == "bfloat16" else 4
    computes_in = precision(recipe, on_gpu=on_gpu)
    shards = devices if recipe.trl.get("fsdp") else 1
    copies = 2 * size.matrix_weights if computes_in == "autocast" else 0
    trained = trained_weights(recipe, size)
    with_vllm = bool(device_memory and recipe.trl.get("use_vllm") and recipe.stage != "sft")
    beside = recipe.trl.get("vllm_mode", "colocate") == "colocate"
    share = recipe.trl.get("vllm_gpu_memory_utilization", VLLM_SHARE) if with_vllm and beside else 0.0
    return Memory(
        weights=(per_weight * size.weights + copies) / shards,
        gradients=per_weight * trained / shards,
        optimizer=2 * per_weight * trained / shards,
        activations=pass_tokens * activation_bytes(size, computes_in, checkpointing=checkpoints(recipe, on_gpu=on_gpu)),
        logits=logits_bytes(size, pass_tokens, computes_in, on_gpu=on_gpu),
        cache=0.0 if with_vllm else sampled_tokens * size.cache_numbers * (4 if computes_in == "float32" else 2),
        vllm=share * device_memory,
    )


def precision(recipe: Recipe, *, on_gpu: bool) -> str:
    """The key of `KEPT`: GPUs compute in bfloat16 whatever the weights are in."""
    return "autocast" if on_gpu and recipe.model.dtype == "float32" else recipe.model.dtype


def activation_bytes(size: ModelSize, computes_in: str, *, checkpointing: bool) -> float:
    """What a pass keeps of one token; with checkpointing each layer's input, and one layer as it is computed again."""
    hidden, queries, keys, mlp = KEPT[computes_in]
    width = size.head_size
    layer = hidden * size.hidden + queries * size.heads * width + keys * size.kv_heads * width + mlp * size.mlp
    if not checkpointing:
        return float(size.layers * layer)
    return float(size.layers * size.hidden * (2 if computes_in == "bfloat16" else 4) + layer)


def logits_bytes(size: ModelSize, pass_tokens: int, computes_in: str, *, on_gpu: bool) -> float:
    """A tile of logits, which a GPU folds in place and a CPU in some six arrays of float32; and the head's gradient."""
    tile = min(LOGITS_TILE, min(pass_tokens, 4096) * min(size.vocabulary, 32768))
    return (
        tile * (2 if on_gpu and computes_in != "float32" else 4 if on_gpu else 24) + 4 * size.vocabulary * size.hidden
    )


def trained_weights(recipe: Recipe, size: ModelSize) -> int:
    """All, or those of the adapters."""
    return adapter_weights(size, recipe.model.lora_r) if recipe.model.use_peft else size.weights


def adapter_weights(size: ModelSize, rank: int) -> int:
    """Of LoRA on every linear layer but the head."""
    queries, keys = size.heads * size.head_size, size.kv_heads * size.head_size
    attention = 2 * (size.hidden + queries) + 2 * (size.hidden + keys)
    return rank * size.layers * (attention + 3 * (size.hidden + size.mlp))


def checkpoints(recipe: Recipe, *, on_gpu: bool) -> bool:
    """Whether layers are computed again for the backward pass."""
    of_fsdp = dict(recipe.trl.get("fsdp_config", {})).get("activation_checkpointing", False)
    return bool(recipe.trl.get("gradient_checkpointing", on_gpu) or of_fsdp)
