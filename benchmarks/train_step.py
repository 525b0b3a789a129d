"""What a training step costs: SRLTrainer beside plain GRPOTrainer on the same rows, and the data path.

    python benchmarks/train_step.py            # about 5 minutes on 2 cores

"Unshared" is SRLTrainer with `share_prefix = "off"`: what dynamic sampling and its books cost by themselves.

Each trainer runs in its own process, several times in turn; ratios are of medians in this one run. Nothing
is dropped (`min_reward_std = 0` with a reward that always spreads), so both do the same work.
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, WARM_UP, REPEATS = 8, 2, 5
PROMPTS, GENERATIONS, LENGTH = 32, 8, 32


def main() -> None:
    """Run everything and print two tables."""
    with tempfile.TemporaryDirectory() as folder:
        from srl.study.tiny import write_model

        model = Path(folder) / "model"
        write_model(model)
        rounds = {"GRPOTrainer": [], "unshared": [], "SRLTrainer": []}
        for _ in range(REPEATS):
            for name, results in rounds.items():
                results.append(run("step", name, str(model)))
        print_steps(rounds)
        print_data_path([run("data", str(n)) for n in (1_000, 10_000, 100_000)])


def run(*arguments: str) -> dict:
    """This script in a fresh process, for its own peak memory."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "CI": "1"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure_step(name: str, model: str) -> dict:
    """Seconds per step and their parts, for one trainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from srl.data.steps import step_instances
    from srl.study.tiny import random_problem, solve
    from srl.training.trainer import SRLConfig, SRLTrainer

    rng = random.Random(0)
    instances = [
        i for _ in range(200) for i in step_instances(solve(random_problem(rng)), targets="all", system_prompt="")
    ]
    rows = Dataset.from_list([{"prompt": list(i.prompt), "expert_action": i.expert_action} for i in instances])
    seconds: dict[str, float] = {"generation": 0.0, "log-probs": 0.0, "backward": 0.0, "reward": 0.0}

    def timed(part, function):
        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[part] += time.perf_counter() - start

        return wrapper

    def reward(completions, expert_action, **_):
        # Spreads within every group whatever the model writes, so that no group is ever dropped.
        return [(i % GENERATIONS) / GENERATIONS for i in range(len(completions))]

    config, cls = (GRPOConfig, GRPOTrainer) if name == "GRPOTrainer" else (SRLConfig, SRLTrainer)
    sharing = {"share_prefix": "off"} if name == "unshared" else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = cls(
            model=AutoModelForCausalLM.from_pretrained(model),
            processing_class=AutoTokenizer.from_pretrained(model),
            reward_funcs=timed("reward", reward),
            train_dataset=rows,
            args=config(
                output_dir=folder,
                per_device_train_batch_size=PROMPTS * GENERATIONS,
                num_generations=GENERATIONS,
                max_completion_length=LENGTH,
                max_steps=WARM_UP + STEPS,
                loss_type="grpo",
                log_completions=True,
                num_completions_to_print=0,
                logging_steps=1,
                save_strategy="no",
                bf16=False,
                gradient_checkpointing=False,
                dataloader_pin_memory=False,
                report_to="none",
                disable_tqdm=True,
                **sharing,
            ),
        )
        marks = []
        trainer._generate_single_turn = timed("generation", trainer._generate_single_turn)
        trainer._get_per_token_logps_and_entropies = timed("log-probs", trainer._get_per_token_logps_and_entropies)
        trainer.accelerator.backward = timed("backward", trainer.accelerator.backward)
        log = trainer.log

        def mark(*args, **kwargs):
            log(*args, **kwargs)
            marks.append((time.perf_counter(), time.process_time(), dict(seconds)))

        trainer.log = mark
        torch.manual_seed(0)
        trainer.train()
    (start, cpu_start, before), (end, cpu_end, after) = marks[WARM_UP - 1], marks[WARM_UP + STEPS - 1]
    parts = {part: (after[part] - before[part]) / STEPS for part in seconds}
    total = (end - start) / STEPS
    return {
        "total": total,
        **parts,
        "rest": total - sum(parts.values()),
        "samples per CPU-second": PROMPTS * GENERATIONS * STEPS / (cpu_end - cpu_start),
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def print_steps(rounds: dict[str, list[dict]]) -> None:
    """Medians per trainer, and the ratio with the spread of the paired runs."""
    print(f"\none step: {PROMPTS} prompts x {GENERATIONS} completions of {LENGTH} tokens; medians of {REPEATS} runs\n")
    columns = list(rounds["SRLTrainer"][0])
    print(f"| {'trainer':<12} | " + " | ".join(f"{c + (' s' if c in columns[:6] else '')}" for c in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, results in rounds.items():
        print(
            f"| {name:<12} | " + " | ".join(f"{statistics.median(r[c] for r in results):.3g}" for c in columns) + " |"
        )
    for name in ("unshared", "SRLTrainer"):
        ratios = sorted(s["total"] / g["total"] for s, g in zip(rounds[name], rounds["GRPOTrainer"], strict=True))
        median = statistics.median(ratios)
        print(f"\n{name} / GRPOTrainer, run by run: median {median:.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}")


def measure_data(n_instances: int) -> dict:
    """Build and stream so many step instances; peak memory of the process."""
    import datasets

    from srl.data.formats.native import native_row
    from srl.data.prepare import StepOptions, prepare
    from srl.data.sources import Source
    from srl.files import write_jsonl
    from srl.study.tiny import bad_habit, random_problem, solve

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        rng = random.Random(0)
        trajectories = (solve(random_problem(rng, 10), bad_habit(rng, 0.0)) for _ in range(n_instances // 10))
        rows = ({**native_row(t), "answer": None} for t in trajectories)
        write_jsonl(Path(folder) / "t.jsonl", rows)
        imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        options = StepOptions(targets="all", hold_out=0)
        report = prepare(Source(Path(folder) / "t.jsonl"), Path(folder) / "out", options)
        built = time.perf_counter() - start
        after_build = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rows = datasets.Dataset.from_json(str(Path(folder) / "out/train.steps.jsonl"), cache_dir=folder)
        start = time.perf_counter()
        streamed = sum(1 for _ in rows)
        seconds = time.perf_counter() - start
        size = (Path(folder) / "out/train.steps.jsonl").stat().st_size / 2**20
        assert streamed == sum(report.instances.values())
    return {
        "instances": streamed,
        "file MiB": size,
        "built per second": streamed / built,
        "MiB grown while building": (after_build - imported) / 1024,
        "streamed per second": streamed / seconds,
        "MiB grown in all": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - imported) / 1024,
    }


def print_data_path(results: list[dict]) -> None:
    """One line per size: the memory must not follow the number of instances."""
    print("\ndata path: `srl steps`, then every row read back as training reads it (memory-mapped)\n")
    print("| " + " | ".join(results[0]) + " |")
    print("|---" * len(results[0]) + "|")
    for result in results:
        print("| " + " | ".join(f"{value:,.0f}" for value in result.values()) + " |")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        measure = {"step": measure_step, "data": lambda n: measure_data(int(n))}[sys.argv[1]]
        print(json.dumps(measure(*sys.argv[2:])))
