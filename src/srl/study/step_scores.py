"""How a model takes the expert's single steps: what SRL rewards, measured for every arm."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from srl.engines.transformers import TransformersEngine
from srl.rewards import StepReward
from srl.study.material import read_steps


def step_scores(model: str, steps: Path, max_tokens: int, batch_size: int) -> dict[str, float]:
    """Of one greedy action after each context of `steps`: mean reward, and shares exact and malformed."""
    rows = [row.value for row in read_steps(steps)]
    engine = TransformersEngine(model, max_tokens)
    replies = []
    for start in range(0, len(rows), batch_size):
        prompts = [tuple(row["prompt"]) for row in rows[start : start + batch_size]]
        replies += engine.generate(prompts, [0] * len(prompts), 0.0)
    logged: defaultdict[str, list[float]] = defaultdict(list)  # a value per action
    rewards = StepReward()(
        [reply.text for reply in replies],
        [row["expert_action"] for row in rows],
        truncated=[reply.truncated for reply in replies],
        log_metric=lambda name, value: logged[name].append(value),
    )
    means = {name: sum(values) / len(values) for name, values in logged.items()}
    return {
        "reward": sum(reward for reward in rewards if reward is not None) / len(rewards),
        "exact": means["exact_step_rate"],
        "malformed": means["format_error_rate"],
    }
