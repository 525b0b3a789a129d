"""verl itself, in an environment of its own: whole GRPO steps on a CPU, and the numbers of both engines side by side.

`SRL_VERL_PYTHON` names an environment that is there already; else one is made from PyPI, once, in `~/.cache/srl-tests`.
verl has no CPU platform and no sampler for CPUs; `verl_cpu/` has both, for these tests only.
"""

import fcntl
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import venv
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from command_line import metrics, same, weights, write_recipe
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from srl.chat.tokenizer import load_chat
from srl.rewards import step_similarity
from srl.runs.folder import RunFolder, resolve_model
from srl.training.trainer import SRLConfig, SRLTrainer
from srl.verl.run import REQUIREMENTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
INSTALL_SECONDS, RUN_SECONDS = 900, 1500
MIN_REWARD_STD = 0.08
"""Above the deviation of three completions that are right and one that is not quite."""

UNREACHABLE = (
    "Could not find a version",
    "No matching distribution",
    "Max retries",
    "ConnectionError",
    "Temporary failure",
)

ON_CPU = """\
bf16 = false
gradient_checkpointing = false
model_init_kwargs = {{ attn_implementation = "eager" }}
[verl]
"trainer.device" = "cpu"
"trainer.n_gpus_per_node" = {workers}
"actor_rollout_ref.rollout.name" = "generate"
"actor_rollout_ref.rollout.agent.num_workers" = 1
"actor_rollout_ref.model.use_remove_padding" = false
"actor_rollout_ref.actor.use_torch_compile" = false
"reward.num_workers" = 1
"transfer_queue.backend.SimpleStorage.num_data_storage_units" = 1
"ray_kwargs.ray_init.num_cpus" = 16
"+ray_kwargs.ray_init.num_gpus" = {workers}
"+ray_kwargs.ray_init.object_store_memory" = 200_000_000
"""
"""What a CPU needs beside a recipe: docs/verl.md explains each."""


@pytest.fixture(scope="module")
def verl_python():
    """The Python of an environment with verl and, without what it needs, this srl."""
    if given := os.environ.get("SRL_VERL_PYTHON"):
        return Path(given)
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = Path.home() / f".cache/srl-tests/verl-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    python, ready = folder / "bin/python", folder / "ready"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            venv.create(folder, with_pip=True, symlinks=True)
            _install(python)
            ready.touch()
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "this_srl.pth").write_text(f"{ROOT / 'src'}\n")
    return python


