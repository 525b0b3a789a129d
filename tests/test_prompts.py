"""The completion format, and the property that prompts of a trajectory extend one another token for token."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl.chat.prompts import format_completion, parse_completion, step_prompt
from srl.data.steps import step_instances
from srl.records import Step, Trajectory

WELL_FORMED = [
    ("<think>a</think>b", "a", "b"),
    ("  <think>\na\n</think>\n\nb\n", "a", "b"),
    ("<think>a</think><solution>\nb\n</solution>", "a", "b"),
    ("<think>1 < 2</think>x < y > z", "1 < 2", "x < y > z"),
    ("<think>a</think><solution>b", "a", "<solution>b"),
]
MALFORMED = [
    ("", "no <think>"),
    ("b", "no <think>"),
    ("<think>a", "no </think>"),
    ("a</think>b", "no <think>"),
    ("<think>a</think>", "empty action"),
    ("<think> </think>b", "empty thought"),
    ("<think>a</think>  \n", "empty action"),
    ("<think>a</think><solution> </solution>", "empty action"),
    ("well <think>a</think>b", "text before <think>"),
    ("</think>a<think>b", "</think> before <think>"),
    ("<think>a<think>b</think>c", "several <think>"),
    ("<think>a</think>b</think>c", "several </think>"),
    ("<think>a</think>b<think>c</think>d", "several <think>"),
    ("<THINK>a</THINK>b", "no <think>"),
]


@pytest.mark.parametrize(("text", "thought", "action"), WELL_FORMED)
def test_well_formed(text, thought, action):
    completion = parse_completion(text)
    assert (completion.thought, completion.action, completion.format_error) == (thought, action, None)


@pytest.mark.parametrize(("text", "error"), MALFORMED)
def test_malformed(text, error):
    completion = parse_completion(text)
    assert (completion.thought, completion.action, completion.format_error) == ("", "", error)


def test_a_truncated_completion_is_malformed_however_it_looks():
    assert parse_completion("<think>a</think>b", truncated=True).format_error == "truncated"


PLAIN = st.text(min_size=1).filter(lambda text: text.strip() and "think>" not in text and "solution>" not in text)


@given(PLAIN, PLAIN)
def test_what_is_formatted_is_parsed_back(thought, action):
    completion = parse_completion(format_completion(thought, action))
    assert (completion.thought, completion.action) == (thought.strip(), action.strip())


@given(st.text(alphabet="ab <>/think\n") | st.lists(st.sampled_from(["<think>", "</think>", "a", " "])).map("".join))
def test_every_text_is_well_formed_or_has_an_error(text):
    completion = parse_completion(text)
    assert bool(completion.format_error) != bool(completion.thought and completion.action)


# --- shared prefixes---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen_like():
    from srl.study.tiny import build_tokenizer

    return build_tokenizer()


def stem(tokenizer):
    """The tokens of the template from the end of the user's text on: the branch point."""
    ids = tokenizer.apply_chat_template(list(step_prompt("", "", "")), add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    end_of_turn = ids.index(tokenizer.eos_token_id)
    return ids[end_of_turn:]


def assert_prompts_extend(trajectory, tokenizer, **options):
    tail = stem(tokenizer)
    before = None
    for instance in step_instances(trajectory, targets="all", **options):
        ids = tokenizer.apply_chat_template(list(instance.prompt), add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        assert ids[-len(tail) :] == tail
        shared = ids[: -len(tail)]
        if before is not None:
            assert shared[: len(before)] == before
            assert len(shared) > len(before)
        before = shared


LINE = st.text(alphabet="ab 1.,:*#$\\({[-+=é\u4e2d\n", min_size=1, max_size=12).filter(lambda text: text.strip())


@given(LINE, st.lists(st.tuples(LINE, LINE), min_size=2, max_size=4), st.booleans())
def test_each_prompt_extends_the_one_before_token_for_token(qwen_like, problem, texts, give_title):
    steps = tuple(
        Step(f"{k}. **{title.strip()}**\n{body.strip()}", title=f"{k}. **{title.strip()}**")
        for k, (title, body) in enumerate(texts, 1)
    )
    assert_prompts_extend(Trajectory("t", problem.strip(), steps), qwen_like, give_title=give_title)


@pytest.mark.parametrize("give_title", [False, True])
def test_prompts_of_real_solutions_extend_one_another(qwen_like, give_title):
    from srl.data.formats.numbered import NotNumbered, cut_steps

    path = Path(__file__).parents[2] / "shared/data/math_trajectories/deepseek_v3_math/solutions.jsonl"
    if not path.exists():
        pytest.skip("the real solutions (../shared/data) are not here")
    checked = 0
    for line in path.read_text().splitlines():
        row = json.loads(line)
        try:
            steps = cut_steps(row["answer"]).steps
        except NotNumbered:
            continue
        assert_prompts_extend(Trajectory("t", row["instruction"], steps), qwen_like, give_title=give_title)
        checked += 1
    assert checked > 160
