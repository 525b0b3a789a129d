"""`srl train` and what comes after it, as a user meets them, on the tiny model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
from command_line import assert_one_line, metrics, same, srl, weights, write_recipe
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module")
def srl_run(tiny_student, tiny_data, tmp_path_factory):
    """One finished SRL run, shared by the tests below."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = write_recipe(folder / "first.toml", model=tiny_student, data=tiny_data)
    done = srl("train", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "first", done.stdout + done.stderr


def test_a_run_folder_explains_itself(srl_run, tiny_student):
    run, output = srl_run
    facts = json.loads((run / "run.json").read_text())
    assert facts["starts_from"] == str(tiny_student / "model")
    assert facts["finished_steps"] == 4
    assert facts["versions"]["trl"].startswith("1.16")
    logged = metrics(run)
    training = [line for line in logged if "reward_before_filtering" in line]
    assert [line["step"] for line in training] == [1, 2, 3, 4]
    assert {"kept_fraction", "refills", "format_error_rate", "completions/clipped_ratio", "samples_per_second"} <= set(
        training[0]
    )
    assert [line["step"] for line in logged if "eval_reward" in line] == [0, 2, 4]
    table = parquet.read_table(run / "completions/completions_00001.parquet")
    assert {"trajectory_id", "step_index", "thought", "action", "expert_action", "reward", "kept"} <= set(
        table.column_names
    )
    assert "step 4/4" in output
    assert "missing keys" not in output  # of the tied output layer, which no checkpoint has
    assert not same(weights(run / "checkpoint-4"), weights(tiny_student / "model"))


def test_the_resolved_config_repeats_the_run(srl_run, tmp_path):
    run, _ = srl_run
    done = srl("train", run / "config.toml", "--output-dir", tmp_path / "again")
    assert done.returncode == 0, done.stderr[-3000:]
    assert same(weights(run / "model"), weights(tmp_path / "again/model"))


def test_flags_that_do_not_fit_the_recipe_are_one_line(tiny_model, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data)
    done = srl("train", recipe, "--checkpoints.save-steps", "3")
    assert_one_line(done, "checkpoints.save_steps must be a multiple of validation.eval_steps")


@pytest.mark.parametrize("steps", ["-1", "3"])
def test_fewer_rows_than_a_batch_are_refused_before_the_run_folder(tiny_model, tiny_data, tmp_path, steps):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data)
    done = srl("train", recipe, "--rollout.prompts-per-step", "1000", "--optim.max-steps", steps)
    assert done.returncode == 2
    assert "rows to train on do not fill one batch of 1000 prompts" in done.stderr
    assert "set rollout.prompts_per_step to 192 or less" in done.stderr
    assert not (tmp_path / "r").exists()


def test_a_recipe_that_leaves_the_batch_open_gets_one_that_fits(tiny_student, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data)
    recipe.write_text(recipe.read_text().replace("prompts_per_step = 4", ""))
    flags = ["--optim.max-steps", "1", "--validation.eval-steps", "0"]
    done = srl("train", recipe, *flags)
    assert done.returncode == 0, done.stderr
    assert "batches of 48 prompts, for 192 rows to train on" in done.stdout
    assert "prompts_per_step = 48" in (tmp_path / "r/config.toml").read_text()
    assert "nothing to resume" in srl("train", recipe, *flags, "--resume").stderr  # the same recipe


