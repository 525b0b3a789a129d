"""What shared prefixes save: forward and backward of one trajectory's rollouts, TRL's padded rows beside ours.

    python benchmarks/shared_prefix.py                  # the table and its bars; about 30 minutes on one core
    python benchmarks/shared_prefix.py --curve   # also docs/shared_prefix.png: cost against length and steps; 20 more

A random Qwen2 (6 layers, 256 wide, vocabulary 4096, float32) and random tokens; the same weights and rollouts
for every variant. All go through the trainer's method that TRL's loss calls:

    padded      plain TRL 1.16: micro-batches of 8 shuffled rows, padded to the longest prompt
    rows        the same, the 8 rows of one prompt at a time: no padding
    prompt      ours, shared among the samples of a prompt
    trajectory  ours, shared across the steps too, the whole trajectory in one pass (where nothing is shared, TRL's)
    halves      the same in two passes, for memory
    floor       a forward and backward pass over as many tokens as are unique, plus the needed attention pairs

Times are CPU seconds on one thread: the variants of a shape take turns in one process, and the fastest turn of each
counts. glibc is told to keep what is freed, so that no turn pays for fresh pages. Memory is what the heaviest pass adds
to a process of its own, where glibc gives back what is freed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """A trajectory: its longest prompt, steps, samples, tokens per completion, shortest prompt."""

    trajectory: int
    steps: int
    samples: int
    completion: int
    problem: int
    stem: int = 5


SHAPES = {
    "math": Shape(600, 6, 8, 150, 100),
    "swe": Shape(4000, 20, 8, 100, 200),
    "long completions": Shape(600, 6, 8, 500, 100),
    "short prompts": Shape(60, 3, 8, 300, 30),
    "nothing shared": Shape(200, 16, 1, 200, 0),
}
SHARING = {"padded": "off", "rows": "off", "prompt": "prompt", "trajectory": "trajectory", "halves": "trajectory"}
VARIANTS = (*SHARING, "floor")
MICRO_BATCH = 8  # TRL's default
MOST_TURNS = 8
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_TOP_PAD_": str(2**26)}
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
BARS = [
    ("math", "padded", "trajectory", 4.0),
    ("swe", "padded", "trajectory", 40.0),
    ("swe", "padded", "halves", 40.0),
    ("math", "rows", "trajectory", 2.3),
    ("swe", "rows", "trajectory", 11.0),
    ("swe", "rows", "halves", 11.0),
    ("swe", "prompt", "trajectory", 2.0),
    ("swe", "prompt", "halves", 2.0),
]


def main() -> None:
    """Run every variant of every shape, then print the table and the bars."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    arguments = parser.parse_args()
    found = {}
    for name in arguments.shapes:
        shape = SHAPES[name]
        variants = [variant for variant in VARIANTS if variant != "halves" or name == "swe"]
        for variant, seconds in run("times", shape, variants).items():
            found[name, variant] = {"seconds": seconds, "in_part": is_in_part(shape, variant)}
            if variant in SHARING:
                found[name, variant]["peak_mb"] = run("memory", shape, variant)
            print(f"{name}, {variant}: {found[name, variant]}", file=sys.stderr, flush=True)
        found[name, "trajectory"]["packing"] = run("packing", shape)
    if found:
        print_table(found)
        print_bars(found)
    if arguments.curve:
        draw_curve()


def run(what: str, shape: Shape, *details) -> dict | float:
    """A measurement in a fresh process."""
    command = [sys.executable, __file__, "--measure", what, json.dumps([*vars(shape).values()]), json.dumps(details)]
    malloc = RETURN_MEMORY if what == "memory" else KEEP_MEMORY
    environment = {**os.environ, **malloc, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "CI": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


# --- in a process of its own --------------------------------------------------------------------------


def rollouts(shape: Shape) -> tuple[list, list[int]]:
    """Rows and prompt lengths: prompts that grow step by step, each ending with a short stem of its own."""
    import numpy as np

    rng = np.random.default_rng(0)
    body, stem = rng.integers(10, 4096, shape.trajectory), rng.integers(10, 4096, shape.stem)
    rows, lengths = [], []
    for end in np.linspace(shape.problem, shape.trajectory, shape.steps).round().astype(int):
        # Without a problem in common (problem = 0), every step has a prompt of its own.
        start = body[:end] if shape.problem else rng.integers(10, 4096, shape.trajectory)
        prompt = np.concatenate([start, stem])
        for _ in range(shape.samples):
            rows.append(np.concatenate([prompt, rng.integers(10, 4096, shape.completion)]))
            lengths.append(len(prompt))
    return rows, lengths


def bench_trainer(share_prefix: str):
    """A trainer on the model of this benchmark, warmed up: kernels, allocator and the trainer's own check of packs."""
    import torch
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from srl.shared_prefix.trainer import SharedPrefixConfig, SharedPrefixTrainer
    from srl.study.tiny import build_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=4096,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = SharedPrefixTrainer(
            model=Qwen2ForCausalLM(config),
            processing_class=build_tokenizer(),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            train_dataset=Dataset.from_list([{"prompt": "x"}]),
            args=SharedPrefixConfig(
                output_dir=folder,
                share_prefix=share_prefix,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
            ),
        )
    trainer.model.train()
    rows, lengths = rollouts(Shape(20, 2, 2, 8, 10))
    forward_backward(trainer, rows, lengths, max(lengths))
    return trainer


def forward_backward(trainer, rows, lengths, longest: int) -> None:
    """One pass; every row weighs differently, as with advantages."""
    import torch

    ids, mask, n_columns = padded_batch(rows, lengths, longest)
    logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, n_columns, compute_entropy=True)
    (logps.mean(1) * torch.linspace(-1, 1, len(rows))).sum().backward()


