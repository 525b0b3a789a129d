"""How a model takes the expert's single steps: what SRL rewards, measured for every arm."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from srl.chat.prompts import format_completion
from srl.engines.transformers import TransformersEngine
from srl.rewards import StepReward
from srl.study.material import read_steps


def step_scores(model: str, steps: Path, max_tokens: int, batch_size: int) -> dict[str, float]:
    """Of one greedy action after each context of `steps`: mean reward, and shares exact and malformed.

    `exact_without_rule`, `reward_without_rule`: with a completion without a thought taken for an action, so that
    one can tell what a model knows from whether it keeps the format (SFT on steps without thoughts unlearns it).
    """
    rows = [row.value for row in read_steps(steps)]
    engine = TransformersEngine(model, max_tokens)
    replies = []
    for start in range(0, len(rows), batch_size):
        prompts = [tuple(row["prompt"]) for row in rows[start : start + batch_size]]
        replies += engine.generate(prompts, [0] * len(prompts), 0.0)
    experts, cut = [row["expert_action"] for row in rows], [reply.truncated for reply in replies]
    return judged_both_ways([reply.text for reply in replies], experts, cut)


def judged_both_ways(texts: list[str], experts: list[str], truncated: list[bool]) -> dict[str, float]:
    """The scores of `step_scores` of completions and the expert's actions."""
    strict = _judged(texts, experts, truncated)
    with_thought = [text if "think>" in text else format_completion("none", text) for text in texts]
    lenient = _judged(with_thought, experts, truncated)
    return {
        "reward": strict["reward"],
        "exact": strict["exact_step_rate"],
        "malformed": strict["format_error_rate"],
        "exact_without_rule": lenient["exact_step_rate"],
        "reward_without_rule": lenient["reward"],
    }


def _judged(texts: list[str], experts: list[str], truncated: list[bool]) -> dict[str, float]:
    """The mean reward, and the means of what the reward logs."""
    logged: defaultdict[str, list[float]] = defaultdict(list)  # a value per action
    rewards = StepReward()(
        texts, experts, truncated=truncated, log_metric=lambda name, value: logged[name].append(value)
    )
    means = {name: sum(values) / len(values) for name, values in logged.items()}
    return {**means, "reward": sum(reward for reward in rewards if reward is not None) / len(rewards)}
