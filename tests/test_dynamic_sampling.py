"""Dynamic sampling's arithmetic."""

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl.training.dynamic_sampling import RefillCursor, first_round_size, is_informative, refill_size

REWARDS = st.lists(st.floats(-1, 1), min_size=2, max_size=16)


@pytest.mark.parametrize(
    ("rewards", "threshold", "expected"),
    [
        ([0.1] * 8, 0.0, False),
        ([0.7] * 6, 0.0, False),  # no float noise
        ([1.0] + [0.0] * 7, 0.0, True),  # RLVR: 0 < correct < G
        ([0.0, 0.2], 0.0999, True),
        ([0.0, 0.2], 0.1001, False),  # population std is 0.1; the sample std would be 0.141
        ([-1, 0.35, 0.38, 0.40, 0.42, 0.45, 0.47, 0.50], 0.1, True),
        ([0.33, 0.35, 0.38, 0.40, 0.42, 0.45, 0.47, 0.50], 0.1, False),
        ([math.nan, 0.0, 1.0], 0.1, True),
        ([math.nan, math.nan, 1.0], 0.0, False),
        ([math.nan] * 4, 0.0, False),
    ],
)
def test_is_informative(rewards, threshold, expected):
    assert is_informative(rewards, threshold) is expected


@given(REWARDS, st.floats(0.001, 1))
def test_it_is_the_papers_formula(rewards, threshold):
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / len(rewards))
    if abs(std - threshold) > 1e-9:
        assert is_informative(rewards, threshold) == (std > threshold)


@given(REWARDS, st.floats(-10, 10))
def test_only_the_spread_counts(rewards, shift):
    if abs(statistics.pstdev(rewards) - 0.1) > 1e-6:
        assert is_informative(rewards, 0.1) == is_informative([r + shift for r in rewards], 0.1)


@given(st.integers(1, 64), st.integers(0, 64), st.integers(1, 128), st.integers(1, 64))
def test_a_refill_is_large_enough_and_within_bounds(missing, kept, extra, largest):
    missing = min(missing, largest)
    size = refill_size(missing, kept, kept + extra, largest)
    assert missing <= size <= largest


RECENT = st.lists(st.integers(0, 99).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n + 1))), max_size=8)


@given(st.integers(1, 600), RECENT, st.floats(1, 4))
def test_a_first_round_holds_the_batch_and_stays_within_bounds(wanted, recent, max_oversampling):
    size = first_round_size(wanted, recent, max_oversampling)
    assert wanted <= size <= wanted * max_oversampling
    assert first_round_size(wanted, recent, 1) == wanted
    assert first_round_size(wanted, [(7, 7)], max_oversampling) == wanted  # nothing is ever dropped
    worse = [(0, sampled) for _, sampled in recent]
    assert first_round_size(wanted, worse, max_oversampling) >= size


@pytest.mark.parametrize(("share", "rounds"), [(0.85, 1.15), (0.7, 1.15), (0.99, 1.15)])
def test_most_steps_need_one_round(share, rounds):
    """At 128 groups, first step included; without oversampling nearly every step needs two or more."""

    def mean_rounds(max_oversampling):
        rng, recent, total = random.Random(1), [], 0
        for _ in range(100):
            sampled = first_round_size(128, recent[-8:], max_oversampling)
            kept = sum(rng.random() < share for _ in range(sampled))
            total += 1
            while kept < 128:
                size = refill_size(128 - kept, kept, sampled, largest=128)
                kept += sum(rng.random() < share for _ in range(size))
                sampled, total = sampled + size, total + 1
            recent.append((kept, sampled))
        return total / 100

    assert mean_rounds(1.5) <= rounds
    assert mean_rounds(1) > 1.5


def test_the_cursor_gives_every_row_once_per_pass_and_reshuffles():
    cursor = RefillCursor(10, seed=1)
    passes = [cursor.take(10) for _ in range(3)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert passes[0] != passes[1] != passes[2]
    assert RefillCursor(10, seed=2).take(10) != passes[0]


@given(st.integers(1, 20), st.lists(st.integers(0, 30), max_size=6), st.integers(0, 30))
def test_a_cursor_goes_on_from_its_position(n_rows, takes, then):
    cursor = RefillCursor(n_rows, seed=0)
    for count in takes:
        cursor.take(count)
    assert RefillCursor(n_rows, seed=0, position=cursor.position).take(then) == cursor.take(then)
