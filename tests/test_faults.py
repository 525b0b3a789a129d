"""Faults of training: numbers that are no numbers, damaged checkpoints, full disks, signals. Each is said in one line."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from srl.errors import UserError
from srl.runs.checkpoints import problem_with, rotate, write_manifest
from srl.runs.folder import RunFolder
from srl.runs.recipe import Checkpoints, Data, Model, Optim, Recipe, Rollout, Sft, Validation
from srl.training.train import train


def recipe(folder, model, data, stage="sft", **changed):
    values = {
        "stage": stage,
        "output_dir": folder,
        "model": Model(model_name_or_path=str(model)),
        "data": Data(path=data),
        "optim": Optim(learning_rate=1e-3, max_steps=4, per_device_train_batch_size=16),
        "rollout": Rollout(prompts_per_step=4, num_generations=4, max_completion_length=8, max_refills=1),
        "sft": Sft(rows_per_step=16),
        "validation": Validation(eval_steps=0),
        "checkpoints": Checkpoints(save_steps=1, save_total_limit=3),
    }
    return Recipe(**{**values, **changed})


def exploding(rate=1e10, **changed):
    return Optim(**{"learning_rate": rate, "max_steps": 4, "per_device_train_batch_size": 16, **changed})


# --- training that diverges ---------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["sft", "srl"])
def test_training_that_diverges_stops_and_writes_no_model(tiny_student, tiny_data, tmp_path, stage):
    with pytest.raises(UserError, match=r"step \d: .*training has diverged") as found:
        train(recipe(tmp_path / "run", tiny_student, tiny_data, stage, optim=exploding()))
    assert "optim.learning_rate" in str(found.value)
    assert not (tmp_path / "run/model").exists()


def test_the_last_good_checkpoint_is_named_and_is_good(tiny_model, tiny_data, tmp_path):
    """A warm-up starts at a rate of 0, so the first step is harmless."""
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="the last good checkpoint is ") as found:
        train(
            recipe(
                run.path,
                tiny_model,
                tiny_data,
                optim=exploding(warmup_steps=3, lr_scheduler_type="constant_with_warmup"),
            )
        )
    assert run.last_checkpoint == run.path / "checkpoint-1"
    assert str(run.last_checkpoint) in str(found.value)
    model = AutoModelForCausalLM.from_pretrained(run.last_checkpoint)
    assert model(torch.arange(1, 9)[None]).logits.isfinite().all()


# --- whole checkpoints --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tiny_model, tiny_data, tmp_path_factory):
    """A run that was killed after its last step: three checkpoints, no model."""
    run = RunFolder(tmp_path_factory.mktemp("stopped") / "run")
    train(recipe(run.path, tiny_model, tiny_data))
    shutil.rmtree(run.path / "model")
    facts = {name: fact for name, fact in run.facts.items() if name != "finished_steps"}
    (run.path / "run.json").write_text(json.dumps(facts))
    return run


def copied(stopped, tmp_path):
    """A copy of the run folder, with the recipe that belongs to it."""
    shutil.copytree(stopped.path, tmp_path / "run")
    config = (tmp_path / "run/config.toml").read_text().replace(str(stopped.path), str(tmp_path / "run"))
    (tmp_path / "run/config.toml").write_text(config)
    for state in (tmp_path / "run").glob("checkpoint-*/trainer_state.json"):
        assert str(stopped.path) not in state.read_text()
    return RunFolder(tmp_path / "run")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "lost": lambda path: path.unlink(),
    "cut short": cut,
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_checkpoint_without_one_of_its_files_is_none(stopped, tmp_path, damage):
    """Whichever file it is: a lost optimizer or generator would resume silently, with other numbers."""
    names = [path.name for path in (stopped.path / "checkpoint-4").iterdir()]
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} < set(names)
    for name in names:
        run = RunFolder(tmp_path / name)
        shutil.copytree(stopped.path, run.path)
        DAMAGE[damage](run.path / "checkpoint-4" / name)
        assert problem_with(run.path / "checkpoint-4"), name
        assert run.last_checkpoint == run.path / "checkpoint-3", name
        shutil.rmtree(run.path)


def test_a_resumed_run_takes_the_newest_whole_checkpoint_and_says_so(stopped, tmp_path, capsys):
    run = copied(stopped, tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(run.path / "checkpoint-4").state_dict()
    cut(run.path / "checkpoint-4/optimizer.pt")
    train(run.recipe, resume=True)
    said = capsys.readouterr().out
    assert "checkpoint-4: not whole, so not resumed from: optimizer.pt has" in said
    assert "going on from checkpoint-3" in said
    found = AutoModelForCausalLM.from_pretrained(run.path / "model").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert problem_with(run.path / "checkpoint-4") is None


def test_a_checkpoint_is_whole_only_once_its_manifest_is_written(stopped, tmp_path):
    run = copied(stopped, tmp_path)
    (run.path / "checkpoint-4/manifest.json").unlink()
    (run.path / "checkpoint-3/manifest.json").write_text("{")
    assert run.last_checkpoint == run.path / "checkpoint-2"


def test_a_run_whose_best_checkpoint_is_lost_does_not_end_with_another(stopped, tmp_path):
    run = copied(stopped, tmp_path)
    state = run.path / "checkpoint-4/trainer_state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "best_model_checkpoint": "run/checkpoint-2"}))
    write_manifest(run.path / "checkpoint-4", 1)
    assert run.last_checkpoint == run.path / "checkpoint-4"
    for name in ("checkpoint-2", "checkpoint-3"):
        (run.path / name / "model.safetensors").unlink()
    with pytest.raises(UserError, match="checkpoint-2, the best so far, is not whole"):
        train(run.recipe, resume=True)


def test_old_checkpoints_go_only_when_a_newer_one_is_whole(stopped, tmp_path):
    run = copied(stopped, tmp_path)
    (run.path / "checkpoint-4/manifest.json").unlink()
    rotate(run.path, limit=1, best="elsewhere/checkpoint-2")
    assert sorted(path.name for path in run.path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_changed_byte_in_a_checkpoint_is_one_line(stopped, tmp_path, name):
    """Its size is right, so that only reading it shows."""
    run = copied(stopped, tmp_path)
    path = run.path / "checkpoint-4" / name
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(UserError, match="checkpoint-4 cannot be read") as found:
        train(run.recipe, resume=True)
    assert "\n" not in str(found.value)
