"""One mask for a whole pack: what hangs below a place is one run, and FlexAttention is told of it tile by tile."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import row_sets, seen_keys, trajectory
from torch.nn.functional import scaled_dot_product_attention

from srl.shared_prefix import one_call
from srl.shared_prefix.attention import shared_prefix_attention
from srl.shared_prefix.one_call import agrees_with_dense, attend, block_mask, pad_to, rounded_up, tiles
from srl.shared_prefix.packing import pack

HEADS, KV_HEADS, HEAD_SIZE = 4, 2, 16
WINDOWS = st.none() | st.integers(1, 12)


def mask_of(plan, window):
    """Who sees whom, (queries, keys): from the ends."""
    places = np.arange(plan.n_places)
    mask_TT = (places <= places[:, None]) & (places[:, None] < plan.ends_T)
    return mask_TT if window is None else mask_TT & (plan.depths_T[:, None] - plan.depths_T < window)


def inputs_of(plan, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, heads, plan.n_places, HEAD_SIZE, generator=generator, dtype=dtype).requires_grad_()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]


def results(out_1THD, inputs):
    weights = torch.randn(out_1THD.shape, generator=torch.Generator().manual_seed(1), dtype=out_1THD.dtype)
    return out_1THD, *torch.autograd.grad(out_1THD, inputs, weights)


def plans(rows, lengths, **options):
    return [one.plan for one in pack(rows, lengths, **options)]


@given(row_sets(), st.sampled_from(["trajectory", "prompt", "rows"]), st.none() | st.integers(1, 40), WINDOWS)
def test_what_sees_a_place_is_one_run_that_begins_with_it(given_rows, sharing, max_places, window):
    for plan in plans(*given_rows, sharing=sharing, max_places=max_places):
        seen = np.zeros((plan.n_places, plan.n_places), dtype=bool)
        for query, keys in enumerate(seen_keys(plan)):
            latest = sorted(keys, key=lambda key: plan.depths_T[key])[-(window or len(keys)) :]
            seen[query, latest] = True
        assert np.array_equal(mask_of(plan, window), seen)


@settings(max_examples=60, deadline=None)
@given(row_sets(), WINDOWS)
def test_the_parts_are_attention_with_that_mask(given_rows, window):
    """Forward and backward, in float64."""
    for plan in plans(*given_rows):
        inputs = inputs_of(plan)
        ours, _ = shared_prefix_attention(None, *inputs, None, sliding_window=window, attention_plan=plan)
        mask_TT = torch.from_numpy(mask_of(plan, window))
        dense = scaled_dot_product_attention(*inputs, attn_mask=mask_TT, enable_gqa=True).transpose(1, 2)
        for found, expected in zip(results(ours, inputs), results(dense, inputs), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


@settings(max_examples=100, deadline=None)
@given(row_sets(), WINDOWS, st.sampled_from([1, 2, 4, 8]))
def test_tiles_are_empty_or_full_only_where_they_are(given_rows, window, size):
    for plan in plans(*given_rows):
        length = -(-plan.n_places // size) * size + size  # and one that is padding
        padded = [pad_to(length, of_places) for of_places in (plan.ends_T, plan.depths_T)]
        mask_TT = np.zeros((length, length), dtype=bool)
        mask_TT[: plan.n_places, : plan.n_places] = mask_of(plan, window)
        tiled = mask_TT.reshape(length // size, size, length // size, size)
        some_NN, all_NN = tiles(*padded, window, size)
        assert not (tiled.any((1, 3)) & ~some_NN).any()
        assert not (all_NN & ~tiled.all((1, 3))).any()
        assert not (all_NN & ~some_NN).any()


def test_most_tiles_of_a_trajectory_are_known_to_be_empty_or_full():
    rows, lengths = trajectory(n_steps=6, n_samples=8)
    (plan,) = plans(rows, lengths)
    length = -(-plan.n_places // 8) * 8
    some_NN, all_NN = tiles(pad_to(length, plan.ends_T), pad_to(length, plan.depths_T), None, 8)
    mask_TT = mask_of(plan, None)
    assert some_NN.mean() < 2 * mask_TT.mean() + 0.1
    assert all_NN.sum() > 0.1 * some_NN.sum()


@settings(max_examples=15, deadline=None)
@given(row_sets(), WINDOWS)
def test_flex_attention_gives_what_the_parts_give(given_rows, window):
    """Not compiled, it runs on a CPU, forward."""
    for plan in plans(*given_rows):
        with torch.no_grad():
            q, k, v = inputs_of(plan, torch.float32)
            found = attend(q, k, v, plan, window, HEAD_SIZE**-0.5)
            ours, _ = shared_prefix_attention(None, q, k, v, None, sliding_window=window, attention_plan=plan)
        torch.testing.assert_close(found, ours, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 100])
def test_the_mask_that_flex_attention_is_given(window):
    rng = np.random.default_rng(0)
    body = rng.integers(0, 99, 700)
    rows = [np.concatenate([body[:end], rng.integers(0, 99, 90)]) for end in (300, 500, 700) for _ in range(3)]
    (plan,) = plans(rows, [len(row) - 90 for row in rows])
    length = rounded_up(plan.n_places)
    mask = block_mask(plan, window, length, torch.device("cpu"))
    expected = np.zeros((length // 128, 128, length // 128, 128), dtype=bool)
    expected.reshape(length, length)[: plan.n_places, : plan.n_places] = mask_of(plan, window)
    visited = mask.to_dense()[0, 0].bool().numpy()
    assert not (expected.any((1, 3)) & ~visited).any()
    assert visited.mean() < 0.6
    places = torch.arange(length)
    computed = mask.mask_mod(0, 0, places[:, None], places[None])
    assert np.array_equal(computed.numpy(), expected.reshape(length, length))


def test_few_lengths_are_compiled():
    lengths = [rounded_up(n) for n in range(1, 20_000)]
    assert all(n <= length <= max(128, 1.25 * n + 128) and length % 128 == 0 for n, length in enumerate(lengths, 1))
    assert len(set(lengths)) < 30
    assert len({length for length in lengths if 8192 < length <= 16384}) == 4


def test_it_is_checked_before_it_is_used():
    cpu, sizes = torch.device("cpu"), (HEADS, KV_HEADS, HEAD_SIZE)

    def parts(q, k, v, plan, window, scale):
        return shared_prefix_attention(None, q, k, v, None, scaling=scale, sliding_window=window, attention_plan=plan)[
            0
        ]

    def without_window(q, k, v, plan, window, scale):
        return parts(q, k, v, plan, None, scale)

    def without_gradient_of_keys(q, k, v, plan, window, scale):
        return parts(q, k.detach() + 0 * k, v, plan, window, scale)

    with torch.inference_mode():
        assert agrees_with_dense(parts, cpu, torch.float32, sizes)
        assert agrees_with_dense(parts, cpu, torch.bfloat16, sizes)
        assert agrees_with_dense(attend, cpu, torch.float32, sizes, backward=False)
        assert not agrees_with_dense(without_window, cpu, torch.float32, sizes)
        assert not agrees_with_dense(without_gradient_of_keys, cpu, torch.float32, sizes)


def test_where_it_fails_the_parts_compute_and_it_says_so_once(monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(one_call, "_compiled_flex", lambda: broken)
    for _ in range(2):
        assert not one_call._is_right(torch.device("cpu"), torch.bfloat16, 4, 2, 24)
    assert [record.message for record in caplog.records] == [
        "packed prefixes: FlexAttention for torch.bfloat16 fails: no compiler; computing without it"
    ]
