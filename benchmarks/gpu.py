"""What is fast on a GPU: five tables, each printed as soon as it is done; ends within 8 minutes on one GPU.

    python benchmarks/gpu.py                       # all sections
    python benchmarks/gpu.py attention passes      # some: exact, attention, passes, sampling, step
    python benchmarks/gpu.py --json raw.json       # also everything that was measured, as JSON
    python benchmarks/gpu.py --tiny                # shapes that a CPU takes in seconds: does it still run?

Random weights in the shapes of Qwen2.5-0.5B, of Qwen2.5-7B and of SmolLM2-135M; the trajectories of
`benchmarks/shared_prefix.py`. A turn before those that count compiles and warms up; the fastest turn counts. Memory is
what a turn adds at its peak. Gradient checkpointing is off, as it changes time and memory of all variants alike, except
in `step`, where it is as in `srl train`. Whatever does not fit on the device, or in the time, is said and left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from on_device import BF16, DEVICE, GPU, MODELS, Run, cell, model_of, show, synchronize, timed, trainer_of
from shared_prefix import MICRO_BATCH, Shape, padded_batch, rollouts
from transformers import GenerationConfig
from trl import GRPOTrainer

from srl.shared_prefix import kernels, one_call
from srl.shared_prefix.attention import _SharedPrefixAttention
from srl.shared_prefix.packing import AttentionPlan, pack
from srl.shared_prefix.sampler import SamplingOptions, sample_completions
from srl.shared_prefix.weights import products_in
from srl.training.trainer import SRLTrainer

# --- exact: packs against padded rows -------------------------------------------------------------------


def exact(run: Run) -> None:
    """Kernels against plain arithmetic; log-probs and gradients of packs against those of padded rows."""
    lines = []
    for dtype in (BF16, torch.float16) if GPU else (torch.float32,):
        for head_size in (64, 128):
            agrees = kernels.agrees_with_math(kernels.CUDA if GPU else kernels.CPU, DEVICE, dtype, head_size)
            of_one_call = "no backward pass on a CPU"
            if GPU:
                of_one_call = str(one_call._is_right(DEVICE, dtype, 14, 2, head_size))
            lines.append([f"{dtype}, {head_size} wide", str(agrees), of_one_call])
            run.found.append({"section": "exact", "what": lines[-1][0], "parts": agrees, "one_call": of_one_call})
    show("Attention kernels agree with plain arithmetic, forward and backward", ["", "parts", "one call"], lines)
    lines = []
    for kind, changed in (("Qwen2", {}), ("Llama", {}), ("Mistral", {"sliding_window": 24})):
        for precision in ("float32", "bfloat16"):
            logps, gradients = difference(kind, precision, changed)
            lines.append(
                [kind + (", sliding window" if changed else ""), precision, f"{logps:.1e}", f"{gradients:.1e}"]
            )
            run.found.append({"section": "exact", "what": lines[-1][:2], "logps": logps, "gradients": gradients})
    header = ["model of 2 layers", "computed in", "mean difference of log-probs", "of gradients, relative"]
    show("Packs against padded rows", header, lines)


def difference(kind: str, precision: str, changed: dict[str, Any]) -> tuple[float, float]:
    """Mean absolute difference of log-probs, and relative difference of all gradients."""
    model = model_of("tiny", torch.float32, kind, **changed)
    rows, lengths = rollouts(Shape(60, 4, 2, 12, 10))
    rows = [row % 500 + 3 for row in rows]
    results = []
    for share_prefix in ("trajectory", "off"):
        model.zero_grad()
        model.set_attn_implementation("sdpa")
        with trainer_of(model, share_prefix=share_prefix, bf16=precision == "bfloat16" and GPU) as trainer:
            assert trainer._shares == (share_prefix != "off")
            with torch.autocast(DEVICE.type, BF16, enabled=precision == "bfloat16"):
                logps = logps_of(trainer, rows, lengths, max(lengths))
            (logps.mean(1) * torch.linspace(-1, 1, len(rows), device=DEVICE)).sum().backward()
        gradients = torch.cat([p.grad.float().flatten() for p in model.parameters()])
        results.append((logps.detach().float(), gradients))
    (ours, our_gradients), (plain, gradients) = results
    return (ours - plain).abs().mean().item(), ((our_gradients - gradients).norm() / gradients.norm()).item()


def logps_of(trainer: Any, rows: list[Any], lengths: list[int], longest: int) -> torch.Tensor:
    """By the method that TRL's loss calls."""
    ids, mask, n_columns = padded_batch(rows, lengths, longest)
    return trainer._get_per_token_logps_and_entropies(trainer.model, ids.to(DEVICE), mask.to(DEVICE), n_columns)[0]


