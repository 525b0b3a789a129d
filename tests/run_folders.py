"""Run folders as training leaves them, without training: the files' shape is TRL's, the rewards are real."""

import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet

from srl.rewards import StepReward
from srl.runs.recipe import Data, Model, Optim, Recipe, Reward, Rollout, recipe_toml

WORDS = ["add", "subtract", "multiply", "the", "left", "right", "number", "and", "carry", "one", "result", "of", "x"]


def write_run(
    folder: Path, *, n_steps=3, n_groups=4, seed=0, n_words=8, stage="srl", finished=True, spice="", reward=None
) -> Path:
    """A run folder with `n_steps` tables of `n_groups` × 8 rollouts; `spice` stands in every prompt and thought."""
    rng = random.Random(seed)
    recipe = Recipe(
        stage=stage,
        output_dir=folder,
        seed=seed,
        model=Model(model_name_or_path="some/base"),
        data=Data(path="steps"),
        optim=Optim(max_steps=n_steps),
        rollout=Rollout(num_generations=8),
        reward=reward or Reward(),
    )
    (folder / "completions").mkdir(parents=True)
    (folder / "config.toml").write_text(recipe_toml(recipe))
    facts = {"started": "2026-11-22T12:00:00+00:00", "command": ["srl", "train", "a b.toml"], "git_commit": "c0ffee"}
    facts |= {"python": "3.11.7", "platform": "Linux", "versions": {"srl": "0.1.0"}, "system_prompt": ""}
    (folder / "run.json").write_text(json.dumps(facts | ({"finished_steps": n_steps} if finished else {})))
    lines = [{"step": 0, "eval_loss": 0.0, "eval_reward": 0.25, "eval_exact_step_rate": 0.125}]
    for step in range(1, n_steps + 1):
        table = _table(rng, step, n_groups, n_words, spice, recipe.reward)
        pyarrow.parquet.write_table(table, folder / f"completions/completions_{step:05d}.parquet")
        rewards = table["reward"].to_pylist()
        mean = sum(rewards) / len(rewards)
        lines.append({"step": step, "loss": 0.0, "reward_before_filtering": mean, "kept_fraction": 0.5, "refills": 1})
    lines.append({"step": n_steps, "eval_loss": 0.0, "eval_reward": 0.75, "eval_exact_step_rate": 0.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _table(rng, step, n_groups, n_words, spice, reward):
    rows, completions = [], []
    for group in range(n_groups):
        expert = " ".join(rng.choices(WORDS, k=n_words))
        for member in range(8):
            action = " ".join(word if rng.random() < 0.8 else rng.choice(WORDS) for word in expert.split())
            thought = f"perhaps {spice} " + " ".join(rng.choices(WORDS, k=n_words))
            completion = f"<think>{thought}</think>\n{action}"
            completions.append(completion.removeprefix("<think>") if (group + member) % 8 == 3 else completion)
            rows.append(
                {
                    "step": step,
                    "prompt": [{"role": "user", "content": f"Question: {step}.{group} {spice}\n\nSolution:\n"}],
                    "completion": [{"role": "assistant", "content": completions[-1]}],
                    "expert_action": expert,
                    "trajectory_id": f"problem-{step}-{group}",
                    "step_index": 1 + group % 3,
                    "kept": group % 2 == 0,
                    "advantage": rng.uniform(-2, 2) if group % 2 == 0 else 0.0,
                }
            )
    extra = {}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    rewards = StepReward(reward)(
        completions, columns["expert_action"], prompts=columns["prompt"], log_extra=extra.__setitem__
    )
    return pyarrow.table(columns | extra | {"reward": rewards, "step_similarity": rewards})


def write_evaluation(folder: Path, score=0.5, interval=(0.4, 0.6), *, sha="a" * 64) -> Path:
    """A folder of `srl evaluate`, the part that the report reads."""
    folder.mkdir(parents=True)
    column = {"benchmark": "max", "column": "greedy", "problems": 100, "score": score, "interval": interval}
    config = {"model": "runs/x", "benchmarks": {"max": {"sha256": sha}}}
    results = {"schema": 1, "config": config, "columns": [column | {"truncated": 0.01}]}
    (folder / "results.json").write_text(json.dumps(results))
    return folder
