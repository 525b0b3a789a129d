"""Experiments: what is read, what a seed trains on, what resuming does, and how arms are compared."""

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as parquet
import pytest

from srl.chat.prompts import format_completion, parse_completion
from srl.data.folder import as_row
from srl.data.steps import step_instances
from srl.engines.transformers import TransformersEngine
from srl.errors import UserError
from srl.evaluation.statistics import difference_over_seeds, mean_over_seeds, mean_score, paired_difference
from srl.files import read_rows, write_jsonl
from srl.rewards import StepReward
from srl.runs.folder import resolve_model
from srl.runs.recipe import Recipe, Reward, read_recipe
from srl.study.domain import read_problems, write_data, write_problems
from srl.study.experiment import Domain, read_experiment
from srl.study.results import laid_out, write_experiment_results
from srl.study.schedule import open_experiment, plan_jobs, run_experiment
from srl.study.step_scores import judged_both_ways, step_scores
from srl.study.tiny import expert_choice, operations, random_problem, reduce_at, solve, terms, thinking_aloud
from srl.training.train import train

SMALL = """
title = "small"
base = "{base}"
samples = 2
max_tokens = 60
comparisons = [["chain", "base"], ["chain", "sft"]]

[domain]
operations = 2
expert_problems = 12
validation_problems = 5
test_problems = 6

[stages.sft]
recipe = "tiny-sft"
data = "expert"
learning_rates = [1e-3, 1e-5]
changes.optim = {{ max_steps = 2, per_device_train_batch_size = 8 }}
changes.sft.rows_per_step = 8
changes.checkpoints.save_steps = 1

[stages.srl]
recipe = "tiny-srl"
data = "expert"
learning_rates = [1e-4]
changes.optim = {{ max_steps = 2, per_device_train_batch_size = 8 }}
changes.rollout = {{ prompts_per_step = 2, num_generations = 4, dynamic_sampling = false, min_well_formed = 0 }}
changes.checkpoints.save_steps = 1

[arms.base]
title = "base"

[arms.cool]
title = "base, T = 0.5"
temperature = 0.5

[arms.sft]
title = "SFT"
stages = ["sft"]

[arms.chain]
title = "SFT → SRL"
stages = ["sft", "srl"]
seeds = 1
"""


@pytest.fixture
def small(tmp_path, tiny_model) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL.format(base=tiny_model))
    return path


