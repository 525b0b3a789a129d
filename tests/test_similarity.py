import logging
import random
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from similarity_pairs import KINDS, as_token_ids, with_difflib

import srl.rewards.similarity
from srl.rewards.similarity import elements, fallback, matched, ratio, ratio_autojunk, ratios, ratios_batch

try:
    from srl.rewards.similarity import _matcher
except ImportError:
    _matcher = None

IMPLEMENTATIONS = [fallback.matched_pairs] + ([_matcher.matched_pairs] if _matcher is not None else [])

every_implementation = pytest.mark.parametrize("matched_pairs", IMPLEMENTATIONS)

CASES = [
    ("", "", 0),
    ("", "a", 0),
    ("a", "", 0),
    ("abc", "abc", 3),
    ("abc", "xyz", 0),
    ("abxcd", "abcd", 4),
    ("abcd", "bcde", 3),
    ("private Thread currentThread;", "private volatile Thread currentThread;", 29),
    ("tide", "diet", 1),  # not symmetric: the first of equally long blocks decides
    ("diet", "tide", 2),
    ("\x00a\x00", "\x00\x00", 2),
    ("\ud800\udc00", "\U00010000", 0),  # two lone surrogates are not the character they would encode
    ("\ud800x\udfff", "\udfffx\ud800", 1),
    ("a" * 100, "a" * 65, 65),
    ("ab" * 200, "a" * 400, 200),
    ("e\u0301", "\xe9", 0),  # no normalisation
]


@pytest.mark.skipif(_matcher is None, reason="the C extension is not built: only the pure-Python similarity is tested")
def test_the_extension_is_in_use_where_it_is_built():
    assert srl.rewards.similarity.implementation() == "C"


@every_implementation
@pytest.mark.parametrize(("a", "b", "expected"), CASES)
def test_known_pairs(matched_pairs, a, b, expected):
    assert with_difflib(a, b) == expected
    assert matched_pairs([a], [b]) == [expected]
    assert matched_pairs([as_token_ids(a)], [tuple(as_token_ids(b))]) == [expected]


@every_implementation
@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())), st.text(st.characters(exclude_categories=())))
def test_any_two_strings(matched_pairs, a, b):
    assert matched_pairs([a, a + b, a + b], [b, b + a, a + a]) == [
        with_difflib(a, b),
        with_difflib(a + b, b + a),
        with_difflib(a + b, a + a),
    ]


@every_implementation
@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1)), st.lists(st.integers(0, 2**32 - 1)))
def test_any_two_sequences_of_token_ids(matched_pairs, a, b):
    assert matched_pairs([a + b], [b + a]) == [with_difflib(a + b, b + a)]


@settings(deadline=None)
@given(st.text("ab c", max_size=100), st.text("ab c", max_size=100))
def test_the_ratio_is_difflibs_to_the_last_bit(a, b):
    total = len(a) + len(b)
    assert ratio(a, b) == (2.0 * with_difflib(a, b) / total if total else 1.0)
    assert 0.0 <= ratio(a, b) <= 1.0
    assert ratio(a, a) == 1.0


