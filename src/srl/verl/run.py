"""`srl train --engine verl`: verl in a process of its own, and what it leaves as a run folder like any other.

verl's environment is another than srl's, whose transformers is newer than verl takes. RUN/verl/ holds the exported
files (`export.py`), verl's checkpoints, its own metrics, and log.txt with all that it prints.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from srl import __version__
from srl.errors import UserError
from srl.files import locked, write_text
from srl.runs.folder import RunFolder, check_resumable, open_run
from srl.runs.recipe import Recipe
from srl.training.asked import system_prompt, trained_prompts
from srl.training.attend import how_to_go_on
from srl.training.model_card import write_model_card
from srl.training.policy import described, load_policy
from srl.verl.export import LOG, Job, prepare
from srl.verl.metrics import forget_after, held_out_rewards, log_files, metrics_lines
from srl.verl.options import arguments, flattened, n_workers

TESTED = "0.9.1"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")

PROBE = """
import json
from importlib import metadata
found = {}
for name in ("verl", "ray", "torch", "transformers", "tensordict", "TransferQueue", "vllm", "trl"):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
try:
    import srl
    found["srl"] = srl.__version__
except ImportError as error:
    found["missing"] = error.name
import torch
found["gpus"] = torch.cuda.device_count()
print(json.dumps(found))
"""

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_TO_END = 60.0

KNOWN_FAULTS = (
    (r"RuntimeError: (\d+% of the first .*)", "{}"),
    (r"Could not override '(\S+?)'|full_key: (\S+)", "[verl] `{}`: verl {version} has no such option"),
    (r"OutOfMemoryError|CUDA out of memory", "out of GPU memory; lower optim.per_device_train_batch_size"),
    (r"No space left on device", "the disk is full; make room"),
    (r"[Aa]ddress already in use.*", "a port is in use by another process: {0}"),
    (r"Total available GPUs (\S+) is less than total desired GPUs", "Ray's cluster has {} GPUs, fewer than asked for"),
    (r"(?:ActorUnavailable|ActorDied|NodeDied|WorkerCrashed)Error.*", "a worker or a node was lost: {0}"),
)
"""What verl's log holds -> what it means."""


def train_with_verl(
    recipe: Recipe, python: Path | None = None, *, resume: bool = False, overwrite: bool = False
) -> Path:
    """Run one stage with verl to its end and return the folder of the trained model.

    `python` is the interpreter of verl's environment; by default `SRL_VERL_PYTHON`, or the one that runs this.

    Raises:
        UserError: verl's environment, data, model, recipe or run folder are not as they must be; verl failed.
    """
    program = Path(python or os.environ.get("SRL_VERL_PYTHON") or sys.executable)
    versions = probe(program)
    run = RunFolder(recipe.output_dir)
    job = prepare(recipe, run if resume else None)
    _check_devices(job.recipe, versions)
    with locked(run.path, "end it, or wait; two runs would mix their lines"):
        _open(run, job.recipe, resume=resume, overwrite=overwrite)
        run.add_facts(
            engine={"name": "verl", "versions": versions},
            starts_from=job.model_path,
            system_prompt=system_prompt(job.train_rows[0]),
            prompts=trained_prompts(job.recipe),
            held_out_rows=len(job.eval_rows or ()),
        )
        folder = run.path / "verl"
        folder.mkdir(exist_ok=True)
        job.write(folder)
        _say(job)
        _train(job, program, run, folder, str(versions["verl"]))
        return _keep_model(job, run, folder)


def probe(program: Path) -> dict[str, Any]:
    """The versions in an environment, and how many GPUs it sees.

    Raises:
        UserError: verl or srl is not installed there, or not a version that was tested.
    """
    try:
        done = subprocess.run([program, "-c", PROBE], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"{program}: expected the Python of verl's environment: {error.strerror}") from None
    found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    if "verl" not in found:
        raise UserError(
            f"{program}: verl is not installed; it needs an environment of its own, as it takes no transformers as new "
            f"as srl's: python -m venv verl-env; verl-env/bin/pip install -r {REQUIREMENTS}; verl-env/bin/pip install "
            "--no-deps supervised-rl; then --verl-python verl-env/bin/python"
        )
    if found["verl"] != TESTED:
        raise UserError(f"{program}: verl {found['verl']}, and srl is tested with {TESTED}: pip install verl=={TESTED}")
    if int(found.get("trl", "0").split(".")[0]) > 0:  # it asks TRL for a class that was taken out
        raise UserError(f"{program}: verl {TESTED} cannot use trl {found['trl']}; take it out: pip uninstall trl")
    if found.get("missing", "srl") != "srl":
        raise UserError(f"{program}: srl needs {found['missing']} there: pip install -r {REQUIREMENTS}")
    if found.get("srl") != __version__:
        raise UserError(
            f"{program}: expected srl {__version__} beside verl, found {found.get('srl', 'none')}; install the version "
            f"that runs this there, without its dependencies: {program} -m pip install --no-deps supervised-rl"
        )
    return found


