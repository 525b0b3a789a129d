"""Completions sampled over shared keys: drawn as `generate` draws them, scored as a plain forward scores them."""

import warnings

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import GenerationConfig
from transformers.generation import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from srl.errors import UserError
from srl.shared_prefix.sampler import SamplingOptions, draw, sample_completions
from srl.shared_prefix.support import why_no_sampling
from srl.shared_prefix.weights import products_in

VOCABULARY = 40
BODY = torch.arange(60).mul(7).remainder(VOCABULARY - 1).add(1).tolist()
PROMPTS = {
    "steps of a trajectory": [[*BODY[:20], 3, 4], [*BODY[:30], 3, 4], [*BODY[:50], 3, 4], [*BODY[:30], 3, 4, 5]],
    "one the prefix of another": [BODY[:9], BODY[:10], BODY[:30], BODY[:31]],
    "identical": [BODY[:12], BODY[:12]],
    "nothing in common": [[1, 2, 3], [2, 2, 3, 4], [3]],
    "one token": [[5]],
}


def model_of(kind="Qwen2", dtype=torch.float32, **changed):
    """A small random model whose attention matters."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "initializer_range": 0.3,
            "max_position_embeddings": 128,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), None),
            **changed,
        }
    )
    name = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind.removesuffix('Text')}ForCausalLM"
    return getattr(transformers, name)(config).to(dtype).eval()


@pytest.fixture(scope="module")
def exact_model():
    """Starcoder2 has grouped queries and rotary positions, and no norm that computes in float32 whatever comes."""
    return model_of("Starcoder2", torch.float64)


def plain_logprobs(model, prompt, completion, temperature=1.0):
    """Of the completion's tokens, from a forward of this row alone."""
    with torch.no_grad():
        logits_TV = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    logprobs_TV = (logits_TV / temperature).log_softmax(-1)
    return logprobs_TV.gather(-1, torch.tensor(completion)[:, None])[:, 0]