# --- attention: one layer of a 7B model -----------------------------------------------------------------


def attention(run: Run) -> None:
    """Forward and backward of one layer's attention over a pack."""
    heads, key_heads, head_size, dtype = (4, 2, 16, torch.float32) if run.tiny else (28, 4, 128, BF16)
    lines = []
    for name, shape in run.shapes.items():
        (one,) = pack(*rollouts(shape))
        given = tuple(
            torch.randn(1, n, one.plan.n_places, head_size, device=DEVICE, dtype=dtype).requires_grad_()
            for n in (heads, key_heads, key_heads)
        )
        found = {
            way: run.measured(
                "attention", f"{name}, {way}", partial(attend_and_back, function, given, one.plan), turns=5
            )
            for way, function in {"one call": one_call_of, "parts": parts, "causal": causal}.items()
            if GPU or way != "one call"
        }
        plan = f"{one.plan.n_places:,} places, {len(one.plan.chains)} chains, {len(one.plan.blocks)} blocks"
        cells = [cell(found[way]) if way in found else "not on a CPU" for way in ("one call", "parts", "causal")]
        first = found.get("one call", {}).get("first_turn")
        lines.append([name, plan, *cells, f"{first:.0f} s" if first else ""])
    header = ["shape", "pack", "one FlexAttention call", "parts in a loop", "causal flash, as many places", "compiling"]
    show(f"Attention alone, one layer, {heads} heads, {key_heads} key heads, {head_size} wide, {dtype}", header, lines)


def attend_and_back(function: Any, given: tuple[torch.Tensor, ...], plan: AttentionPlan) -> None:
    """Forward and backward."""
    out = function(*given, plan, given[0].shape[-1] ** -0.5)
    torch.autograd.grad(out.sum(), given)


def one_call_of(q: Any, k: Any, v: Any, plan: AttentionPlan, scale: float) -> torch.Tensor:
    """FlexAttention, compiled."""
    return one_call._compiled(q, k, v, plan, None, scale)


def parts(q: Any, k: Any, v: Any, plan: AttentionPlan, scale: float) -> torch.Tensor:
    """Part by part, as on CPUs."""
    return _SharedPrefixAttention.apply(q, k, v, plan, scale)


