"""From trajectory to instances: which steps are targets and what each prompt holds."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl.chat.prompts import answer_prompt, shortened
from srl.data.formats.numbered import cut_steps
from srl.data.steps import continuations, full_solution, is_held_out, step_instances, target_indices
from srl.errors import UserError
from srl.records import Step, Trajectory

TEXT = "We start.\n\n1. **First**: one\n\n2. **Second**: two\n\n3. **Third**: three\n\nAnswer: 3"
CUT = cut_steps(TEXT)
TRAJECTORY = Trajectory("t", "What?", CUT.steps, conclusion=CUT.conclusion)


def user_turns(instances):
    return [instance.prompt[-1]["content"] for instance in instances]


@pytest.mark.parametrize(("targets", "expected"), [("paper", [1, 2]), ("all", [1, 2, 3]), ("skip_first", [2, 3])])
def test_targets(targets, expected):
    assert [i.step_index for i in step_instances(TRAJECTORY, targets=targets)] == expected


@given(st.integers(2, 50))
def test_the_paper_makes_one_instance_less_than_steps(n):
    assert len(target_indices(n, "paper")) == len(target_indices(n, "skip_first")) == n - 1


def test_contexts_hold_exactly_the_steps_before():
    instances = list(step_instances(TRAJECTORY, targets="all"))
    assert [i.expert_action for i in instances] == [s.action for s in CUT.steps]
    assert user_turns(instances) == [
        "Question: What?\n\nSolution:\n",
        "Question: What?\n\nSolution:\nWe start.\n\n1. **First**: one\n\n",
        "Question: What?\n\nSolution:\nWe start.\n\n1. **First**: one\n\n2. **Second**: two\n\n",
    ]


def test_continuations_ask_for_the_rest_after_every_prefix():
    trajectory = Trajectory("t", "What?", CUT.steps, answer="3", conclusion=CUT.conclusion)
    rows = list(continuations(trajectory, "Solve."))
    steps = list(step_instances(trajectory, targets="all", system_prompt="Solve."))
    assert [row.prompt for row in rows] == [instance.prompt for instance in steps[1:]]  # SRL's prefixes
    assert {row.answer for row in rows} == {"3"}
    prefixes = [turn.partition("Solution:\n")[2] for turn in user_turns(rows)]
    assert [prefix + row.solution for prefix, row in zip(prefixes, rows, strict=True)] == [TEXT, TEXT]


def test_a_given_title_ends_the_prompt_and_leaves_the_body():
    instances = list(step_instances(TRAJECTORY, targets="all", give_title=True))
    assert [i.expert_action for i in instances] == ["one", "two", "three"]
    assert [i.next_title for i in instances] == ["1. **First**:", "2. **Second**:", "3. **Third**:"]
    assert user_turns(instances)[0].endswith("Solution:\nWe start.\n\n1. **First**:\n")
    assert user_turns(instances)[1].endswith("1. **First**:\none\n\n2. **Second**:\n")


def test_a_step_without_title_is_asked_for_whole():
    trajectory = Trajectory("t", "What?", (Step("ls -l"), Step("cat a")))
    instances = list(step_instances(trajectory, targets="all", give_title=True))
    assert [(i.expert_action, i.next_title) for i in instances] == [("ls -l", None), ("cat a", None)]


def test_an_empty_system_prompt_leaves_the_turn_out():
    assert [m["role"] for m in next(step_instances(TRAJECTORY)).prompt] == ["system", "user"]
    assert [m["role"] for m in next(step_instances(TRAJECTORY, system_prompt="")).prompt] == ["user"]


def test_the_full_solution_is_the_experts_text():
    assert full_solution(TRAJECTORY) == TEXT


@given(st.text(), st.floats(0, 1), st.integers(0, 3))
def test_copies_of_a_problem_are_held_out_together(problem, fraction, seed):
    decided = is_held_out(problem, fraction, seed)
    assert decided == is_held_out(f"  {problem}\n", fraction, seed)
    assert not is_held_out(problem, 0.0, seed)
    assert is_held_out(problem, 1.0, seed)


def test_about_the_asked_share_is_held_out_and_growing_data_moves_nothing():
    held_out = [is_held_out(f"problem {i}", 0.1) for i in range(5000)]
    assert 430 < sum(held_out) < 570
    assert [is_held_out(f"problem {i}", 0.2) for i in range(5000)] != held_out
    assert all(is_held_out(f"problem {i}", 0.2) for i in range(5000) if held_out[i])


# --- in an environment ------------------------------------------------------------------------------

RUN = Trajectory(
    "r",
    "Fix it.",
    tuple(Step(f"act {k}", observation=f"saw {k}" if k < 5 else None) for k in range(1, 6)),
    instructions="You have a shell.",
)


def test_the_papers_context_of_an_agent_is_the_last_two_pairs():
    first, second, third, fourth = user_turns(step_instances(RUN))
    assert first == "Task: Fix it.\n\nSo far:\n"
    assert second == "Task: Fix it.\n\nSo far:\nAction:\nact 1\n\nObservation:\nsaw 1\n\n"
    assert third == second + "Action:\nact 2\n\nObservation:\nsaw 2\n\n"
    assert fourth == (
        "Task: Fix it.\n\nSo far:\n[1 earlier step left out]\n\n"
        "Action:\nact 2\n\nObservation:\nsaw 2\n\nAction:\nact 3\n\nObservation:\nsaw 3\n\n"
    )


def test_the_rules_of_the_environment_follow_the_system_prompt():
    (system, _), *_ = (instance.prompt for instance in step_instances(RUN))
    assert system["content"].startswith("You help to carry out a task")
    assert system["content"].endswith("\n\nYou have a shell.")
    (own, _), *_ = (instance.prompt for instance in step_instances(RUN, system_prompt=""))
    assert own["content"] == "You have a shell."


@given(st.integers(0, 6))
def test_a_window_shows_the_latest_steps_and_says_how_many_are_missing(window):
    for index, text in enumerate(user_turns(step_instances(RUN, targets="all", context=window))):
        shown = [k for k in range(1, 6) if f"Action:\nact {k}\n" in text]
        assert shown == list(range(max(0, index - window) + 1, index + 1))
        assert ("left out" in text) == (index > window)


def test_full_contexts_extend_one_another():
    turns = user_turns(step_instances(RUN, targets="all", context="full"))
    assert all(later.startswith(earlier) for earlier, later in pairwise(turns))
    assert user_turns(step_instances(TRAJECTORY, targets="all", context="full")) == user_turns(
        step_instances(TRAJECTORY, targets="all")
    )


@given(st.text(max_size=60), st.integers(0, 40))
def test_a_shortened_text_keeps_its_ends_and_says_what_is_missing(text, limit):
    short = shortened(text, limit)
    if len(text) <= limit:
        assert short == text
    else:
        head, note, tail = re.fullmatch(r"(.*)\n\[… (\d+) characters left out …\]\n(.*)", short, re.S).groups()
        assert (len(head) + len(tail), int(note)) == (limit, len(text) - limit)
        assert text.startswith(head)
        assert text.endswith(tail)
        assert 0 <= len(head) - len(tail) <= 1


def test_long_observations_are_shortened_in_prompts():
    run = Trajectory("r", "p", (Step("a", observation="x" * 100), Step("b")))
    (_, second) = user_turns(step_instances(run, targets="all", max_observation_chars=10))
    assert "xxxxx\n[… 90 characters left out …]\nxxxxx" in second
    assert "x" * 6 not in second


def test_a_whole_solution_may_be_one_step():
    (instance,) = step_instances(replace(TRAJECTORY, conclusion="So 4."), targets="whole")
    assert instance.expert_action == full_solution(replace(TRAJECTORY, conclusion="So 4."))
    assert instance.prompt == answer_prompt(TRAJECTORY.problem)
    (plain,) = step_instances(TRAJECTORY, targets="whole", system_prompt="")
    assert [turn["role"] for turn in plain.prompt] == ["user"]
    agent = replace(TRAJECTORY, steps=(Step("ls", observation="a.py"),))
    with pytest.raises(UserError, match="--targets whole is for written solutions"):
        list(step_instances(agent, targets="whole"))