def assert_logprobs_are_the_policys(model, prompts, options, tolerance, **sampling):
    completions, logprobs = sample_completions(model, prompts, options, **sampling)
    n = sampling.get("num_generations", 1)
    assert len(completions) == len(logprobs) == len(prompts) * n
    for i, (completion, found) in enumerate(zip(completions, logprobs, strict=True)):
        expected = plain_logprobs(model, prompts[i // n], completion, options.temperature or 1)
        torch.testing.assert_close(torch.tensor(found, dtype=expected.dtype), expected, atol=tolerance, rtol=0)


WINDOWED = {
    "Gemma3Text": {"head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "Mistral": {"sliding_window": 6},
}
IN_SOME_LAYERS = {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 6}
OWN = {"Gemma": {"head_dim": 8}, "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3}, **WINDOWED}
KINDS = ["Qwen2", "Qwen3", "Llama", "GPT2", "Gemma", "Phi3", "Mixtral", "OPT", *WINDOWED]


@pytest.mark.parametrize(
    ("kind", "changed"),
    [*((kind, {}) for kind in KINDS), ("Qwen2", IN_SOME_LAYERS), ("Phi3", {"sliding_window": 6})],
)
def test_greedy_completions_are_those_of_generate(kind, changed):
    model = model_of(kind, **OWN.get(kind, {}), **changed)
    prompts = [prompt for family in PROMPTS.values() for prompt in family]
    found, _ = sample_completions(model, prompts, SamplingOptions(max_new_tokens=12, temperature=0))
    for prompt, completion in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert completion == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", PROMPTS)
@pytest.mark.parametrize("temperature", [0, 0.7, 1])
def test_logprobs_are_those_of_a_plain_forward_in_float64(family, temperature, exact_model):
    options = SamplingOptions(max_new_tokens=10, temperature=temperature)
    assert_logprobs_are_the_policys(exact_model, PROMPTS[family], options, 1e-10, num_generations=3, seed=0)


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama", "Mixtral"])
def test_logprobs_are_those_of_a_plain_forward_in_float32(kind):
    model = model_of(kind)
    # More tokens than a tail has room for in the beginning; several packs would be the same.
    options = SamplingOptions(max_new_tokens=70, temperature=1.3)
    assert_logprobs_are_the_policys(model, PROMPTS["steps of a trajectory"], options, 2e-5, num_generations=2, seed=0)


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=7), min_size=1, max_size=6),
    num_generations=st.integers(1, 3),
    max_rows=st.sampled_from([2, 5, 256]),
    prefill_tokens=st.sampled_from([4, 8192]),
)
def test_any_tree_of_prompts(prompts, num_generations, max_rows, prefill_tokens, exact_model):
    options = SamplingOptions(max_new_tokens=4, eos_token_ids=tuple(range(12)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("srl.shared_prefix.sampler.PREFILL_TOKENS", prefill_tokens)
        assert_logprobs_are_the_policys(
            exact_model, prompts, options, 1e-10, num_generations=num_generations, max_rows=max_rows, seed=1
        )


@settings(max_examples=40, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=7), min_size=1, max_size=6),
    window=st.integers(1, 9),
    num_generations=st.integers(1, 3),
    prefill_tokens=st.sampled_from([4, 8192]),
)
def test_any_tree_of_prompts_with_sliding_windows(prompts, window, num_generations, prefill_tokens, exact_model):
    options = SamplingOptions(max_new_tokens=6, eos_token_ids=tuple(range(8)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("srl.shared_prefix.sampler.PREFILL_TOKENS", prefill_tokens)
        patch.setattr(exact_model.config, "sliding_window", window)
        assert_logprobs_are_the_policys(exact_model, prompts, options, 1e-10, num_generations=num_generations, seed=1)


@pytest.mark.parametrize("family", PROMPTS)
@pytest.mark.parametrize("window", [1, 5, 25, 40])
def test_sliding_windows_reach_into_prompts_and_out_of_them_again(family, window, exact_model, monkeypatch):
    options, prompts = SamplingOptions(max_new_tokens=45), PROMPTS[family]
    unlimited = sample_completions(exact_model, prompts, options, seed=0)
    monkeypatch.setattr(exact_model.config, "sliding_window", window)
    assert_logprobs_are_the_policys(exact_model, prompts, options, 1e-10, num_generations=2, seed=0)
    if len(prompts[0]) + 45 > window:
        assert sample_completions(exact_model, prompts, options, seed=0) != unlimited


def test_what_is_sampled_together_does_not_matter(exact_model):
    options = SamplingOptions(max_new_tokens=8)
    first, second = PROMPTS["steps of a trajectory"], PROMPTS["one the prefix of another"]
    alone, logprobs = sample_completions(exact_model, first, options, num_generations=2, seed=3)
    together, _ = sample_completions(exact_model, second + first, options, num_generations=2, seed=3)
    assert together[-len(alone) :] == alone
    in_waves, _ = sample_completions(exact_model, first, options, num_generations=2, seed=3, max_rows=3)
    assert in_waves == alone
    repeated = [prompt for prompt in first for _ in range(2)]
    assert sample_completions(exact_model, repeated, options, seed=3) == (alone, logprobs)
    assert sample_completions(exact_model, first, options, num_generations=2, seed=4)[0] != alone
    assert len({tuple(ids) for ids in alone}) > 1


def test_without_a_seed_torchs_generator_decides(exact_model):
    def sample():
        return sample_completions(exact_model, PROMPTS["one token"], SamplingOptions(max_new_tokens=20))[0]

    torch.manual_seed(5)
    one, other = sample(), sample()
    torch.manual_seed(5)
    assert sample() == one
    assert one != other


def test_a_completion_ends_with_its_first_eos(exact_model):
    prompts, eos = PROMPTS["steps of a trajectory"], (1, 2)
    endless, endless_logprobs = sample_completions(
        exact_model, prompts, SamplingOptions(max_new_tokens=30), num_generations=40, seed=0
    )
    ended, logprobs = sample_completions(
        exact_model, prompts, SamplingOptions(max_new_tokens=30, eos_token_ids=eos), num_generations=40, seed=0
    )
    lengths = [next((i + 1 for i, token in enumerate(ids) if token in eos), len(ids)) for ids in endless]
    assert ended == [ids[:n] for ids, n in zip(endless, lengths, strict=True)]
    assert len(set(lengths)) > 1
    assert max(lengths) == 30
    for found, expected in zip(logprobs, endless_logprobs, strict=True):
        np.testing.assert_allclose(found, expected[: len(found)], atol=1e-12)


def test_the_samples_have_the_policys_distribution():
    """Chi-square over all completions of two tokens."""
    model, temperature, n = model_of(vocab_size=8, initializer_range=0.15, dtype=torch.float64), 1.5, 8000
    prompt = [1, 2, 3]
    with torch.no_grad():
        rows = torch.tensor([[*prompt, token] for token in range(8)])
        logits = model(rows).logits / temperature
    first_V, second_VV = logits[0, -2].softmax(-1), logits[:, -1].softmax(-1)
    expected_VV = n * first_V[:, None] * second_VV
    options = SamplingOptions(max_new_tokens=2, temperature=temperature)
    completions, _ = sample_completions(model, [prompt], options, num_generations=n, seed=0, max_rows=n)
    counts_VV = torch.zeros(8, 8, dtype=torch.float64)
    for one, two in completions:
        counts_VV[one, two] += 1
    assert expected_VV.min() > 5
    assert expected_VV.max() > 3 * expected_VV.min()
    chi_square = ((counts_VV - expected_VV) ** 2 / expected_VV).sum()
    assert 30 < chi_square < 110  # 63 degrees of freedom: 63 ± 11


OPTIONS = [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}, {"top_k": 9, "top_p": 0.8}]


@pytest.mark.parametrize("changed", OPTIONS)
def test_tokens_are_drawn_as_transformers_warpers_leave_them(changed):
    options, n = SamplingOptions(max_new_tokens=1, **changed), 20_000
    logits_V = torch.randn(30, generator=torch.Generator().manual_seed(0)) * 2
    policy_V = logits_V / options.temperature
    scores_1V = policy_V[None]
    for name, warper in (("top_k", TopKLogitsWarper), ("top_p", TopPLogitsWarper), ("min_p", MinPLogitsWarper)):
        scores_1V = warper(changed[name])(None, scores_1V) if name in changed else scores_1V
    # Random numbers one after another: a token is drawn as often as it is probable, to a count.
    uniform_B = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens, logprobs = draw(logits_V.expand(n, -1), uniform_B, options)
    counts_V = tokens.bincount(minlength=30)
    probability_V = scores_1V[0].softmax(-1)
    torch.testing.assert_close(counts_V / n, probability_V, atol=2 / n, rtol=0)
    assert not counts_V[probability_V == 0].any()
    torch.testing.assert_close(logprobs, policy_V.log_softmax(-1)[tokens])


def test_no_random_number_draws_an_impossible_token():
    logits_V = torch.tensor([-torch.inf, 0.1, 0.3, -torch.inf, 0.7, -torch.inf])
    uniform_B = torch.tensor([0, 1e-12, 0.5, 1 - 1e-12, 1 - 2**-53], dtype=torch.float64)
    tokens, _ = draw(logits_V.expand(5, -1), uniform_B, SamplingOptions(max_new_tokens=1))
    assert tokens.tolist() == [1, 1, 2, 4, 4]


def test_bfloat16_and_autocast():
    prompts, options = PROMPTS["steps of a trajectory"], SamplingOptions(max_new_tokens=8)
    assert_logprobs_are_the_policys(model_of(dtype=torch.bfloat16), prompts, options, 0.2, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert_logprobs_are_the_policys(model_of("Qwen3"), prompts, options, 0.2, seed=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_weights_that_are_converted_beforehand_are_those_of_autocast(tied, lora):
    """To the last bit, over shared keys and by `generate`; afterwards they are what they were."""
    model = model_of("Qwen3", tie_word_embeddings=tied)
    model = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False)).eval() if lora else model
    before = [(id(p), p.dtype, p.data_ptr()) for p in model.parameters()]
    prompts, options = PROMPTS["steps of a trajectory"], SamplingOptions(max_new_tokens=8)
    ids = torch.tensor(prompts[:1])

    def sampled():
        with torch.autocast("cpu", torch.bfloat16):
            found = sample_completions(model, prompts, options, seed=0)
            scores = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=8,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            ).scores
        return found, torch.stack(scores).tolist()

    expected = sampled()
    with products_in(torch.bfloat16, model):
        assert sum(p.dtype == torch.bfloat16 for p in model.parameters()) >= 14
        assert sampled() == expected
    assert [(id(p), p.dtype, p.data_ptr()) for p in model.parameters()] == before
    assert sampled() == expected


def test_lora_samples_with_its_adapter():
    model = get_peft_model(model_of(), LoraConfig(r=2, init_lora_weights=False, lora_dropout=0.5))
    prompts, options = PROMPTS["steps of a trajectory"], SamplingOptions(max_new_tokens=8)
    model.train()
    completions, logprobs = sample_completions(model, prompts, options, seed=0)
    assert model.training
    model.eval()
    for prompt, completion, found in zip(prompts, completions, logprobs, strict=True):
        torch.testing.assert_close(torch.tensor(found), plain_logprobs(model, prompt, completion), atol=2e-5, rtol=0)
    with model.disable_adapter():
        bare = plain_logprobs(model, prompts[0], completions[0])
    assert not torch.allclose(torch.tensor(logprobs[0]), bare, atol=1e-2)


def test_the_model_is_left_as_it_was():
    model = model_of().train()
    attention = model.config._attn_implementation
    sample_completions(model, [[1, 2]], SamplingOptions(max_new_tokens=2))
    assert model.training
    assert model.config._attn_implementation == attention
    with pytest.raises(IndexError):
        sample_completions(model, [[1, VOCABULARY]], SamplingOptions(max_new_tokens=2))
    assert model.training
    assert model.config._attn_implementation == attention
    assert all(parameter.grad is None for parameter in model.parameters())


# --- where it does not apply ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "changed", "reason"),
    [
        ("Gemma2", {"head_dim": 8}, "capped"),
        ("Bloom", {}, "attention of its own"),
        ("Mamba", {"state_size": 4}, "layers of type"),
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}, "layers of type conv"),
    ],
)
def test_models_it_cannot_take_are_refused(kind, changed, reason):
    model = model_of(kind, **changed)
    assert reason in why_no_sampling(model)
    with pytest.raises(UserError, match=reason):
        sample_completions(model, [[1, 2]], SamplingOptions(max_new_tokens=2))