# --- the file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('stages = ["sft", "srl"]', 'stages = ["sft", "slr"]', "arm chain: no stage `slr`; did you mean `srl`?"),
        ('["chain", "sft"]', '["chain", "stf"]', "comparisons: no arm `stf`; did you mean `sft`?"),
        ("samples = 2", "sample = 2", "unknown key `sample`; did you mean `samples`?"),
        ('title = "small"', 'titel = "small"', "unknown key `titel`; did you mean `title`?"),
        (
            "learning_rates = [1e-4]",
            "lerning_rates = [1e-4]",
            "`stages.srl.lerning_rates`; did you mean `learning_rates`?",
        ),
        (
            "num_generations = 4",
            "num_generation = 4",
            "stage srl: unknown key `rollout.num_generation`; did you mean `num_g",
        ),
        ("changes.rollout = {", "changes.rolout = {", "stage srl: unknown key `rolout`; did you mean `rollout`?"),
        ("changes.sft.rows_per_step = 8", "changes.sft = 8", "stage sft: `sft`: Input should be a valid dictionary"),
        ("changes.sft.rows_per_step = 8", "changes.seed = 8", "stage sft: the experiment decides `seed`"),
        ("changes.sft.rows_per_step = 8", "changes.data.path = 'd'", "stage sft: the experiment decides `data.path`"),
        ('data = "expert"', 'data = "export"', "stage sft: no data `export`; did you mean `expert`?"),
        ("[domain]", "[data]\nown = 'd'\n[domain]", "[data] and [problems], or [domain] in place of both"),
        ("operations = 2", "operations = 1", "`domain.operations`"),
        ("[domain]", "[domain", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_explained(small, before, after, said):
    small.write_text(small.read_text().replace(before, after))
    with pytest.raises(UserError) as error:
        read_experiment(small)
    assert said in str(error.value)


def test_an_unknown_name_lists_srls_own():
    with pytest.raises(UserError, match="code-repair, demo, paper-tiny"):
        read_experiment(Path("papertiny"))


@pytest.mark.parametrize("name", ["code-repair", "demo", "paper-tiny"])
def test_srls_own_experiments_use_recipes_that_exist(name):
    experiment = read_experiment(Path(name))
    assert [read_recipe(stage.recipe).stage for stage in experiment.stages.values()]

    used = {stage for arm in experiment.arms.values() for stage in arm.stages}
    assert used == set(experiment.stages)


def test_a_chain_is_trained_once_after_all_that_it_needs(small, tmp_path):
    jobs = plan_jobs(read_experiment(small), tmp_path, n_seeds=2)
    names = [str(folder.relative_to(tmp_path)) for folder in jobs]
    # Only the stage with a choice is tuned; the chain wants one seed, and goes on from the run of the arm before it.
    assert names == ["base", "tuning/sft@0.001", "tuning/sft@1e-05", "seed-0/sft", "seed-1/sft", "seed-0/sft+srl"]


def test_the_base_takes_the_test_beside_the_arms_whether_the_file_says_so_or_not(small, tmp_path):
    text = small.read_text().replace('["chain", "base"], ', "")
    without = re.sub(r"\[arms\.(base|cool)\]\n(?:.+\n)+", "", text)
    small.write_text(without)
    experiment = read_experiment(small)
    assert [(name, arm.stages) for name, arm in experiment.arms.items()] == [
        ("base", ()),
        ("sft", ("sft",)),
        ("chain", ("sft", "srl")),
    ]
    assert next(iter(plan_jobs(experiment, tmp_path, n_seeds=1))) == tmp_path / "base"


def test_a_choice_late_in_a_chain_is_made_from_the_best_start(small, tmp_path):
    small.write_text(small.read_text().replace("learning_rates = [1e-4]", "learning_rates = [1e-4, 1e-5]"))
    jobs = plan_jobs(read_experiment(small), tmp_path, n_seeds=1)
    last = jobs[tmp_path / "seed-0/sft+srl"]
    assert {str(job.folder.relative_to(tmp_path)) for job in last.needs} == {
        "seed-0/sft",
        "tuning/sft+srl@0.0001",
        "tuning/sft+srl@1e-05",
    }
    for rate, solved in ((1e-3, 0.25), (1e-5, 0.25)):
        folder = tmp_path / f"tuning/sft@{rate:g}"
        folder.mkdir(parents=True)
        (folder / "done.json").write_text(json.dumps({"validation": solved, "learning_rate": rate}))
    tuning = last.group.tuning
    assert [job.folder.name for job in jobs[tmp_path / "tuning/sft+srl@0.0001"].needs] == ["sft@0.001", "sft@1e-05"]
    assert tuning.finished(("sft",))["learning_rate"] == 1e-5  # of equals the smaller


# --- the domain and its data ------------------------------------------------------------------------------


def test_the_expert_multiplies_first_and_the_answer_lists_its_results():
    rng = random.Random(0)
    for _ in range(200):
        problem = random_problem(rng, 5)
        trajectory = solve(problem, thoughts=True)
        expression, results = problem, ""
        for step in trajectory.steps[:-1]:
            place = expert_choice(expression)
            assert terms(expression)[place][0] == "*" or "*" not in expression
            fact, expression = reduce_at(expression, place)
            assert step.thought == fact
            results += fact[-1]
        assert not operations(expression)
        assert trajectory.answer == results
        assert trajectory.steps[-1].action.endswith(f"\\boxed{{{results}}}")
        # Plain arithmetic modulo 5 agrees: what stands last is the value of the expression.
        assert int(results[-1]) == eval(problem) % 5


def test_a_seed_trains_on_none_of_the_problems_that_are_asked(tmp_path):
    domain = Domain(operations=2, expert_problems=40, validation_problems=20, test_problems=30)
    write_problems(tmp_path, domain)
    asked = {*read_problems(tmp_path, "validation"), *read_problems(tmp_path, "test")}
    assert len(asked) == 50
    problems = {}
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        write_data(tmp_path / str(seed), domain, seed, asked)
        rows = list(read_rows(tmp_path / str(seed) / "expert/train.problems.jsonl"))
        problems[seed] = {row.value["prompt"][-1]["content"] for row in rows}
        assert len(problems[seed]) == 40
        assert not problems[seed] & asked
    assert problems[0] != problems[1]


def test_the_data_folders_hold_the_same_solutions_in_three_forms(tmp_path):
    domain = Domain(operations=3, expert_problems=5, validation_problems=1, test_problems=1)
    write_data(tmp_path, domain, 0, ())

    def rows(name):
        return [row.value for row in read_rows(tmp_path / name)]

    steps, problems = rows("expert/train.steps.jsonl"), rows("expert/train.problems.jsonl")
    assert len(steps) == 5 * 4  # three operations and the answer
    assert [row["expert_action"] for row in rows("holistic/train.steps.jsonl")] == [p["solution"] for p in problems]
    for row, problem in zip(rows("own-thoughts/train.steps.jsonl"), problems, strict=True):
        aloud = f"<think>{row['thought']}</think>\n{row['expert_action']}"
        actions = [parse_completion(part.strip()).action for part in aloud.split("\n\n")]
        assert "\n\n".join(actions) == problem["solution"]


def test_r3_trains_from_the_problem_and_from_prefixes(tmp_path):
    write_data(tmp_path, Domain(expert_problems=3, validation_problems=1, test_problems=1), 0, ())
    places = {"model": {"model_name_or_path": "tiny-base"}, "data": {"path": str(tmp_path / "prefixes")}}
    values = read_recipe(Path("tiny-r3")).model_dump(mode="json") | places | {"output_dir": str(tmp_path / "run")}
    values["optim"] |= {"max_steps": 1, "per_device_train_batch_size": 36}
    values["rollout"] |= {"prompts_per_step": 18, "num_generations": 4, "dynamic_sampling": False}
    train(Recipe.model_validate(values))
    (table,) = (tmp_path / "run/completions").glob("*.parquet")
    rewards = [[] for _ in range(6)]
    for row in parquet.read_table(table).to_pylist():
        rewards[row["prompt"][-1]["content"].count(", so far ")].append(row["reward"])
    assert [len(of_length) for of_length in rewards] == [3 * 4] * 6
    # `tiny-base` ends after one step: it is right where only the answer is missing, never where two steps are.
    assert sum(rewards[5]) > 10
    assert not sum(map(sum, rewards[:4]))


def test_the_whole_solution_as_one_step_is_asked_in_a_form_that_the_base_can_meet(tmp_path):
    write_data(tmp_path, Domain(expert_problems=8, validation_problems=1, test_problems=1), 0, ())
    rows = [row.value for row in read_rows(tmp_path / "holistic/train.steps.jsonl")]
    engine = TransformersEngine(resolve_model("tiny-base"), 140)
    replies = engine.generate([tuple(row["prompt"]) for row in rows], [0] * 8, 1.0)
    texts, experts = [reply.text for reply in replies], [row["expert_action"] for row in rows]
    rewards = StepReward(Reward(thoughts="anywhere"))(texts, experts)
    assert sum(reward > 0.3 for reward in rewards) >= 6
    assert sum(reward == -1 for reward in StepReward()(texts, experts)) >= 6  # the rule of one thought first
    aloud = [thinking_aloud(solve(row["prompt"][-1]["content"], thoughts=True)) for row in rows]
    said = [format_completion(instance.thought, instance.expert_action) for instance in aloud]
    assert StepReward(Reward(thoughts="anywhere"))(said, experts) == [1.0] * 8


def test_steps_are_judged_with_and_without_the_rule_that_a_thought_is_needed():
    texts = ["<think>a</think>1. one", "2. two", "3. three <think>"]
    experts = ["1. one", "2. two", "3. three"]
    judged = judged_both_ways(texts, experts, [False] * 3)
    assert (judged["exact"], judged["exact_without_rule"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert judged["reward"] == pytest.approx((1 - 1 - 1) / 3)
    nothing = judged_both_ways(["<think>cut", "<think>off"], ["1", "2"], [True, True])  # malformed either way
    assert (nothing["reward"], nothing["reward_without_rule"], nothing["malformed"]) == (-1, -1, 1)


def test_the_model_that_comes_with_srl_knows_the_format_and_not_the_plan(tmp_path):
    rng = random.Random(5)
    problems = [random_problem(rng, 5) for _ in range(20)]
    instances = [i for problem in problems for i in step_instances(solve(problem), targets="all", system_prompt="")]
    write_jsonl(tmp_path / "steps.jsonl", map(as_row, instances))
    found = step_scores(resolve_model("tiny-base"), tmp_path / "steps.jsonl", max_tokens=40, batch_size=120)
    assert found["malformed"] < 0.05
    assert 0.2 < found["exact"] < 0.6
    assert 0.8 < found["reward"] < 0.95


# --- statistics -------------------------------------------------------------------------------------------


def test_one_seed_is_a_bootstrap_over_problems():
    scores = np.random.default_rng(0).integers(0, 2, 200).astype(float).tolist()
    one, other = mean_over_seeds([scores]), mean_score(scores)
    assert one.value == pytest.approx(other.value)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.011)  # other resamples: steps of 1/200


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(1)
    alike = (rng.random((5, 300)) < 0.5).astype(float)
    apart = (rng.random((5, 300)) < np.array([0.1, 0.3, 0.5, 0.7, 0.9])[:, None]).astype(float)
    widths = [e.high - e.low for e in (mean_over_seeds(alike.tolist()), mean_over_seeds(apart.tolist()))]
    # The standard error of five means that lie 0.2 apart is about 0.126: an interval of about 0.5.
    assert widths[0] < 0.1
    assert 0.35 < widths[1] < 0.6


@pytest.mark.slow
def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(60):
        seeds, problems = rng.normal(0, 0.05, (8, 1)), rng.normal(0, 0.2, (1, 100))
        estimate = mean_over_seeds((seeds + problems + rng.normal(0, 0.3, (8, 100))).tolist())
        covered += estimate.low < 0 < estimate.high
    assert 50 <= covered <= 60


def test_differences_are_paired_by_seed_and_problem():
    rng = np.random.default_rng(3)
    before = rng.random((4, 80))
    shift = 0.1 + 0.01 * rng.normal(size=(4, 80))
    estimate = difference_over_seeds(before.tolist(), (before + shift).tolist())
    assert estimate.value == pytest.approx(shift.mean())
    assert estimate.high - estimate.low < 0.01  # unpaired it would be 0.1


def test_where_nothing_varies_the_interval_is_that_of_the_problems():
    wrong = [[0.0] * 50] * 3
    assert mean_over_seeds(wrong) == mean_score(wrong[0])
    assert mean_over_seeds(wrong).low == 0.0 < mean_over_seeds(wrong).high
    assert difference_over_seeds(wrong, wrong) == paired_difference(wrong[0], wrong[0])


# --- runs -------------------------------------------------------------------------------------------------


def test_results_are_json_whatever_the_titles_hold():
    value = {"arms": {"a": {"title": 'odd },"b": {'}, "b": {}}, "n": [1, {"c": 2}]}
    for depth in range(4):
        assert json.loads(laid_out(value, depth)) == value
    assert laid_out(value, 2).count("\n") == 6


def test_another_experiment_or_other_files_are_not_overwritten(small, tmp_path):
    out = tmp_path / "out"
    open_experiment(read_experiment(small), out)
    open_experiment(read_experiment(small), out)  # the same: goes on
    small.write_text(small.read_text().replace("samples = 2", "samples = 3"))
    with pytest.raises(UserError, match="another experiment"):
        open_experiment(read_experiment(small), out)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("x")
    with pytest.raises(UserError, match="other files"):
        open_experiment(read_experiment(small), tmp_path / "thesis", overwrite=True)


@pytest.mark.slow
def test_an_experiment_from_data_to_table_and_on_after_an_interruption(small, tmp_path, capsys):
    out = tmp_path / "out"
    experiment = run_experiment(small, out, n_seeds=2, n_jobs=2)
    first = write_experiment_results(experiment, out)
    assert {name: arm["seeds"] for name, arm in first["arms"].items()} == {"base": 2, "cool": 2, "sft": 2, "chain": 1}
    assert (out / "table.md").read_text().count("\n| ") >= 4 + 2
    assert "SFT → SRL − SFT" in capsys.readouterr().out

    # What was chosen is what validation says, and it starts where the chain says.
    done = {rate: json.loads((out / f"tuning/sft@{rate:g}/done.json").read_text()) for rate in (1e-3, 1e-5)}
    best = max(sorted(done), key=lambda rate: done[rate]["validation"])
    sft = json.loads((out / "seed-0/sft/done.json").read_text())
    assert sft["learning_rate"] == best
    chosen = json.loads((out / "seed-0/sft+srl/run/run.json").read_text())["starts_from"]
    assert chosen == sft["model"]
    assert sft["checkpoints"][Path(sft["model"]).name] == sft["validation"] == max(sft["checkpoints"].values())
    both = json.loads((out / "seed-0/sft+srl/done.json").read_text())
    assert both["tokens"] > sft["tokens"] > 0

    # Killed in the middle and started again in another folder: no run goes on, and the end is the same.
    command = [sys.executable, "-m", "srl.cli", "experiment", str(small), "--seeds", "2", "--jobs", "2", "--out"]
    with subprocess.Popen([*command, str(tmp_path / "killed")]) as process:
        while not (tmp_path / "killed/seed-0/sft").is_dir():
            assert process.poll() is None
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    again = write_experiment_results(
        run_experiment(small, tmp_path / "killed", n_seeds=2, n_jobs=1), tmp_path / "killed"
    )
    assert {name: arm["scores"] for name, arm in again["arms"].items()} == {
        name: arm["scores"] for name, arm in first["arms"].items()
    }
