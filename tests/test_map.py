"""The map's driver: what it plans, and what it writes of what there is."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

from srl.files import read_rows

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
    experiments = {name: run.experiment_of(name, tmp_path) for name in names}
    assert experiments["any"].base == str(tmp_path / "bases/any/model")
    jobs = [str(folder.relative_to(tmp_path)) for folder in run.plan(experiments, tmp_path, 2)]
    chains = ["half-srl", "half-srl+half-rlvr", "rlvr", "r3", "step-rft", "srl", "rft", "sft"]
    assert len(jobs) == 2 + 2 * 2 * len(chains)
    assert jobs[:2] == ["any/base", "last-75/base"]
    assert [job for job in jobs if "seed-0/r3" in job] == ["any/seed-0/r3", "last-75/seed-0/r3"]
    assert max(jobs.index(job) for job in jobs if "seed-0" in job) < min(
        jobs.index(job) for job in jobs if "seed-1" in job
    )


def test_all_arms_have_as_many_tokens(run, tmp_path):
    experiment = run.experiment_of("any", tmp_path)
    sampled = {"step-rft": 190_000, "rft": 210_000}
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


def test_the_picture_and_the_table_take_what_has_ended(run, tmp_path):
    def arm(title, mean):
        column = {"mean": mean, "interval": [mean / 2, mean * 1.5]}
        return {"title": title, "greedy": column, "stepwise": column, "seeds": 1}

    bases = {
        "b": {"pass_at_8": {"mean": 0.2}, "arms": {"base": arm("base", 0.05), "srl": arm("SRL", 0.3)}},
        "a": {"pass_at_8": {"mean": 0.0}, "arms": {"base": arm("base", 0.0)}},
    }
    lines = run.table(bases).splitlines()
    assert lines[0] == "| | a, pass@8 0.0 | b, pass@8 20.0 |"
    assert lines[3] == "| SRL, greedy | not run | 30.0 [15.0, 45.0], 1 |"
    run.draw(bases, tmp_path / "map.svg")
    assert (tmp_path / "map.svg").read_text().count("SRL") >= 1
