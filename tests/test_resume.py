"""A run that was stopped and resumed logs what it would have logged, over three epochs, and ends in equal weights."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from srl.errors import UserError
from srl.runs.extend import raised_limits
from srl.runs.folder import RunFolder
from srl.runs.recipe import Checkpoints, Data, Model, Optim, Recipe, Rollout, Sft, Validation
from srl.training.train import train

CLOCK = ("_per_second", "_time", "_runtime", "time_share", "train_loss", "total_flos")
"""What a clock says, and what transformers counts from the last start."""


@pytest.fixture(scope="module")
def twelve_rows(tiny_data, tmp_path_factory) -> Path:
    """Three batches of four prompts an epoch; the held-out rows stay."""
    folder = tmp_path_factory.mktemp("twelve")
    for file in tiny_data.glob("*.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        (folder / file.name).write_text("".join(lines[:12] if file.name.startswith("train") else lines[:5]))
    return folder


def recipe(stage, order, model, data, folder) -> Recipe:
    return Recipe(
        stage=stage,
        output_dir=folder,
        model=Model(model_name_or_path=str(model)),
        data=Data(path=data),
        optim=Optim(learning_rate=1e-3, num_train_epochs=3, per_device_train_batch_size=4),
        rollout=Rollout(
            prompts_per_step=4,
            num_generations=4,
            max_completion_length=12,
            max_refills=2,
            min_well_formed=0,
            max_oversampling=2,
            step_order=order,
        ),
        sft=Sft(rows_per_step=4),
        validation=Validation(eval_steps=0),
        checkpoints=Checkpoints(save_steps=1, save_total_limit=20),
    )


def logged(folder: Path) -> list[dict]:
    return [
        {name: value for name, value in line.items() if not name.endswith(CLOCK)} for line in RunFolder(folder).metrics
    ]


def stopped_after(step: int, whole: Path, folder: Path) -> None:
    """The run folder as a kill right after a checkpoint would have left it."""
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "model")
    for checkpoint in folder.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace(str(whole), str(folder)))


STAGES = [
    ("sft", "shuffle"),
    ("srl", "shuffle"),
    pytest.param("srl", "trajectory", marks=pytest.mark.slow),
    ("rlvr", "shuffle"),
]


@pytest.mark.parametrize(("stage", "order"), STAGES)
@pytest.mark.parametrize(
    "steps", [(5,), pytest.param((2, 3, 6, 8), marks=pytest.mark.slow)], ids=["second-epoch", "any-epoch"]
)
def test_a_resumed_run_is_the_same_run(stage, order, steps, tiny_student, twelve_rows, tmp_path):
    torch.use_deterministic_algorithms(True)
    whole = tmp_path / "whole"
    train(recipe(stage, order, tiny_student, twelve_rows, whole))
    expected = logged(whole)
    assert [line["step"] for line in expected[:9]] == list(range(1, 10))
    if stage != "sft":
        assert sum(line["refills"] for line in expected[:9]) > 0
        assert any(line["grad_norm"] > 0 for line in expected[5:9])
    for step in steps:
        folder = tmp_path / f"from-{step}"
        stopped_after(step, whole, folder)
        train(recipe(stage, order, tiny_student, twelve_rows, folder), resume=True)
        assert logged(folder) == expected
        ours, theirs = (load_file(run / "model/model.safetensors") for run in (folder, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def with_end(given, **limits):
    return given.model_copy(update={"optim": given.optim.model_copy(update=limits)})


@pytest.mark.parametrize("stage", ["srl", pytest.param("sft", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_finished_run_is_extended_to_the_run_that_would_have_been(stage, tiny_student, twelve_rows, tmp_path, capsys):
    torch.use_deterministic_algorithms(True)
    whole, folder = tmp_path / "whole", tmp_path / "extended"
    wanted = recipe(stage, "shuffle", tiny_student, twelve_rows, whole)
    train(with_end(wanted, max_steps=4))
    short = with_end(wanted, max_steps=2).model_copy(update={"output_dir": folder})
    train(short)
    with pytest.raises(UserError, match="nothing to resume, unless it is extended"):
        train(short, resume=True)
    train(with_end(short, max_steps=4), resume=True)
    assert "extended, optim.max_steps from 2 to 4" in capsys.readouterr().out
    run = RunFolder(folder)
    assert (run.facts["finished_steps"], run.facts["extended"]) == (4, ["optim.max_steps from 2 to 4"])
    assert logged(folder) == logged(whole)
    models = (folder / "model", whole / "model", folder / "model-of-step-2")
    ours, theirs, before = (load_file(path / "model.safetensors") for path in models)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not all(torch.equal(ours[name], before[name]) for name in before)


def test_a_run_is_only_extended(tiny_student, twelve_rows, tmp_path):
    given = with_end(recipe("srl", "shuffle", tiny_student, twelve_rows, tmp_path), max_steps=5, max_num_tokens=1000)
    assert raised_limits(given, with_end(given, max_steps=6, max_num_tokens=0)) == [
        "optim.max_steps from 5 to 6",
        "optim.max_num_tokens from 1000 to 0",
    ]
    assert raised_limits(given, with_end(given, max_steps=-1))  # as num_train_epochs says
    assert raised_limits(given, given) == []
    for end, message in (
        ({"max_steps": 4}, "lowered from 5 to 4"),
        ({"num_train_epochs": 1}, "num_train_epochs lowered"),
    ):
        with pytest.raises(UserError, match=message):
            raised_limits(given, with_end(given, **end))
    with pytest.raises(UserError, match="differs in optim from config"):
        raised_limits(given, with_end(given, max_steps=6, learning_rate=1.0))


def test_a_finished_run_without_checkpoints_cannot_be_extended(tiny_student, twelve_rows, tmp_path):
    given = with_end(recipe("sft", "shuffle", tiny_student, twelve_rows, tmp_path / "run"), max_steps=1)
    train(given)
    shutil.rmtree(tmp_path / "run/checkpoint-1")
    with pytest.raises(UserError, match="left no checkpoint to go on from"):
        train(with_end(given, max_steps=2), resume=True)
    assert RunFolder(tmp_path / "run").model  # nothing was touched
