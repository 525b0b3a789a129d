"""Two processes of one run, one of them stopped, then killed: said in a line each."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from srl.runs.folder import RunFolder
from srl.runs.recipe import Checkpoints, Data, Model, Optim, Recipe, Sft, Validation, recipe_toml
from srl.training.heartbeat import BEAT_SECONDS, SILENCE_SECONDS

pytestmark = pytest.mark.slow


def rank_of(pid):
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(word.split(b"=")[1]) for word in words if word.startswith(b"RANK=")), None)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_stopped_process_is_named_and_a_killed_one_is_one_line(tiny_model, tiny_data, tmp_path):
    run = RunFolder(tmp_path / "run")
    recipe = Recipe(
        stage="sft",
        output_dir=run.path,
        model=Model(model_name_or_path=str(tiny_model)),
        data=Data(path=tiny_data),
        optim=Optim(learning_rate=1e-3, max_steps=100_000, num_train_epochs=1e6, per_device_train_batch_size=8),
        sft=Sft(rows_per_step=16),
        validation=Validation(eval_steps=0),
        checkpoints=Checkpoints(save_steps=50),
    )
    (tmp_path / "r.toml").write_text(recipe_toml(recipe))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29533"]
    process = subprocess.Popen(
        [*torchrun, "-m", "srl.cli", "train", str(tmp_path / "r.toml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr))
    reader.start()

    def wait_for(condition, seconds):
        deadline = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    try:
        wait_for(lambda: run.last_checkpoint, 300)
        second = next(pid for pid in children(process.pid) if rank_of(pid) == 1)
        os.kill(second, signal.SIGSTOP)
        wait_for(lambda: any("process 1 of 2" in line for line in said), SILENCE_SECONDS + 4 * BEAT_SECONDS)
        (line,) = [line for line in said if "process 1 of 2" in line]
        assert f"(pid {second} on " in line
        os.kill(second, signal.SIGCONT)
        wait_for(lambda: any("answers again" in line for line in said), 60)
        steps = len(run.metrics)
        wait_for(lambda: len(run.metrics) > steps, 60)
        os.kill(second, signal.SIGKILL)
        process.wait(120)
    finally:
        process.kill()
        reader.join()
    named = [line for line in said if "--resume" in line]
    assert len(named) == 1, said
    assert f"go on with: srl train {run.path}/config.toml --resume" in named[0]
    assert not any(line.startswith("[rank0]: Traceback") for line in said)
