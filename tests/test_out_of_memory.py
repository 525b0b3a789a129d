"""Out of memory in training is one line, with options that fit by the memory model."""

import re

import pytest
import torch
from accelerate import PartialState
from trainers import trainer_on

from srl.errors import UserError
from srl.runs.recipe import Data, Model, Optim, Recipe, Rollout
from srl.training.attend import attended
from srl.training.checkpoints import reading
from srl.training.first_step import first_step
from srl.training.forecast import Machine
from srl.training.out_of_memory import remedy


def recipe(folder, model, data, stage="srl", **rollout):
    return Recipe(
        stage=stage,
        output_dir=folder,
        model=Model(model_name_or_path=str(model)),
        data=Data(path=data),
        optim=Optim(per_device_train_batch_size=64),
        rollout=Rollout(**{"prompts_per_step": 16, "num_generations": 8, "max_completion_length": 128} | rollout),
    )


def too_much():
    torch.empty(10**15)


def on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")  # what CUDA's allocator raises


@pytest.mark.parametrize("fault", [too_much, on_a_gpu])
@pytest.mark.parametrize("stage", ["srl", "sft"])
def test_it_is_said_in_one_line(tiny_model, tiny_data, tmp_path, fault, stage):
    asked = recipe(tmp_path / "run", tiny_model, tiny_data, stage)
    with (
        pytest.raises(UserError, match=r"out of memory: a machine of [0-9.]+ GB; ") as found,
        attended(asked, PartialState(cpu=True), resume=False, overwrite=False),
    ):
        fault()
    assert "\n" not in str(found.value)
    assert "optim.per_device_train_batch_size = 32" in str(found.value)  # on this machine all of it should fit
    assert str(found.value).endswith("then start a new run")


def test_a_checkpoint_is_not_blamed(tiny_model, tmp_path):
    trainer = trainer_on(tiny_model, tmp_path)
    with pytest.raises(torch.OutOfMemoryError), reading(tmp_path / "checkpoint-1", trainer):
        on_a_gpu()


def needs(asked):
    """GB of training and of sampling."""
    machine = Machine(first_step(asked), asked.rollout.max_completion_length)
    sharing = asked.rollout.share_prefix
    held = machine.memory(machine.largest_pass("rows" if sharing == "off" else sharing), on_gpu=True)
    return held.training, held.sampling


def with_options(asked, text):
    """The recipe with what the message says to set."""
    for table, name, value in re.findall(r"(optim|rollout)\.(\w+) = \"?(\w+)\"?", text):
        part = getattr(asked, table)
        kind = type(getattr(part, name))
        asked = asked.model_copy(update={table: part.model_copy(update={name: kind(value)})})
    return asked


@pytest.mark.parametrize("share_prefix", ["trajectory", "prompt", "off"])
def test_what_is_suggested_fits(tiny_model, tiny_data, tmp_path, share_prefix):
    asked = recipe(tmp_path / "run", tiny_model, tiny_data, share_prefix=share_prefix)
    training, sampling = needs(asked)
    suggested = set()
    for room in (0.9 * training, 0.6 * training, 0.5 * sampling):
        text = remedy(asked, room, on_gpu=True, devices=1)
        assert text.startswith(f"by the memory model passes of 64 rows need {training / 1e9:.3g} GB")
        changed = with_options(asked, text.partition("set ")[2])
        assert changed != asked, text
        assert max(needs(changed)) <= room
        suggested |= set(re.findall(r"\w+(?= = )", text))
    assert {"per_device_train_batch_size", "max_completion_length"} <= suggested
    assert ("share_prefix" in suggested) == (share_prefix == "off")
    assert "that cannot fit: train adapters" in remedy(asked, 1e5, on_gpu=True, devices=1)
