"""What shared prefixes save: forward and backward of one trajectory's rollouts, TRL's padded rows beside ours.

    python benchmarks/trunk.py                  # the table and its bars; about 30 minutes on one core
    python benchmarks/trunk.py --curve          # also docs/trunk.png: cost against length and steps; 25 more

A random Qwen2 (6 layers, 256 wide, vocabulary 4096, float32) and random tokens; the same weights and rollouts
for every variant. Each variant runs in its own process, on one thread, and reports CPU time and the memory
that it added to the loaded model; variants whose times are close run three times in turn, and the fastest counts.
glibc is told to give freed blocks of over 1 MiB back, so that memory is what was in use at once. All go through the
trainer's method that TRL's loss calls:

    padded      plain TRL 1.16: micro-batches of 8 shuffled rows, padded to the longest prompt
    rows        the same, the 8 rows of one prompt at a time: no padding
    prompt      ours, shared among the samples of a prompt
    trajectory  ours, shared across the steps too, the whole trajectory in one pass (where nothing is shared, TRL's)
    halves      the same in two passes, for memory
    floor       a forward and backward pass over as many tokens as are unique, plus the needed attention pairs
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
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """A trajectory: its longest prompt, steps, samples, tokens per completion, shortest prompt."""

    trunk: int
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
VARIANTS = ("padded", "rows", "prompt", "trajectory", "floor")
CLOSE, ROUNDS = ("rows", "prompt", "trajectory"), 3
MICRO_BATCH = 8  # TRL's default
BARS = [
    ("math", "padded", "trajectory", 4.0),
    ("swe", "padded", "trajectory", 40.0),
    ("swe", "padded", "halves", 40.0),
    ("math", "rows", "trajectory", 2.3),
    ("swe", "rows", "trajectory", 11.0),
    ("swe", "prompt", "trajectory", 2.0),
]


def main() -> None:
    """Run every variant of every shape, then print the table and the bars."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--variants", nargs="*", default=[*VARIANTS, "halves"])
    arguments = parser.parse_args()
    found = {}
    for shape in arguments.shapes:
        for round in range(1 if shape == "swe" else ROUNDS):
            for variant in arguments.variants:
                if (round == 0 or variant in CLOSE) and (variant != "halves" or shape == "swe"):
                    result = run(SHAPES[shape], variant)
                    print(f"{shape}, {variant}: {result}", file=sys.stderr, flush=True)
                    best = found.setdefault((shape, variant), result)
                    best["seconds"] = min(best["seconds"], result["seconds"])
    if found:
        print_table(found)
        print_bars(found)
    if arguments.curve:
        draw_curve()


