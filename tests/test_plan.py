"""`srl plan` before data and model are there, and for the stage sft; its sums, by hand and measured."""

import re

import pytest
from command_line import assert_one_line, srl, write_recipe
from trunks import MATH, SMALL, rows_of

from srl.runs.recipe import Data, Model, Optim, Plan, Recipe, Rollout, Sft, recipe_toml
from srl.training.first_step import FirstStep, first_step
from srl.training.forecast import Machine, forecast
from srl.training.machines import GPUS, OF_PRODUCTS, cpu_flops
from srl.training.sizes import KNOWN


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134.515),
        ("Qwen/Qwen2.5-0.5B-Instruct", 494.033),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1543.714),
        ("Qwen/Qwen2.5-3B-Instruct", 3085.939),
        ("Qwen/Qwen2.5-7B-Instruct", 7615.617),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", 7615.617),
    ],
)
def test_known_sizes_have_the_published_number_of_parameters(name, millions):
    assert KNOWN[name].weights / 1e6 == pytest.approx(millions, rel=3e-4)  # less norms and biases


def unseen(stage="srl", **changed):
    """A recipe whose data is not there, and whose model is a run to come."""
    values = {
        "stage": stage,
        "output_dir": "runs/x",
        "model": Model(model_name_or_path="runs/to-come"),
        "data": Data(path="no-such-folder"),
        "optim": Optim(num_train_epochs=2, per_device_train_batch_size=16),
        "rollout": Rollout(prompts_per_step=4, num_generations=8),
        "sft": Sft(rows_per_step=64),
        "plan": Plan(model="Qwen/Qwen2.5-3B-Instruct", rows=103, prompt_tokens=50, common_tokens=20),
    }
    return Recipe(**{**values, **changed})


def test_what_is_assumed_is_said_and_counted(tmp_path):
    (tmp_path / "r.toml").write_text(recipe_toml(unseen()))
    done = srl("plan", tmp_path / "r.toml", "--gpu", "A100", "--completion-tokens", "10")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "runs/to-come is taken to be of the size of Qwen/Qwen2.5-3B-Instruct" in said
    assert "no-such-folder is not there: 103 rows of 50 tokens are assumed" in said
    assert "4 prompts × 8 completions of 10 tokens" in said
    assert f"of {4 * 8 * 60:,}" in said
    assert "50 steps in" in said  # 25 batches of 4 in 103 rows, twice
    (tmp_path / "r.toml").write_text(recipe_toml(unseen(plan=Plan(model="Qwen/Qwen2.5-3B-Instruct"))))
    assert_one_line(srl("plan", tmp_path / "r.toml"), "--plan.rows and --plan.prompt-tokens")
    (tmp_path / "r.toml").write_text(recipe_toml(unseen(plan=Plan(rows=10, prompt_tokens=5))))
    assert srl("plan", tmp_path / "r.toml").returncode == 2  # no such model


def test_steps_that_are_drawn_together_begin_alike():
    def unique(order):
        rollout = Rollout(prompts_per_step=4, num_generations=8, step_order=order)
        kinds = forecast(unseen(rollout=rollout), 10, GPUS["A100"]).kinds
        return {name: kind.cost.unique_tokens for name, kind in kinds.items()}

    assert unique("shuffle")["trajectory"] == unique("shuffle")["prompt"]
    # Two passes of two prompts; 19, as the place before the fork is each prompt's own.
    assert unique("trajectory")["prompt"] - unique("trajectory")["trajectory"] == 2 * 19


def test_sft_pads_the_rows_of_a_pass_and_samples_nothing(tiny_model, tiny_data, tmp_path):
    path = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data, stage="sft", target="solution")
    done = srl("plan", path, "--gpu", "L4")
    assert done.returncode == 0, done.stderr
    assert "0 of them for sampling" in done.stdout
    rows, learned = [[1] * 7, [1] * 3, [1] * 5], [2, 1, 5]
    recipe = unseen("sft", optim=Optim(per_device_train_batch_size=2))
    found = Machine(FirstStep(recipe, rows, learned, 3, SMALL, ""), 1, GPUS["L4"]).takes("rows")
    assert found.cost.raw_tokens == 2 * 7 + 5
    assert found.memory.cache == found.seconds.sampling == 0
    assert first_step(unseen("sft")).rows == 103
    assert forecast(unseen("sft"), 10, GPUS["L4"]).steps == 2 * 2  # 103 rows by 64 are two batches


def test_vllm_takes_its_share_beside_training_or_none_on_a_server():
    def held(**trl):
        return forecast(unseen(trl=trl), 10, GPUS["A100"]).kinds["rows"].memory

    plain, beside = held(), held(use_vllm=True, vllm_gpu_memory_utilization=0.4)
    assert (beside.vllm, beside.cache) == (0.4 * 80e9, 0)
    assert beside.training == plain.training + 0.4 * 80e9
    assert held(use_vllm=True, vllm_mode="server").vllm == 0
    assert held(use_vllm=True).vllm == 0.3 * 80e9


SAMPLED = 2.9
"""CPU seconds for the rollouts of the math shape over shared prefixes (docs/performance.md, "Sampling over …")."""
CPU_CORE = 62e9
"""FLOPs per second of passes on the core of docs/performance.md."""


def test_the_rollouts_of_a_step_on_a_cpu(monkeypatch):
    rows, lengths = rows_of(*MATH)
    prompts = [row[:length].tolist() for row, length in zip(rows[::8], lengths[::8], strict=True)]
    recipe = unseen(rollout=Rollout(prompts_per_step=6, num_generations=8), optim=Optim(per_device_train_batch_size=48))
    machine = Machine(FirstStep(recipe, prompts, [], 6, SMALL, ""), 150)
    machine.cpu_flops = CPU_CORE
    found = machine.takes("trajectory").seconds
    assert found.sampling == pytest.approx(SAMPLED, rel=0.2)
    assert found.passes == pytest.approx(5.0, rel=0.2)  # measured there too, "shared across steps"


def test_the_trial_of_this_cpu_gives_a_speed_that_a_cpu_can_have():
    assert 1e9 < cpu_flops(0.05) / OF_PRODUCTS < 1e14


def test_an_unknown_gpu_and_gpus_without_a_type_are_one_line(tmp_path):
    (tmp_path / "r.toml").write_text(recipe_toml(unseen()))
    assert_one_line(srl("plan", tmp_path / "r.toml", "--gpu", "H10"), "expected one of the GPUs A100, H100")
    assert_one_line(srl("plan", tmp_path / "r.toml", "--gpus", "2"), "it needs --gpu")
    assert not re.search("Traceback", srl("plan", tmp_path / "r.toml", "--gpus", "0").stderr)