@every_implementation
def test_degenerate_pairs_that_would_take_difflib_hours(matched_pairs):
    size = 8000
    assert matched_pairs(["ab" * (size // 2)], ["a" * size]) == [size // 2]
    assert matched_pairs(["a" * size], ["a" * (size - 1)]) == [size - 1]
    assert matched_pairs(["a" * size + "b"], ["b" + "a" * size]) == [size]
    assert matched_pairs([("\n" + " " * 8) * (size // 9)], ["x\n" + " " * 4]) == [5]


def test_both_implementations_agree_on_long_adversarial_pairs():
    rng = random.Random(11)
    for kind in KINDS:
        a, b = kind(rng, 3000)
        assert len({implementation([a], [b])[0] for implementation in IMPLEMENTATIONS}) == 1


def test_one_expert_and_a_batch_are_what_single_calls_are():
    rng = random.Random(12)
    pairs = [rng.choice(KINDS)(rng, 200) for _ in range(300)]
    actions, experts = [a for a, _ in pairs], [b for _, b in pairs]
    expected = [ratio(a, b) for a, b in pairs]
    assert ratios_batch(actions, experts) == expected
    assert ratios_batch(actions, experts, threads=1) == expected
    assert ratios_batch(actions, experts, threads=5) == expected
    assert ratios(actions, experts[0]) == [ratio(action, experts[0]) for action in actions]
    assert ratios_batch([], []) == ratios([], "a") == []
    assert [matched(a, b) for a, b in pairs] == [with_difflib(a, b) for a, b in pairs]


def test_many_threads_may_call_at_once():
    rng = random.Random(13)
    pairs = [rng.choice(KINDS)(rng, 300) for _ in range(100)]
    expected = [ratio(a, b) for a, b in pairs]
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(lambda: [ratio(a, b) for a, b in pairs]) for _ in range(16)]
    assert all(run.result() == expected for run in runs)


@pytest.mark.parametrize(
    ("action", "expert", "message"),
    [
        (None, "a", "action must be a str, or a list or tuple of token ids, not NoneType"),
        ("a", None, "expert must be a str, or a list or tuple of token ids, not NoneType"),
        (b"a", b"a", "action must be a str, or a list or tuple of token ids, not bytes"),
        (1.5, "a", "action must be a str, or a list or tuple of token ids, not float"),
        ("a", [1], "action and expert must be of one kind, not str and list"),
        ((), "", "action and expert must be of one kind, not tuple and str"),
    ],
)
def test_what_is_not_comparable_is_refused(action, expert, message):
    for call in (ratio, matched, ratio_autojunk):
        with pytest.raises(TypeError, match=message):
            call(action, expert)
    with pytest.raises(TypeError, match=message):
        ratios([action], expert)
    with pytest.raises(TypeError, match=message):
        ratios_batch([action], [expert])


@every_implementation
@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (["a", "b"], TypeError, r"must hold token ids \(int\) only"),
        ([1, None], TypeError, r"must hold token ids \(int\) only"),
        ([1, 2.0], TypeError, r"must hold token ids \(int\) only"),
        ([[1]], TypeError, r"must hold token ids \(int\) only"),
        ([-100], ValueError, r"must be from 0 to 2\*\*32 - 1"),
        ([2**32], ValueError, r"must be from 0 to 2\*\*32 - 1"),
        ([2**200], ValueError, r"must be from 0 to 2\*\*32 - 1"),
    ],
)
def test_what_is_no_token_id_is_refused(matched_pairs, tokens, error, message):
    with pytest.raises(error, match=message):
        matched_pairs([[1], tokens], [[1], [1]])
    with pytest.raises(error, match=message):
        matched_pairs([[1], [1]], [[1], tokens])


def test_a_string_is_no_list_of_actions():
    with pytest.raises(TypeError, match="actions must be a list of sequences to compare, not str"):
        ratios("abc", "abc")
    with pytest.raises(TypeError, match="experts must be a list of sequences to compare, not str"):
        ratios_batch(["abc"], "abc")
    with pytest.raises(ValueError, match="as many experts as actions, not 1 for 2"):
        ratios_batch(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="threads must be at least 1, not 0"):
        ratios_batch(["a"], ["a"], threads=0)


@every_implementation
def test_lists_of_different_lengths_are_refused(matched_pairs):
    with pytest.raises(ValueError, match="as many experts as actions"):
        matched_pairs(["a"], [])


def test_what_is_longer_than_the_cap_is_cut_and_said_once(caplog):
    elements._cuts_logged.clear()
    cap = elements.MAX_LENGTH
    with caplog.at_level(logging.WARNING):
        assert matched("ab" * cap, "ab" * cap) == cap
        assert ratio("a" * cap + "b", "a" * cap + "c") == 1.0
        assert ratio([1] * 5_000_000, [1]) == 2 / (cap + 1)
        assert ratio("x" * 10_000_000, "y") == 0.0
    assert [record.getMessage() for record in caplog.records] == [
        f"a sequence of {2 * cap} elements was cut to its first {cap} before it was compared (said once)"
    ]


def test_the_fallback_says_that_the_extension_is_missing():
    program = (
        "import sys; sys.modules['srl.rewards.similarity._matcher'] = None; import srl.rewards.similarity as s;"
        "print(s.implementation(), s.ratio('abcd', 'bcde'), s.ratios_batch(['a'] * 99, ['a'] * 99))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == f"Python 0.75 {[1.0] * 99}\n"
    assert run.stderr.count("the C extension srl.rewards.similarity._matcher is missing") == 1


def test_what_public_code_computes_is_another_number():
    text = "Let the sum of the first terms be equal to the number that we look for. " * 4
    assert ratio("So: " + text, text) > 0.99
    assert ratio_autojunk("So: " + text, text) < 0.1
    assert ratio_autojunk(text[:199], text[:199]) == ratio(text[:199], text[:199]) == 1.0


@pytest.mark.skipif(_matcher is None, reason="the C extension is not built")
def test_no_memory_stays_behind_a_call_or_an_error():
    def calls():
        _matcher.matched_pairs(["a" * 5000, [1] * 5000], ["b" * 5000, [2] * 5000])
        with pytest.raises(TypeError):
            _matcher.matched_pairs(["a" * 5000, [1] * 5000 + [None]], ["b" * 5000] * 2)
        with pytest.raises(TypeError):
            _matcher.matched_pairs(["a" * 5000, None], ["b" * 5000] * 2)

    calls()
    tracemalloc.start()
    for _ in range(20):
        calls()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak > 400_000
    assert held < 50_000
