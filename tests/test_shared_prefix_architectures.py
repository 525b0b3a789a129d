"""Every causal language model of transformers: refused, found out by trying, or right over shared prefixes."""

import numpy as np
import pytest
import torch
import transformers
from packs import packed, plain
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from srl.shared_prefix.attention import SHARED_PREFIX_ATTENTION
from srl.shared_prefix.sampler import SamplingOptions, sample_completions
from srl.shared_prefix.support import why_no_sampling, why_no_training
from srl.shared_prefix.trial import problem_with_packs, problem_with_sampling

VOCABULARY = 40
SIZES = {  # by the many names that architectures have for them
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_experts", "num_local_experts"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim"), 48),
    **dict.fromkeys(("initializer_range", "init_std"), 0.3),
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
    **dict.fromkeys(("dropout", "activation_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob"), 0.0),
    **dict.fromkeys(("resid_dropout", "embed_dropout"), 0.0),
    **{"vocab_size": VOCABULARY, "num_key_value_heads": 2, "max_position_embeddings": 128, "is_decoder": True},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
VARIANTS = [  # until one can be built
    {"head_dim": 8, "rotary_dim": 8},
    {"head_dim": 8},
    {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "q_lora_rank": 16, "kv_lora_rank": 16},
    {},
]
TOO_LARGE = 30_000_000
RIGHT = {"qwen2", "qwen3", "qwen3_moe", "llama", "mistral", "mixtral", "gemma", "phi3", "olmo2", "smollm3", "granite"}
RIGHT |= {"gpt_neox", "starcoder2", "glm4", "ernie4_5", "seed_oss", "hunyuan_v1_dense", "opt", "gpt2"}
WINDOWED = {
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "mistral",
    "mixtral",
    "gemma3_text",
    "phi3",
    "olmo3",
    "smollm3",
    "starcoder2",
}
FOUND_OUT = {"roberta", "nemotron"}
"""Positions that start elsewhere; an attention that is not told of the plan."""


def tiny_model(kind, window):
    """A model of an architecture that computes something, with or without sliding windows, or None."""
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    architecture = getattr(transformers, names if isinstance(names, str) else names[0])
    windows = {"sliding_window": window, "use_sliding_window": window is not None, "max_window_layers": 1}
    for variant in [variant | windows for variant in VARIANTS] + VARIANTS:
        try:
            config = architecture.config_class(**SIZES, **variant)
            if window and getattr(config.get_text_config(), "sliding_window", None) != window:
                continue
            with torch.device("meta"):
                n_weights = sum(p.numel() for p in architecture(config).parameters())
            if n_weights < TOO_LARGE:
                torch.manual_seed(0)
                model = architecture(config).float().eval()
                plain(model, *trajectory())
                return model
        except Exception:  # whatever transformers raises for sizes that do not fit
            continue
    return None


def trajectory():
    rng = np.random.default_rng(0)
    body, stem = rng.integers(3, VOCABULARY, 40), rng.integers(3, VOCABULARY, 3)
    prompts = [np.concatenate([body[:end], stem]) for end in (20, 30, 40) for _ in range(2)]
    rows = [np.concatenate([prompt, rng.integers(3, VOCABULARY, rng.integers(2, 9))]) for prompt in prompts]
    return rows, list(map(len, prompts))


def on_packs(model):
    if why_no_training(model):
        return "refused"
    rows, lengths = trajectory()
    with torch.no_grad():
        expected = torch.cat(plain(model, rows, lengths))
        model.set_attn_implementation(SHARED_PREFIX_ATTENTION)
        found_out = problem_with_packs(model)
        found = None if found_out else torch.cat(packed(model, rows, lengths))
        model.set_attn_implementation("sdpa")
    if found_out:
        return "found out"
    return "right" if (found - expected).abs().max() < 2e-4 else "WRONG"


def in_sampling(model):
    if why_no_sampling(model):
        return "refused"
    if problem_with_sampling(model):
        return "found out"
    rows, lengths = trajectory()
    prompts = [row[:length].tolist() for row, length in zip(rows, lengths, strict=True)]
    completions, logprobs = sample_completions(model, prompts, SamplingOptions(max_new_tokens=6), seed=0)
    sampled = [np.array(prompt + completion) for prompt, completion in zip(prompts, completions, strict=True)]
    with torch.no_grad():
        expected = torch.cat(plain(model, sampled, lengths))
    return "right" if (torch.tensor(logprobs).flatten() - expected).abs().max() < 2e-4 else "WRONG"


def outcomes(window):
    """How training and sampling go, by architecture."""
    found = {}
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if (model := tiny_model(kind, window)) is not None:
            found[kind] = on_packs(model), in_sampling(model)
    print({kind: outcome for kind, outcome in found.items() if outcome != ("refused", "refused")})
    assert not {kind: outcome for kind, outcome in found.items() if "WRONG" in outcome}
    return found


@pytest.mark.slow
def test_no_architecture_is_silently_wrong():
    found = outcomes(None)
    assert len(found) > 120
    assert sum(outcome == ("right", "right") for outcome in found.values()) > 50
    assert {kind: found[kind] for kind in RIGHT} == dict.fromkeys(RIGHT, ("right", "right"))
    assert {kind: found[kind] for kind in FOUND_OUT} == dict.fromkeys(FOUND_OUT, ("found out", "found out"))


@pytest.mark.slow
def test_no_sliding_window_is_silently_wrong():
    found = outcomes(window=6)
    assert {kind: found[kind] for kind in WINDOWED} == dict.fromkeys(WINDOWED, ("right", "right"))