def padded_batch(rows, lengths, longest: int) -> tuple:
    """Ids and mask as TRL has them: prompts padded on the left, completions on the right."""
    import torch

    n_columns = max(len(row) - length for row, length in zip(rows, lengths, strict=True))
    ids = torch.zeros(len(rows), longest + n_columns, dtype=torch.long)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids[i, longest - length : longest - length + len(row)] = torch.from_numpy(row)
    return ids, (ids > 0).long(), n_columns


def passes(shape: Shape, variant: str) -> list[list[int]]:
    """Which rows go into each forward and backward pass; the last one is the heaviest."""
    import random

    n_rows = shape.steps * shape.samples
    every = list(range(n_rows))
    if variant == "padded":
        every = random.Random(0).sample(every, n_rows)
    whole = variant in ("prompt", "trajectory") and shape.problem  # without one, nothing is gained by longer passes
    size = n_rows if whole else n_rows // 2 if variant == "halves" else MICRO_BATCH
    return [every[start : start + size] for start in range(0, n_rows, size)]


def run_pass(trainer, variant: str, rows, lengths, batch: list[int]) -> None:
    """One of `passes`, forward and backward."""
    longest = max(lengths) if variant == "padded" else max(lengths[i] for i in batch)
    forward_backward(trainer, [rows[i] for i in batch], [lengths[i] for i in batch], longest)


def is_in_part(shape: Shape, variant: str) -> bool:
    """Whether only a part of the passes is timed, and the rest extrapolated."""
    return variant in ("padded", "rows") and shape.trajectory >= 2000 and shape.steps >= 10


def times(shape: Shape, variants: list[str], enough_seconds: float = 60) -> dict[str, float]:
    """CPU seconds of the fastest turn of each variant; no more turns after so many seconds of them."""
    turns: dict[str, tuple[Callable[[], None], float, float]] = {}
    sharing = {variant: SHARING.get(variant, "trajectory") for variant in variants}
    trainers = {each: bench_trainer(each) for each in dict.fromkeys(sharing.values())}
    for variant in variants:
        trainer = trainers[sharing[variant]]
        turns[variant] = floor(trainer, shape) if variant == "floor" else variant_turn(trainer, shape, variant)
    taken: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(MOST_TURNS):
        for variant, (work, _, _) in turns.items():
            if sum(taken[variant]) < enough_seconds:
                taken[variant].append(cpu_seconds(work))
    return {variant: min(taken[variant]) * factor + rest for variant, (_, factor, rest) in turns.items()}


