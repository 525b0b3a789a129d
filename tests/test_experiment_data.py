"""Experiments on the user's own data: folders of `srl steps`, files of problems, what is refused, the docs' example."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from srl.cli import main
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.engines.protocols import Manner
from srl.errors import UserError
from srl.files import read_rows, write_jsonl
from srl.study.experiment import read_experiment
from srl.study.material import asked_as_trained, check_material
from srl.study.schedule import plan_jobs, run_experiment

GIVEN = """
title = "own"
base = "{base}"
samples = 1
max_tokens = 24
max_step_tokens = 12
max_steps = 3
batch_size = 8
comparisons = [["chain", "base"]]

[data]
own = "{folder}/steps"

[problems]
validation = "{folder}/steps/validation.problems.jsonl"
test = "{folder}/test.jsonl"
steps = "{folder}/steps/validation.steps.jsonl"

[stages.sft]
recipe = "tiny-sft"
data = "own"
learning_rates = [1e-3]
changes.optim = {{ max_steps = 2, per_device_train_batch_size = 4 }}
changes.sft = {{ rows_per_step = 4, target = "steps" }}
changes.checkpoints.save_steps = 1

[stages.rlvr]
recipe = "tiny-rlvr"
data = "own"
learning_rates = [1e-4]
changes.optim = {{ max_steps = 1, per_device_train_batch_size = 8 }}
changes.rollout.prompts_per_step = 2
changes.rollout.num_generations = 4
changes.rollout.max_completion_length = 8
changes.rollout.dynamic_sampling = false
changes.rollout.min_well_formed = 0
changes.checkpoints.save_steps = 1

[arms.base]
title = "base"

[arms.sft]
title = "SFT"
stages = ["sft"]