def causal(q: Any, k: Any, v: Any, plan: AttentionPlan, scale: float) -> torch.Tensor:
    """torch's own, as if the pack were one row."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)


# --- passes: forward and backward of one trajectory ------------------------------------------------------


def passes(run: Run) -> None:
    """TRL's padded rows, rows of one prompt at a time, ours in one pass and in two."""
    lines = []
    for name, dtype in (("tiny", torch.float32),) if run.tiny else (("0.5B", torch.float32), ("7B", BF16)):
        model = model_of(name, dtype).train()
        for shape_name, shape in run.shapes.items():
            rows, lengths = rollouts(shape)
            rows = [row % (MODELS[name][5] - 10) + 3 for row in rows]
            variants = {
                "padded": ("off", MICRO_BATCH, max(lengths)),
                "rows": ("off", MICRO_BATCH, 0),
                "ours": ("trajectory", len(rows), 0),
                "ours, two passes": ("trajectory", len(rows) // 2, 0),
            }
            if name == "7B":
                del variants["padded"]  # minutes
            cells = {}
            for variant, (share_prefix, size, longest) in variants.items():
                model.set_attn_implementation("sdpa")
                with trainer_of(model, share_prefix=share_prefix) as trainer:
                    work = partial(all_passes, trainer, rows, lengths, size, longest)
                    entry = run.measured("passes", f"{name}, {shape_name}, {variant}", work, turns=1)
                cells[variant] = cell(entry) + (f", {entry['gb']:.0f} GB" if entry.get("gb") else "")
            order = ("padded", "rows", "ours", "ours, two passes")
            lines.append([f"{name}, {dtype}", shape_name, *(cells.get(variant, "") for variant in order)])
        trainer = model = work = None
    header = ["model", "shape", "TRL padded", "rows of one prompt", "ours, one pass", "ours, two passes"]
    show("Forward and backward of one trajectory's rollouts", header, lines)


def all_passes(trainer: Any, rows: list[Any], lengths: list[int], size: int, longest: int) -> None:
    """Forward and backward, so many rows at a time, padded to the longest prompt of all if that is given."""
    for first in range(0, len(rows), size):
        some, their = rows[first : first + size], lengths[first : first + size]
        with trainer.accelerator.autocast():
            logps = logps_of(trainer, some, their, longest or max(their))
        logps.mean().backward()


# --- sampling --------------------------------------------------------------------------------------------


def sampling(run: Run) -> None:
    """Tokens per second of one round."""
    name, n_prompts, group, n_tokens = ("tiny", 3, 2, 4) if run.tiny else ("0.5B", 64, 8, 128)
    low = BF16 if GPU else torch.float32
    rng = np.random.default_rng(0)
    span = (10, 20) if run.tiny else (200, 500)
    prompts = [rng.integers(3, MODELS[name][5], int(rng.integers(*span))).tolist() for _ in range(n_prompts)]
    prompts = [prompt for prompt in prompts for _ in range(group)]
    model, options = model_of(name, torch.float32), SamplingOptions(max_new_tokens=n_tokens)
    lines = []

    def note(what: str, work: Callable[..., Any], *given: Any, **named: Any) -> None:
        entry = run.measured("sampling", what, partial(work, *given, **named), turns=1)
        speed = len(prompts) * n_tokens / entry["seconds"] if "seconds" in entry else None
        entry["tokens_per_second"] = speed
        lines.append([what, f"{speed:,.0f}" if speed else cell(entry), f"{entry['gb']:.1f}" if entry.get("gb") else ""])

    with trainer_of(model, max_completion_length=n_tokens, num_generations=group) as trainer, torch.no_grad():
        trainer.generation_config.eos_token_id = None
        given = prompts, None, {}, group
        with trainer.accelerator.autocast():
            note("`generate` as TRL runs it", GRPOTrainer._generate_single_turn, trainer, *given)
        note("what `srl train` runs", trainer._generate_single_turn, *given)
        with trainer.accelerator.autocast(), products_in(low, model):
            note("over shared keys, weights converted once", sample_completions, model, prompts, options, seed=0)
    model = model.to(low).eval()
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts], device=DEVICE)
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    for what, cache in (
        (f"`generate`, weights in {low}", None),
        ("the same, static cache (compiled on a GPU)", "static"),
    ):
        drawn = {"do_sample": True, "top_k": 0, "top_p": 1.0, "pad_token_id": 0, "cache_implementation": cache}
        note(what, model.generate, **inputs, generation_config=GenerationConfig(max_new_tokens=n_tokens, **drawn))
    note(f"over shared keys, weights in {low}", sample_completions, model, prompts, options, seed=0)
    if GPU and find_spec("vllm"):
        note("vLLM", vllm_on(model, prompts, n_tokens))
    else:
        lines.append(["vLLM", "not installed" if GPU else "not on a CPU", ""])
    title = f"Sampling, {name}: {n_prompts} prompts of {span[0]} to {span[1]} tokens × {group}, {n_tokens} tokens each"
    show(title, ["", "tokens per second", "GB"], lines)


def vllm_on(model: Any, prompts: list[list[int]], n_tokens: int) -> Callable[[], Any]:
    """vLLM's engine on the same weights."""
    from vllm import LLM, SamplingParams

    folder = tempfile.mkdtemp()
    model.save_pretrained(folder)
    engine = LLM(folder, skip_tokenizer_init=True, gpu_memory_utilization=0.5, dtype="bfloat16")
    params = SamplingParams(max_tokens=n_tokens, ignore_eos=True, detokenize=False)
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    return lambda: engine.generate(asked, params, use_tqdm=False)


# --- step: a whole step of SRL ---------------------------------------------------------------------------


