"""The command line as a user meets it: help, versions, wrong words, and what reads without training."""

import json
import subprocess
import sys

import pytest
from command_line import assert_one_line, srl

import srl as package
from srl.cli import READER_GONE


def test_version():
    assert srl("--version").stdout == f"srl {package.__version__}\n"
    assert f"(srl {package.__version__})" in " ".join(srl("--help").stdout.split())


def test_output_that_nobody_reads_ends_a_command_quietly():
    command = [sys.executable, "-m", "srl.cli", "--version"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", READER_GONE)


BAD_RECIPES = {
    "key": ("[optim]\nlearning_rat = 1e-6", "unknown key `optim.learning_rat`; did you mean `learning_rate`?"),
    "value": ('[optim]\nlearning_rate = "fast"', "`optim.learning_rate`"),
    "stage": ("", "missing key `stage`"),
    "toml": ("stage = ", "not valid TOML"),
}


@pytest.mark.parametrize("name", BAD_RECIPES)
def test_a_wrong_recipe_is_one_line(tmp_path, name):
    text, message = BAD_RECIPES[name]
    base = '[model]\nmodel_name_or_path = "m"\n[data]\npath = "d"\n'
    head = "" if name == "stage" else 'stage = "srl"\noutput_dir = "r"\n'
    (tmp_path / "r.toml").write_text(head + base + text)
    assert_one_line(srl("train", tmp_path / "r.toml"), message)


def test_misspelt_words_are_named_with_a_suggestion(tmp_path):
    done = srl("steps", "x.jsonl", "--out", tmp_path / "o", "--problem-feild", "q")
    assert (done.returncode, "--problem-field" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    assert_one_line(srl("train", tmp_path / "no.toml"), "or one of srl's own: ")
    assert_one_line(srl("steps", tmp_path / "no.jsonl", "--out", tmp_path / "o"), "no such file")


def test_doctor_names_what_is_in_use():
    from srl.rewards.similarity import implementation

    facts = dict(line.split(maxsplit=1) for line in srl("doctor").stdout.splitlines())
    assert facts["similarity"] == implementation()
    assert facts["trl"].startswith("1.16")
    assert {"python", "torch", "device", "vllm"} <= set(facts)


def test_steps_shows_what_the_student_sees(tmp_path):
    (tmp_path / "s.jsonl").write_text(
        json.dumps({"problem": "What is 1+1?", "solution": "1. **Add**: \\[2\\]\n2. **Say**: [two]"}) + "\n"
    )
    done = srl("steps", tmp_path / "s.jsonl", "--out", tmp_path / "o", "--hold-out", "0", "--show", "1")
    assert done.returncode == 0, done.stderr
    assert "kept 1 (100.0%)" in done.stdout
    assert "1. **Add**: \\[2\\]" in done.stdout


def test_steps_checks_and_says_what_it_recognised(tmp_path):
    turns = [("user", "Fix it."), ("assistant", "ls"), ("user", "a.py"), ("assistant", "done")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (tmp_path / "runs.jsonl").write_text(json.dumps(row) + "\nbroken\n")
    stopped = srl("steps", tmp_path / "runs.jsonl", "--check")
    assert (stopped.returncode, stopped.stdout) == (2, "")
    assert stopped.stderr.startswith(f"srl: {tmp_path}/runs.jsonl:2: broken JSON")
    done = srl("steps", tmp_path / "runs.jsonl", "--check", "--on-error", "skip", "--context", "full")
    assert done.returncode == 0, done.stderr
    assert "1  as messages (`messages` with roles)" in done.stdout
    assert "1  left out: unreadable" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs.jsonl"]
    neither = srl("steps", tmp_path / "runs.jsonl")
    assert (neither.returncode, neither.stderr) == (2, "srl: give either --out FOLDER, or --check to write nothing\n")


def test_plan_says_what_a_step_will_cost(tiny_model, tiny_data, tmp_path):
    from srl.runs.recipe import Data, Model, Optim, Recipe, Rollout, recipe_toml
    from srl.training.forecast import forecast

    recipe = Recipe(
        stage="srl",
        output_dir=tmp_path / "run",
        model=Model(model_name_or_path=str(tiny_model)),
        data=Data(path=tiny_data),
        optim=Optim(per_device_train_batch_size=64),
        rollout=Rollout(prompts_per_step=16, num_generations=8, step_order="trajectory"),
    )
    costs = {sharing: kind.cost for sharing, kind in forecast(recipe, completion_tokens=20).kinds.items()}
    raw = costs["rows"].raw_tokens
    assert [costs[sharing].raw_tokens for sharing in costs] == [raw] * 3
    assert costs["trajectory"].unique_tokens < costs["prompt"].unique_tokens < costs["rows"].unique_tokens
    assert costs["rows"].unique_tokens == raw - 16 * 8  # the last token of a row predicts nothing
    (tmp_path / "recipe.toml").write_text(recipe_toml(recipe))
    done = srl("plan", tmp_path / "recipe.toml", "--completion-tokens", "20")
    assert done.returncode == 0, done.stderr
    assert f"of {raw:,}" in done.stdout
    assert "this machine's CPU, share_prefix = trajectory: a step takes" in done.stdout
    on_gpus = srl("plan", tmp_path / "recipe.toml", "--completion-tokens", "20", "--gpu", "L4", "--gpus", "2")
    assert "2 × L4" in on_gpus.stdout
    assert "fits in 24 GB" in on_gpus.stdout
    unknown = srl("plan", tmp_path / "recipe.toml", "--gpu", "H10")
    assert (unknown.returncode, "expected one of the GPUs A100, H100" in unknown.stderr) == (2, True)
    assert not (tmp_path / "run").exists()
