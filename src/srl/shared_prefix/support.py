"""Where shared prefixes are right: what in a model, or in its options, rules them out, for a message."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import GenerationConfig

KNOWN_LAYERS = {"full_attention", "sliding_attention"}
HANDLED = {
    *("max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p", "eos_token_id"),
    *("pad_token_id", "bos_token_id", "use_cache", "disable_compile", "transformers_version"),
}
NEUTRAL = {"repetition_penalty": 1.0, "num_beams": 1, "num_return_sequences": 1}


def why_no_packs(model: Any) -> str | None:
    """What in a model rules packed rows out, for a message; None if nothing does."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "its adapter adds virtual tokens to the prompt"
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder"
    if unknown := {*(getattr(config, "layer_types", None) or ())} - KNOWN_LAYERS:
        return f"it has layers of type {', '.join(sorted(unknown))}"
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention scores are capped"
    if not model._supports_attention_backend:
        return "its architecture has an attention of its own, not transformers' interface"
    return None


def why_no_training(model: Any) -> str | None:
    """What in a model rules training on packs out, for a message; None if nothing does."""
    if problem := why_no_packs(model):
        return problem
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return f"the model's attn_implementation is {config._attn_implementation}; load it with sdpa"
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return "dropout would treat the rows that share a token alike; set it to 0"
    if getattr(config, "attention_dropout", 0.0):
        return f"its attention has a dropout of {config.attention_dropout}; set it to 0"
    return None


def why_no_sampling(model: Any, generation_config: GenerationConfig | None = None) -> str | None:
    """Why `sample_completions` cannot take this model (or these options); None if it can."""
    if problem := why_no_packs(model):
        return problem
    if model.config.get_text_config() is not model.config:
        return "it takes more than text"
    if getattr(model.config, "kv_lora_rank", None) is not None:
        return "its keys and values are compressed"
    return generation_config and _unknown_option(generation_config)


def _unknown_option(config: GenerationConfig) -> str | None:
    """The first option that `SamplingOptions` cannot express."""
    if config.max_new_tokens is None:
        return "max_new_tokens is not set"
    for name, value in config.to_diff_dict().items():
        if name not in HANDLED and value != NEUTRAL.get(name):
            return f"{name} = {value!r} is an option for `generate` only"
    return None
