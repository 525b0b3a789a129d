"""The clock, the models and the trainers of benchmarks/gpu.py, on the GPU if there is one."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from datasets import Dataset
from shared_prefix import SHAPES, Shape
from transformers import AutoModelForCausalLM, PrinterCallback

from srl.shared_prefix.trainer import SharedPrefixConfig, SharedPrefixTrainer
from srl.study.tiny import build_tokenizer
from srl.training.trainer import SRLConfig, SRLTrainer

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
BF16 = torch.bfloat16
MODELS = {
    # hidden, MLP, layers, heads, key heads, vocabulary, tied
    "135M": (576, 1536, 30, 9, 3, 49152, True),
    "0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "tiny": (64, 128, 2, 4, 2, 512, True),
}
TINY_SHAPES = {"math": Shape(40, 3, 2, 8, 10), "swe": Shape(80, 4, 2, 6, 10)}


class Run:
    """Options, the clock, and all that was measured."""

    def __init__(self, tiny: bool, minutes: float) -> None:
        self.tiny, self.ends = tiny, time.monotonic() + 60 * minutes
        self.found: list[dict[str, Any]] = []
        self.shapes = TINY_SHAPES if tiny else {name: SHAPES[name] for name in ("math", "swe")}

    def measured(self, section: str, what: str, work: Callable[[], Any], turns: int = 2) -> dict[str, Any]:
        """Seconds of the fastest turn and GB that it adds, or why there are none."""
        entry: dict[str, Any] = {"section": section, "what": what}
        try:
            for turn in range(1 + turns):
                if time.monotonic() > self.ends:
                    entry["problem"] = "no time left"
                    break
                fresh_memory()
                before = torch.cuda.memory_allocated() if GPU else 0
                seconds, result = timed(work)
                if turn or turns == 0:
                    entry["seconds"] = min(seconds, entry.get("seconds", seconds))
                    entry["gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9 if GPU else None
                    entry.update(result if isinstance(result, dict) else {})
                else:
                    entry["first_turn"] = seconds
        except torch.OutOfMemoryError:
            entry["problem"] = "out of memory"
        self.found.append(entry)
        return entry


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until the device has done it, and what it returns."""
    synchronize()
    start = time.perf_counter()
    result = work()
    synchronize()
    return time.perf_counter() - start, result


def synchronize() -> None:
    """Wait for the device."""
    if GPU:
        torch.cuda.synchronize()


def fresh_memory() -> None:
    """Forget what is dead, and the peak."""
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def show(title: str, header: list[str], lines: list[list[str]]) -> None:
    """A Markdown table, at once."""
    print(f"\n### {title}\n\n| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print(end="", flush=True)


def cell(entry: dict[str, Any], form: str = "{seconds:.3g} s") -> str:
    """What was measured, or why not."""
    return form.format(**entry) if "seconds" in entry else entry.get("problem", "")


def model_of(name: str, dtype: torch.dtype, kind: str = "Qwen2", **changed: Any) -> Any:
    """Random weights on the device."""
    hidden, mlp, layers, heads, key_heads, vocabulary, tied = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=32768,
        **{"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, **changed},
    )
    with DEVICE:
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


@contextmanager
def trainer_of(model: Any, cls: Any = SharedPrefixTrainer, **changed: Any) -> Iterator[Any]:
    """A trainer on it, for its methods."""
    rows = changed.pop("rows", Dataset.from_list([{"prompt": "x"}]))
    reward = changed.pop("reward", lambda completions, **_: [0.0] * len(completions))
    with tempfile.TemporaryDirectory() as folder:
        defaults = {"output_dir": folder, "use_cpu": not GPU, "bf16": GPU, "gradient_checkpointing": False}
        config = SRLConfig if cls is SRLTrainer else SharedPrefixConfig
        quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "dataloader_pin_memory": GPU}
        trainer = cls(
            model=model,
            processing_class=build_tokenizer(),
            reward_funcs=reward,
            train_dataset=rows,
            args=config(**{**defaults, **quiet, **changed}),
        )
        trainer.remove_callback(PrinterCallback)
        yield trainer
