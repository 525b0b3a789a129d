"""`srl reproduce`: the commands of a table of the paper, what they take, and the way through all of it at tiny size."""

import json
import random
import re
import shutil
from importlib import resources
from pathlib import Path

import pytest
from command_line import assert_one_line, srl

from srl.data.steps import full_solution
from srl.evaluation.compare import read_paper
from srl.runs.folder import RunFolder
from srl.study.reproduce import commands, read_reproduction
from srl.study.tiny import random_problem, solve

TABLES = sorted(file.name for file in (resources.files("srl") / "builtin/tables").iterdir() if file.is_file())


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tables_hold_all_rows_that_this_project_trains(elsewhere):
    assert TABLES == ["table1.toml", "table4.toml"]
    paper = read_paper()["tables"]
    for name, tables in (("table1", ("Table 1, 7B", "Table 2, 7B", "Table 3, 7B")), ("table4", ("Table 4, 3B",))):
        rows = {row[0] for table in tables for row in paper[table]} - {"S1K-7B"}  # a model that others trained
        assert {arm.paper for arm in read_reproduction(Path(name)).arms.values()} >= rows


def test_a_dry_run_prints_each_command_once_with_what_it_takes(elsewhere):
    done = srl("reproduce", "table1", "--dry-run", "--arms", "srl", "srl-rlvr")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    assert [line.split(" --")[0] for line in lines] == [
        "srl steps simplescaling/s1K-1.1",
        "torchrun",
        "srl evaluate runs/math-7b-srl",
        "torchrun",
        "srl evaluate runs/math-7b-srl-rlvr",
    ]
    assert lines[1] == "torchrun --nproc_per_node 8 -m srl.cli train math-7b-srl"
    head = (resources.files("srl") / "builtin/recipes/math-7b-srl.toml").read_text()
    (cost,) = re.findall(r"^# (8 × H100: .* 270 steps in .*)$", done.stdout, re.M)
    assert f"\n#   {cost}\n" in head
    # 100 problems, 32 times and greedily, and 272 greedily
    assert "# 1 × H100: 3,572 answers of 900 tokens" in done.stdout
    assert "hours of a GPU" in done.stdout
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_all_of_a_table_can_be_costed(table, elsewhere):
    done = srl("reproduce", table.removesuffix(".toml"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fits in 80 GB") == done.stdout.count("-m srl.cli train") >= 3


TINY = """
base = "tiny-base"
benchmarks = "problems.jsonl"
samples = 2
max_tokens = 100
[data]
steps = "solutions.jsonl --targets all --answer-field answer --system-prompt '' --answer-system-prompt '' --hold-out 0"
[arms.base]
paper = "Qwen2.5-7B-Instruct"
[arms.sft]
paper = "SFT (R1 outline)"
recipes = ["sft.toml"]
[arms.srl-rlvr]
paper = "SRL, RLVR"
recipes = ["srl.toml", "srl-rlvr.toml"]
"""
RECIPE = """
extends = "tiny-{kind}"
output_dir = "runs/{name}"
[model]
model_name_or_path = "{start}"
[data]
path = "steps"
[optim]
max_steps = 2
per_device_train_batch_size = 32
[rollout]
prompts_per_step = 8
max_refills = 0
"""


@pytest.fixture
def tiny(elsewhere):
    (elsewhere / "tiny.toml").write_text(TINY)
    for name, kind, start in (
        ("sft", "sft", "tiny-base"),
        ("srl", "srl", "tiny-base"),
        ("srl-rlvr", "rlvr", "runs/srl"),
    ):
        (elsewhere / f"{name}.toml").write_text(RECIPE.format(kind=kind, name=name, start=start))
    rng = random.Random(0)
    experts = [solve(random_problem(rng, 3), thoughts=True) for _ in range(60)]
    rows = [{"problem": e.problem, "solution": full_solution(e), "answer": e.answer} for e in experts]
    for name, some in (("solutions", rows[:40]), ("problems", rows[40:48])):
        (elsewhere / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return elsewhere


@pytest.mark.slow
def test_the_whole_way_at_tiny_size(tiny):
    done = srl("reproduce", "tiny.toml")
    assert done.returncode == 0, done.stderr
    for name in ("sft", "srl", "srl-rlvr"):
        assert RunFolder(tiny / "runs" / name).facts["finished_steps"] == 2
    said = " ".join(done.stdout.split())
    assert "SRL, RLVR (paper)" in said
    for arm in ("base", "sft", "srl-rlvr"):
        columns = json.loads((tiny / "runs/tiny" / arm / "results.json").read_text())["columns"]
        assert [(column["column"], column["problems"]) for column in columns] == [("greedy", 8), ("avg@2", 8)]
    assert "srl compare runs/tiny/base runs/tiny/sft runs/tiny/srl-rlvr" in done.stdout
    shutil.rmtree(tiny / "runs/tiny/sft")
    again = srl("reproduce", "tiny.toml", "--arms", "sft")
    assert again.returncode == 0, again.stderr
    ran = [line for line in again.stdout.splitlines() if line.startswith("$ ")]
    assert ran == [
        "$ srl evaluate runs/sft --benchmarks problems.jsonl --greedy --samples 2 --max-tokens 100 --out runs/tiny/sft"
    ]
    (tiny / "solutions.jsonl").unlink()
    shutil.rmtree(tiny / "steps")
    assert_one_line(srl("reproduce", "tiny.toml", "--arms", "sft"), "ended with exit code 2; mend it, then")
    (tiny / "steps").mkdir()
    (tiny / "steps/report.json").touch()
    assert all(command.done for command in commands(read_reproduction(tiny / "tiny.toml"), tiny / "runs/tiny"))


def test_what_cannot_be_reproduced_is_one_line(tiny):
    assert_one_line(srl("reproduce", "tiny.toml", "--arms", "rft"), "no arm rft; there are base, sft, srl-rlvr")
    for before, after, message in (
        ('paper = "SRL, RLVR"', 'paper = "SRL+RLVR"', "the paper has no row 'SRL+RLVR'; it has "),
        ('["srl.toml", "srl-rlvr.toml"]', '["srl-rlvr.toml"]', "starts from runs/srl, expected tiny-base"),
        ("steps = ", "stepps = ", "sft.toml trains on steps, which [data] lacks"),
        ("samples = 2", "sample = 2", "unknown key `sample`; did you mean `samples`?"),
    ):
        (tiny / "wrong.toml").write_text(TINY.replace(before, after))
        assert_one_line(srl("reproduce", "wrong.toml"), message)
    assert_one_line(srl("reproduce", "tabel1"), "tabel1: no such table file; or one of srl's own: table1, table4")
