"""The real files of `../shared/data/shapes_2026`: what a right reader gives, as counted without srl."""

import json
from collections import Counter
from pathlib import Path

import pytest

from srl.data.formats.columns import Columns
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Found, Source, read_trajectories
from srl.files import read_rows
from srl.records import Trajectory

SHAPES = Path(__file__).parents[2] / "shared/data/shapes_2026"
ALL = StepOptions(hold_out=0.0, targets="all")


def made(name, tmp_path, **options):
    """The report, the actions per trajectory, the thoughts and the problems."""
    if not SHAPES.is_dir():
        pytest.skip("the real files (../shared/data) are not here")
    report = prepare(Source(SHAPES / name, **options), tmp_path / "out", ALL)
    steps = [row.value for row in read_rows(tmp_path / "out/train.steps.jsonl")] if report.instances["train"] else []
    lines = (tmp_path / "out/train.problems.jsonl").read_text().splitlines()
    return report, steps, [json.loads(line) for line in lines]


def trajectories(name):
    if not SHAPES.is_dir():
        pytest.skip("the real files (../shared/data) are not here")
    return [item for item in read_trajectories(Source(SHAPES / name), Found()) if isinstance(item, Trajectory)]


def per_trajectory(steps):
    return list(Counter(step["trajectory_id"] for step in steps).values())


def names(steps):
    return Counter(json.loads(step["expert_action"])["name"] for step in steps if step["expert_action"][0] == "{")


def test_swe_pivot(tmp_path):
    report, steps, problems = made("nemo_gym_swe_pivot.jsonl", tmp_path)
    assert (report.read, report.kept, len(steps), len(problems)) == (5, 5, 5, 0)
    assert names(steps) == {"str_replace_editor": 3, "execute_bash": 2}
    assert "Choose the single next tool call." in steps[0]["prompt"][0]["content"]


def test_single_step_tool_use(tmp_path):
    report, steps, _ = made("nemo_gym_single_step_tool_use.jsonl", tmp_path)
    assert (report.kept, len(steps), names(steps).total()) == (5, 5, 3)
    assert [step["thought"] for step in steps] == [None] * 5
    rows = trajectories("nemo_gym_single_step_tool_use.jsonl")
    assert sum(len(row.steps) for row in rows) == 5 + 15  # the past is context
    past = [step for row in rows for step in row.steps[:-1]]
    assert sum(step.action.startswith('{"name"') for step in past) == 9
    thoughts = [step.thought for step in past if step.thought]
    assert thoughts
    assert not any(thought in str(step["prompt"]) for thought in thoughts for step in steps)
    assert rows[0].instructions.count('"type": "function"') == 14


def test_workplace_rollouts(tmp_path):
    report, steps, _ = made("nemo_gym_workplace_rollouts.jsonl", tmp_path)
    assert (report.read, report.kept, report.dropped) == (5, 4, {"failed run": 1})
    assert (per_trajectory(steps), names(steps).total()) == ([2, 3, 3, 3], 7)
    assert steps[0]["prompt"][0]["content"].count('"type": "function"') == 27


def test_rollouts_of_claude_code_on_swe(tmp_path):
    report, steps, _ = made("nemo_gym_anyswe_claude_code_rollouts.jsonl", tmp_path)
    assert (report.read, report.kept, len(steps)) == (5, 1, 8)
    assert sum(step["thought"] is not None for step in steps) == names(steps).total() == 7
    assert "separability_matrix" in steps[0]["prompt"][-1]["content"]
    for secret in ("diff --git a/astropy/modeling/separable.py", "test_separable.py::", "FAIL_TO_PASS"):
        assert secret not in steps[0]["prompt"][-1]["content"]
    rows = trajectories("nemo_gym_anyswe_claude_code_rollouts.jsonl")
    assert sum(len(row.steps) for row in rows) == 21


