"""`srl start`, on tiny models: the whole way, what it chooses and why, and that what is done is not done again."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from command_line import assert_one_line, srl

from srl.runs.recipe import read_recipe
from srl.training.fitting import Facts, fitting, length, recipe_text

SAMPLES = Path(__file__).parent / "samples"


def commands(folder):
    return (folder / "commands.sh").read_text().splitlines()


@pytest.fixture(scope="module")
def started(tiny_student, tiny_data, tmp_path_factory):
    """The whole way, stopped after the plan once."""
    out = tmp_path_factory.mktemp("start") / "out"
    plan = srl("start", tiny_data, tiny_student, "--out", out, "--only-plan")
    assert plan.returncode == 0, plan.stderr
    recipe = (out / "srl.toml").read_text()
    assert "max_steps = " in recipe
    # What is changed in the recipe stays changed.
    (out / "srl.toml").write_text(re.sub(r"max_steps = \d+", "max_steps = 2", recipe))
    done = srl("start", tiny_data, tiny_student, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, plan.stdout, done.stdout


@pytest.mark.slow
def test_one_command_goes_from_data_to_report(started):
    out, plan, said = started
    assert "plan, by arithmetic for this machine" in plan
    assert re.search(r"SRL: \d+ steps of 128 rollouts of \S+ s each", plan)
    assert [line.split()[1] for line in commands(out)] == [
        "warm-up",
        *["evaluate"] * 2,
        "train",
        *["evaluate"] * 2,
        "report",
    ]
    assert all(f"$ {line}" in said for line in commands(out))
    assert json.loads((out / "warm-up/warm-up.json").read_text())["finished"]
    assert (out / "srl/model/config.json").is_file()
    assert not list((out / "srl").glob("checkpoint-*"))
    scores = [json.loads((out / f"{name}/results.json").read_text()) for name in ("before-answer", "after-stepwise")]
    assert scores[0]["columns"][0]["problems"] == scores[1]["columns"][0]["problems"] > 0
    page = (out / "report.html").read_text()
    assert "before-answer" in page
    assert "after-stepwise" in page


@pytest.mark.slow
def test_what_has_ended_is_not_done_again(started, tiny_data, tiny_student):
    out, _, _ = started
    (out / "after-answer/results.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (out / "srl/model").iterdir()}
    again = srl("start", tiny_data, tiny_student, "--out", out)
    assert again.returncode == 0, again.stderr
    assert re.findall(r"^\$ srl (\S+)", again.stdout, re.M) == ["evaluate", "report"]
    assert commands(out)[-2].endswith("--resume")
    assert {path: path.stat().st_mtime_ns for path in (out / "srl/model").iterdir()} == before


@pytest.mark.slow
def test_another_question_in_the_same_folder_and_bad_input_are_one_line(started, tiny_data, tiny_student, tmp_path):
    out, _, _ = started
    assert_one_line(srl("start", tiny_data, tiny_student, "--out", out, "--minutes", 5), "other data, model or minutes")
    assert_one_line(
        srl("start", tiny_data, "no/such/model", "--out", tmp_path / "x"), "no/such/model: expected a Hub id"
    )
    assert_one_line(srl("start", tiny_data, tiny_student, "--out", tmp_path / "x", "--minutes", 0), "a time above 0")
    assert_one_line(srl("start", tmp_path / "no.jsonl", tiny_student, "--out", tmp_path / "y"), "no.jsonl")
    assert not (tmp_path / "x").exists()
    # Where nothing has come of it, the folder is free for another try. GSM8K's notes are the thoughts of its steps.
    again = srl("start", SAMPLES / "gsm8k.jsonl", tiny_student, "--out", tmp_path / "y", "--only-plan")
    assert again.returncode == 0, again.stderr
    assert "--annotations thought" in again.stdout


@pytest.mark.slow
def test_a_few_rows_are_enough_to_start_and_nothing_is_asked_where_no_answer_is_known(
    tiny_data, tiny_student, tmp_path
):
    data = tmp_path / "few"
    data.mkdir()
    steps = (tiny_data / "train.steps.jsonl").read_text().splitlines(keepends=True)
    (data / "train.steps.jsonl").write_text("".join(steps[:40]))
    (data / "validation.steps.jsonl").write_text("")
    flags = ["--out", tmp_path / "out"]
    assert srl("start", data, tiny_student, *flags, "--only-plan").returncode == 0
    recipe = tmp_path / "out/srl.toml"
    recipe.write_text(re.sub(r"(max_steps|save_steps) = \d+", r"\1 = 1", recipe.read_text()))
    done = srl("start", data, tiny_student, *flags)
    assert done.returncode == 0, done.stderr
    assert "no held-out problem with a known answer, so none is asked before training" in done.stdout
    assert [line.split()[1] for line in commands(tmp_path / "out")] == ["warm-up", "train", "report"]
    assert "--checked 10" in commands(tmp_path / "out")[0]


def chosen(**changes):
    facts = Facts(**{**{"weights": 135_000_000, "positions": 8192, "rows": 7000, "held_out": 400,
                        "longest_prompt": 500, "step_tokens": 40}, **changes})  # fmt: skip
    return facts, {key: value for key, value, _ in fitting(facts)}


def test_choices_follow_size_rows_and_machine():
    _, on_cpu = chosen()
    assert on_cpu["rollout.max_completion_length"] == 112
    assert (on_cpu["rollout.prompts_per_step"], on_cpu["rollout.num_generations"]) == (4, 4)
    assert on_cpu["optim.learning_rate"] == pytest.approx(5e-7 * (7.6e9 / 135e6) ** 0.5, rel=0.05)
    assert "model.use_peft" not in on_cpu
    _, on_gpu = chosen(weights=7_600_000_000, gpu_bytes=80e9)
    assert on_gpu["model.use_peft"]
    assert on_gpu["optim.learning_rate"] == 5e-7  # the paper's, at the paper's size
    assert (on_gpu["rollout.prompts_per_step"], on_gpu["rollout.num_generations"]) == (64, 8)
    assert "model.use_peft" not in chosen(weights=500_000_000, gpu_bytes=24e9)[1]
    assert chosen(rows=9)[1]["rollout.prompts_per_step"] == 2
    assert "validation.max_rows" not in chosen(held_out=0)[1]
    _, short = chosen(positions=400)
    assert short["rollout.max_completion_length"] + short["data.max_prompt_length"] <= 400
    assert short["data.drop_long_prompts"]


def test_the_length_is_a_time_or_three_passes_whichever_is_less():
    facts, _ = chosen(rows=80)
    lengths = {key: value for key, value, _ in length(facts, 4, minutes=30, seconds_per_step=1)}
    assert lengths["optim.max_steps"] == 60
    assert lengths["validation.eval_steps"] == 15
    assert dict(x[:2] for x in length(facts, 4, minutes=30, seconds_per_step=60))["optim.max_steps"] == 30
    assert dict(x[:2] for x in length(facts, 4, minutes=30, seconds_per_step=None))["optim.max_steps"] == 60
    nothing_held_out = dict(x[:2] for x in length(chosen(held_out=0)[0], 4, minutes=30, seconds_per_step=None))
    assert nothing_held_out["validation.eval_steps"] == 0
    assert nothing_held_out["checkpoints.save_steps"] > 0


@pytest.mark.slow
def test_every_choice_stands_in_the_recipe_with_its_reason(started, tmp_path):
    out, _, _ = started
    text = (out / "srl.toml").read_text()
    recipe = read_recipe(out / "srl.toml")
    assert recipe.checkpoints.save_total_limit == 1
    assert all(re.search(r"# \S", line) for line in text.splitlines()[1:] if " = " in line and "path" not in line
               and not line.startswith(("stage", "output_dir")))  # fmt: skip
    facts, _ = chosen(positions=400)
    choices = [*fitting(facts), *length(facts, 4, 30, None)]
    values = tomllib.loads(recipe_text("head", [], choices))
    assert {f"{table}.{key}": value for table, keys in values.items() for key, value in keys.items()} == {
        key: value for key, value, _ in choices
    }
