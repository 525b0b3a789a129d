"""The reward functions, as TRL calls them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl.rewards import StepReward, answer_correctness, one_spelling, step_similarity
from srl.rewards.functions import MALFORMED
from srl.rewards.similarity import ratio
from srl.runs.recipe import Reward

GOOD = "<think>hm</think>"
ACTIONS = st.text(r"ab 12\(\)$\frac", min_size=1).map(str.strip).filter(len)
REWARDS = st.builds(
    Reward,
    elements=st.sampled_from(["characters", "latex"]),
    copy_penalty=st.floats(0, 1),
    expert_logprob_weight=st.floats(0, 1),
    format_term=st.sampled_from(["in_group", "separate"]),
)


def rewarded(action, expert, context="", gain=0.0, **options):
    """What one well-formed completion earns."""
    function = StepReward(Reward(**options))
    return function([GOOD + action], [expert], prompts=[context], expert_logprob_gain=[gain])[0]


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


@given(REWARDS, ACTIONS, ACTIONS, ACTIONS, st.floats(-50, 50))
def test_every_reward_is_one_for_the_experts_action_and_in_the_unit_interval(options, action, expert, prompt, gain):
    function = StepReward(options)
    same, other, malformed = function(
        [GOOD + expert, GOOD + action, action],
        [expert] * 3,
        prompts=[prompt] * 3,
        expert_logprob_gain=[gain] * 3,
    )
    assert same == 1.0
    assert 0 <= other <= 1
    assert malformed == (None if options.format_term == "separate" else MALFORMED)


@given(ACTIONS, ACTIONS)
def test_the_default_is_the_papers_reward(action, expert):
    assert (
        StepReward()([GOOD + action], [expert]) == step_similarity([GOOD + action], [expert]) == [ratio(action, expert)]
    )


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (r"\dfrac{1}{2}", r"\frac{1}{2}", True),
        (r"\left( x \right)", "( x )", True),
        (r"so \(x\) is", "so $x$ is", True),
        ("so\n\\[\nx\n\\]", "so $$ x $$", True),
        (r"a \geq b\quad c", r"a \ge b c", True),
        (r"x \\[2pt] y", r"x \$2pt] y", False),  # a line break, not the start of a formula
        (r"\$5", "$5", False),
        (r"\leftarrow", r"\rightarrow", False),
        (r"a \cdot b", r"a \times b", False),
        (r"\frac{1}{2}", "1/2", False),
    ],
)
def test_spellings_of_latex(one, other, equal):
    assert (one_spelling(one) == one_spelling(other)) == equal
    assert (rewarded(one, other, elements="latex") == 1.0) == equal


def test_copying_the_prompt_earns_less():
    context, expert = "Let x = 2.", "so y = 4"
    honest, copy = "so y = 5", "Let x = 2"
    assert rewarded(copy, expert, context, copy_penalty=0.5) < rewarded(copy, expert, context)
    assert rewarded(copy, expert, context, copy_penalty=1.0) == ratio(copy, expert) * 0.5  # the expert copies half
    assert rewarded(honest, expert, context, copy_penalty=1.0) == rewarded(honest, expert, context)
    assert rewarded("", expert, context, copy_penalty=1.0) == MALFORMED


def test_the_copied_context_is_the_user_turn():
    prompt = [{"role": "system", "content": "so y = 7"}, {"role": "user", "content": "Let x = 2."}]
    function = StepReward(Reward(copy_penalty=1.0))
    assert function([GOOD + "so y = 7"], ["so y = 4"], prompts=[prompt]) == step_similarity(
        [GOOD + "so y = 7"], ["so y = 4"]
    )


def test_a_thought_fills_part_of_what_the_action_leaves_open():
    assert rewarded("bcde", "abcd", gain=0.0, expert_logprob_weight=0.5) == 0.75 + 0.25 * 0.5 * 0.5
    assert rewarded("xyz", "abcd", gain=50.0, expert_logprob_weight=0.5) == pytest.approx(0.5)
    assert rewarded("xyz", "abcd", gain=-1e9, expert_logprob_weight=1.0) == 0.0
    with pytest.raises(ValueError, match="expert_logprob_gain=True"):
        StepReward(Reward(expert_logprob_weight=0.5))([GOOD + "a"], ["a"])


def test_the_format_penalty_by_itself():
    penalties = StepReward().format_penalty([GOOD + "a", "a", GOOD + "a"], ["a"] * 3, truncated=[False, False, True])
    assert penalties == [0.0, MALFORMED, MALFORMED]


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
