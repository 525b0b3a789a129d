"""The demo's SRL steps: seconds with and without shared prefixes, and the gradient's noise with either order of steps.

    python benchmarks/demo_step.py              # about 15 minutes on one core

The demo's base model, data and recipe, dynamic sampling included, without learning (a learning rate of 1e-20), for
five seeds of data. With g_i the gradient of batch i and ḡ the mean of n, noise is the mean of |g_i − ḡ|² n/(n−1), and
signal |ḡ|² − noise/n. Both orders have the same expected gradient, so it is the noise that tells them apart; noise over
signal is the batch size, in batches, at which the two are equal (arXiv 1812.06162).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
from scipy import stats
from transformers import AutoModelForCausalLM, TrainerCallback

from srl.chat.tokenizer import load_chat
from srl.runs.folder import resolve_model
from srl.runs.recipe import read_recipe
from srl.study.domain import write_data
from srl.study.experiment import read_experiment
from srl.training.options import trainer_config, trainer_options
from srl.training.rows import load_rows
from srl.training.train import build_trainer

SEEDS = range(5)
VARIANTS = {  # what of the recipe's rollout table, and how many batches
    "nothing shared": ({"share_prefix": "off"}, 10),
    "shuffle": ({"step_order": "shuffle"}, 60),
    "trajectory": ({"step_order": "trajectory"}, 60),
}


class Gradients(TrainerCallback):
    """The sum of the gradients, and of their squared lengths."""

    def __init__(self) -> None:
        self.total, self.squares, self.count = torch.zeros(1), 0.0, 0

    def on_pre_optimizer_step(self, args, state, control, model=None, **_) -> None:
        """transformers' hook."""
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
        self.total = self.total + gradient
        self.squares += float(gradient @ gradient)
        self.count += 1


def measure(data: Path, rollout: dict, batches: int) -> dict[str, float]:
    """Noise, signal, sharing and CPU seconds of so many batches."""
    recipe = read_recipe(Path("tiny-srl"))
    optim = {"learning_rate": 1e-20, "max_steps": batches, "max_grad_norm": 1e9}
    recipe = recipe.model_copy(
        update={
            "output_dir": data / "run",
            "data": recipe.data.model_copy(update={"path": data / "expert"}),
            "optim": recipe.optim.model_copy(update=optim),
            "rollout": recipe.rollout.model_copy(update=rollout),
        }
    )
    path = resolve_model("tiny-base")
    chat = load_chat(path)
    trainer = build_trainer(
        recipe,
        trainer_config(recipe, trainer_options(recipe, 1, has_validation=False) | {"save_strategy": "no"}),
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        chat,
        load_rows(recipe, "train", chat),
        None,
    )
    gradients = Gradients()
    trainer.add_callback(gradients)
    start = time.process_time()
    trainer.train()
    seconds = time.process_time() - start
    n, mean = gradients.count, gradients.total / gradients.count
    noise = (gradients.squares - n * float(mean @ mean)) / (n - 1)
    ratios = [line.get("sharing_ratio", 1.0) for line in trainer.state.log_history if "grad_norm" in line]
    return {
        "noise": noise,
        "noise / signal": noise / (float(mean @ mean) - noise / n),
        "raw tokens per unique token": statistics.mean(ratios),
        "CPU seconds per step": seconds / n,
    }


def main() -> None:
    """A line per seed and variant, then a table."""
    torch.set_num_threads(1)
    domain = read_experiment(Path("demo")).domain
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            write_data(Path(folder), domain, seed, reserved=())
            for name, (rollout, batches) in VARIANTS.items():
                found[name].append(measure(Path(folder), rollout, batches))
                print(f"seed {seed}, {name}:", {key: f"{v:.4g}" for key, v in found[name][-1].items()}, flush=True)
    columns = list(found["shuffle"][0])[1:]
    print("\n| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name, seeds in found.items():
        means = [f"{statistics.mean(seed[column] for seed in seeds):.3g}" for column in columns]
        print(f"| {name} | " + " | ".join(means) + " |")
    print()
    compare("noise, trajectory / shuffle", found["trajectory"], found["shuffle"], "noise")
    for name in ("shuffle", "trajectory"):
        compare(
            f"CPU seconds per step, nothing shared / {name}",
            found["nothing shared"],
            found[name],
            "CPU seconds per step",
        )


def compare(what: str, above: list[dict], below: list[dict], column: str) -> None:
    """Mean ratio over the seeds and its 95% interval (Student's t)."""
    ratios = [a[column] / b[column] for a, b in zip(above, below, strict=True)]
    half = stats.t.ppf(0.975, len(ratios) - 1) * stats.sem(ratios)
    print(f"{what}: {statistics.mean(ratios):.2f} ± {half:.2f} (n = {len(ratios)})")


if __name__ == "__main__":
    main()