def _open(run: RunFolder, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """A new run folder, or that of the run to go on with, which verl takes up from its own last checkpoint."""
    latest = run.path / "verl/checkpoints/latest_checkpointed_iteration.txt"
    if resume and latest.is_file():
        if raised := check_resumable(run, recipe):
            raise UserError(f"{run.path}: runs of verl cannot be extended ({', '.join(raised)}); start another from it")
        forget_after(run.path / "verl", int(latest.read_text()))
        print(f"{run.path}: going on from verl's checkpoint of step {latest.read_text()}")
    else:
        open_run(recipe, resume=resume, overwrite=overwrite)


def _check_devices(recipe: Recipe, versions: dict[str, Any]) -> None:
    further = flattened(recipe.verl)
    wanted = int(further.get("trainer.n_gpus_per_node", 1))
    if (
        further.get("trainer.device", "cuda") == "cuda"
        and "RAY_ADDRESS" not in os.environ
        and versions["gpus"] < wanted
    ):
        raise UserError(
            f"verl wants {wanted} GPU(s) on this machine ([verl] trainer.n_gpus_per_node), found {versions['gpus']}; "
            "start it where they are, or set RAY_ADDRESS to a cluster that has them"
        )


def _say(job: Job) -> None:
    recipe = job.recipe
    print(f"verl: {n_workers(recipe)} worker(s), {job.steps} steps of {recipe.rollout.prompts_per_step} prompts")
    if recipe.rollout.share_prefix != "off":
        print("verl has no shared prefixes: the same is computed, prompts once for each completion")


def _train(job: Job, program: Path, run: RunFolder, folder: Path, version: str) -> None:
    """Start verl, wait for its end, and meanwhile keep the run folder up to date."""
    options = job.options(folder)
    if "RAY_ADDRESS" not in os.environ:
        # An instance of our own, whatever runs here.
        options = {"+ray_kwargs.ray_init.address": "local", "+ray_kwargs.ray_init.include_dashboard": False} | options
    log = folder / "log.txt"
    path = folder / LOG.replace(".", f"-{len(log_files(folder)) + 1}.")
    environment = os.environ | {"VERL_FILE_LOGGER_PATH": str(path.resolve()), "HYDRA_FULL_ERROR": "1"}
    command = [str(program), "-m", "verl.trainer.main_ppo", *arguments(options), f"hydra.run.dir={folder / 'hydra'}"]
    with log.open("ab") as output, _ending(command, env=environment, stdout=output, stderr=output) as process:
        lines = metrics_lines(folder)  # of a run that goes on
        while process.poll() is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            lines = _collect(run, folder, lines)
    _collect(run, folder, lines)
    if process.returncode:
        raise UserError(f"{log}: verl ended with {process.returncode}: {_fault(log, version)}; {how_to_go_on(run)}")


@contextmanager
def _ending(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, however that ends; Ray's processes end with their parent."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        signal.signal(signal.SIGTERM, before)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def _collect(run: RunFolder, folder: Path, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take over verl's metrics and rollouts so far; prints the lines that are new since `before`, and returns all."""
    lines = metrics_lines(folder)
    if lines != before:
        write_text(run.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        for line in lines[len(before) :]:
            print(_shown(line), flush=True)
    for table in sorted((folder / "completions").glob("*.parquet")):
        (run.path / "completions").mkdir(exist_ok=True)
        table.replace(run.path / "completions" / table.name)
    return lines


def _shown(line: dict[str, Any]) -> str:
    if "eval_reward" in line:
        return f"step {line['step']}: held-out reward {line['eval_reward']:.3f}"
    return f"step {line['step']}  reward {line['reward_before_filtering']:.3f}, kept {line['kept_fraction']:.0%}"


def _fault(log: Path, version: str) -> str:
    """Why verl ended, in one line."""
    text = log.read_text(encoding="utf-8", errors="replace")[-200_000:]
    for pattern, meaning in KNOWN_FAULTS:
        if match := re.search(pattern, text):
            groups = [group for group in match.groups() if group] or [match[0][:200]]
            return meaning.format(*groups, version=version)
    errors = [
        line.strip() for line in text.splitlines() if re.match(r"\s*(\(.*?\)\s*)?[\w.]*(Error|Exception)\b", line)
    ]
    return errors[-1][:300] if errors else "no error is named in its log"


def _keep_model(job: Job, run: RunFolder, folder: Path) -> Path:
    """Write `model/`, whole or not at all: of the best checkpoint, or of the start if none was better, as with TRL."""
    saved = {int(path.name.removeprefix("global_step_")): path for path in folder.glob("checkpoints/global_step_*")}
    if not saved:
        raise UserError(f"{folder / 'log.txt'}: verl ended without a checkpoint, so there is no model to write")
    rewards = {step: reward for step, reward in held_out_rewards(folder).items() if step in saved or step == 0}
    best = max(rewards.keys() & saved.keys(), key=lambda step: rewards[step], default=max(saved))
    kept = 0 if 0 in rewards and rewards[0] > rewards.get(best, rewards[0]) else best
    written = run.path / ".model"
    shutil.rmtree(written, ignore_errors=True)
    if kept:
        shutil.copytree(saved[kept] / "actor" / "huggingface", written)
        # verl names another dtype there than that of the weights, and how attention was computed.
        config = AutoConfig.from_pretrained(job.model_path, trust_remote_code=False)
        config.dtype = job.recipe.model.dtype
        config.save_pretrained(written)
    else:
        load_policy(job.recipe, job.model_path, job.chat).save_pretrained(written)
    job.chat.tokenizer.save_pretrained(written)
    GenerationConfig(eos_token_id=list(job.chat.end_ids)).save_pretrained(written)
    run.add_facts(finished_steps=max(saved), best_step=kept, best_metric=rewards.get(kept) if kept else None)
    write_model_card(job.recipe, written)
    written.rename(run.path / "model")
    print(f"wrote {run.path / 'model'}/{described(run, kept)}", flush=True)
    return run.path / "model"