def test_encoder_decoders_and_virtual_tokens_are_refused():
    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    assert "encoder-decoder" in why_no_sampling(transformers.T5ForConditionalGeneration(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prompt_tuned = get_peft_model(model_of(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert "virtual tokens" in why_no_sampling(prompt_tuned)


def test_an_empty_prompt_is_an_error():
    with pytest.raises(UserError, match="found prompt 2 empty"):
        sample_completions(model_of(), [[1], []], SamplingOptions(max_new_tokens=2), num_generations=2)


def test_no_prompts_no_completions():
    assert sample_completions(model_of(), [], SamplingOptions(max_new_tokens=2)) == ([], [])


def test_generation_configs_are_understood_or_refused():
    config = GenerationConfig(
        max_new_tokens=7, do_sample=True, temperature=0.5, top_k=3, top_p=0.9, eos_token_id=[1, 2], pad_token_id=0
    )
    assert why_no_sampling(model_of(), config) is None
    expected = SamplingOptions(7, temperature=0.5, top_k=3, top_p=0.9, eos_token_ids=(1, 2))
    assert SamplingOptions.from_generation_config(config) == expected
    greedy = GenerationConfig(max_new_tokens=7, eos_token_id=1, repetition_penalty=1.0)
    assert why_no_sampling(model_of(), greedy) is None
    assert SamplingOptions.from_generation_config(greedy) == SamplingOptions(7, temperature=0, eos_token_ids=(1,))
    for changed in ({"repetition_penalty": 1.1}, {"num_beams": 2}, {"cache_implementation": "static"}):
        assert next(iter(changed)) in why_no_sampling(model_of(), GenerationConfig(max_new_tokens=7, **changed))
    assert "max_new_tokens" in why_no_sampling(model_of(), GenerationConfig())


# --- in TRL's trainer -----------------------------------------------------------------------------------
