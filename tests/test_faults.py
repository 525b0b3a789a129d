"""Faults of training: numbers that are none, damaged checkpoints, full disks, signals. Each is said in one line."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import torch
from accelerate import PartialState
from command_line import write_recipe
from transformers import AutoModelForCausalLM

from srl.errors import UserError, disk_fault
from srl.runs.checkpoints import problem_with, rotate, step_of, write_manifest
from srl.runs.folder import RunFolder
from srl.runs.recipe import Checkpoints, Data, Model, Optim, Recipe, Rollout, Sft, Validation, recipe_toml
from srl.training.attend import attended
from srl.training.train import train


def recipe(folder, model, data, stage="sft", **changed):
    values = {
        "stage": stage,
        "output_dir": folder,
        "model": Model(model_name_or_path=str(model)),
        "data": Data(path=data),
        "optim": Optim(learning_rate=1e-3, max_steps=4, per_device_train_batch_size=16),
        "rollout": Rollout(
            prompts_per_step=4, num_generations=4, max_completion_length=8, max_refills=1, min_well_formed=0
        ),
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


# --- one run in a folder ------------------------------------------------------------------------------


def without_end(folder, model, data, **changed):
    optim = Optim(learning_rate=1e-3, max_steps=5000, num_train_epochs=10000, per_device_train_batch_size=16)
    return recipe(folder, model, data, optim=optim, checkpoints=Checkpoints(save_steps=2), **changed)


@contextmanager
def once(condition, action):
    """Meanwhile, in a thread: do something as soon as a condition holds."""

    def watch():
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    thread.join()


def test_a_run_that_goes_on_is_locked_and_a_signal_saves_it(tiny_model, tiny_data, tmp_path, capfd):
    run = RunFolder(tmp_path / "run")
    refused = []

    def come_between():
        for flags in ({"resume": True}, {"overwrite": True}):
            try:
                with attended(run.recipe, PartialState(), **{"resume": False, "overwrite": False, **flags}):
                    pass
            except UserError as error:
                refused.append(str(error))
        os.kill(os.getpid(), signal.SIGTERM)

    with once(lambda: run.last_checkpoint, come_between), pytest.raises(SystemExit) as stopped:
        train(without_end(run.path, tiny_model, tiny_data))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert len(refused) == 2
    assert all(f"{run.path}: in use by process {os.getpid()} on " in line for line in refused)
    said = capfd.readouterr().err.splitlines()[-1]
    assert said == (
        f"srl: stopped by SIGTERM: {run.last_checkpoint.name} is saved; go on with: srl train {run.path}/config.toml "
        "--resume"
    )
    assert run.metrics[-1]["step"] == step_of(run.last_checkpoint)
    assert not (run.path / ".lock").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


IN_A_LONG_STEP = """
import sys, time
from pathlib import Path
from transformers import TrainerCallback
from srl.runs.recipe import read_recipe
from srl.training import signals, train

