"""SRL in Python: from expert solutions to a trained model, without a recipe and without files in between.

    python examples/srl_trainer.py runs/from-python      # about a minute on one CPU core; downloads nothing

The rows of `train_dataset` are TRL's, with columns that the reward reads:

    prompt          messages (or a string): the problem and the expert's steps so far; `step_instances` writes it
    expert_action   the step that the expert took next: what the reward compares with
    trajectory_id   of which solution: `step_order="trajectory"` keeps its steps together, and the table of rollouts
                    has it
    step_index      which of its steps: for the table of rollouts only

Other columns reach your own reward functions by their names, as always in TRL.
"""

from __future__ import annotations

import random
import sys
from itertools import islice

from datasets import Dataset

from srl import SRLConfig, SRLTrainer, Step, StepInstance, Trajectory, step_instances
from srl.rewards import step_similarity
from srl.runs.folder import resolve_model
from srl.study.domain import distinct_problems
from srl.study.tiny import solve

BY_HAND = Trajectory(
    id="by-hand",
    problem="2+3*4",
    steps=(Step("2+2"), Step("4")),  # modulo 5, the tiny model's world; in yours, the paragraphs of a solution
)


def expert_solutions(count: int) -> list[Trajectory]:
    """Yours are read from files, or made like `BY_HAND`; these are arithmetic, which the model `tiny-base` knows."""
    return [solve(problem) for problem in islice(distinct_problems(random.Random(0), 5), count)]


def as_row(instance: StepInstance) -> dict[str, object]:
    """The columns above."""
    return {
        "prompt": list(instance.prompt),
        "expert_action": instance.expert_action,
        "trajectory_id": instance.trajectory_id,
        "step_index": instance.step_index,
    }


def main(out: str, max_steps: int = 20) -> dict[str, float]:
    """Train, save the model to `out`/model, and return the metrics on held-out solutions."""
    # One row per step that is asked for. "" leaves the system prompt out: the tiny model knows one task only.
    rows = [as_row(i) for t in expert_solutions(220) for i in step_instances(t, system_prompt="")]
    print(f"{rows[2]['prompt']}\n→ the expert: {rows[2]['expert_action']!r}")
    trainer = SRLTrainer(
        model=resolve_model("tiny-base"),  # or any causal model of the Hub
        reward_funcs=step_similarity,  # the paper's; srl.rewards.StepReward has the variations
        train_dataset=Dataset.from_list(rows[:-64]),
        eval_dataset=Dataset.from_list(rows[-64:]),
        args=SRLConfig(  # all of TRL's GRPOConfig, and what SRL adds
            output_dir=out,
            max_steps=max_steps,
            learning_rate=3e-4,  # the paper has 5e-7, for a model 20,000 times as large
            num_generations=8,  # G
            per_device_train_batch_size=128,  # rollouts: 16 prompts of 8
            num_generations_eval=1,
            per_device_eval_batch_size=64,
            max_completion_length=40,
            step_order="trajectory",  # neighbouring steps share their beginnings, which are then computed once
            logging_steps=5,
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",  # "wandb", "tensorboard", …
            bf16=False,  # on a GPU leave these three out
            gradient_checkpointing=False,
            use_cpu=True,
        ),
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    for name in ("eval_reward", "eval_format_error_rate", "eval_exact_step_rate"):
        print(f"{name}: {before[name]:.3f} before, {after[name]:.3f} after")
    trainer.save_model(f"{out}/model")
    return after


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/from-python")