def run(shape: Shape, variant: str) -> dict:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--measure", json.dumps([*vars(shape).values()]), variant]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "CI": "1"}
    environment["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


# --- one variant, in its own process ----------------------------------------------------------------


def rollouts(shape: Shape) -> tuple[list, list[int]]:
    """Rows and prompt lengths: prompts that grow step by step, each ending with a short stem of its own."""
    import numpy as np

    rng = np.random.default_rng(0)
    body, stem = rng.integers(10, 4096, shape.trunk), rng.integers(10, 4096, shape.stem)
    rows, lengths = [], []
    for end in np.linspace(shape.problem, shape.trunk, shape.steps).round().astype(int):
        # Without a problem in common (problem = 0), every step has a prompt of its own.
        start = body[:end] if shape.problem else rng.integers(10, 4096, shape.trunk)
        prompt = np.concatenate([start, stem])
        for _ in range(shape.samples):
            rows.append(np.concatenate([prompt, rng.integers(10, 4096, shape.completion)]))
            lengths.append(len(prompt))
    return rows, lengths


def bench_trainer(share_prefix: str, folder: str):
    """A trainer on the model of this benchmark."""
    import torch
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from srl.tiny import build_tokenizer
    from srl.trunk.trainer import SharedPrefixConfig, SharedPrefixTrainer

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
    return SharedPrefixTrainer(
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


def padded_batch(rows, lengths, longest: int) -> tuple:
    """Ids and mask as TRL has them: prompts padded on the left, completions on the right."""
    import torch

    n_columns = max(len(row) - length for row, length in zip(rows, lengths, strict=True))
    ids = torch.zeros(len(rows), longest + n_columns, dtype=torch.long)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids[i, longest - length : longest - length + len(row)] = torch.from_numpy(row)
    return ids, (ids > 0).long(), n_columns


def measure(shape: Shape, variant: str) -> dict:
    """CPU seconds of one forward and backward pass over all rows, and the memory that the first one adds, in MB."""
    import numpy as np
    import torch

    from srl.trunk.plan import cheapest

    torch.set_num_threads(1)
    rows, lengths = rollouts(shape)
    ours = variant in ("prompt", "trajectory", "halves", "floor")
    with tempfile.TemporaryDirectory() as folder:
        trainer = bench_trainer(("prompt" if variant == "prompt" else "trajectory") if ours else "off", folder)
        model = trainer.model.train()
        if variant == "floor":
            return {"seconds": floor(trainer, rows, lengths)}
        batches, part = micro_batches(shape, variant, len(rows))
        weights = torch.from_numpy(np.random.default_rng(1).normal(size=len(rows))).float()

        def step() -> None:
            for batch in batches:
                longest = max(lengths) if variant == "padded" else max(lengths[i] for i in batch)
                ids, mask, n_columns = padded_batch([rows[i] for i in batch], [lengths[i] for i in batch], longest)
                logps, _, _ = trainer._get_per_token_logps_and_entropies(
                    model, ids, mask, n_columns, compute_entropy=True
                )
                (logps.mean(1) * weights[batch]).sum().backward()

        # Kernels, allocator and the trainer's own check of packs warm up on a few tokens.
        ids, mask, n_columns = padded_batch(rows[:2], [len(row) - 8 for row in rows[:2]], len(rows[0]))
        ids, mask = ids[:, -40:], mask[:, -40:]
        trainer._get_per_token_logps_and_entropies(model, ids, mask, n_columns)[0].sum().backward()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = fastest(step)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = {"seconds": seconds / part, "peak_mb": (peak - before) / 1024, "measured_part": part}
        if variant in CLOSE[1:]:
            size = trainer._model_size
            result["packing"] = fastest(lambda: cheapest(rows, lengths, variant, size))
    return result


def fastest(work) -> float:
    """CPU seconds of the fastest of a few runs."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < 10:
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def micro_batches(shape: Shape, variant: str, n_rows: int) -> tuple[list[list[int]], float]:
    """Which rows go into each pass, and which part of all rows these are (the rest is extrapolated)."""
    import random

    if variant == "padded":  # all its micro-batches have the same shape
        shuffled = random.Random(0).sample(range(n_rows), n_rows)
        batches = [shuffled[i : i + MICRO_BATCH] for i in range(0, n_rows, MICRO_BATCH)]
        few = batches[:1] if shape.trunk >= 2000 else batches
    elif variant == "rows":  # every fifth step, from the third: their mean length is that of all
        size = max(shape.samples, MICRO_BATCH if shape.samples == 1 else 0)
        batches = [list(range(n_rows))[i : i + size] for i in range(0, n_rows, size)]
        few = batches[2::5] if shape.trunk >= 2000 else batches
    elif variant == "halves":
        few = batches = [list(range(n_rows // 2)), list(range(n_rows // 2, n_rows))]
    elif shape.problem:
        few = batches = [list(range(n_rows))]
    else:  # nothing to gain from a longer pass: TRL's
        few = batches = [list(range(i, i + MICRO_BATCH)) for i in range(0, n_rows, MICRO_BATCH)]
    return few, sum(map(len, few)) / n_rows


def floor(trainer, rows, lengths) -> float:
    """CPU seconds of what no packing can avoid: each unique token once, each needed pair once."""
    import numpy as np
    import torch

    from srl.trunk.kernels import CPU
    from srl.trunk.packing import pack

    (needed,) = pack(rows, lengths)
    n_tokens, size = needed.plan.n_places, 128
    short = [np.random.default_rng(i).integers(10, 4096, size + 1) for i in range(n_tokens // size)]
    (chains,) = pack(short, [1] * len(short), "rows")

    def tokens() -> None:
        ids, mask, n_columns = padded_batch(short, [1] * len(short), 1)
        logps, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, n_columns, compute_entropy=True
        )
        logps.sum().backward()

    q, k, v = (torch.randn(1, heads, 1000, 32) for heads in (8, 2, 2))

    def pairs() -> None:
        out, lse = CPU.forward(q, k, v, False, 0.2)
        CPU.backward(out, q, k, v, out, lse, False, 0.2)

    tokens()
    per_pair = fastest(pairs) / 1e6
    return fastest(tokens) * n_tokens / chains.plan.n_places + 6 * per_pair * (
        needed.plan.n_pairs - chains.plan.n_pairs
    )


# --- what is printed ----------------------------------------------------------------------------------


def print_table(found: dict) -> None:
    """CPU seconds and peak memory, a row per shape."""
    variants = list(dict.fromkeys(variant for _, variant in found))
    print("\n| shape | " + " | ".join(variants) + " |")
    print("|---" * (len(variants) + 1) + "|")
    for shape in dict.fromkeys(shape for shape, _ in found):
        print(f"| {shape} | " + " | ".join(cell(found.get((shape, variant))) for variant in variants) + " |")
    print("\n* extrapolated from a part of the rows (see `micro_batches`)")


def cell(result: dict | None) -> str:
    """E.g. `33.4 s, 1504 MB`."""
    if result is None:
        return ""
    star = "*" if result.get("measured_part", 1) < 1 else ""
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
        others = [seconds for variant, seconds in results.items() if variant not in ("trajectory", "floor")]
        if "trajectory" in results and others:
            line(
                f"{shape}: trajectory / best of the others, time",
                1.03,
                results["trajectory"] / min(others),
                at_least=False,
            )
        if "trajectory" in results and "floor" in results:
            line(f"{shape}: trajectory / floor, time", 1.3, results["trajectory"] / results["floor"], at_least=False)
        if "trajectory" in results:
            packing = found[shape, "trajectory"]["packing"] / results["trajectory"]
            line(f"{shape}: packing / all of trajectory, time", 0.02, packing, at_least=False)
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
    """docs/trunk.png: CPU seconds per trajectory against its length and against its number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axes, (label, points) in zip(panels, CURVES.items(), strict=True):
        across = [trunk if "tokens of" in label else steps for trunk, steps in points]
        for variant, name in LABELS.items():
            shapes = [Shape(trunk, steps, 8, 100, 200) for trunk, steps in points]
            seconds = [run(shape, variant)["seconds"] for shape in shapes[: 5 if variant == "trajectory" else 3]]
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
    figure.savefig(Path(__file__).parent.parent / "docs/trunk.png", dpi=150)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Shape(*json.loads(sys.argv[2])), sys.argv[3])))
    else:
        main()