@pytest.mark.parametrize(("stage", "target"), [("srl", "steps"), pytest.param("sft", "steps", marks=pytest.mark.slow)])
def test_a_run_ends_when_its_tokens_are_used_also_when_resumed(tiny_student, tiny_data, tmp_path, stage, target):
    """Both trainers count from TRL's `num_tokens`; after a kill the count goes on."""
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data, stage=stage, target=target)
    flags = ["--optim.max-steps", "9", "--validation.eval-steps", "0", "--checkpoints.save-steps", "2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert srl("train", recipe, *flags, "--output-dir", whole).returncode == 0
    tokens = [line["num_tokens"] for line in metrics(whole) if "loss" in line]
    assert len(tokens) == 9
    flags += ["--optim.max-num-tokens", str(int(tokens[4]))]  # used up by the fifth step
    assert srl("train", recipe, *flags, "--output-dir", cut).returncode == 0
    logged = [line["num_tokens"] for line in metrics(cut) if "loss" in line]
    assert logged == tokens[:5]
    assert (cut / "checkpoint-5").is_dir()  # saved, although only every second step is
    # As a kill after step 2 would leave it.
    for path in (cut / "model", cut / "checkpoint-4", cut / "checkpoint-5"):
        shutil.rmtree(path, ignore_errors=True)
    facts = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "finished_steps"}))
    assert srl("train", recipe, *flags, "--output-dir", cut, "--resume").returncode == 0
    assert [line["num_tokens"] for line in metrics(cut) if "loss" in line] == logged


def test_a_flag_overrides_the_recipe(tiny_model, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data, trl='loss_type = "dr_grpo"')
    flags = ["--optim.learning-rate", "2e-4", "--optim.max-steps", "1", "--trl.loss-type", "dapo"]
    assert srl("train", recipe, *flags).returncode == 0
    config = (tmp_path / "r/config.toml").read_text()
    assert "learning_rate = 0.0002" in config
    assert 'loss_type = "dapo"' in config
    assert metrics(tmp_path / "r")[1]["learning_rate"] == 2e-4


