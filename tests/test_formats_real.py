"""Golden: the real files of `../shared/data`, against expressions of their own."""

import json
import re

import pytest
from format_files import REAL, real, rows


def test_real_swe_smith_xml_gives_one_action_per_turn():
    name = "swe_trajectories/swe-smith/ft_xml_example.jsonl"
    trajectories = [real(name, index) for index in range(3)]
    actions, thoughts = [], []
    for row in rows(REAL / name):
        for message in row["messages"]:
            if message["role"] == "assistant":
                start = message["content"].index("<function=")
                actions.append(message["content"][start:])
                thoughts.append(message["content"][:start].strip() or None)
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    assert [len(trajectory.steps) for trajectory in trajectories] == [37, 44, 22]
    assert [step.action for step in steps] == actions
    assert [step.thought for step in steps] == thoughts
    assert thoughts.count(None) == 4
    assert sum(step.action.startswith("<function=submit>") for step in steps) == 6  # asked for twice, and done twice
    assert not any((step.observation or "").startswith("OBSERVATION") for step in steps)
    assert not any("\r\n" in (step.observation or "") for step in steps)


def test_real_swe_agent_run_and_its_fine_tuning_row_agree():
    run = real("swe_trajectories/swe-smith/pydantic__pydantic.acb0f10f.pr_8316.traj")
    row = real("swe_trajectories/swe-smith/ft_xml_example.jsonl", 2)
    assert len(run.steps) == len(row.steps) == 22
    assert run.problem == row.problem
    assert [step.thought for step in run.steps] == [step.thought for step in row.steps]
    bash = re.compile(r"<function=bash>\n<parameter=command>(.*)</parameter>\n</function>", re.S)
    pairs = [(a.action, found[1]) for a, b in zip(run.steps, row.steps, strict=True) if (found := bash.match(b.action))]
    assert len(pairs) == 11
    assert all(action == command for action, command in pairs)
    # The row cuts the terminal's spinner off; elsewhere both saw the same.
    same = [a.observation == b.observation for a, b in zip(run.steps[:-1], row.steps, strict=False)]
    assert same.count(False) <= 2


def test_real_swe_agent_files():
    simple = real("swe_trajectories/swe-agent/function_calling_simple.traj")
    assert [step.action for step in simple.steps] == [
        "find_file missing_colon.py",
        'open "tests/missing_colon.py"',
        "edit 'def division(a: float, b: float) -> float' 'def division(a: float, b: float) -> float:'",
        "python tests/missing_colon.py",
        "submit",
    ]
    old = real("swe_trajectories/swe-agent/humanevalfix-python-0.traj")
    assert [step.action for step in old.steps] == [
        "ls -a",
        "open main.py",
        "edit 15:15\n                distance = abs(elem - elem2)\nend_of_edit",
        "python main.py",
        "submit",
    ]
    assert old.steps[0].observation == ".\n..\n.git\nmain.py"
    assert old.problem.startswith("We're currently solving the following issue")
    marshmallow = real("swe_trajectories/swe-agent/marshmallow-1867.function_calling.traj")
    assert len(marshmallow.steps) == 11
    assert marshmallow.metadata["exit_status"] == "submitted"
    assert marshmallow.metadata["instance_id"] == "marshmallow-code__marshmallow-1867"


@pytest.mark.parametrize(
    ("name", "count"),
    [("astropy__astropy-7166", 24), ("django__django-10999", 18), ("pallets__flask-5014", 20), ("local", 2)],
)
def test_real_mini_swe_agent_files(name, count):
    file = f"swe_trajectories/mini-swe-agent/{name}.traj.json"
    trajectory = real(file)
    value = rows(REAL / file)[0]
    said = value if isinstance(value, list) else value["messages"]
    blocks = [
        re.findall(r"(```(?:bash|mswea_bash_command)\s*\n.*?\n```)", message["content"], re.S)
        for message in said
        if message["role"] == "assistant"
    ]
    assert [[step.action] for step in trajectory.steps] == blocks
    assert len(trajectory.steps) == count
    assert not any((step.thought or "").startswith("THOUGHT") for step in trajectory.steps)
    assert trajectory.steps[-1].action.split("\n")[1].startswith("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")


def test_real_tool_use_conversations():
    name = "agent_trajectories/reason_tool_use_demo_50.jsonl"
    trajectories = [real(name, index) for index in range(50)]
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    said = [message for row in rows(REAL / name) for message in row["messages"] if message["role"] == "assistant"]
    assert len(steps) == len(said) == 112
    for step, message in zip(steps, said, strict=True):
        written = [json.loads(part["value"]) for part in message["content"] if part["type"] == "tool_call"]
        if written:
            assert [json.loads(line) for line in step.action.split("\n")] == written
        else:
            text = message["content"][1]["value"].strip().removesuffix("</think>")  # two texts hold a stray one
            assert step.action == text.rpartition("</think>")[2].strip()
        assert step.thought.startswith(message["content"][0]["value"].strip("\n"))
    assert sum("\n{" in step.action for step in steps if step.action.startswith('{"name"')) == 12
    assert (
        sum('"function"' in (trajectory.instructions or "") for trajectory in trajectories) == 48
    )  # two have no tools


def test_real_prm800k():
    name = "math_trajectories/prm800k_sample.jsonl"
    trajectories = [real(name, index) for index in range(6)]
    assert [len(trajectory.steps) for trajectory in trajectories] == [6, 7, 5, 7, 8, 12]
    assert [trajectory.verified for trajectory in trajectories] == [True, False, True, True, False, True]
    assert trajectories[0].steps[1].action == "We have $3p+e=1.24$ and $5p+e=1.82$."
    assert trajectories[0].answer == "29"