def cpu_seconds(work: Callable[[], None]) -> float:
    """Of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def variant_turn(trainer, shape: Shape, variant: str) -> tuple[Callable[[], None], float, float]:
    """What a turn does, and factor and summand that make its time that of all rows."""
    rows, lengths = rollouts(shape)
    batches = passes(shape, variant)
    few = batches
    if is_in_part(shape, variant):
        # Padded passes are all alike; of steps every fifth, whose mean length is that of all.
        few = batches[:1] if variant == "padded" else batches[2::5]

    def turn() -> None:
        for batch in few:
            run_pass(trainer, variant, rows, lengths, batch)

    return turn, len(batches) / len(few), 0.0


def floor(trainer, shape: Shape) -> tuple[Callable[[], None], float, float]:
    """What no packing can avoid: each unique token once, each needed pair once."""
    import numpy as np
    import torch

    from srl.shared_prefix.kernels import CPU
    from srl.shared_prefix.packing import pack

    (needed,) = pack(*rollouts(shape))
    n_tokens, size = needed.plan.n_places, 128
    short = [np.random.default_rng(i).integers(10, 4096, size + 1) for i in range(n_tokens // size)]
    (chains,) = pack(short, [1] * len(short), "rows")
    q, k, v = (torch.randn(1, heads, 1000, 32) for heads in (8, 2, 2))

    def million_pairs() -> None:
        out, lse = CPU.forward(q, k, v, False, 0.2)
        CPU.backward(out, q, k, v, out, lse, False, 0.2)

    pairs = 6 * min(cpu_seconds(million_pairs) for _ in range(20)) * (needed.plan.n_pairs - chains.plan.n_pairs) / 1e6
    return lambda: forward_backward(trainer, short, [1] * len(short), 1), n_tokens / chains.plan.n_places, pairs


def memory(shape: Shape, variant: str) -> float:
    """MB that the heaviest pass adds."""
    trainer = bench_trainer(SHARING[variant])
    rows, lengths = rollouts(shape)
    heaviest = passes(shape, variant)[-1]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run_pass(trainer, variant, rows, lengths, heaviest)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def packing(shape: Shape) -> float:
    """CPU seconds that it takes to pack all rows in the cheapest way."""
    from srl.shared_prefix.cost import cheapest

    size, batch = bench_trainer("trajectory")._model_size, rollouts(shape)
    return min(cpu_seconds(lambda: cheapest(*batch, "trajectory", size)) for _ in range(5))


# --- what is printed ----------------------------------------------------------------------------------


def print_table(found: dict) -> None:
    """CPU seconds and peak memory, a row per shape."""
    variants = [variant for variant in VARIANTS if any(variant == v for _, v in found)]
    print("\n| shape | " + " | ".join(variants) + " |")
    print("|---" * (len(variants) + 1) + "|")
    for shape in dict.fromkeys(shape for shape, _ in found):
        print(f"| {shape} | " + " | ".join(cell(found.get((shape, variant))) for variant in variants) + " |")
    print("\n* extrapolated from a part of the rows (see `variant_turn`)")


def cell(result: dict | None) -> str:
    """E.g. `33.4 s, 1504 MB`."""
    if result is None:
        return ""
    star = "*" if result["in_part"] else ""
    return f"{result['seconds']:.1f} s{star}" + (f", {result['peak_mb']:.0f} MB" if "peak_mb" in result else "")


def print_bars(found: dict) -> None:
    """Required and measured ratios."""
    print("\n| bar | required | measured | |\n|---|---|---|---|")

    def line(name: str, required: float, measured: float, *, at_least: bool) -> None:
        met = measured >= required if at_least else measured <= required
        sign = "≥" if at_least else "≤"
        print(f"| {name} | {sign} {required:g} | {measured:.3g} | {'met' if met else 'MISSED'} |")

    for shape, slow, fast, required in BARS:
        if (shape, slow) in found and (shape, fast) in found:
            ratio = found[shape, slow]["seconds"] / found[shape, fast]["seconds"]
            line(f"{shape}: {slow} / {fast}, time", required, ratio, at_least=True)
    for shape in dict.fromkeys(shape for shape, _ in found):
        results = {variant: found[shape, variant]["seconds"] for variant in VARIANTS if (shape, variant) in found}
        ours, best = results["trajectory"], min(results[variant] for variant in ("padded", "rows", "prompt"))
        line(f"{shape}: trajectory / best of the others, time", 1.03, ours / best, at_least=False)
        for variant in [variant for variant in ("trajectory", "halves") if variant in results]:
            line(f"{shape}: {variant} / floor, time", 1.3, results[variant] / results["floor"], at_least=False)
        share = found[shape, "trajectory"]["packing"] / ours
        line(f"{shape}: packing / all of trajectory, time", 0.02, share, at_least=False)
    for variant in ("trajectory", "halves"):
        if ("swe", "padded") in found and ("swe", variant) in found:
            share = found["swe", variant]["peak_mb"] / found["swe", "padded"]["peak_mb"]
            line(f"swe: {variant} / padded, peak memory", 0.4, share, at_least=False)


CURVES = {  # longest prompt, steps; the slow variants up to the third point
    "tokens of the longest prompt, a step for every 200": [(500, 2), (1000, 5), (2000, 10), (4000, 20), (8000, 40)],
    "steps, longest prompt 2,000 tokens": [(2000, 2), (2000, 5), (2000, 10), (2000, 20), (2000, 40)],
}
LABELS = {
    "padded": "TRL 1.16, padded rows",
    "rows": "rows without padding",
    "prompt": "shared per prompt",
    "trajectory": "shared across the trajectory",
}


def draw_curve() -> None:
    """docs/shared_prefix.png: CPU seconds per trajectory against its length and against its number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axes, (label, points) in zip(panels, CURVES.items(), strict=True):
        across = [length if "tokens of" in label else steps for length, steps in points]
        for variant, name in LABELS.items():
            shapes = [Shape(length, steps, 8, 100, 200) for length, steps in points]
            shapes = shapes if variant == "trajectory" else shapes[:3]
            seconds = [run("times", shape, [variant], 15)[variant] for shape in shapes]
            print(f"curve, {label}, {variant}: {seconds}", file=sys.stderr, flush=True)
            axes.plot(across[: len(seconds)], seconds, marker="o", label=name)
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.set_xticks(across, [f"{x:,}" for x in across])
        axes.xaxis.set_minor_locator(plt.NullLocator())
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("CPU seconds, forward and backward")
    panels[0].legend()
    figure.suptitle("One trajectory, 8 samples of 100 tokens per step", fontsize=10)
    figure.tight_layout()
    figure.savefig(Path(__file__).parent.parent / "docs/shared_prefix.png", dpi=150)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measurement = {"times": times, "memory": memory, "packing": packing}[sys.argv[2]]
        print(json.dumps(measurement(Shape(*json.loads(sys.argv[3])), *json.loads(sys.argv[4]))))
    else:
        main()