@pytest.mark.slow
def test_a_run_killed_and_resumed_logs_the_same_numbers(tiny_student, tiny_data, tmp_path):
    exact = ("loss", "grad_norm", "reward", "reward_before_filtering", "refills", "eval_reward", "num_tokens")
    whole = write_recipe(tmp_path / "whole.toml", model=tiny_student, data=tiny_data, max_steps=8)
    assert srl("train", whole).returncode == 0
    killed = write_recipe(tmp_path / "killed.toml", model=tiny_student, data=tiny_data, max_steps=8)
    command = [sys.executable, "-m", "srl.cli", "train", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = tmp_path / "killed/checkpoint-4/trainer_state.json"
    deadline = time.monotonic() + 120
    while not state.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/model").exists()
    resumed = srl("train", killed, "--resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]

    def numbers(name):
        return [(line["step"], *(line.get(key) for key in exact)) for line in metrics(tmp_path / name)]

    assert numbers("killed")[:-1] == numbers("whole")[:-1]  # the last line sums up run times
    assert sum(line.get("refills", 0) for line in metrics(tmp_path / "whole")) > 0
    assert same(weights(tmp_path / "whole/model"), weights(tmp_path / "killed/model"))
    finished = srl("train", killed, "--resume")
    assert (finished.returncode, "nothing to resume" in finished.stderr) == (2, True)


@pytest.mark.parametrize("target", ["steps", "solution"])
def test_sft_in_both_forms(tiny_model, tiny_data, tmp_path, target):
    recipe = write_recipe(tmp_path / "r.toml", stage="sft", target=target, model=tiny_model, data=tiny_data)
    done = srl("train", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [line["loss"] for line in metrics(tmp_path / "r") if "loss" in line]
    assert losses[-1] < losses[0]


def test_without_held_out_problems_the_last_model_is_kept(tiny_model, tiny_data, tmp_path):
    data = tmp_path / "steps"
    data.mkdir()
    (data / "train.steps.jsonl").write_text((tiny_data / "train.steps.jsonl").read_text())
    (data / "validation.steps.jsonl").write_text("")
    recipe = write_recipe(tmp_path / "r.toml", stage="sft", model=tiny_model, data=data, trl="max_length = 64")
    done = srl("train", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no held-out problems; the model will be the last one" in done.stdout
    assert same(weights(tmp_path / "r/model"), weights(tmp_path / "r/checkpoint-4"))


def first_eval_loss(run):
    return next(line["eval_loss"] for line in metrics(run) if "eval_loss" in line)


@pytest.mark.parametrize("lora", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_later_stage_starts_from_the_weights_of_the_earlier(tiny_model, tiny_data, tmp_path, lora):
    """The held-out loss before stage 2 is that of stage 1's last (best) model, not of the base."""
    flags = ["--model.use-peft"] if lora else []
    common = {"stage": "sft", "model": tiny_model, "data": tiny_data}
    first = write_recipe(tmp_path / "first.toml", **common)
    second = write_recipe(tmp_path / "second.toml", **common | {"model": tmp_path / "first"})
    for recipe in (first, second):
        done = srl("train", recipe, *flags)
        assert done.returncode == 0, done.stderr[-3000:]
    ended = [line["eval_loss"] for line in metrics(tmp_path / "first") if "eval_loss" in line]
    assert min(ended) < ended[0] - 0.01
    assert first_eval_loss(tmp_path / "second") == pytest.approx(min(ended), abs=1e-5)
    assert (tmp_path / "first/adapter/adapter_config.json").exists() == lora
    assert not same(weights(tmp_path / "first/model"), weights(tiny_model))


def test_lora_in_srl_is_merged_into_the_model(tiny_student, tiny_data, tmp_path):
    from peft import PeftModel

    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data)
    flags = ["--model.use-peft", "--model.lora-r", "4", "--optim.learning-rate", "1e-2", "--validation.eval-steps", "0"]
    done = srl("train", recipe, *flags)  # without an evaluation the last weights are kept, however bad
    assert done.returncode == 0, done.stderr[-3000:]
    base = AutoModelForCausalLM.from_pretrained(tiny_student / "model")
    adapted = PeftModel.from_pretrained(base, tmp_path / "r/adapter")
    ids = torch.arange(3, 40)[None]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "r/model")
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)
    with adapted.disable_adapter():
        assert (merged(ids).logits - adapted(ids).logits).abs().max() > 1e-2


def test_trackers_work_through_trls_report_to(tiny_student, tiny_data, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trl = 'report_to = "tensorboard"'
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data, max_steps=2, trl=trl)
    assert srl("train", recipe).returncode == 0
    events = EventAccumulator(str(next((tmp_path / "board").rglob("events*")).parent)).Reload()
    logged = [point.value for point in events.Scalars("train/reward_before_filtering")]
    expected = [line["reward_before_filtering"] for line in metrics(tmp_path / "r") if "kept_fraction" in line]
    assert logged == pytest.approx(expected)


@pytest.mark.slow
def test_two_processes_share_one_run_folder(tiny_student, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data, max_steps=2)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29518"]
    flags = ["--optim.per-device-train-batch-size", "8", "--validation.eval-steps", "0"]
    # A group that outlives its process may abort it; then it is too late to look, so Python does as it ends.
    (tmp_path / "site/sitecustomize.py").parent.mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "distributed = lambda: sys.modules.get('torch.distributed')\n"
        "atexit.register(lambda: distributed() and distributed().is_initialized() and os._exit(3))\n"
    )
    done = subprocess.run(
        [*launch, "-m", "srl.cli", "train", recipe, *flags],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote ") == 1
    steps = [line for line in metrics(tmp_path / "r") if "kept_fraction" in line]
    assert [line["step"] for line in steps] == [1, 2]
    table = parquet.read_table(tmp_path / "r/completions/completions_00001.parquet").to_pandas()
    assert table.kept.sum() == 16 - 4 * steps[0]["short_batch_groups"]
    assert not same(weights(tmp_path / "r/model"), weights(tiny_student / "model"))


REWARD = """
[reward]
elements = "latex"
copy_penalty = 0.5
expert_logprob_weight = 0.5
format_term = "separate"
"""


def test_srl_with_another_reward(tiny_student, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data, max_steps=2)
    recipe.write_text(recipe.read_text() + REWARD)
    done = srl("train", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    step = next(line for line in metrics(tmp_path / "r") if "reward_before_filtering" in line)
    assert step["rewards/format_penalty/mean"] == pytest.approx(-step["format_error_rate"], abs=0.3)
    assert 0 < step["reward_time_share"] < 1
    table = parquet.read_table(tmp_path / "r/completions/completions_00001.parquet").to_pandas()
    well_formed = table[table.format_error.isna()]
    assert (well_formed.expert_logprob_gain != 0).any()
    exact = well_formed[(well_formed.action == well_formed.expert_action) & well_formed.kept]
    assert (exact.reward == 1.0).all()
    assert (table[~table.format_error.isna()].reward == -1.0).all()
    assert "expert_logprob_weight = 0.5" in (tmp_path / "r/config.toml").read_text()


def test_rlvr_after_srl(srl_run, tiny_data, tmp_path):
    run, _ = srl_run
    recipe = write_recipe(tmp_path / "r.toml", stage="rlvr", model=run, data=tiny_data, max_steps=2)
    done = srl("train", recipe)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "r/run.json").read_text())["starts_from"] == str(run / "model")
    assert "rewards/answer_correctness/mean" in metrics(tmp_path / "r")[1]


def test_a_report_shows_what_training_logged(srl_run, tiny_student, tmp_path):
    from report_pages import data_of, rollouts_of

    run, _ = srl_run
    done = srl("report", run, tiny_student, "--out", tmp_path / "r.html")
    assert done.returncode == 0, done.stderr[-3000:]
    shown = data_of(tmp_path / "r.html")["runs"]
    assert [run["stage"] for run in shown] == ["srl", "sft"]
    assert shown[0]["series"]["kept_fraction"]["step"] == [1, 2, 3, 4]
    assert shown[0]["facts"]["versions"]["trl"].startswith("1.16")
    assert (shown[0]["held_out"]["best_step"] in (0, 2, 4), shown[1]["held_out"]) == (True, None)
    groups = rollouts_of(tmp_path / "r.html")
    tables = [parquet.read_table(path) for path in sorted((run / "completions").iterdir())]
    assert 4 * len(groups) == sum(map(len, tables))
    assert {len(texts["rollouts"]) for _, texts in groups} == {4}
    assert all(texts["expert"] for _, texts in groups)
    assert_one_line(srl("report", tmp_path, "--out", tmp_path / "s.html"), "neither a run folder")


def test_a_trained_model_has_a_card_that_names_no_folder_of_this_machine(srl_run, tiny_student, tiny_data):
    from huggingface_hub import ModelCard

    run, _ = srl_run
    card = ModelCard.load(run / "model/README.md")
    assert (card.data.library_name, card.data.tags, card.data.base_model) == ("transformers", ["srl", "trl"], None)
    assert card.data.get("license") is None
    evaluated = [line for line in metrics(run) if "eval_reward" in line]
    facts = json.loads((run / "run.json").read_text())
    kept = next(line for line in evaluated if line["step"] == facts["best_step"])
    for fact in (
        "Means over 16 held-out rows",
        f"| reward | {evaluated[0]['eval_reward']:.3f} | {kept['eval_reward']:.3f} |",
        f"for 4 optimizer steps on `{tiny_data.name}`, made of `trajectories.jsonl`",
        '"content": "Question: What is 6 times 7, plus 1?\\n\\nSolution:\\n"',
        "arXiv:2510.25992",
        "trl 1.16",
        'output_dir = "first"',
        "learning_rate = 0.001",
    ):
        assert fact in card.text
    assert str(tiny_data.parent) not in card.content
    assert str(run.parent) not in card.content
    assert not (run / "README.md").exists()  # TRL's own
    sft = ModelCard.load(tiny_student / "model/README.md")
    assert sft.data.tags == ["srl", "trl", "sft"]
    assert "Nothing was held out" in sft.text


def test_sampling_shows_thoughts_and_steps(srl_run, tiny_model):
    run, _ = srl_run
    done = srl("sample", run, "--problem", "3 1 2", "--max-steps", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("no system prompt\nQuestion: 3 1 2\nso\n")
    assert "next" in done.stdout
    untrained = srl("sample", tiny_model, "--problem", "3 1 2", "--max-completion-length", "8")
    assert "malformed: truncated" in untrained.stdout


@pytest.mark.slow
def test_real_steps_train_a_random_qwen2(tmp_path):
    folder = Path(__file__).parents[2] / "shared/data/math_trajectories/deepseek_v3_math"
    if not folder.exists():
        pytest.skip("the real solutions (../shared/data) are not here")
    assert srl("tiny", "--out", tmp_path / "model").returncode == 0
    assert srl("steps", folder, "--out", tmp_path / "steps").returncode == 0
    recipe = write_recipe(
        tmp_path / "r.toml", model=tmp_path / "model", data=tmp_path / "steps", max_steps=2, max_prompt_length=1500
    )
    small = [
        "--rollout.prompts-per-step",
        "2",
        "--optim.per-device-train-batch-size",
        "8",
        "--validation.max-rows",
        "4",
    ]
    done = srl("train", recipe, "--data.drop-long-prompts", *small)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "are left out" in done.stdout
    assert metrics(tmp_path / "r")[1]["reward_before_filtering"] == -1  # it writes noise
    assert weights(tmp_path / "r/model")


def test_what_is_wrong_with_a_training_run_is_one_line_and_writes_nothing(tiny_model, tiny_data, tmp_path):
    def refused(message, *flags, **values):
        recipe = write_recipe(tmp_path / "r.toml", **({"model": tiny_model, "data": tiny_data} | values))
        assert_one_line(srl("train", recipe, *flags), message)
        assert not (tmp_path / "r").exists()

    refused("no such folder", model="./nowhere")
    refused("train.steps.jsonl: no such file", data=tmp_path / "nowhere")
    refused("the limit is 8 (", max_prompt_length=8)
    refused("must be a multiple of 48", "--optim.per-device-train-batch-size", "48")
    refused("[trl] unknown option `loss_typ`", trl='loss_typ = "grpo"')
    refused("has its own place in the recipe: `optim.learning_rate`", trl="learning_rate = 1.0")
    refused("has its own place in the recipe: `rollout.prompts_per_step`", trl="gradient_accumulation_steps = 1")
    refused("has its own place in the recipe: `checkpoints.save_steps`", trl='save_strategy = "epoch"')
    refused("has its own place in the recipe: `model.dtype`", trl='model_init_kwargs = { dtype = "float16" }')
    refused("[trl] SRLConfig refuses these options: ", trl='logging_strategy = "often"')
    refused("[reward] is for the stage srl", "--reward.copy-penalty", "0.5", stage="rlvr")
    templateless = tmp_path / "templateless"
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(templateless)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (templateless / name).write_bytes((tiny_model / name).read_bytes())
    refused("has no chat template", model=templateless)


def test_a_run_is_never_overwritten_silently(srl_run, tiny_data):
    run, _ = srl_run
    assert_one_line(srl("train", run / "config.toml"), "--resume it, or --overwrite it")
    assert_one_line(srl("train", run / "config.toml", "--resume", "--optim.learning-rate", "1.0"), "differs in optim")
    assert (run / "model/config.json").is_file()


def test_overwrite_deletes_runs_only(tiny_model, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data)
    (tmp_path / "r").mkdir()
    (tmp_path / "r/thesis.txt").write_text("years of work")
    assert_one_line(srl("train", recipe, "--overwrite"), "has no run.json")
    assert (tmp_path / "r/thesis.txt").exists()
