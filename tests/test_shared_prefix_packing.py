"""Packing: every shared token once, and each place sees exactly its row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packs import seen_keys

from srl.shared_prefix.packing import NO_LABEL, pack


def rows_of(*texts):
    """Rows of characters; the prompt ends at `|`."""
    rows = [np.array([ord(c) for c in text.replace("|", "")], dtype=np.int64) for text in texts]
    return rows, [text.index("|") for text in texts]


def check(packs, rows, prompt_lengths):
    """Each completion token is predicted once, from exactly the tokens before it at their positions."""
    packed_rows = [index for one in packs for index in one.rows]
    assert sorted(packed_rows) == [i for i, row in enumerate(rows) if len(row) > prompt_lengths[i]]
    for one in packs:
        seen, used = seen_keys(one.plan), set()
        assert [start for start, _ in one.plan.chains] == [0, *[stop for _, stop in one.plan.chains[:-1]]]
        assert one.plan.n_pairs == sum(map(len, seen))
        assert one.plan.depths_T.tolist() == one.positions_T.tolist() == [len(keys) - 1 for keys in seen]
        for index, places in zip(one.rows, one.places, strict=True):
            row, n_prompt = rows[index], prompt_lengths[index]
            assert len(places) == len(row) - n_prompt
            for depth, place in enumerate(places.tolist(), n_prompt - 1):
                keys = sorted(seen[place], key=lambda key: one.positions_T[key])
                assert one.positions_T[keys].tolist() == list(range(depth + 1))
                assert one.ids_T[keys].tolist() == row[: depth + 1].tolist()
                assert one.labels_T[place] == row[depth + 1]
            used |= set(places.tolist())
        assert {place for place, label in enumerate(one.labels_T) if label != NO_LABEL} == used


def n_unique(rows, prompt_lengths):
    """Distinct beginnings of rows that predict something: what a perfect packing computes."""
    scored = [row for row, length in zip(rows, prompt_lengths, strict=True) if len(row) > length]
    return len({tuple(row[: depth + 2]) for row in scored for depth in range(len(row) - 1)})


@st.composite
def row_sets(draw):
    """Rows over two letters, so that all kinds of common prefixes come up."""
    rows = draw(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=12), min_size=1, max_size=14))
    lengths = [draw(st.integers(1, len(row))) for row in rows]
    return [np.array(row, dtype=np.int64) for row in rows], lengths


@given(row_sets(), st.none() | st.integers(1, 40))
def test_every_place_sees_exactly_its_row(given_rows, max_places):
    rows, lengths = given_rows
    packs = pack(rows, lengths, max_places=max_places)
    check(packs, rows, lengths)
    if max_places is None:
        assert sum(one.plan.n_places for one in packs) == n_unique(rows, lengths)
    else:
        assert all(one.plan.n_places <= max_places or len({tuple(rows[i]) for i in one.rows}) == 1 for one in packs)


@given(row_sets())
def test_less_sharing_is_as_right(given_rows):
    rows, lengths = given_rows
    n_places = []
    for sharing in ("trajectory", "prompt", "rows"):
        packs = pack(rows, lengths, sharing)
        check(packs, rows, lengths)
        n_places.append(sum(one.plan.n_places for one in packs))
        if sharing == "rows":
            assert not any(one.plan.blocks for one in packs)
    assert n_places == sorted(n_places)
    assert n_places[-1] == sum(len(row) - 1 for row, length in zip(rows, lengths, strict=True) if len(row) > length)


@pytest.mark.parametrize(
    ("texts", "places"),
    [
        (["ab|cd"], 3),  # one row
        (["ab|cd", "xy|z"], 5),  # no common prefix
        (["ab|cd", "ab|cd", "ab|cd"], 3),  # identical rows
        (["ab|cd", "ab|"], 3),  # an empty completion
        (["ab|cd", "ab|cdef"], 5),  # a row that is a prefix of another
        (["ab|cdef", "ab|cd", "ab|cd", "ab|cd"], 5),  # … and heavier than the other
        (["ab|cd", "abc|d"], 3),  # one prompt within another's completion
        (["ab|cX", "ab|cY"], 4),  # they part after `b`: its label is shared, that of `c` is not
        (["a|b", "a|c"], 2),  # nothing but the first token in common
    ],
)
def test_special_rows(texts, places):
    rows, lengths = rows_of(*texts)
    packs = pack(rows, lengths)
    check(packs, rows, lengths)
    assert sum(one.plan.n_places for one in packs) == places


def test_nothing_to_predict_is_no_pack():
    assert pack(*rows_of("ab|", "xyz|")) == []


def test_a_trajectory_is_one_prefix_with_a_block_per_step():
    """4 steps of a trajectory with 3 samples each, and a stem that no longer prompt continues."""
    texts = [f"{'prefix-of-steps'[: 5 + 3 * step]}{{}}|{sample}{step}done" for step in range(4) for sample in "xyz"]
    rows, lengths = rows_of(*(text.replace("{}", "<>") for text in texts))
    (one,) = pack(rows, lengths)
    check([one], rows, lengths)
    assert len(one.plan.chains) == 12
    shared = [block for block in one.plan.blocks if block.key_start == 0]
    assert len(shared) == 4  # one per step: what hangs below its fork
    assert one.ids_T[:14].tolist() == rows[-1][:14].tolist()
