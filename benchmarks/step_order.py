"""What does keeping a trajectory's steps together do to the gradient's noise, and to the tokens computed?

    srl demo --out runs/demo; python benchmarks/step_order.py runs/demo     # about 5 minutes

The demo's base model, the data of its first seed, the recipe tiny-srl with dynamic sampling, 40 batches per order
without learning (a learning rate of 1e-20). With g_i the gradient of batch i and ḡ their mean, noise is the mean of
|g_i − ḡ|² n/(n−1), signal is |ḡ|² − noise/n. Their ratio is the batch size, in batches, at which noise equals signal
(arXiv 1812.06162).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from srl.recipe import read_recipe
from srl.rewards import StepReward
from srl.rows import load_rows, load_tokenizer
from srl.run_folder import resolve_model
from srl.train import build_trainer, trainer_options

BATCHES = 40


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


def measure(demo: Path, order: str, folder: str) -> dict[str, float]:
    recipe = read_recipe(Path("tiny-srl"))
    recipe = recipe.model_copy(
        update={
            "output_dir": Path(folder),
            "data": recipe.data.model_copy(update={"path": demo / "seed-0/data/expert"}),
            "optim": recipe.optim.model_copy(
                update={"learning_rate": 1e-20, "max_steps": BATCHES, "max_grad_norm": 1e9}
            ),
            "rollout": recipe.rollout.model_copy(update={"step_order": order}),
            "validation": recipe.validation.model_copy(update={"eval_steps": 0}),
        }
    )
    path = resolve_model("tiny-base")
    tokenizer = load_tokenizer(path)
    trainer = build_trainer(
        recipe,
        trainer_options(recipe, 1, has_validation=False),
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        tokenizer,
        load_rows(recipe, "train", tokenizer),
        None,
        StepReward(recipe.reward, tokenize=tokenizer.encode),
    )
    gradients = Gradients()
    trainer.add_callback(gradients)
    start = time.process_time()
    trainer.train()
    seconds = time.process_time() - start
    n, mean = gradients.count, gradients.total / gradients.count
    noise = (gradients.squares - n * float(mean @ mean)) / (n - 1)
    signal = float(mean @ mean) - noise / n
    logs = [line for line in trainer.state.log_history if "sharing_ratio" in line]
    return {
        "noise": noise,
        "signal": signal,
        "noise / signal": noise / signal,
        "sharing ratio": sum(line["sharing_ratio"] for line in logs) / len(logs),
        "CPU seconds per step": seconds / n,
    }


def main() -> None:
    demo = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/demo")
    if not (demo / "seed-0/data/expert").is_dir():
        raise SystemExit(f"{demo} holds no demo; run it first: srl demo --out {demo}")
    for order in ("shuffle", "trajectory"):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(demo, order, folder)
        print(order, {name: float(f"{value:.4g}") for name, value in found.items()}, flush=True)


if __name__ == "__main__":
    main()
