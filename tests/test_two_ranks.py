"""Two processes, on one host and on two: what is lost is said, what was saved is good, and FSDP2 computes the same."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from command_line import assert_one_line, srl, write_recipe
from safetensors.torch import load_file

from srl.runs.checkpoints import problem_with
from srl.runs.folder import RunFolder
from srl.runs.recipe import Checkpoints, Data, Model, Optim, Recipe, Rollout, Validation, recipe_toml
from srl.training.heartbeat import BEAT_SECONDS, SILENCE_SECONDS

CLOCK = ("_per_second", "_time", "_runtime", "time_share", "train_loss", "total_flos")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.mark.parametrize("option", ["fsdp = true", "use_vllm = true", 'deepspeed = "zero2.json"'])
def test_an_option_for_gpus_is_refused_where_there_are_none(tiny_model, tiny_data, tmp_path, option):
    """accelerate would train without FSDP, and say nothing."""
    if torch.accelerator.is_available():
        pytest.skip("this machine has an accelerator")
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data, trl=option)
    done = srl("train", recipe)
    assert_one_line(done, f"[trl] {option.partition(' ')[0]} = ")
    assert "is for GPUs, and this machine has none" in done.stderr
    assert not (tmp_path / "r").exists()


def recipe(folder, model, data):
    """SRL with groups that are dropped and refilled; two prompts a step for each of two processes."""
    return Recipe(
        stage="srl",
        output_dir=folder,
        model=Model(model_name_or_path=str(model)),
        data=Data(path=data),
        optim=Optim(learning_rate=1e-3, max_steps=12, per_device_train_batch_size=4),
        rollout=Rollout(
            prompts_per_step=4, num_generations=4, max_completion_length=12, max_refills=3, min_well_formed=0
        ),
        validation=Validation(eval_steps=0),
        checkpoints=Checkpoints(save_steps=2, save_total_limit=20),
    )


def launched(run, log, *before, where=("--standalone", "--nproc_per_node", "2"), resume=False, **environ):
    """A run under torchrun that goes on by itself; `before` are words that come before the command."""
    words = [*before, *TORCHRUN, *where, "-m", "srl.cli", "train", str(run.path.with_suffix(".toml"))]
    with log.open("a") as out:
        return subprocess.Popen(
            [*words, *(["--resume"] if resume else [])],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environ},
            start_new_session=True,
        )


def ended(process, seconds=300):
    try:
        return process.wait(seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition, seconds, *processes):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    return found


def prepared(folder, model, data):
    run = RunFolder(folder)
    run.path.with_suffix(".toml").write_text(recipe_toml(recipe(run.path, model, data)))
    return run


@pytest.fixture(scope="module")
def whole(tiny_student, tiny_data, tmp_path_factory):
    """A run of two processes that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    run = prepared(folder / "whole", tiny_student, tiny_data)
    assert ended(launched(run, folder / "log")) == 0, (folder / "log").read_text()[-3000:]
    assert sum(line.get("refills", 0) for line in run.metrics) > 0
    return run


def assert_equal_runs(run, whole):
    def logged(one):
        return [{name: value for name, value in line.items() if not name.endswith(CLOCK)} for line in one.metrics]

    assert logged(run) == logged(whole)
    ours, theirs = (load_file(one.path / "model/model.safetensors") for one in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def rank_of(pid):
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(word.split(b"=")[1]) for word in words if word.startswith(b"RANK=")), None)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_process_killed_in_mid_step_ends_the_run_and_a_resumed_one_is_the_same(
    whole, tiny_student, tiny_data, tmp_path
):
    run, log = prepared(tmp_path / "broken", tiny_student, tiny_data), tmp_path / "log"
    process = launched(run, log)
    wait_for(lambda: run.last_checkpoint, 300, process)
    os.kill(next(pid for pid in children(process.pid) if rank_of(pid) == 1), signal.SIGKILL)
    killed = time.monotonic()
    assert ended(process, 120) != 0
    assert time.monotonic() - killed < 60  # torchrun waits up to 30 s for a process that it asks to end
    lines = [line for line in log.read_text().splitlines() if line.startswith("srl: ")]
    assert len(lines) == 1, log.read_text()
    assert lines[0].endswith(f"go on with: srl train {run.path}/config.toml --resume")
    assert problem_with(run.last_checkpoint) is None
    assert run.model is None
    assert ended(launched(run, log, resume=True)) == 0, log.read_text()[-3000:]
    assert_equal_runs(run, whole)


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@contextmanager
def two_hosts():
    """Two network namespaces with a cable between them: (name, device, address) of each."""
    tag = os.getpid() % 100_000
    hosts = [(f"srl{tag}{side}", f"srl{tag}v{side}", f"10.213.7.{number}") for side, number in (("a", 1), ("b", 2))]
    try:
        for name, _, _ in hosts:
            if (made := ip("netns", "add", name)).returncode:
                pytest.skip(f"network namespaces are not allowed here: {made.stderr.strip()}")
        (_, one, _), (_, other, _) = hosts
        if (made := ip("link", "add", one, "type", "veth", "peer", "name", other)).returncode:
            pytest.skip(f"no virtual cables here: {made.stderr.strip()}")
        for name, device, address in hosts:
            assert ip("link", "set", device, "netns", name).returncode == 0
            for words in (("addr", "add", f"{address}/24", "dev", device), ("link", "set", device, "up"),
                          ("link", "set", "lo", "up")):  # fmt: skip
                assert ip("-n", name, *words).returncode == 0
        yield hosts
    finally:
        kill_all_on(hosts)
        for name, _, _ in hosts:
            ip("netns", "del", name)