def step(run: Run) -> None:
    """Seconds of a step by phase; at the end of each the device is waited for, so that its work counts there."""
    lines = []
    for name in ("tiny",) if run.tiny else ("135M", "0.5B"):
        n_prompts, group, n_tokens, size = (4, 4, 6, 8) if run.tiny else (128, 8, 40, 64)
        words = 20 if run.tiny else 150
        rng = np.random.default_rng(0)
        rows = [
            {"prompt": [{"role": "user", "content": "".join(map(str, rng.integers(0, 5, words)))}], "number": i}
            for i in range(4 * n_prompts)
        ]

        changed = {
            "rows": Dataset.from_list(rows),
            "reward": mostly_informative,
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": n_prompts * group // size,
            "num_generations": group,
            "max_completion_length": n_tokens,
            "max_steps": 2 if run.tiny else 4,
            "gradient_checkpointing": GPU,
            "max_oversampling": 1.5,
            "log_completions": False,
        }
        with trainer_of(model_of(name, torch.float32), SRLTrainer, **changed) as trainer:
            trainer.generation_config.eos_token_id = None
            entry = run.measured("step", name, partial(by_phase, trainer), turns=0)
        phases = ("sampling", "reward", "log-probs", "backward", "optimizer", "the rest")
        if "step" not in entry:
            lines.append([name, cell(entry)] + [""] * 8)
            continue
        told = [f"{entry['phases'][phase]:.2f}" for phase in phases]
        lines.append([name, f"{entry['step']:.2f}", *told, f"{entry['rounds']:.2f}", f"{entry['kept']:.0%}"])
    header = ["model", "seconds", "sampling", "reward", "log-probs", "backward", "AdamW", "the rest", "rounds", "kept"]
    title = f"A step of SRL: {n_prompts} prompts × {group} completions of {n_tokens} tokens, the first step left out"
    show(title, header, lines)


def mostly_informative(completions: Any, number: Any, **_: Any) -> list[float]:
    """Of 20 prompts 3 have no signal."""
    return [0.0 if n % 20 < 3 else i % 4 / 4 for i, n in enumerate(number)]


def by_phase(trainer: Any) -> dict[str, Any]:
    """Train, and tell where the time of all steps but the first went."""
    seconds: dict[str, float] = {}
    marks: list[dict[str, float]] = []

    def around(owner: Any, name: str, phase: str) -> None:
        function = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            taken, result = timed(lambda: function(*args, **kwargs))
            seconds[phase] = seconds.get(phase, 0.0) + taken
            return result

        setattr(owner, name, wrapper)

    around(trainer, "_generate_single_turn", "sampling")
    around(trainer, "_rewards", "reward")
    around(trainer, "_get_per_token_logps_and_entropies", "log-probs")
    around(trainer.accelerator, "backward", "backward")
    trainer.create_optimizer()
    around(trainer.optimizer, "step", "optimizer")
    log = trainer.log

    def mark(*args: Any, **kwargs: Any) -> None:
        synchronize()
        marks.append({"at": time.perf_counter(), **seconds})
        log(*args, **kwargs)

    trainer.log = mark
    trainer.train()
    steps = [line for line in trainer.state.log_history if "refills" in line][1:]
    first, last, n_steps = marks[0], marks[len(steps)], len(steps)
    phases = {phase: (last[phase] - first[phase]) / n_steps for phase in seconds}
    whole = (last["at"] - first["at"]) / n_steps
    phases["the rest"] = whole - sum(phases.values())
    return {
        "step": whole,
        "phases": phases,
        "rounds": 1 + sum(line["refills"] for line in steps) / n_steps,
        "kept": sum(line["kept_fraction"] for line in steps) / n_steps,
    }


SECTIONS = {"exact": exact, "attention": attention, "passes": passes, "sampling": sampling, "step": step}


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], default=[])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--minutes", type=float, default=7.5)
    arguments = parser.parse_args()
    if not GPU and not arguments.tiny:
        parser.error("no GPU here; --tiny runs it on a CPU, to see that it runs")
    run = Run(arguments.tiny, arguments.minutes)
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "trl")}
    device = torch.cuda.get_device_name() if GPU else f"CPU, {platform.machine()}"
    print(f"{device}, {date.today()}, " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    for name in arguments.sections or SECTIONS:
        start = time.monotonic()
        SECTIONS[name](run)
        print(f"\n({name}: {time.monotonic() - start:.0f} s)", flush=True)
        if arguments.json:
            about = {"device": device, "date": str(date.today()), "versions": versions}
            arguments.json.write_text(json.dumps(about | {"measured": run.found}, indent=1, default=str))


if __name__ == "__main__":
    main()