def _install(python):
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", REQUIREMENTS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.fail(f"installing verl from PyPI took over {INSTALL_SECONDS} s")
    if done.returncode and any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip(f"PyPI is not reachable, so there is no verl: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-2000:]


def train(recipe, python, *further):
    """`srl train --engine verl` on the CPU, with a time limit: what it printed, how often a reward was asked for."""
    count = recipe.with_suffix(".count")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "tests/verl_cpu"),
        "VERL_USE_EXTERNAL_MODULES": "verl_on_cpu",
        "VERL_PLATFORM": "cpu",
        "RAY_AUTH_MODE": "disabled",  # else Ray writes a token into the home folder
        "SRL_COUNT_REWARDS": str(count),
    }
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "srl.cli", "train", recipe, "--engine", "verl", "--verl-python", python, *further]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired:
        log = recipe.with_suffix("") / "verl/log.txt"
        pytest.fail(f"verl did not end within {RUN_SECONDS} s; its log ends with: {log.read_text()[-1000:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, len(count.read_text().splitlines())


@pytest.fixture(scope="module")
def trained(verl_python, tiny_student, tiny_data, tmp_path_factory):
    """Two steps of four prompts by one worker: the run folder, what was printed, how often a reward was asked for."""
    recipe = write_recipe(
        tmp_path_factory.mktemp("verl") / "one.toml",
        model=tiny_student,
        data=tiny_data,
        max_steps=2,
        trl=ON_CPU.format(workers=1),
    )
    sampling = ["--rollout.min-reward-std", str(MIN_REWARD_STD), "--rollout.temperature", "1.3"]
    limits = ["--rollout.max-refills", "3", "--validation.eval-steps", "1", "--validation.max-rows", "6"]
    printed, n_rewards = train(recipe, verl_python, *sampling, *limits, "--optim.per-device-train-batch-size", "8")
    return recipe.with_suffix(""), printed, n_rewards


def tables(run):
    paths = sorted((run / "completions").glob("completions_*.parquet"))
    return [pyarrow.parquet.read_table(path).to_pylist() for path in paths]


def groups_of(table, size=4):
    return [table[start : start + size] for start in range(0, len(table), size)]


def test_each_completion_is_rewarded_once_and_only_groups_with_signal_are_trained_on(trained):
    run, _, n_rewards = trained
    steps = tables(run)
    assert len(steps) == 2
    n_held_out = 3 * 6  # before training and after both steps
    assert n_rewards == sum(map(len, steps)) + n_held_out
    lines = {line["step"]: line for line in metrics(run) if "kept_fraction" in line}
    for step, table in enumerate(steps, start=1):
        groups = groups_of(table)
        deviations = [statistics.pstdev(row["reward"] for row in group) for group in groups]
        kept = [group[0]["kept"] for group in groups]
        assert sum(kept) == 4
        n_without = sum(k and d <= MIN_REWARD_STD for k, d in zip(kept, deviations, strict=True))
        assert n_without == lines[step]["short_batch_groups"]
        assert n_without == 0 or len(groups) >= 4 * (1 + 3)  # only when the refills were used up
        expected = sum(d > MIN_REWARD_STD for d in deviations) / len(groups)
        assert lines[step]["kept_fraction"] == pytest.approx(expected)
        assert lines[step]["refills"] == len(groups) / 4 - 1
        for group, is_kept, deviation in zip(groups, kept, deviations, strict=True):
            assert len({json.dumps(row["prompt"]) for row in group}) == 1
            assert any(row["advantage"] for row in group) == (is_kept and deviation > MIN_REWARD_STD)
    assert sum(not row["kept"] for table in steps for row in table) > 0  # so that the above says something


def test_a_run_of_verl_is_a_run_folder_like_any_other(trained, tiny_student, tmp_path):
    run, printed, _ = trained
    assert f"wrote {run}/model/" in printed
    lines = metrics(run)
    assert [line["step"] for line in lines if "eval_reward" in line] == [0, 1, 2]
    assert [line["step"] for line in lines if "grad_norm" in line] == [1, 2]
    assert all(line["sampling/rollout_probs_diff/max"] < 1e-3 for line in lines if "grad_norm" in line)
    facts = RunFolder(run).facts
    assert facts["engine"]["versions"]["verl"] == "0.9.1"
    held_out = {line["step"]: line["eval_reward"] for line in lines if "eval_reward" in line}
    assert held_out[facts["best_step"]] == max(held_out.values())
    before, kept = weights(resolve_model(str(tiny_student))), weights(run / "model")
    assert same(before, kept) == (facts["best_step"] == 0)

    after = load_file(run / "verl/checkpoints/global_step_2/actor/huggingface/model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}  # verl's merger would round to bfloat16
    largest = max(float((before[name] - after[name]).abs().max()) for name in after)
    assert 1e-4 < largest <= 2.1e-3  # two steps of AdamW at 1e-3
    assert AutoModelForCausalLM.from_pretrained(run / "model", dtype="auto").dtype == torch.float32

    def command(*arguments):
        done = subprocess.run([sys.executable, "-m", "srl.cli", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("report", run, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "kept_fraction" in page
    assert "rollouts left out" not in page
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"problem": "3 1 2 (0)", "answer": "3"}) + "\n")
    command("evaluate", run, "--benchmarks", problems, "--out", tmp_path / "eval", "--greedy", "--max-tokens", "12")
    assert (tmp_path / "eval/results.json").is_file()


def test_trl_keeps_the_same_groups_with_the_same_advantages(trained, tiny_student, tmp_path):
    """Same rows, same completions: through `SRLTrainer` and its reward on one side, through verl on the other."""
    run, _, _ = trained
    chat = load_chat(resolve_model(str(tiny_student)))
    table = tables(run)[0]
    groups = groups_of(table)

    def ids_of(row):
        ids = chat.encode(row["completion"][0]["content"])
        return ids if row["format_error"] == "truncated" else [*ids, chat.end_ids[0]]

    waiting = {}
    for group in groups:
        waiting.setdefault(json.dumps(group[0]["prompt"]), []).extend(ids_of(row) for row in group)

    def rollout(prompts, trainer):
        completions = [waiting[json.dumps(prompt)].pop(0) for prompt in prompts]
        return {
            "prompt_ids": chat.prompt_ids(prompts),
            "completion_ids": completions,
            "logprobs": [[0.0] * len(ids) for ids in completions],
        }

    from datasets import Dataset

    rows = Dataset.from_list([{name: group[0][name] for name in ("prompt", "expert_action")} for group in groups])
    trainer = SRLTrainer(
        model=AutoModelForCausalLM.from_pretrained(resolve_model(str(tiny_student))),
        processing_class=AutoTokenizer.from_pretrained(resolve_model(str(tiny_student))),
        reward_funcs=step_similarity,
        rollout_func=rollout,
        train_dataset=rows,
        args=SRLConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=len(table),
            num_generations=4,
            max_completion_length=12,
            min_reward_std=MIN_REWARD_STD,
            max_refills=0,
            max_steps=1,
            learning_rate=0.0,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        ),
    )
    trainer.train()
    logs = trainer._logs
    seen = {}
    for prompt, completion, reward, advantage, kept in zip(
        logs["prompt"],
        logs["completion"],
        logs["extra"]["reward"],
        logs["advantages"],
        logs["extra"]["kept"],
        strict=True,
    ):
        text = completion if isinstance(completion, str) else completion[0]["content"]
        seen.setdefault(json.dumps(prompt), []).append((text, reward, advantage, kept))
    n_surplus = 0
    for group in groups:
        # A refill may draw a prompt again, so that several groups have it.
        trls_groups = [sorted(rows) for rows in groups_of(seen[json.dumps(group[0]["prompt"])])]
        verls = sorted((row["completion"][0]["content"], row["reward"], row["advantage"], row["kept"]) for row in group)
        assert [one[:2] for one in verls] in [[one[:2] for one in trls] for trls in trls_groups]
        trls = next(trls for trls in trls_groups if [one[:2] for one in trls] == [one[:2] for one in verls])
        if verls[0][3] == trls[0][3]:
            assert [one[2] for one in trls] == pytest.approx([one[2] for one in verls], abs=1e-6)
        elif verls[0][3]:  # filled a batch that was short
            assert [one[2] for one in verls] == [0.0] * 4
        else:  # informative, but the batch was full
            n_surplus += 1
    assert n_surplus == 0 or sum(group[0]["kept"] for group in groups) == 4


def test_filter_and_advantages_inside_verl_are_trls(verl_python, trained, tmp_path):
    """Groups near the threshold, and what verl's own GRPO would make of them."""
    from srl.training.dynamic_sampling import is_informative
    from srl.verl.scoring import advantages

    rng = random.Random(5)
    groups = [[rng.choice([-1.0, round(rng.random(), 3)]) for _ in range(4)] for _ in range(60)]
    groups += [[0.5, 0.5, 0.5, 0.5 + shift / 1000] for shift in range(0, 400, 5)]  # deviations from 0 to 0.17
    groups = torch.tensor(groups).tolist()  # as both engines have them: float32
    run, _, _ = trained
    export = run / "verl"
    prompts = [row["prompt"] for row in pyarrow.parquet.read_table(export / "train.parquet").to_pylist()]
    (export / "prompts.json").write_text(json.dumps(prompts))
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    command = [
        verl_python,
        ROOT / "tests/verl_cpu/parity.py",
        tmp_path / "groups.json",
        export,
        tmp_path / "found.json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())

    kept = [is_informative(group, MIN_REWARD_STD) for group in groups]
    assert 20 < sum(kept) < len(groups) - 20
    assert found["kept"] == kept
    for group, is_kept, ours, verls_own in zip(groups, kept, found["advantages"], found["of_verl"], strict=True):
        expected = advantages(torch.tensor(group), divide=True, min_reward_std=MIN_REWARD_STD).tolist()
        assert ours == pytest.approx(expected, abs=1e-6)
        if is_kept:  # what differs is the number added to the deviation, which docs/verl.md tells
            deviation = statistics.stdev(group)
            again = [value * (deviation + 1e-6) / (deviation + 1e-4) for value in verls_own]
            assert again == pytest.approx(ours, abs=1e-5)
    chat = load_chat(resolve_model(RunFolder(run).facts["starts_from"]))
    assert found["prompt_ids"] == chat.prompt_ids(prompts)


GPU_OPTIONS = """\
loss_type = "dapo"
scale_rewards = "none"
epsilon_high = 0.28
fsdp = true
use_vllm = true
vllm_gpu_memory_utilization = 0.6
vllm_tensor_parallel_size = 2
report_to = "tensorboard"
[verl.trainer]
n_gpus_per_node = 4
nnodes = 2
"""


def test_verl_knows_every_option_of_an_export_for_gpus(verl_python, tiny_student, tiny_data, tmp_path):
    """As far as that can be told without GPUs: verl composes its configuration, and its own check passes."""
    recipe = write_recipe(tmp_path / "gpus.toml", model=tiny_student, data=tiny_data, trl=GPU_OPTIONS)
    flags = ["--optim.per-device-train-batch-size", "2", "--optim.lr-scheduler-type", "cosine"]
    command = [sys.executable, "-m", "srl.cli", "export", "verl", recipe, "--out", tmp_path / "job", *flags]
    assert subprocess.run(command, capture_output=True).returncode == 0
    composed = subprocess.run(
        ["bash", tmp_path / "job/run.sh", "--cfg", "job"],
        env=os.environ | {"PYTHON": str(verl_python)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert composed.returncode == 0, composed.stderr[-2000:]
    (tmp_path / "config.yaml").write_text(composed.stdout)
    check = """
import sys
from omegaconf import OmegaConf
from verl.utils.config import validate_config
config = OmegaConf.load(sys.argv[1])
validate_config(config, use_reference_policy=False, use_critic=False)
actor = config.actor_rollout_ref.actor
print(actor.loss_agg_mode, actor.use_kl_loss, actor.clip_ratio_high, config.trainer.n_gpus_per_node, end="")
"""
    done = subprocess.run([verl_python, "-c", check, tmp_path / "config.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "token-mean False 0.28 4"


def test_an_option_that_verl_has_not_is_one_line(verl_python, tiny_student, tiny_data, tmp_path):
    trl = ON_CPU.format(workers=1) + '"data.shufle" = true\n'
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data, trl=trl)
    command = [sys.executable, "-m", "srl.cli", "train", recipe, "--engine", "verl", "--verl-python", verl_python]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert done.returncode == 2
    assert "[verl] `data.shufle`: verl 0.9.1 has no such option" in done.stderr
    assert done.stderr.count("\n") == 1


def test_two_workers_share_a_batch_also_if_it_could_not_be_filled(verl_python, tiny_student, tiny_data, tmp_path):
    trl = ON_CPU.format(workers=2)
    recipe = write_recipe(tmp_path / "two.toml", model=tiny_student, data=tiny_data, max_steps=1, trl=trl)
    flags = ["--rollout.min-reward-std", "0.15", "--rollout.temperature", "1.3", "--validation.eval-steps", "0"]
    _, n_rewards = train(recipe, verl_python, *flags, "--optim.per-device-train-batch-size", "8")
    run = recipe.with_suffix("")
    (line,) = metrics(run)
    (table,) = tables(run)
    assert n_rewards == len(table)
    trained_on = [group for group in groups_of(table) if any(row["advantage"] for row in group)]
    assert line["short_batch_groups"] == 4 - len(trained_on)
    assert line["refills"] >= 1 or line["short_batch_groups"] == 0
    before, after = weights(resolve_model(str(tiny_student))), weights(run / "model")  # nothing was held out: the last
    assert same(before, after) == (not trained_on)
    assert "generate_on_cpu_1" in (run / "verl/log.txt").read_text()  # a sampler for each worker
