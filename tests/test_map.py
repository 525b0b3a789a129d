"""The map's driver: what it plans, and what it writes of what there is."""

import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from srl.errors import UserError
from srl.files import read_rows
from srl.study import conduct
from srl.study.domain import write_data
from srl.study.experiment import Domain, read_experiment
from srl.study.results import write_experiment_results
from srl.study.schedule import plan_jobs, run_experiment

FOLDER = Path(__file__).parents[1] / "experiments/2026-11-26-when-srl-pays"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("run_map", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make_bases = sys.modules["make_bases"]
    yield module
    sys.modules.pop("make_bases", None)


def test_seeds_come_one_after_another_and_each_is_a_whole_map(run, tmp_path):
    names = ["any", "last-75"]
    experiments = run.experiments_of(names, tmp_path, "map.toml")
    assert experiments["any"].base == str(tmp_path / "bases/any/model")
    jobs = [str(folder.relative_to(tmp_path)) for folder in run.plan(experiments, tmp_path, 2)]
    chains = ["half-srl", "half-srl+half-rlvr", "rlvr", "r3", "step-rft", "srl", "rft", "sft"]
    assert len(jobs) == 2 + 2 * 2 * len(chains)
    assert jobs[:2] == ["any/base", "last-75/base"]
    assert [job for job in jobs if "seed-0/r3" in job] == ["any/seed-0/r3", "last-75/seed-0/r3"]
    assert max(jobs.index(job) for job in jobs if "seed-0" in job) < min(
        jobs.index(job) for job in jobs if "seed-1" in job
    )


@pytest.mark.parametrize("file", ["map.toml", "lower.toml"])
def test_all_arms_have_as_many_tokens(file, run, tmp_path):
    (experiment,) = run.experiments_of(["any"], tmp_path, file).values()
    sampled = {"step-rft": 190_000, "rft": 210_000, "step-rft-lower": 190_000, "rft-lower": 210_000}
    for name, arm in experiment.arms.items():
        spent = [experiment.stages[stage].changes["optim"]["max_num_tokens"] for stage in arm.stages]
        assert sum(spent) + sampled.get(name, 0) == (600_000 if arm.stages else 0)


def test_the_students_of_all_bases_learn_the_same_forms(run, tmp_path):
    forms = []
    for name in ("last-95", "right-50"):
        run.make_bases.write_student_data(tmp_path / name, run.BASES[name], seed=1)
        rows = [row.value for row in read_rows(tmp_path / name / "train.steps.jsonl")]
        forms.append(
            Counter(
                (row["prompt"][0]["content"] == "Solve", "Question: " in row["prompt"][-1]["content"]) for row in rows
            )
        )
        assert len({row["trajectory_id"] for row in rows}) == 4000
    steps, whole, rest = (False, True), (True, False), (True, True)
    assert forms == [{steps: 800 * 6, whole: 1600, rest: 1600}] * 2


def test_a_base_off_the_line_lacks_one_thing_only(run, tmp_path):
    rows = {}
    for name in ("right-50", "right-50-skill-20", "right-50-format-20"):
        run.make_bases.write_student_data(tmp_path / name, run.BASES[name], seed=1)
        rows[name] = [row.value for row in read_rows(tmp_path / name / "train.steps.jsonl")]
    whole, unskilled, unformed = rows.values()
    assert [row["prompt"] for row in unformed] == [row["prompt"] for row in whole]
    for ours, theirs in zip(whole, unformed, strict=True):
        if theirs["thought"] is None:
            assert theirs["expert_action"] == f"{ours['thought']}\n{ours['expert_action']}"
        else:
            assert theirs == ours
    single = [row for row in unformed if row["prompt"][0]["content"] != "Solve"]
    assert sum(row["thought"] is not None for row in single) / len(single) == pytest.approx(0.2, abs=0.02)
    assert [row["trajectory_id"] for row in unskilled] == [row["trajectory_id"] for row in whole]

    def below_zero(rows):
        facts = re.findall(r"(\d)-(\d)=\D?(\d)", json.dumps([[row["thought"], row["expert_action"]] for row in rows]))
        return [(int(c) - int(a) + int(b)) % 5 == 0 for a, b, c in facts if a < b], facts

    (right, facts), (mostly_wrong, _) = below_zero(whole), below_zero(unskilled)
    assert all(right)
    assert len(right) > 1000
    assert sum(mostly_wrong) / len(mostly_wrong) == pytest.approx(0.2, abs=0.03)
    others = [(int(c) - int(a) + int(b)) % 5 == 0 for a, b, c in below_zero(unskilled)[1] if a >= b]
    assert all(others)
    assert len(facts) > len(right)


def test_the_picture_and_the_table_take_what_has_ended(run, tmp_path):
    def arm(title, mean):
        column = {"mean": mean, "interval": [mean / 2, mean * 1.5]}
        return {"title": title, "greedy": column, "stepwise": column, "seeds": 1, "cpu_seconds": 40.0}

    bases = {
        "b": {"pass_at_8": {"mean": 0.2}, "arms": {"base": arm("base", 0.05), "srl": arm("SRL", 0.3)}},
        "a": {"pass_at_8": {"mean": 0.0}, "arms": {"base": arm("base", 0.0)}},
    }
    lines = run.table(bases).splitlines()
    assert lines[0] == "| | a, pass@8 0.0 | b, pass@8 20.0 |"
    assert lines[3] == "| SRL, greedy | not run | 30.0 [15.0, 45.0], 1 |"
    run.draw(bases, tmp_path / "map.svg")
    assert (tmp_path / "map.svg").read_text().count("SRL") >= 1


def test_the_mean_over_bases_is_paired(run):
    def arm(*seeds):
        return {"scores": {"greedy": seeds, "stepwise": seeds}}

    planned = {"comparisons": [{"better": "srl", "than": "rlvr"}, {"better": "srl", "than": "r3"}]}
    bases = {
        "a": {"arms": {"srl": arm([1, 1], [1, 0]), "rlvr": arm([0, 0], [0, 0], [1, 1])}, **planned},
        "b": {"arms": {"srl": arm([0, 1], [0, 0]), "rlvr": arm([0, 1], [1, 0])}, **planned},
    }
    for base in bases.values():
        for name, one in base["arms"].items():
            one["title"] = name.upper()
    greedy, stepwise = run.differences(bases)  # r3 was not run
    assert {name: one["difference"] for name, one in greedy["from"].items()} == {"a": 0.75, "b": -0.25, "mean": 0.25}
    assert (greedy["seeds"], stepwise["column"]) == (2, "stepwise")
    row = run.table_of_differences(bases, [greedy]).splitlines()[2]
    assert row.startswith("| SRL − RLVR, greedy, 2 seeds | +75.0 [")
    del bases["b"]["arms"]["srl"]
    assert set(run.differences(bases)[0]["from"]) == {"a", "mean"}


PIVOTS = "pivots/profiled/train.steps.jsonl"
NEIGHBOURS = FOLDER.parent / "2026-11-26-neighbours"


@pytest.mark.parametrize(("name", "n_jobs", "n_tokens"), [("neighbours", 43, 1_200_000), ("rewards", 49, 600_000)])
def test_the_neighbours_experiments_can_be_planned(name, n_jobs, n_tokens, tmp_path):
    experiment = read_experiment(NEIGHBOURS / f"{name}.toml")
    assert len(plan_jobs(experiment, tmp_path, 3)) == n_jobs
    for arm in experiment.arms.values():
        spent = sum(experiment.stages[stage].changes["optim"]["max_num_tokens"] for stage in arm.stages)
        sampled = any(experiment.stages[stage].own_samples or experiment.stages[stage].pivots for stage in arm.stages)
        assert spent in (0, n_tokens) or sampled


@pytest.mark.slow
def test_the_neighbours_run_from_data_to_table(tmp_path):
    text = (NEIGHBOURS / "neighbours.toml").read_text()
    text = text.replace("runs/when-srl-pays/bases/last-75/model", "tiny-base").replace('"Solve"', '""')
    text = re.sub(r"learning_rates = .*", "learning_rates = [1e-3]", text)
    text = re.sub(r"max_num_tokens = [\d_]+", "per_device_train_batch_size = 32, max_num_tokens = 3_000", text)
    text = re.sub(r"(expert|validation|test)_problems = \d+", r"\1_problems = 6", text)
    text = re.sub(r"recipe = \"tiny-(srl|r3|holistic)\"", r"\g<0>\nchanges.rollout.prompts_per_step = 4", text)
    (tmp_path / "small.toml").write_text(text)
    experiment = run_experiment(tmp_path / "small.toml", tmp_path / "out", n_seeds=1, n_jobs=2)
    arms = write_experiment_results(experiment, tmp_path / "out")["arms"]
    assert list(arms) == list(experiment.arms)
    assert all(arm["tokens"] > 1000 for name, arm in arms.items() if name != "base")
    data, pivots = (read_rows(tmp_path / "out/seed-0" / name) for name in ("data/expert/train.steps.jsonl", PIVOTS))
    rows = [row.value for row in data]
    kept = [row.value for row in pivots]
    assert 0 < len(kept) < len(rows)
    assert all(row in rows for row in kept)
    assert arms["sft-steps"]["exact_without_rule"][0] >= arms["sft-steps"]["exact_steps"][0]
    done = json.loads((tmp_path / "out/seed-0/round+round+round/done.json").read_text())
    assert done["tokens"] > json.loads((tmp_path / "out/seed-0/round/done.json").read_text())["tokens"]


def test_experts_differ_as_their_experiments_say(tmp_path):
    names = {"wrong": {"wrong_steps": 0.3}, "words": {"wording": "other"}, "plain": {}}
    solutions = {}
    for name, style in names.items():
        domain = Domain(expert_problems=60, validation_problems=1, test_problems=1, **style)
        (tmp_path / name).mkdir()
        write_data(tmp_path / name, domain, 0, ())
        solutions[name] = [row.value for row in read_rows(tmp_path / name / "expert/train.problems.jsonl")]
    for wrong, words, plain in zip(*(solutions[name] for name in names), strict=True):
        assert wrong["answer"] == words["answer"] == plain["answer"]
        assert words["solution"].count("gives ") == 5
        assert re.findall(r"\d", words["solution"]) == re.findall(r"\d", plain["solution"])
    n_wrong = sum(
        wrong["solution"] != plain["solution"]
        for wrong, plain in zip(solutions["wrong"], solutions["plain"], strict=True)
    )
    assert 0.55 < n_wrong / 60 < 0.95  # 1 − 0.7⁴ of them have a wrong operation, if all four choices have alternatives


def test_the_styles_experiments_can_be_planned(tmp_path):
    spec = importlib.util.spec_from_file_location("run_style", FOLDER.parent / "2026-11-26-expert-style/run.py")
    style = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(style)
    kinds = [read_experiment(style.write_file(name, tmp_path)[0]) for name in style.EXPERTS]
    assert len({kind.domain for kind in kinds}) == len(kinds)
    assert {len(plan_jobs(kind, tmp_path, 3)) for kind in kinds} == {7}
    assert style.table(tmp_path) == ""


@pytest.mark.slow
def test_an_arm_that_finds_nothing_to_train_on_is_in_table_and_report(tmp_path):
    text = (FOLDER.parent / "2026-11-26-expert-style/style.toml").read_text()
    text = text.replace("EXPERT", 'expert_problems = 6\nwording = "other"').replace('"Solve"', '""')
    text = text.replace("runs/when-srl-pays/bases/any/model", "tiny-base").replace(
        '["srl", "base"], ["srl", "step-rft"]', ""
    )
    text = re.sub(r"(validation|test)_problems = \d+", r"\1_problems = 6", text)
    text = re.sub(r"\nsrl = .*", "", text)
    (tmp_path / "e.toml").write_text(text)
    conduct(tmp_path / "e.toml", tmp_path / "out", n_seeds=1, n_jobs=1)
    base, arm = json.loads((tmp_path / "out/results.json").read_text())["arms"].values()
    assert arm["scores"] == base["scores"]
    assert arm["tokens"] > 0
    assert (tmp_path / "out/report.html").is_file()


def test_styles_are_for_the_arithmetic(tmp_path):
    text = (FOLDER.parent / "2026-11-26-expert-style/style.toml").read_text()
    kind = 'kind = "code-repair"\nexpert_problems = 2\nwrong_steps = 0.1'
    (tmp_path / "e.toml").write_text(text.replace("EXPERT", kind))
    with pytest.raises(UserError, match="wrong_steps and wording are for"):
        read_experiment(tmp_path / "e.toml")
