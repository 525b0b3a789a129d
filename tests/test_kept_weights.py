"""Which weights a run keeps; its card, report and last line all say so, with the numbers of those weights."""

import json

import pytest
from command_line import metrics, same, srl, weights, write_recipe

from srl.runs.folder import RunFolder, held_out


def card_row(run, name):
    lines = (run / "model/README.md").read_text().splitlines()
    return [float(cell) for cell in next(line for line in lines if line.startswith(f"| {name} |")).split("|")[2:4]]


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_that_only_makes_it_worse_keeps_the_start_and_says_so(tiny_student, tiny_data, tmp_path, lora):
    recipe = write_recipe(tmp_path / "r.toml", stage="sft", model=tiny_student, data=tiny_data)
    flags = ["--optim.learning-rate", "0.3", *(["--model.use-peft"] if lora else [])]
    done = srl("train", recipe, *flags)
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "r")
    losses = [line["eval_loss"] for line in run.metrics if "eval_loss" in line]
    assert len(losses) == 3
    assert losses[0] < min(losses[1:])
    assert same(weights(run.model), weights(tiny_student / "model"))
    assert run.facts["best_step"] == 0
    assert "model/: the weights of the start, for no checkpoint was better on held-out rows" in done.stdout
    assert "no checkpoint was better than the start" in (run.model / "README.md").read_text()
    assert card_row(run.path, "loss") == [round(losses[0], 3)] * 2
    assert not (run.path / "adapter").exists()


def test_the_numbers_of_the_card_are_those_of_the_saved_weights(tiny_model, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", stage="sft", model=tiny_model, data=tiny_data, max_steps=6)
    done = srl("train", recipe, "--checkpoints.save-steps", "4")
    run = RunFolder(tmp_path / "r")
    kept = run.facts["best_step"]
    assert f"model/: the weights of step {kept} (held-out loss " in done.stdout
    assert same(weights(run.model), weights(run.path / f"checkpoint-{kept}"))
    before, after = held_out(run.metrics, run.facts).means["loss"]
    assert card_row(run.path, "loss") == [round(before, 3), round(after, 3)]
    again = write_recipe(tmp_path / "again.toml", stage="sft", model=run.path, data=tiny_data, max_steps=1)
    srl("train", again)
    assert metrics(tmp_path / "again")[0]["eval_loss"] == pytest.approx(after, abs=1e-6)


@pytest.mark.slow
def test_an_evaluation_by_samples_can_be_repeated_on_the_saved_weights(tiny_student, tiny_data, tmp_path):
    """Every evaluation draws the same random numbers, and training's own go on as if there had been none."""
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data)
    assert srl("train", recipe).returncode == 0
    run = RunFolder(tmp_path / "r")
    _, after = held_out(run.metrics, run.facts).means["reward"]
    again = write_recipe(tmp_path / "again.toml", model=run.path, data=tiny_data, max_steps=1)
    srl("train", again)
    assert metrics(tmp_path / "again")[0]["eval_reward"] == after
    srl("train", recipe, "--validation.eval-steps", "0", "--output-dir", tmp_path / "unseen")
    rewards = [[line["reward"] for line in metrics(tmp_path / name) if "reward" in line] for name in ("r", "unseen")]
    assert rewards[0] == rewards[1]


def test_the_best_evaluation_is_not_the_kept_one_where_no_checkpoint_was_saved(tmp_path):
    """As `checkpoints.save_steps = 4` with `validation.eval_steps = 2` leaves it; nor is the start's."""
    lines = [{"step": step, "eval_reward": reward} for step, reward in ((0, 0.3), (2, 0.9), (4, 0.5), (6, 0.4))]
    facts = {"finished_steps": 6, "best_step": 4, "held_out_rows": 7}
    assert held_out(lines, facts) == (4, {"reward": (0.3, 0.5)}, 7)
    assert held_out(lines, {"finished_steps": 6, "best_step": 0}).means == {"reward": (0.3, 0.3)}
    assert held_out(lines, {}).best_step == 2  # still running: the best so far
    assert held_out(lines, {"finished_steps": 7, "best_step": None}) is None  # the last weights were not evaluated
    assert held_out([], facts) is None


def test_a_base_with_a_license_passes_it_on(tiny_model, tiny_data, tmp_path):
    import shutil

    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base/README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    recipe = write_recipe(tmp_path / "r.toml", stage="sft", model=tmp_path / "base", data=tiny_data, max_steps=1)
    assert srl("train", recipe, "--validation.eval-steps", "0").returncode == 0
    card = (tmp_path / "r/model/README.md").read_text()
    assert "license: apache-2.0" in card
    assert json.dumps(str(tmp_path))[1:-1] not in card