class LongStep(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 2:
            Path(sys.argv[2]).touch()
            time.sleep(300)

signals.GRACE_SECONDS = 1.0
usual = train.run_callbacks
train.run_callbacks = lambda recipe: [*usual(recipe), LongStep()]
train.train(read_recipe(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_step_that_takes_too_long_is_not_waited_for(tiny_model, tiny_data, tmp_path):
    (tmp_path / "r.toml").write_text(recipe_toml(without_end(tmp_path / "run", tiny_model, tiny_data)))
    command = [sys.executable, "-c", IN_A_LONG_STEP, str(tmp_path / "r.toml"), str(tmp_path / "long")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    with once((tmp_path / "long").exists, process.terminate):
        _, said = process.communicate(timeout=150)
    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: this step is lost; checkpoint-2 is kept; go on with: srl train" in said


# --- the disk -----------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_that_names_the_folder_and_how_to_go_on(tiny_model, tiny_data, tmp_path):
    """As a limit on the size of files: the optimizer's state is twice as large as the model."""
    run = RunFolder(tmp_path / "run")
    size = (tiny_model / "model.safetensors").stat().st_size
    _, most = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size * 3 // 2, most))
    try:
        with pytest.raises(UserError, match=r"go on with: srl train .*/config.toml --resume") as found:
            train(without_end(run.path, tiny_model, tiny_data))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(found.value).startswith(f"{run.path}: ")
    assert "\n" not in str(found.value)
    assert run.last_checkpoint is None


def test_a_full_disk_at_a_later_checkpoint_leaves_the_one_before(tiny_model, tiny_data, tmp_path):
    run = RunFolder(tmp_path / "run")
    size = (tiny_model / "model.safetensors").stat().st_size
    soft, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    fills_up = once(
        lambda: run.last_checkpoint, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size * 3 // 2, most))
    )
    try:
        with fills_up, pytest.raises(UserError, match=r"; checkpoint-\d+ is whole; make room or mend it") as found:
            train(without_end(run.path, tiny_model, tiny_data))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, most))
    kept = run.last_checkpoint
    assert f"; {kept.name} is whole; " in str(found.value)
    assert problem_with(kept) is None


def test_a_folder_that_vanishes_is_one_line(tiny_model, tiny_data, tmp_path):
    run = RunFolder(tmp_path / "run")
    gone = once(lambda: run.metrics, lambda: run.path.rename(tmp_path / "elsewhere"))
    with gone, pytest.raises(UserError, match="run: the run folder is gone") as found:
        train(without_end(run.path, tiny_model, tiny_data))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "No space left on device: x"),
        (Exception("Error while serializing: I/O error: Read-only file system (os error 30)"), "Read-only file system"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "could not be written"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), None),
        (ZeroDivisionError("a bug"), None),
    ],
)
def test_faults_of_the_disk_are_told_from_bugs(error, found):
    fault = disk_fault(error)
    assert (fault is None) if found is None else (found in str(fault))


# --- resumed numbers ----------------------------------------------------------------------------------

TIMES = re.compile(r"(_runtime|_per_second|step_time|reward_time_share)$")


def test_a_resumed_sft_counts_its_tokens_on_and_logs_the_same_sums(tiny_model, tiny_data, tmp_path):
    """With validation the last line before the kill is an evaluation's, which holds no tokens."""
    validation = Validation(eval_steps=2, max_rows=16, per_device_eval_batch_size=16)
    whole = RunFolder(tmp_path / "whole")
    train(recipe(whole.path, tiny_model, tiny_data, validation=validation, checkpoints=Checkpoints(save_total_limit=5)))
    expected = whole.metrics
    run = copied(whole, tmp_path)
    shutil.rmtree(run.path / "model")
    (run.path / "checkpoint-4/manifest.json").unlink()
    shutil.rmtree(whole.path)  # a checkpoint knows the best one by a path that is no longer right
    train(run.recipe, resume=True)

    def numbers(lines):
        return [{name: value for name, value in line.items() if not TIMES.search(name)} for line in lines]

    assert numbers(run.metrics) == numbers(expected)
    assert "train_loss" in run.metrics[-1]


def test_damaged_lines_and_facts_are_said_and_passed_over(stopped, tmp_path, capsys):
    run = copied(stopped, tmp_path)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    damaged = [*lines[:2], '{"step": 2, "lo', "[" * 100_000, '{"step": "two"}', *lines[2:]]
    (run.path / "metrics.jsonl").write_text("\n".join(damaged) + "\n")
    (run.path / "run.json").write_text('{"started": "20')
    (run.path / "checkpoint-4/manifest.json").unlink()
    train(run.recipe, resume=True)
    said = capsys.readouterr().out
    assert "metrics.jsonl: 3 damaged lines are left out" in said
    assert "run.json: damaged" in said
    assert [line["step"] for line in run.metrics if "loss" in line] == [1, 2, 3, 4]
    assert run.facts["finished_steps"] == 4


@pytest.mark.slow
def test_a_launcher_that_starts_one_process_instead_of_two_is_refused(tiny_model, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--quiet", "--num_processes", "2"]
    done = subprocess.run([*launch, "-m", "srl.cli", "train", recipe], capture_output=True, text=True, timeout=120)
    assert "asked for several processes and has started one; use torchrun" in done.stderr
    assert done.returncode != 0
    assert not (tmp_path / "r").exists()
