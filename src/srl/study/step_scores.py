"""How a model takes the expert's single steps: what SRL rewards, measured for every arm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from srl.data.steps import step_instances
from srl.engines.transformers import TransformersEngine
from srl.rewards import StepReward
from srl.study.tiny import solve


def step_scores(model: str, problems: Sequence[str], max_tokens: int, batch_size: int) -> dict[str, float]:
    """Of one greedy action after each of the expert's contexts: mean reward, and shares exact and malformed."""
    instances = [i for problem in problems for i in step_instances(solve(problem), targets="all", system_prompt="")]
    engine = TransformersEngine(model, max_tokens)
    replies = []
    for start in range(0, len(instances), batch_size):
        prompts = [instance.prompt for instance in instances[start : start + batch_size]]
        replies += engine.generate(prompts, [0] * len(prompts), 0.0)
    logged: defaultdict[str, list[float]] = defaultdict(list)  # a value per action
    rewards = StepReward()(
        [reply.text for reply in replies],
        [instance.expert_action for instance in instances],
        truncated=[reply.truncated for reply in replies],
        log_metric=lambda name, value: logged[name].append(value),
    )
    means = {name: sum(values) / len(values) for name, values in logged.items()}
    return {
        "reward": sum(reward for reward in rewards if reward is not None) / len(rewards),
        "exact": means["exact_step_rate"],
        "malformed": means["format_error_rate"],
    }
