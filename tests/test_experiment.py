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
import pytest

from srl.chat.prompts import parse_completion
from srl.cli import main
from srl.data.folder import as_row
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.data.steps import step_instances
from srl.errors import UserError
from srl.evaluation.statistics import difference_over_seeds, mean_over_seeds, mean_score, paired_difference
from srl.files import read_rows, write_jsonl
from srl.runs.folder import resolve_model
from srl.runs.recipe import read_recipe
from srl.study.domain import read_problems, write_data, write_problems
from srl.study.experiment import Domain, read_experiment
from srl.study.material import check_material, with_system_prompts
from srl.study.results import laid_out, write_experiment_results
from srl.study.schedule import open_experiment, plan_jobs, run_experiment
from srl.study.step_scores import step_scores
from srl.study.tiny import expert_choice, operations, random_problem, reduce_at, solve, terms

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
changes.rollout = {{ prompts_per_step = 2, num_generations = 4, dynamic_sampling = false }}
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
    with pytest.raises(UserError, match="demo, paper-tiny"):
        read_experiment(Path("papertiny"))


@pytest.mark.parametrize("name", ["demo", "paper-tiny"])
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


# --- the user's own data ----------------------------------------------------------------------------------

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
changes.rollout = {{ prompts_per_step = 2, num_generations = 4, max_completion_length = 8, dynamic_sampling = false }}
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
    with pytest.raises(
        UserError, match="own and other have different system prompts for problems; set `answer_system_p"
    ):
        with_system_prompts(read_experiment(given))
    given.write_text('answer_system_prompt = "Solve!"\nsystem_prompt = ""\n' + text)
    experiment = with_system_prompts(read_experiment(given))
    assert (experiment.answer_system_prompt, experiment.system_prompt) == ("Solve!", "")


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
    main(steps.split())
    read = read_experiment(Path(experiment.split()[1]))
    digests = check_material(with_system_prompts(read))
    assert {"test.jsonl", "apples/train.steps.jsonl"} <= digests.keys()
    assert any(len(arm.stages) == 2 for arm in read.arms.values())


def test_results_are_json_whatever_the_titles_hold():
    value = {"arms": {"a": {"title": 'odd },"b": {'}, "b": {}}, "n": [1, {"c": 2}]}
    for depth in range(4):
        assert json.loads(laid_out(value, depth)) == value
    assert laid_out(value, 2).count("\n") == 6


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
