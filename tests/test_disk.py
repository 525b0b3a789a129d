"""What a run writes: said before it starts, and what stays when it has finished."""

from pathlib import Path

import pytest
from command_line import assert_one_line, srl, write_recipe
from transformers import AutoConfig

from srl.runs.recipe import Checkpoints, Data, Model, Recipe, Validation, read_recipe
from srl.shared_prefix.cost import ModelSize
from srl.training import disk as disk_module
from srl.training.disk import disk
from srl.training.memory import adapter_weights

CHECKPOINTS = Checkpoints()


@pytest.fixture
def every_byte_counts(monkeypatch):
    monkeypatch.setattr(disk_module, "SMALL", 0)


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_what_is_said_is_what_is_written_and_model_is_all_that_stays(
    tiny_student, tiny_data, tmp_path, every_byte_counts
):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data, max_steps=2, stage="sft")
    each_step = ["--validation.eval-steps", 0, "--checkpoints.save-steps", 1]
    kept = srl("train", recipe, *each_step)
    assert kept.returncode == 0, kept.stderr
    size = ModelSize.of(AutoConfig.from_pretrained(tiny_student / "model"))
    needs = disk(read_recipe(recipe), size)
    (checkpoint, *_) = (tmp_path / "r").glob("checkpoint-*")
    assert size_of(checkpoint) == pytest.approx(needs.checkpoint, rel=0.5)  # other files of a few kB count here
    assert size_of(tmp_path / "r/model") == pytest.approx(needs.model, rel=0.5)
    assert "and, at once, 2 checkpoint(s) of" in kept.stdout
    only_model = ["--output-dir", tmp_path / "only", "--checkpoints.no-keep-when-finished", *each_step]
    done = srl("train", recipe, *only_model)
    assert "the checkpoints go when it has finished" in done.stdout
    assert not list((tmp_path / "only").glob("checkpoint-*"))
    assert (tmp_path / "only/model/config.json").is_file()
    again = srl("train", recipe, *only_model, "--resume", "--optim.max-steps", 4)
    assert_one_line(again, "left no checkpoint to go on from (checkpoints.save_steps, checkpoints.keep_when_finished)")


def test_a_run_that_does_not_fit_the_disk_is_one_line_before_it_begins(
    tiny_model, tiny_data, tmp_path, every_byte_counts, monkeypatch
):
    monkeypatch.setattr(disk_module, "free_bytes", lambda folder: 1e5)
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data)
    assert_one_line(srl("train", recipe), "0.0 GB are free; make room, choose another output_dir, or save less")
    assert not (tmp_path / "r").exists()


def test_adapters_and_bfloat16_write_less_and_a_higher_limit_more():
    size = ModelSize(layers=2, hidden=8, heads=2, kv_heads=1, head_size=4, mlp=16, vocabulary=50)

    def needs(checkpoints=CHECKPOINTS, eval_steps=1, **model):
        recipe = Recipe(
            stage="srl",
            output_dir=Path(),
            data=Data(path=Path()),
            checkpoints=checkpoints,
            model=Model(model_name_or_path="", **model),
            validation=Validation(eval_steps=eval_steps),
        )
        return disk(recipe, size)

    model = 4 * size.weights
    assert needs() == (model, 3 * model, 3)
    assert needs(Checkpoints(save_steps=1), eval_steps=0).checkpoints == 3
    assert needs(Checkpoints(save_steps=1, save_total_limit=1), eval_steps=0).checkpoints == 2
    assert needs(Checkpoints(save_total_limit=1)).checkpoints == 3  # the newest, the best, the next
    assert needs(eval_steps=0) == (model, 3 * model, 0)
    assert needs(Checkpoints(save_total_limit=20)).peak == model + 21 * 3 * model
    assert needs(dtype="bfloat16").peak == needs().peak / 2
    adapters = 4 * adapter_weights(size, 16)
    assert needs(use_peft=True) == (model + adapters, 3 * adapters, 3)
