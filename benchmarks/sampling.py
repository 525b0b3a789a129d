"""Sampling for a trajectory's steps: shared keys beside `generate`, in tokens per CPU second, on one thread.

    python benchmarks/sampling.py            # about 6 minutes

A Qwen2 with random weights (6 layers, 256 wide, 8 heads, 2 key heads, 4,096 tokens) samples 8 completions for each
step of one trajectory. `generate` is what TRL 1.16 calls: all rows padded to the longest prompt. "per prompt" is the
best that transformers offers: each prompt computed once, its cache repeated 8 times, no padding. Every variant runs
in a process of its own; what would take too long runs in part and is extrapolated, marked with *. Ours is the median
of three runs. Peak memory is what the process grew by over the loaded model.
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

GENERATIONS, VOCABULARY, LAYERS, KEY_HEADS, HEAD_SIZE = 8, 4096, 6, 2, 32
REPEATS = 3


class Shape(NamedTuple):
    """A trajectory, and the parts of it that the slow variants run."""

    trajectory: int
    steps: int
    first_prompt: int
    completion: int
    padded_rows: int
    padded_tokens: int
    separate_steps: slice
    bar: float


SHAPES = {
    "math": Shape(600, 6, 100, 150, padded_rows=48, padded_tokens=150, separate_steps=slice(None), bar=4),
    "swe": Shape(4000, 20, 200, 100, padded_rows=8, padded_tokens=12, separate_steps=slice(2, None, 5), bar=40),
}
BAR_PER_PROMPT = 5
"""At the SWE shape: how many times faster than a prefill per prompt."""


def main() -> None:
    """Run everything, print a table and the bars."""
    for name, shape in SHAPES.items():
        runs = [run(name, "shared") for _ in range(REPEATS)]
        shared = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        report(name, shape, {"shared": shared, "per prompt": run(name, "separate"), "generate": run(name, "padded")})


def report(name: str, shape: Shape, rows: dict[str, dict]) -> None:
    """One shape's table and bars."""
    print(
        f"\n{name}: trajectory of {shape.trajectory} tokens, {shape.steps} steps x {GENERATIONS} completions of "
        f"{shape.completion}\n"
    )
    print("| sampling | tokens per CPU s | prefill, CPU s | decoding, CPU s | keys and values, MiB | peak, MiB |")
    print("|---" * 6 + "|")
    for variant, r in rows.items():
        star, note = ("*", " for the part") if r["part"] < 1 else ("", "")
        numbers = f"{r['speed']:,.0f} | {r['prefill']:.1f} | {r['decode']:.1f} | {r['cache']:,.0f} | {r['grown']:,.0f}"
        print(f"| {variant}{star} | {numbers}{note} |")
    print()
    bars = {"generate": shape.bar, "per prompt": BAR_PER_PROMPT if name == "swe" else None}
    for variant, bar in bars.items():
        speedup = rows["shared"]["speed"] / rows[variant]["speed"]
        verdict = f" (bar {bar:g}: {'met' if speedup >= bar else 'MISSED'})" if bar else ""
        print(f"{speedup:.1f} times as fast as {variant}{verdict}")


def run(shape: str, variant: str) -> dict:
    """This script in a fresh process, for its own peak memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    command = [sys.executable, __file__, shape, variant]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def measure(shape: Shape, variant: str) -> dict:
    """CPU seconds of one variant for the whole shape, and memory."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=8 * HEAD_SIZE,
        intermediate_size=704,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=KEY_HEADS,
        initializer_range=0.08,
        tie_word_embeddings=False,
        # No end of sequence: every completion takes its full length.
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
    )
    model = Qwen2ForCausalLM(config).eval()
    before = resident()
    prefill, decode, part = {"shared": shared, "separate": separate, "padded": padded}[variant](model, shape)
    prompts = trajectory(shape)
    n_tokens = len(prompts) * GENERATIONS * shape.completion
    cached = {
        "shared": shape.trajectory + n_tokens,
        "separate": GENERATIONS * (max(map(len, prompts)) + shape.completion),
        "padded": len(prompts) * GENERATIONS * (max(map(len, prompts)) + shape.completion),
    }
    return {
        "speed": n_tokens / (prefill + decode),
        "prefill": prefill,
        "decode": decode,
        "part": part,
        "cache": cached[variant] * LAYERS * 2 * KEY_HEADS * HEAD_SIZE * 4 / 2**20,
        "grown": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before,
    }


