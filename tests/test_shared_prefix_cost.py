"""The cost model: what a batch costs before it runs, and which sharing is taken."""

from types import SimpleNamespace

import numpy as np
import pytest

from srl.shared_prefix.cost import ModelSize, cheapest, cost
from srl.shared_prefix.packing import pack

QWEN_7B = ModelSize(28, 3584, 28, 4, 128, 18944, 152064)
SMALL = ModelSize(6, 256, 8, 2, 32, 704, 4096)


def trajectory(length, steps, samples, completion, problem):
    rng = np.random.default_rng(0)
    body, stem, rows = rng.integers(0, 4096, length), rng.integers(0, 4096, 5), []
    for end in np.linspace(problem, length, steps).astype(int):
        rows += [np.concatenate([body[:end], stem, rng.integers(0, 4096, completion)]) for _ in range(samples)]
    return rows, [len(row) - completion for row in rows]


def test_the_size_of_a_model_is_read_from_its_configuration():
    config = SimpleNamespace(
        num_hidden_layers=28,
        hidden_size=3584,
        num_attention_heads=28,
        num_key_value_heads=4,
        intermediate_size=18944,
        vocab_size=152064,
    )
    assert ModelSize.of(config) == QWEN_7B
    assert QWEN_7B.matrix_weights == pytest.approx(7.07e9, rel=1e-2)
    assert QWEN_7B.cache_numbers == 28_672  # 56 KiB a token in bfloat16


def test_costs_are_counted_by_hand():
    rows = [np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), np.array([1, 2])]
    found = cost(pack(rows, [2, 2, 2]), rows, SMALL)
    assert (found.unique_tokens, found.raw_tokens, found.sharing_ratio) == (4, 8, 2)
    assert found.attention_pairs == 1 + 2 + 3 + 3  # the second row's last place sees two others and itself
    assert found.flops == 6 * SMALL.matrix_weights * 4 + 14 * 6 * 256 * 9


@pytest.mark.parametrize(
    ("shape", "ratio"),
    [((600, 6, 8, 150, 100), 2.85), ((4000, 20, 8, 100, 200), 15.6), ((600, 6, 8, 500, 100), 1.59)],
)
def test_arithmetic_saved_on_a_7b_model(shape, ratio):
    """Rows without padding against shared prefixes, as counted independently from the shapes alone."""
    rows, lengths = trajectory(*shape)
    ours, rows_only = (cost(pack(rows, lengths, sharing), rows, QWEN_7B).flops for sharing in ("trajectory", "rows"))
    assert rows_only / ours == pytest.approx(ratio, rel=0.12)  # stems are shared here too


def test_what_saves_most_is_taken():
    def chosen(rows, lengths, sharing="trajectory", size=SMALL, device="cpu"):
        packs, found = cheapest(rows, lengths, sharing, size, device)
        blocks = packs[0].plan.blocks
        return found.unique_tokens, len(blocks)

    rows, lengths = trajectory(400, 4, 4, 50, 100)
    all_shared, per_prompt, none = (
        sum(one.plan.n_places for one in pack(rows, lengths, sharing)) for sharing in ("trajectory", "prompt", "rows")
    )
    assert chosen(rows, lengths)[0] == all_shared
    assert chosen(rows, lengths, "prompt")[0] == per_prompt
    # Two tokens in common are not worth a part of the attention: 8 rows of their own instead.
    rng = np.random.default_rng(1)
    short = [np.concatenate([[1, 2, 3], rng.integers(4, 4096, 50)]) for _ in range(8)]
    assert chosen(short, [3] * 8, size=ModelSize(2, 16, 2, 2, 8, 32, 64)) == (8 * 52, 0)
    assert chosen(short, [3] * 8, size=SMALL, device="cuda") == (8 * 52, 0)
    assert none > per_prompt


def test_one_call_shares_where_parts_in_a_loop_would_not_pay():
    """A prompt of 20 tokens, eight completions of 40, a model of 135 million weights."""
    small = ModelSize(30, 576, 9, 3, 64, 1536, 49152, tied=True)
    rng = np.random.default_rng(0)

    def tokens(prompt, one_call):
        rows = [np.concatenate([prompt, rng.integers(4, 4096, 40)]) for _ in range(8)]
        return cheapest(rows, [len(prompt)] * 8, "trajectory", small, "cuda", one_call)[1].unique_tokens

    prompt = rng.integers(4, 4096, 20)
    assert tokens(prompt, False) == 8 * 59
    assert tokens(prompt, True) == 19 + 8 * 40  # where a prompt ends, each row has a label of its own


def test_nothing_to_score_costs_nothing():
    assert cheapest([np.array([1, 2])], [2], "trajectory", SMALL)[1].total == 0
