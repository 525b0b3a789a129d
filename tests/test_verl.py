"""The engine verl, as far as it needs no verl: files, options, refusals, scores. test_verl_run.py runs it."""

import json
import os
import random
import subprocess
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from command_line import assert_one_line, srl, write_recipe
from transformers import AutoTokenizer

from srl.chat.tokenizer import load_chat
from srl.errors import UserError
from srl.rewards import StepReward
from srl.runs.folder import resolve_model
from srl.runs.recipe import read_recipe
from srl.verl.export import prepare
from srl.verl.metrics import forget_after, held_out_rewards, metrics_lines
from srl.verl.options import n_workers, verl_options
from srl.verl.scoring import Scorer, advantages, exported_chat


@pytest.fixture(scope="module")
def recipe_file(tiny_student, tiny_data, tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("verl") / "run.toml", model=tiny_student, data=tiny_data)


@pytest.fixture(scope="module")
def exported(recipe_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "out"
    done = srl("export", "verl", recipe_file, "--out", out, "--chat.today", "2026-01-31")
    assert done.returncode == 0, done.stderr
    return out


def test_an_export_holds_the_tokens_that_trl_trains_on(exported, recipe_file):
    """As verl makes them: its tokenizer and the column `prompt`; all rows, in order."""
    job = prepare(read_recipe(recipe_file))
    for name, rows in (("train", job.train_rows), ("validation", job.eval_rows)):
        table = pyarrow.parquet.read_table(exported / f"{name}.parquet").to_pylist()
        tokenizer = AutoTokenizer.from_pretrained(exported / "tokenizer")
        ids = [
            tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
            for row in table
        ]
        assert len(ids) > 10
        assert ids == job.chat.prompt_ids(rows["prompt"])
        assert [row["reward_model"]["ground_truth"] for row in table] == list(rows["expert_action"])
        assert [row["srl_row"]["prompt"] for row in table] == list(rows["prompt"])


def test_a_system_turn_that_the_template_does_not_take_is_in_the_exported_user_turn(
    tiny_student, tiny_data, tmp_path, exported
):
    """The template refuses system turns; the rows have one."""
    chat = load_chat(resolve_model(str(tiny_student)))
    template = chat.tokenizer.chat_template
    chat.tokenizer.chat_template = (
        "{%- if messages[0]['role'] == 'system' %}{{- raise_exception('no system turn') }}{%- endif %}" + template
    )
    model = tmp_path / "model"
    done = subprocess.run(["cp", "-r", resolve_model(str(tiny_student)), model], check=True)
    chat.tokenizer.save_pretrained(model)
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation"):
        rows = [json.loads(line) for line in (tiny_data / f"{split}.steps.jsonl").read_text().splitlines()]
        for row in rows:
            row["prompt"] = [{"role": "system", "content": "Sort."}, *row["prompt"]]
        (data / f"{split}.steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = srl("export", "verl", write_recipe(tmp_path / "r.toml", model=model, data=data), "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    job = prepare(read_recipe(tmp_path / "r.toml"))
    assert job.chat.system_in_user_turn
    table = pyarrow.parquet.read_table(tmp_path / "out/train.parquet").to_pylist()
    assert [turn["role"] for turn in table[0]["prompt"]] == ["user"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out/tokenizer")
    ids = tokenizer.apply_chat_template([row["prompt"] for row in table], add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    assert ids == job.chat.prompt_ids(job.train_rows["prompt"])


def test_what_a_completion_earns_is_what_the_reward_function_says(exported):
    recipe = read_recipe(exported / "recipe.toml")
    chat = exported_chat(exported, AutoTokenizer.from_pretrained(exported / "tokenizer"), recipe)
    scorer = Scorer(recipe, chat)
    row = pyarrow.parquet.read_table(exported / "train.parquet").to_pylist()[0]["srl_row"]
    end = chat.end_ids[0]
    texts = ["<think>so</think>\n1 next", f"<think>so</think>\n{row['expert_action']}", "1 next", "<think>so</think>\n"]
    scored = [scorer([*chat.encode(text), end], row) for text in texts]
    expected = StepReward()(texts, [row["expert_action"]] * 4)
    assert [one.reward for one in scored] == expected
    assert expected[1] == 1.0
    assert [one.columns["format_error"] for one in scored] == [None, None, "no <think>", "empty action"]
    assert scored[0].metrics["step_similarity"] == expected[0]
    assert "step_similarity" not in scored[2].metrics
    cut_off = scorer(chat.encode(texts[0]), row)  # no end of turn
    assert (cut_off.reward, cut_off.columns["format_error"]) == (-1.0, "truncated")
    assert scorer([], row).reward == -1.0


def test_final_answers_are_rewarded_too(recipe_file, tmp_path):
    done = srl("export", "verl", recipe_file, "--out", tmp_path / "out", "--stage", "rlvr")
    assert done.returncode == 0, done.stderr
    recipe = read_recipe(tmp_path / "out/recipe.toml")
    chat = exported_chat(tmp_path / "out", AutoTokenizer.from_pretrained(tmp_path / "out/tokenizer"), recipe)
    scorer = Scorer(recipe, chat)
    row = pyarrow.parquet.read_table(tmp_path / "out/train.parquet").to_pylist()[0]["srl_row"]
    right, wrong = chat.encode(f"\\boxed{{{row['answer']}}}"), chat.encode("\\boxed{77}")
    scored = [scorer([*ids, chat.end_ids[0]], row) for ids in (right, wrong)] + [scorer(right, row)]
    assert [one.reward for one in scored] == [1.0, 0.0, 0.0]
    assert scored[0].columns["answer"] == row["answer"]
    assert scored[2].truncated


def test_advantages_are_trls_and_zero_without_signal():
    rng = random.Random(1)
    for _ in range(50):
        rewards = torch.tensor([rng.choice([-1.0, rng.random()]) for _ in range(8)])
        std = rewards.std()
        assert torch.equal(
            advantages(rewards, divide=True, min_reward_std=0.0), (rewards - rewards.mean()) / (std + 1e-4)
        )
        assert torch.equal(advantages(rewards, divide=False, min_reward_std=0.0), rewards - rewards.mean())
    near = torch.tensor([0.5, 0.51, 0.5, 0.51])  # deviates by 0.005
    assert not advantages(near, divide=True, min_reward_std=0.01).any()
    assert advantages(near, divide=True, min_reward_std=0.004).abs().min() > 0.5
    assert advantages(near, divide=True, min_reward_std=None).abs().min() > 0.5


def options(recipe, **further):
    return verl_options(recipe, recipe.output_dir, "model", steps=7, has_validation=True) | further


def test_a_recipe_decides_verls_options(recipe_file):
    recipe = read_recipe(recipe_file)
    found = options(recipe)
    assert found["actor_rollout_ref.actor.loss_agg_mode"] == "seq-mean-token-mean"
    assert found["data.train_batch_size"] == found["actor_rollout_ref.actor.ppo_mini_batch_size"] == 4
    assert found["actor_rollout_ref.rollout.n"] == 4
    assert found["trainer.total_training_steps"] == 7
    assert found["actor_rollout_ref.actor.use_kl_loss"] is False
    assert not [name for name in found if "mixed_precision" in name]
    in_float32 = options(recipe.model_copy(update={"trl": {"bf16": False}}))
    assert in_float32["+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype"] == "fp32"
    changed = recipe.model_copy(
        update={
            "trl": {"loss_type": "dapo", "scale_rewards": "none", "epsilon_high": 0.3, "fsdp": True},
            "verl": {"trainer": {"n_gpus_per_node": 2}, "actor_rollout_ref.rollout.name": "sglang"},
        }
    )
    found = options(changed)
    assert found["actor_rollout_ref.actor.loss_agg_mode"] == "token-mean"
    assert found["algorithm.norm_adv_by_std_in_grpo"] is False
    assert found["actor_rollout_ref.actor.clip_ratio_low"] == 0.2
    assert found["actor_rollout_ref.actor.clip_ratio_high"] == 0.3
    assert found["trainer.n_gpus_per_node"] == 2
    assert found["actor_rollout_ref.rollout.name"] == "sglang"


def test_the_papers_recipes_are_for_both_engines():
    for name, prompts in (("math-7b-srl", 512), ("math-7b-rlvr", 128)):
        recipe = read_recipe(Path(name))
        found = options(recipe)
        assert n_workers(recipe) == found["trainer.n_gpus_per_node"] == 8
        assert found["data.train_batch_size"] == prompts
        assert found["actor_rollout_ref.rollout.name"] == "vllm"
        assert found["actor_rollout_ref.model.enable_gradient_checkpointing"] is True
    swe = read_recipe(Path("swe-7b-srl"))
    with pytest.raises(UserError, match="step_order"):
        options(swe)
    assert options(swe.model_copy(update={"rollout": swe.rollout.model_copy(update={"step_order": "shuffle"})}))


def test_trl_passes_over_the_table_of_verl(recipe_file):
    """One file for both engines."""
    from srl.training.options import trainer_options

    recipe = read_recipe(recipe_file)
    plain = trainer_options(recipe, 1, has_validation=True)
    assert trainer_options(recipe.model_copy(update={"verl": {"trainer.nnodes": 2}}), 1, has_validation=True) == plain


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stage", "sft"], "stage = 'sft': train it with TRL"),
        (["--model.use-peft"], "model.use_peft"),
        (["--optim.max-num-tokens", "100"], "optim.max_num_tokens"),
        (["--optim.lr-scheduler-type", "linear"], "lr_scheduler_type = 'linear'"),
        (["--rollout.step-order", "trajectory"], "step_order"),
        (["--reward.format-term", "separate"], "format_term"),
        (["--optim.per-device-train-batch-size", "3"], "cannot be shared by 1 process(es)"),
        (["--rollout.prompts-per-step", "999"], "do not fill one batch of 999 prompts"),
        (["--data.max-prompt-length", "3"], "the limit is 3"),
    ],
)
def test_what_verl_lacks_is_refused_by_name(recipe_file, tmp_path, flags, message):
    done = srl("export", "verl", recipe_file, "--out", tmp_path / "out", *flags)
    assert_one_line(done, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ("num_iterations = 2", "[trl] `num_iterations`: the engine verl has no such option"),
        ("loss_type = 'bnpo'", "expected one that verl has too: grpo, dapo, dr_grpo"),
        ("scale_rewards = 'batch'", "expected one that verl has too: group, none"),
        ("beta = 0.1", "the engine verl cannot do this: [trl] beta = 0.1"),
        ("use_vllm = false", "[trl] use_vllm = False: verl has no choice here; expected True"),
        ("fsdp = 'full_shard offload'", "[trl] fsdp = 'full_shard offload'"),
        ("fsdp_config = { cpu_offload = true }", "say it in [verl], under actor_rollout_ref.actor.fsdp_config"),
        ("[verl.data]\ntrain_batch_size = 8", "has its own place in the recipe: `rollout.prompts_per_step`"),
        ("[verl.trainer]\nn_gpus_per_node = 3", "cannot be shared by 3 process(es)"),
        ("[verl]\n'trainer.nnodes' = 'two'", "expected numbers from 1"),
    ],
)
def test_what_verl_lacks_of_trl_is_refused_by_name(tiny_student, tiny_data, tmp_path, tables, message):
    recipe = write_recipe(tmp_path / "run.toml", model=tiny_student, data=tiny_data, trl=tables)
    assert_one_line(srl("export", "verl", recipe, "--out", tmp_path / "out"), message)


def test_an_export_is_never_overwritten_silently(exported, recipe_file):
    assert_one_line(srl("export", "verl", recipe_file, "--out", exported), "not empty")
    assert os.access(exported / "run.sh", os.X_OK)
    subprocess.run(["bash", "-n", exported / "run.sh"], check=True)


def test_an_environment_without_verl_is_one_line(recipe_file, tmp_path):
    done = srl("train", recipe_file, "--engine", "verl", "--output-dir", tmp_path / "run")
    assert_one_line(done, "verl is not installed; it needs an environment of its own")
    assert "verl/requirements.txt" in done.stderr
    assert not (tmp_path / "run").exists()
    done = srl("train", recipe_file, "--engine", "verl", "--verl-python", tmp_path / "none")
    assert_one_line(done, f"{tmp_path / 'none'}: expected the Python of verl's environment")


def fake_environment(folder, **found):
    """A Python that answers the probe of versions."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps(found)}'\n")
    python.chmod(0o755)
    return python


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"verl": "0.8.0"}, "verl 0.8.0, and srl is tested with 0.9.1"),
        ({"verl": "0.9.1", "trl": "1.16.0"}, "verl 0.9.1 cannot use trl 1.16.0"),
        ({"verl": "0.9.1"}, "beside verl, found none"),
        ({"verl": "0.9.1", "srl": "0.0.1"}, "beside verl, found 0.0.1"),
    ],
)
def test_an_environment_of_other_versions_is_one_line(recipe_file, tmp_path, found, message):
    python = fake_environment(tmp_path, **found)
    assert_one_line(srl("train", recipe_file, "--engine", "verl", "--verl-python", python), message)


def test_a_machine_with_fewer_gpus_than_asked_for_is_one_line(recipe_file, tmp_path, monkeypatch):
    from srl import __version__

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    python = fake_environment(tmp_path, verl="0.9.1", srl=__version__, gpus=0)
    done = srl("train", recipe_file, "--engine", "verl", "--verl-python", python, "--output-dir", tmp_path / "run")
    assert_one_line(done, "verl wants 1 GPU(s) on this machine ([verl] trainer.n_gpus_per_node), found 0")
    assert not (tmp_path / "run").exists()


def test_verls_log_becomes_metrics(tmp_path):
    def write(name, *entries):
        lines = [json.dumps({"step": step, "data": data}) for step, data in entries]
        (tmp_path / name).write_text("\n".join(lines) + "\n")

    held_out = {"val-core/srl/reward/mean@2": 0.2, "val-aux/srl/format_error_rate/mean@2": 0.5}
    held_out |= {"val-aux/srl/step_similarity/mean@2": 0.3, "val-aux/srl/reward/std@2": 9.0}
    trained = {"critic/score/mean": 0.4, "actor/grad_norm": 1.5, "srl/kept_fraction": 0.5, "srl/num_tokens": 10}
    write("metrics-1.jsonl", (0, held_out), (1, trained), (2, trained))
    write("metrics-2.jsonl", (1, held_out), (2, trained | {"critic/score/mean": 0.6}), (3, trained))
    with (tmp_path / "metrics-2.jsonl").open("a") as log:
        log.write('{"step": 4, "da')  # verl is writing
    lines = metrics_lines(tmp_path)
    assert [(line["step"], "eval_reward" in line) for line in lines] == [
        (0, True),
        (1, False),
        (1, True),
        (2, False),
        (3, False),
    ]
    assert lines[0] == {
        "step": 0,
        "eval_reward": 0.2,
        "eval_format_error_rate": 0.5,
        "eval_step_similarity": 0.6,
    }
    assert lines[3] == {"step": 2, "reward": 0.6, "grad_norm": 1.5, "kept_fraction": 0.5, "num_tokens": 20}
    assert lines[4]["num_tokens"] == 30
    assert held_out_rewards(tmp_path) == {0: 0.2, 1: 0.2}
    forget_after(tmp_path, 1)
    assert metrics_lines(tmp_path) == lines[:3]
