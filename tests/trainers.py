"""Small trainers on the tiny model, their rows and their rewards."""

import random

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from srl.training.trainer import SRLConfig, SRLTrainer

N_ROWS = 24


def rows(n=N_ROWS):
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"Question: {i}"}], "expert_action": f"{i}", "id": i}
            for i in range(n)
        ]
    )


def noisy_reward(completions, id, **_):
    """Depends on text and row only; every other row gives all their completions the same reward."""
    return [
        0.25 if row % 2 == 0 else random.Random(completion[0]["content"]).random()
        for completion, row in zip(completions, id, strict=True)
    ]


def options(folder, **changed):
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 6,
        "learning_rate": 1e-3,
        "max_steps": 3,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "seed": 3,
    }
    return defaults | changed


def trainer_on(model, folder, cls=SRLTrainer, config=SRLConfig, reward=noisy_reward, **changed):
    """A trainer on `rows`; another class or configuration to compare with."""
    return cls(
        model=AutoModelForCausalLM.from_pretrained(model),
        processing_class=AutoTokenizer.from_pretrained(model),
        reward_funcs=reward,
        args=config(**options(folder, **changed)),
        train_dataset=rows(),
    )


def steps(n_trajectories=6, n_steps=4):
    """Rows whose prompts extend one another, step by step."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"Question {t}:" + "".join(f" step {i}," for i in range(step))}],
                "trajectory_id": f"t{t}",
                "step_index": step,
            }
            for t in range(n_trajectories)
            for step in range(n_steps)
        ]
    )


def reward_of_text(completions, **_):
    return [random.Random(completion[0]["content"]).random() for completion in completions]


class SampledByTRL(SRLTrainer):
    """Completions by `generate` whether prefixes are shared or not, so that both train on the same ones."""

    def _samples_elsewhere(self):
        return True


def trainer_on_steps(
    model, folder, *, change=lambda model: None, lora=False, rows=None, same_completions=True, **changed
):
    """A trainer that takes every group of `steps`; `same_completions`: the same ones whether it shares or not."""
    loaded = AutoModelForCausalLM.from_pretrained(model)
    change(loaded)
    # Adam makes steps of full length from gradients that are rounding errors of zero, unless epsilon is above those.
    config = {"dynamic_sampling": False, "max_completion_length": 8, "adam_epsilon": 1e-4, **changed}
    return (SampledByTRL if same_completions else SRLTrainer)(
        model=loaded,
        processing_class=AutoTokenizer.from_pretrained(model),
        reward_funcs=reward_of_text,
        args=SRLConfig(**options(folder, **config)),
        train_dataset=steps() if rows is None else rows,
        peft_config=LoraConfig(r=4, target_modules="all-linear") if lora else None,
    )


def train_log(trainer, *names, **arguments):
    """Train and return the named metrics of each step. (Building a trainer seeds; build and train in one go.)"""
    trainer.train(**arguments)
    return [[line.get(name, 0.0) for name in names] for line in trainer.state.log_history if "grad_norm" in line]