def test_older_openhands_logs(tmp_path):
    report, steps, _ = made("openhands_resolver_output.jsonl", tmp_path)
    assert (report.kept, per_trajectory(steps)) == (2, [4, 22])
    assert names(steps[:4]) == {"run": 2, "finish": 1, "run_ipython": 1}
    assert names(steps[4:]) == {"run": 1, "run_ipython": 20, "finish": 1}
    assert all(step["thought"] for step in steps)
    assert not any("\r" in str(step["prompt"]) for step in steps)
    assert set(json.loads(steps[0]["expert_action"])["arguments"]) == {"command"}


def test_distillation_with_thoughts_in_a_column(tmp_path):
    report, steps, problems = made("distillation_openrouter.json", tmp_path)
    assert (report.kept, report.without_steps, report.wrong_solutions) == (5, {"no numbered steps": 4}, 0)
    assert [problem["answer"] for problem in problems] == ["0", "98", "4", "17", "6"]
    assert len(steps) == 2
    assert steps[0]["thought"].startswith("Okay, so I need to find a value")
    assert all(problem["solution"] for problem in problems)


def test_s1k_layout_of_other_experts(tmp_path):
    report, steps, problems = made("curator_reasoning_dataset.parquet", tmp_path)
    assert (per_trajectory(steps), report.kept) == ([5, 6], 4)
    assert [problem["answer"] for problem in problems] == [None, "128", None, "109"]
    assert "`gemini_attempt`" in report.found.recognised_by["numbered-solutions"]
    columns = Columns(solution="gemini_attempt")
    report, steps, problems = made("curator_reasoning_dataset.parquet", tmp_path / "2", columns=columns)
    assert (steps, report.wrong_solutions) == ([], 0)
    assert [problem["answer"] for problem in problems] == ["128", "109"]
    assert all(problem["solution"] for problem in problems)


@pytest.mark.parametrize(("name", "count"), [("rllm_aime_first60.json", 60), ("ms_swift_rft_math_first100.json", 100)])
def test_references_without_steps_are_problems(tmp_path, name, count):
    report, steps, problems = made(name, tmp_path)
    assert (report.read, report.kept, len(problems), steps) == (count, count, count, [])
    assert report.wrong_solutions == 0
    assert all(problem["answer"] and problem["solution"] for problem in problems)


def test_rows_that_are_the_values_of_one_object_have_its_keys_as_ids(tmp_path):
    _, _, problems = made("ms_swift_rft_math_first100.json", tmp_path)
    assert problems[0]["trajectory_id"] == "modeling/MATH/data/test/prealgebra_2009.json"


def test_general_chat(tmp_path):
    report, steps, _ = made("llama_factory_v1_sft_first130.jsonl", tmp_path)
    assert (report.kept, per_trajectory(steps)) == (130, [1] * 130)
    assert not any(step["thought"] for step in steps)
    report, steps, _ = made("llama_factory_v1_sft_first130.jsonl", tmp_path / "2", cut="numbered")
    assert sum(count > 1 for count in per_trajectory(steps)) == 23


def test_claude_code_log(tmp_path):
    report, steps, _ = made("claude_code_log.jsonl", tmp_path)
    assert (report.kept, len(steps), names(steps)) == (1, 5, {"Edit": 1, "Bash": 1})
    assert [step["expert_action"][0] == "{" for step in steps] == [False, True, False, True, False]


def test_toolbench_run(tmp_path):
    _, steps, _ = made("toolbench_G1_57.json", tmp_path)
    called = ["products_for_seo_api", "news_for_seo_api", "search_b_for_seo_api", "Finish"]
    assert list(names(steps)) == called
    assert [bool(step["thought"]) for step in steps] == [False, False, True, True]
    assert not any("not the first time" in str(step["prompt"]) for step in steps)


def test_chats_in_which_only_the_user_speaks(tmp_path):
    report, steps, problems = made("areal_sample_math.jsonl", tmp_path)
    assert (report.kept, steps, len(problems)) == (10, [], 10)
    assert problems[0]["prompt"] == [{"role": "user", "content": "What is 15 + 27?"}]
    assert problems[0]["answer"] == "42"
