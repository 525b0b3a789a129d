"""A pack gives the log-probs and gradients of plain padded rows."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packs import VOCABULARY, model_of, packed, plain, row_sets, trajectory
from peft import LoraConfig, get_peft_model

from srl.shared_prefix import attention, windows
from srl.shared_prefix.attention import model_inputs
from srl.shared_prefix.kernels import CPU, MATH, agrees_with_math
from srl.shared_prefix.packing import AttentionPlan, Block, pack
from srl.shared_prefix.windows import segments

TOLERANCE = {torch.float64: (1e-10, 1e-9), torch.float32: (2e-5, 1e-4)}


def weights_of(rows, lengths):
    """A different weight for every completion token, so that no two can be mixed up."""
    rng = np.random.default_rng(1)
    return [torch.from_numpy(rng.normal(size=len(row) - length)) for row, length in zip(rows, lengths, strict=True)]


def gradients(model, logprobs, weights):
    model.zero_grad()
    sum(
        (logprob * weight.to(logprob.dtype)).sum() for logprob, weight in zip(logprobs, weights, strict=True)
    ).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(model, rows, lengths, tolerance, **options):
    """Log-probs within the first, gradients of every parameter relatively within the second."""
    weights = weights_of(rows, lengths)
    expected, found = plain(model, rows, lengths), packed(model, rows, lengths, **options)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one.detach().to(other.dtype), atol=tolerance[0], rtol=0, check_dtype=False)
    ours, theirs = gradients(model, found, weights), gradients(model, expected, weights)
    assert ours.keys() == theirs.keys()
    whole = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    for name, gradient in theirs.items():  # some are zero: queries that see one key only
        assert (ours[name] - gradient).norm() <= tolerance[1] * max(gradient.norm(), 1e-5 * whole), name


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_pack_equals_padded_rows(kind, dtype, precise_norms):
    assert_equal(model_of(kind, dtype), *trajectory(), TOLERANCE[dtype])


def with_window(kind, size, **changed):
    """A model with sliding windows: in all layers (Mistral, Phi3), in the second one, or in all but the second."""
    some = {"Qwen2": {"use_sliding_window": True, "max_window_layers": 1}}
    some["Gemma3"] = {"layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8}
    some["Phi3"] = {"eos_token_id": 2}
    return model_of(kind, **some.get(kind, {}), sliding_window=size, **changed)


@pytest.mark.parametrize("kind", ["Mistral", "Phi3", "Qwen2", "Gemma3"])
@pytest.mark.parametrize(("dtype", "window"), [(torch.float64, 9), (torch.float64, 1), (torch.float32, 30)])
def test_sliding_windows(kind, dtype, window, precise_norms):
    model, (rows, lengths) = with_window(kind, window, dtype=dtype), trajectory()
    assert_equal(model, rows, lengths, TOLERANCE[dtype])
    with torch.no_grad():  # they matter here
        found = torch.cat(packed(model, rows, lengths))
        unlimited = torch.cat(packed(with_window(kind, 4096, dtype=dtype), rows, lengths))
    assert (found - unlimited).abs().max() > 0.1


@pytest.mark.parametrize("options", [{"sharing": "prompt"}, {"sharing": "rows"}, {"max_places": 60}])
def test_sliding_windows_with_less_sharing(options, precise_norms):
    assert_equal(with_window("Qwen2", 9, dtype=torch.float64), *trajectory(), TOLERANCE[torch.float64], **options)


def test_sliding_windows_in_plain_arithmetic_and_short_segments(monkeypatch, precise_norms):
    monkeypatch.setattr(windows, "masked_kernel_for", lambda query: MATH)
    monkeypatch.setattr(windows, "LONGEST_SEGMENT", 4)
    segments.cache_clear()
    assert_equal(with_window("Mistral", 3, dtype=torch.float64), *trajectory(), TOLERANCE[torch.float64])
    segments.cache_clear()


def test_a_window_longer_than_the_rows_costs_nothing():
    (one,), model = pack(*trajectory()), with_window("Mistral", 1000)
    found, expected = model(**model_inputs(one, "cpu")), with_window("Mistral", None)(**model_inputs(one, "cpu"))
    assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("options", [{"sharing": "prompt"}, {"sharing": "rows"}, {"max_places": 60}])
def test_less_sharing_and_several_packs_are_equal_too(options, precise_norms):
    assert_equal(model_of(dtype=torch.float64), *trajectory(), TOLERANCE[torch.float64], **options)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant, precise_norms):
    model = model_of(dtype=torch.float64).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert_equal(model, *trajectory(), TOLERANCE[torch.float64])


def test_lora(precise_norms):
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(model_of(dtype=torch.float64), config).to(torch.float64)
    assert_equal(model, *trajectory(), TOLERANCE[torch.float64])


def test_bfloat16_is_as_near_to_the_truth_as_padded_rows_are():
    model, (rows, lengths) = model_of(dtype=torch.bfloat16, seed=1), trajectory()
    truth = torch.cat(plain(model_of(seed=1).to(torch.bfloat16).float(), rows, lengths))
    with torch.no_grad():
        theirs, ours = (torch.cat(way(model, rows, lengths)).float() for way in (plain, packed))
    assert (ours - truth).norm() < 1.2 * (theirs - truth).norm()


def test_plain_arithmetic_is_right_too(monkeypatch, precise_norms):
    monkeypatch.setattr(attention, "kernel_for", lambda query: MATH)
    assert_equal(model_of(dtype=torch.float64), *trajectory(), TOLERANCE[torch.float64])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_kernels_are_checked_against_plain_arithmetic(dtype):
    def without_merged_lse(d_out, q, k, v, out, lse, causal, scale):
        return CPU.backward(d_out, q, k, v, out, lse - 0.5, causal, scale)

    cpu = torch.device("cpu")
    assert agrees_with_math(CPU, cpu, dtype, 16)
    assert not agrees_with_math(CPU._replace(backward=without_merged_lse), cpu, dtype, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_arithmetic_is_as_precise_under_autocast(dtype):
    generator = torch.Generator().manual_seed(0)
    q, k, v, d_out = (3 * torch.randn(1, heads, 20, 16, generator=generator).to(dtype) for heads in (4, 2, 2, 4))

    def computed():
        out, lse = MATH.forward(q, k, v, True, 0.25)
        return out, lse, *MATH.backward(d_out, q, k, v, out, lse, True, 0.25)

    expected = computed()
    with torch.autocast("cpu", torch.bfloat16):
        found = computed()
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


MODEL_64 = model_of(dtype=torch.float64)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row_sets(), st.sampled_from(["trajectory", "prompt"]), st.none() | st.integers(5, 40))
def test_random_trees(precise_norms, given_rows, sharing, max_places):
    rows, lengths = given_rows
    if any(len(row) > length for row, length in zip(rows, lengths, strict=True)):
        assert_equal(MODEL_64, rows, lengths, TOLERANCE[torch.float64], sharing=sharing, max_places=max_places)


WINDOWED_64 = with_window("Mistral", 4, dtype=torch.float64)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row_sets(), st.integers(1, 12), st.sampled_from([1, 3, 512]))
def test_random_trees_with_sliding_windows(precise_norms, given_rows, window, longest_segment):
    rows, lengths = given_rows
    if any(len(row) > length for row, length in zip(rows, lengths, strict=True)):
        segments.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WINDOWED_64.config, "sliding_window", window)
            patch.setattr(windows, "LONGEST_SEGMENT", longest_segment)
            assert_equal(WINDOWED_64, rows, lengths, TOLERANCE[torch.float64])


@pytest.mark.parametrize(
    "break_it",
    [
        lambda plan: plan.blocks[:-1],  # an ancestor is not seen
        lambda plan: (*plan.blocks, plan.blocks[0]),  # … or twice
        lambda plan: (*plan.blocks, Block(*plan.chains[-1], *plan.chains[-2])),  # a sibling is seen
    ],
)
def test_these_tests_would_notice(break_it):
    model, (rows, lengths) = model_of(dtype=torch.float64), trajectory()
    (one,) = pack(rows, lengths)
    inputs = model_inputs(one, "cpu")
    right = model(**inputs).logits
    broken = AttentionPlan(one.plan.chains, break_it(one.plan))
    assert (model(**inputs | {"attention_plan": broken}).logits - right).abs().max() > 1e-2


def test_positions_continue_after_the_branch_point():
    rows = [np.array([1, 2, 3, 4, 5]), np.array([1, 2, 3, 9, 8, 7])]
    (one,) = pack(rows, [2, 2])
    for index, places in zip(one.rows, one.places, strict=True):
        assert one.positions_T[places].tolist() == list(range(1, len(rows[index]) - 1))


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (lambda: model_of(attention_dropout=0.1).train(), "dropout"),
        (lambda: model_of("Gemma2"), "softcap"),
    ],
)
def test_what_packs_do_not_have_is_refused(model, named):
    (one,) = pack(*trajectory())
    with pytest.raises(NotImplementedError, match=named):
        model()(**model_inputs(one, "cpu"))


def test_without_a_plan_it_is_sdpa():
    ours, theirs = model_of(), model_of()
    theirs.set_attn_implementation("sdpa")
    ids = torch.randint(1, VOCABULARY, (3, 9))
    mask = torch.tensor([[0, 0, *[1] * 7], [1] * 9, [0, *[1] * 8]])
    assert torch.equal(ours(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits)
    kwargs = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False}
    assert torch.equal(ours.generate(ids, **kwargs), theirs.generate(ids, **kwargs))