def kill_all_on(hosts):
    """torchrun's workers are in sessions of their own; nothing runs in these namespaces but this test's processes."""
    for name, _, _ in hosts:
        for pid in ip("netns", "pids", name).stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def on_two_hosts(hosts, run, log, resume=False):
    address = hosts[0][2]
    return [
        launched(
            run,
            log.with_suffix(f".{rank}"),
            *("ip", "netns", "exec", name),
            where=(*("--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1"),
                   *("--master_addr", address, "--master_port", "29555")),
            resume=resume,
            GLOO_SOCKET_IFNAME=device,
        )
        for rank, (name, device, _) in enumerate(hosts)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not Path("/usr/sbin/ip").exists() and not Path("/sbin/ip").exists(), reason="no command `ip` here")
def test_a_lost_host_is_named_and_two_hosts_go_on_as_two_processes(whole, tiny_student, tiny_data, tmp_path):
    run, log = prepared(tmp_path / "broken", tiny_student, tiny_data), tmp_path / "log"
    with two_hosts() as hosts:
        processes = on_two_hosts(hosts, run, log)
        try:
            wait_for(lambda: run.last_checkpoint, 300, *processes)
            (_, _, _), (far, device, _) = hosts
            assert ip("-n", far, "link", "set", device, "down").returncode == 0

            def named():
                lines = log.with_suffix(".0").read_text().splitlines()
                return next((line for line in lines if line.startswith("srl: process 1 of 2 (pid ")), None)

            line = wait_for(named, SILENCE_SECONDS + 6 * BEAT_SECONDS, processes[0])
            assert "it is stopped, or its machine is gone" in line
        finally:
            kill_all_on(hosts)
            for process in processes:
                process.wait()
        assert problem_with(run.last_checkpoint) is None
        assert ip("-n", far, "link", "set", device, "up").returncode == 0
        again = on_two_hosts(hosts, run, log, resume=True)
        codes = [ended(process) for process in again]
    assert codes == [0, 0], log.with_suffix(".0").read_text()[-3000:]
    assert_equal_runs(run, whole)


@pytest.mark.slow
def test_fsdp2_computes_what_one_process_group_computes(tiny_model, tmp_path):
    """With shared prefixes and with LoRA: the same losses and gradients, and the same weights in the end."""
    script = Path(__file__).parent / "fsdp_on_cpu.py"
    command = [*TORCHRUN, "--standalone", "--nproc_per_node", "2", str(script), str(tiny_model), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    for lora in (False, True):
        expected = found[f"False, {lora}, off"]
        for sharded in (False, True):
            for share_prefix in ("off", "trajectory"):
                one = found[f"{sharded}, {lora}, {share_prefix}"]
                assert one["kinds"] == (["DTensor"] if sharded else ["Parameter"])
                for (loss, norm, unique), (of_loss, of_norm, _) in zip(one["log"], expected["log"], strict=True):
                    assert loss == pytest.approx(of_loss, rel=1e-5, abs=1e-6)
                    assert norm == pytest.approx(of_norm, rel=1e-5)
                    assert (unique > 0) == (share_prefix == "trajectory")
                for name, weight in expected["weights"].items():
                    assert one["weights"][name] == pytest.approx(weight, rel=1e-5)
