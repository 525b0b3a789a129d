"""The two reward functions, as TRL calls them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl.rewards import MALFORMED, answer_correctness, step_similarity

GOOD = "<think>hm</think>"


def message(text):
    return [{"role": "assistant", "content": text}]


def test_similarity_of_known_pairs():
    completions = [GOOD + "abcd", GOOD + "bcde", GOOD + "xyz", "abcd", GOOD + "  abcd\n"]
    rewards = step_similarity([message(c) for c in completions], ["abcd", "abcd", "abcd", "abcd", "\nabcd "])
    assert rewards == [1.0, 0.75, 0.0, MALFORMED, 1.0]


def test_strings_are_taken_as_well_as_messages():
    assert step_similarity([GOOD + "abcd"], ["abcd"]) == [1.0]


def test_difflibs_autojunk_is_off():
    expert = "ab " * 400
    assert step_similarity([GOOD + "x" + expert], [expert])[0] > 0.99


def test_the_thought_is_free():
    short, long = (step_similarity([f"<think>{t}</think>abc"], ["abd"]) for t in ("x", "abd " * 99))
    assert short == long


def test_truncation_is_malformed_where_the_trainer_says_so():
    assert step_similarity([GOOD + "abcd"] * 2, ["abcd"] * 2, truncated=[True, False]) == [MALFORMED, 1.0]


@given(st.text(), st.text(min_size=1).filter(str.strip))
def test_rewards_are_minus_one_or_in_the_unit_interval(completion, expert):
    (reward,) = step_similarity([completion], [expert])
    assert reward == MALFORMED or 0 <= reward <= 1


def test_what_is_logged_per_completion():
    columns, metrics = {}, []
    step_similarity(
        [message(GOOD + "abcd"), message("abcd")],
        ["abcd", "abcd"],
        log_extra=lambda name, values: columns.update({name: values}),
        log_metric=lambda name, value: metrics.append((name, value)),
        trajectory_id=["t", "t"],
        step_index=[1, 2],
    )
    assert columns == {
        "trajectory_id": ["t", "t"],
        "step_index": [1, 2],
        "thought": ["hm", ""],
        "action": ["abcd", ""],
        "expert_action": ["abcd", "abcd"],
        "format_error": [None, "no <think>"],
    }
    assert sorted(metrics) == [
        ("exact_step_rate", 0.0),
        ("exact_step_rate", 1.0),
        ("format_error_rate", 0.0),
        ("format_error_rate", 1.0),
        ("step_similarity", 1.0),
    ]


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        (r"so it is \boxed{\frac{1}{2}}", "0.5", True),
        (r"so it is \boxed{\frac{1}{2}}", r"\frac12", True),
        ("Answer: 60", "60", True),
        (r"\boxed{61}", "60", False),
        ("no answer at all", "60", False),
        ("", "60", False),
        (r"\boxed{27}", "27.0", True),
        (r"\boxed{25}", "025", True),
        (r"\boxed{9^{9^{9^9}}}", "5", False),  # must neither hang nor eat the memory
    ],
)
def test_answer_correctness(text, answer, right):
    assert answer_correctness([message(text)], [answer]) == [float(right)]


def test_a_truncated_answer_is_wrong():
    assert answer_correctness([r"\boxed{60}"] * 2, ["60"] * 2, truncated=[True, False]) == [0.0, 1.0]


def test_answers_are_checked_in_threads_too():
    """math-verify's own time limit is a signal and would fail here."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(answer_correctness, [r"\boxed{60}"], ["60"]).result() == [1.0]
