"""Both implementations of the step similarity against difflib, on pairs of many kinds.

python tests/test_similarity_pairs.py 1000000 7     # so many pairs, with this seed
"""

import random
import sys
import time

import pytest
from similarity_pairs import KINDS, any_size, as_token_ids, with_difflib

from srl.rewards.similarity import fallback

try:
    from srl.rewards.similarity import _matcher
except ImportError:
    _matcher = None

PAIRS = 10_000  # and 100,000 among the slow tests


def disagreements(a, b):
    """The names of the implementations that differ from difflib on this pair."""
    pairs = [a], [b]
    token_pairs = [as_token_ids(a)], [as_token_ids(b)]
    found = {
        "Python": fallback.matched_pairs(*pairs),
        "Python, naming runs in every box": [fallback._matched(a, b, small_box=0)],
    }
    if _matcher is not None:
        found["C"] = _matcher.matched_pairs(*pairs)
    if len(a) % 4 == 0:
        found["Python, token ids"] = fallback.matched_pairs(*token_pairs)
        if _matcher is not None:
            found["C, token ids"] = _matcher.matched_pairs(*token_pairs)
    expected = [with_difflib(a, b)]
    return [name for name, matched in found.items() if matched != expected]


@pytest.mark.parametrize("pairs", [PAIRS, pytest.param(10 * PAIRS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_is_matched_as_difflib_does(kind, pairs):
    rng = random.Random(kind.__name__)
    for _ in range(pairs // len(KINDS) + 1):
        a, b = kind(rng, any_size(rng))
        assert not disagreements(a, b), (a, b)


def main(pairs, seed):
    rng, wrong, start = random.Random(seed), 0, time.perf_counter()
    for _ in range(pairs):
        a, b = rng.choice(KINDS)(rng, any_size(rng))
        for name in disagreements(a, b):
            wrong += 1
            print(f"{name} differs from difflib: {a!r} {b!r}")
    seconds = time.perf_counter() - start
    print(f"{pairs} pairs, seed {seed}: {wrong} differ from difflib; {seconds:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