def resident() -> float:
    """MiB of memory in use now; where the system says so, the peak is forgotten too."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def trajectory(shape: Shape) -> list[list[int]]:
    """The prompts of its steps: longer and longer beginnings of one text, each with the opening of a turn."""
    rng = random.Random(0)
    text, opening = ([rng.randrange(3, VOCABULARY) for _ in range(n)] for n in (shape.trajectory, 5))
    growth = (shape.trajectory - shape.first_prompt) / (shape.steps - 1)
    return [text[: round(shape.first_prompt + growth * step)] + opening for step in range(shape.steps)]


def shared(model, shape: Shape) -> tuple[float, float, float]:
    """Ours. The prefill is timed by itself, with a completion of one token."""
    from srl.shared_prefix.sampler import SamplingOptions, sample_completions

    seconds = []
    for n_tokens in (1, shape.completion):
        start = time.process_time()
        options = SamplingOptions(max_new_tokens=n_tokens)
        completions, _ = sample_completions(model, trajectory(shape), options, num_generations=GENERATIONS, seed=0)
        seconds.append(time.process_time() - start)
        assert {len(ids) for ids in completions} == {n_tokens}
    return seconds[0], seconds[1] - seconds[0], 1


def padded(model, shape: Shape) -> tuple[float, float, float]:
    """TRL's way; of the rows some, chosen at random, of the tokens the first: every one costs the same."""
    import torch

    prompts = [prompt for prompt in trajectory(shape) for _ in range(GENERATIONS)]
    length = max(map(len, prompts))
    chosen = random.Random(0).sample(prompts, shape.padded_rows)
    ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in chosen])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in chosen])
    prefill, decode = timed_generate(model, shape.padded_tokens, input_ids=ids, attention_mask=mask)
    part = shape.padded_rows / len(prompts)
    decode *= (shape.completion - 1) / (shape.padded_tokens - 1)
    return prefill / part, decode / part, part


def separate(model, shape: Shape) -> tuple[float, float, float]:
    """One prompt after another: prefill once, repeat its cache."""
    import torch
    from transformers import DynamicCache

    prompts = trajectory(shape)
    chosen = prompts[shape.separate_steps]
    prefill = decode = 0.0
    for prompt in chosen:
        ids = torch.tensor([prompt])
        start = time.process_time()
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(input_ids=ids[:, :-1], past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(GENERATIONS)
        prefill += time.process_time() - start
        ids = ids.expand(GENERATIONS, -1)
        first, rest = timed_generate(model, shape.completion, input_ids=ids, past_key_values=cache)
        decode += first + rest
    part = len(chosen) / len(prompts)
    return prefill / part, decode / part, part


def timed_generate(model, n_tokens: int, **inputs) -> tuple[float, float]:
    """CPU seconds up to the first token and after it."""
    import torch
    from transformers import StoppingCriteria

    times = [time.process_time()]

    class Clock(StoppingCriteria):
        def __call__(self, input_ids, scores, **_):
            times.append(time.process_time())
            return torch.zeros(len(input_ids), dtype=torch.bool)

    inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
    options = {"max_new_tokens": n_tokens, "do_sample": True, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}
    model.generate(**inputs, **options, stopping_criteria=[Clock()])
    assert len(times) == n_tokens + 1
    return times[1] - times[0], times[-1] - times[1]


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        print(json.dumps(measure(SHAPES[sys.argv[1]], sys.argv[2])))