[arms.chain]
title = "SFT → RLVR"
stages = ["sft", "rlvr"]
seeds = 1
"""


def apples(first: int, more: int) -> str:
    return f"Ann has {first} apples and buys {more} bags of 3. How many apples has she then?"


@pytest.fixture
def given(tmp_path, tiny_model) -> Path:
    """An experiment file, a data folder of `srl steps` and test problems, as a user has them."""
    rows = [
        {
            "problem": apples(first, more),
            "steps": [{"action": f"{more} * 3 = {3 * more}"}, {"action": f"{first} + {3 * more} = {first + 3 * more}"}],
            "conclusion": f"\\boxed{{{first + 3 * more}}}",
            "answer": str(first + 3 * more),
        }
        for first in range(2, 6)
        for more in range(2, 6)
    ]
    write_jsonl(tmp_path / "solutions.jsonl", rows)
    options = StepOptions(targets="all", hold_out=0.3, system_prompt="Go on.", answer_system_prompt="Solve it.")
    prepare(Source(tmp_path / "solutions.jsonl"), tmp_path / "steps", options)
    test = [{"question": apples(7, more), "answer": f"So 7 + {3 * more}.\n#### {7 + 3 * more}"} for more in range(2, 6)]
    write_jsonl(tmp_path / "test.jsonl", test)
    path = tmp_path / "own.toml"
    path.write_text(GIVEN.format(base=tiny_model, folder=tmp_path))
    return path


@pytest.mark.slow
def test_an_experiment_on_the_users_own_data(given, tmp_path, capsys):
    out = tmp_path / "out"
    main(["experiment", str(given), "--seeds", "1", "--out", str(out)])
    assert "SFT → RLVR − base" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert list(results["arms"]) == ["base", "sft", "chain"]
    for arm in results["arms"].values():
        assert {column: [len(scores) for scores in of_seeds] for column, of_seeds in arm["scores"].items()} == {
            "greedy": [4],
            "sampled": [4],
            "stepwise": [4],
        }
        assert arm["step_reward"] == [-1.0]  # an untrained model, and two steps: nothing is well formed

    # The arms are asked with the system prompts that they were trained with.
    asked = {
        protocol: json.loads((out / f"seed-0/sft/test-{protocol}/evaluation.json").read_text())["config"]
        for protocol in ("answer-T1", "stepwise")
    }
    assert (asked["answer-T1"]["system_prompt"], asked["stepwise"]["system_prompt"]) == ("Solve it.", "Go on.")
    assert asked["stepwise"]["answer_system_prompt"] == "Solve it."  # where the steps gave no answer
    assert (asked["answer-T1"]["max_tokens"], asked["stepwise"]["max_tokens"]) == (24, 12)

    # It goes on only with the data that it was begun with.
    with (tmp_path / "steps/train.steps.jsonl").open("a") as rows:
        rows.write("\n")
    with pytest.raises(UserError, match=r"train\.steps\.jsonl: changed since"):
        run_experiment(given, out, n_seeds=2, n_jobs=1)


def test_seeds_of_the_users_own_data_train_on_all_of_it(given, tmp_path):
    jobs = plan_jobs(read_experiment(given), tmp_path / "out", n_seeds=2)
    recipes = [jobs[tmp_path / f"out/seed-{seed}/sft"].recipe("some/base", 1e-3) for seed in (0, 1)]
    assert [(recipe.data.path, recipe.seed) for recipe in recipes] == [(tmp_path / "steps", 0), (tmp_path / "steps", 1)]


def test_what_is_trained_on_is_not_asked(given, tmp_path):
    experiment = read_experiment(given)
    digests = check_material(experiment)
    assert str(tmp_path / "steps/train.steps.jsonl") in digests
    trained = next(read_rows(tmp_path / "steps/train.problems.jsonl")).value["prompt"][-1]["content"]
    test = (tmp_path / "test.jsonl").read_text()
    write_jsonl(tmp_path / "test.jsonl", [{"question": trained.upper() + "  ", "answer": "3"}])
    with pytest.raises(
        UserError, match=r"train\.problems\.jsonl:1: trains on what is asked, problem 0 of .*test\.jsonl"
    ):
        check_material(experiment)
    (tmp_path / "test.jsonl").write_text(test)
    for key, value, said in [
        ("validation", tmp_path / "test.jsonl", "must not test them"),
        ("steps", tmp_path / "steps/train.steps.jsonl", "train.steps.jsonl:1: trains on what is asked"),
        ("steps", tmp_path / "test.jsonl", "test.jsonl:1: expected a step of `srl steps`"),
        ("test", tmp_path / "tests.jsonl", "no such file of problems"),
        ("test", tmp_path / "solutions.json", "no such file of problems"),
    ]:
        problems = experiment.problems.model_copy(update={key: value if key == "steps" else str(value)})
        with pytest.raises(UserError, match=said):
            check_material(experiment.model_copy(update={"problems": problems}))
    with pytest.raises(UserError, match="no such file; write it first: srl steps"):
        check_material(experiment.model_copy(update={"data": {"own": tmp_path}}))
    with pytest.raises(UserError, match="no such folder"):
        check_material(experiment.model_copy(update={"base": str(tmp_path / "none")}))


def test_arms_that_were_trained_with_different_prompts_need_one_to_be_asked_with(given, tmp_path):
    prepare(Source(tmp_path / "solutions.jsonl"), tmp_path / "other", StepOptions())
    text = given.read_text().replace("[problems]", f"other = '{tmp_path}/other'\n\n[problems]")
    given.write_text(text)
    with pytest.raises(UserError, match="own and other differ in `answer_system_prompt`; set it for all arms"):
        asked_as_trained(read_experiment(given))
    given.write_text('answer_system_prompt = "Solve!"\nsystem_prompt = ""\n' + text)
    assert asked_as_trained(read_experiment(given)).manner == Manner(step="", answer="Solve!")


def test_arms_that_were_trained_with_titles_are_asked_with_titles(given, tmp_path):
    step = {"title": "1. **Add**", "action": "1. **Add**\n1 + 1 = 2"}
    write_jsonl(tmp_path / "titled.jsonl", [{"problem": "1 + 1?", "steps": [step, step], "answer": "2"}])
    prepare(Source(tmp_path / "titled.jsonl"), tmp_path / "titled", StepOptions(give_title=True, hold_out=0.0))
    given.write_text(given.read_text().replace('/steps"', '/titled"'))
    assert asked_as_trained(read_experiment(given)).manner == Manner(give_title=True)


def test_the_example_of_the_docs_is_what_it_says(tmp_path, monkeypatch):
    """All that its commands do, but for the training."""
    page = (Path(__file__).parents[1] / "docs/experiments.md").read_text()
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", page, flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["rows.py", "apples.toml"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "rows.py"], check=True)
    steps, experiment = re.findall(r"^    srl ((?:steps|experiment) .*apples.*)$", page, flags=re.MULTILINE)
    main(shlex.split(steps))
    read = read_experiment(Path(experiment.split()[1]))
    digests = check_material(asked_as_trained(read))
    assert {"test.jsonl", "apples/train.steps.jsonl"} <= digests.keys()
    assert any(len(arm.stages) == 2 for arm in read.arms.values())
