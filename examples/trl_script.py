"""The reward of SRL in a script of your own: TRL's `GRPOTrainer`, unchanged, and one function of srl.

    python examples/trl_script.py runs/plain-trl      # two minutes on one CPU core; downloads nothing

`step_similarity` is a reward function as TRL takes it: it reads the column `expert_action` and gives each completion
2M/T, the similarity of its action and the expert's, or −1 if it is not `<think>…</think>` and an action. What you do
without: dynamic sampling (groups whose rewards agree are trained on, to no effect), shared prefixes, exact resuming.
"""

from __future__ import annotations

import random
import sys
from itertools import islice

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from srl import step_instances
from srl.rewards import step_similarity
from srl.runs.folder import resolve_model
from srl.study.domain import distinct_problems
from srl.study.tiny import solve


def main(out: str, max_steps: int = 20) -> list[float]:
    """Train, and return the mean reward of each step."""
    experts = [solve(problem) for problem in islice(distinct_problems(random.Random(0), 5), 100)]
    rows = [
        {"prompt": list(instance.prompt), "expert_action": instance.expert_action}
        for expert in experts
        for instance in step_instances(expert, system_prompt="")
    ]
    trainer = GRPOTrainer(
        model=resolve_model("tiny-base"),
        reward_funcs=step_similarity,
        train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(
            output_dir=out,
            max_steps=max_steps,
            learning_rate=3e-4,
            num_generations=8,
            per_device_train_batch_size=128,
            max_completion_length=40,
            mask_truncated_completions=False,  # one that is cut off earns −1, and should learn from it
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
            bf16=False,  # on a GPU leave these three out
            gradient_checkpointing=False,
            use_cpu=True,
        ),
    )
    trainer.train()
    rewards = [line["reward"] for line in trainer.state.log_history if "reward" in line]
    print(f"mean reward: {rewards[0]:.3f} in the first step, {rewards[-1]:.3f} in the last")
    return rewards


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/plain-trl")
