"""Reward functions, in the shape that TRL's trainers (and `trl grpo`) call.

    f(prompts, completions, completion_ids, **dataset_columns) -> one float per completion

`SRLTrainer` adds columns of its own: `truncated`, whether a completion was cut off by the length limit, and on
request `expert_logprob_gain`. A step's reward is the paper's, or a variation of it; docs/rewards.md compares them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from srl.chat.aloud import parse_aloud
from srl.chat.prompts import Completion, completion_text, parse_completion, user_text
from srl.rewards.actions import action_score, why_no_action
from srl.rewards.answer_text import known_answer
from srl.rewards.answers import are_correct
from srl.rewards.latex import one_spelling
from srl.rewards.logs import log_metrics, log_rollouts
from srl.rewards.repairs import repair_outcome
from srl.rewards.similarity import matched, ratios_batch
from srl.runs.recipe import Recipe, Reward

MALFORMED = -1.0
PAPER = Reward()


@dataclass(frozen=True)
class StepReward:
    """A reward function: how much the action resembles the expert's, in [0, 1]; −1 if malformed.

    With the default options this is the paper's reward, R (§4.2). In full:

        R = 2M / T                                          of `elements`; or another `similarity`
        P = R · (1 − copy_penalty · max(0, copied(action) − copied(expert)))    from the user turn
        reward = P + (1 − P) · expert_logprob_weight · logistic(expert_logprob_gain)

    An action equal to the expert's earns 1.0 under all of them (but PivotRL's takes off for long edits). Where actions
    are compared, one that the expert's harness would not take is malformed. With the format term "separate", a
    malformed completion earns nothing here (None), and −1 from `format_penalty`.
    """

    options: Reward = PAPER

    __name__ = "step_similarity"  # what TRL calls it in its logs

    def __call__(
        self,
        completions: Sequence[Any],
        expert_action: Sequence[str],
        prompts: Sequence[Any] = (),
        truncated: Sequence[bool] | None = None,
        expert_logprob_gain: Sequence[float] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Reward each completion.

        Logs, per completion, the parts of the rollout as columns and, as metrics, `format_error_rate`,
        `exact_step_rate` and `step_similarity` (R of the well-formed completions).
        """
        parsed = self._parse(completions, expert_action, truncated)
        actions, experts = [p.action for p in parsed], [expert.strip() for expert in expert_action]
        similarities = self.similarities(actions, experts)
        rewards = similarities
        if self.options.copy_penalty:
            excess = self.excess_copied(actions, experts, [user_text(prompt) for prompt in prompts])
            rewards = [r * (1 - self.options.copy_penalty * e) for r, e in zip(rewards, excess, strict=True)]
        if self.options.expert_logprob_weight:
            if expert_logprob_gain is None:
                raise ValueError("no column expert_logprob_gain: set SRLConfig(expert_logprob_gain=True)")
            shares = [self.options.expert_logprob_weight * _logistic(gain) for gain in expert_logprob_gain]
            rewards = [r + (1 - r) * share for r, share in zip(rewards, shares, strict=True)]
        if log_metric:
            log_metrics(log_metric, parsed, experts, similarities)
        if log_extra:
            if expert_logprob_gain is not None:
                columns["expert_logprob_gain"] = expert_logprob_gain
            log_rollouts(log_extra, parsed, {**columns, "expert_action": expert_action})
        malformed = MALFORMED if self.options.format_term == "in_group" else None
        return [malformed if p.format_error else r for p, r in zip(parsed, rewards, strict=True)]

    def similarities(self, actions: Sequence[str], experts: Sequence[str]) -> list[float]:
        """R of each action and the expert's at the same index."""
        if (measure := self.options.similarity) == "text":
            return ratios_batch(self._compared(actions), self._compared(experts))
        pairs = zip(actions, experts, strict=True)
        return [action_score(action, expert, measure) if action else 0.0 for action, expert in pairs]

    def format_penalty(
        self,
        completions: Sequence[Any],
        expert_action: Sequence[str],
        truncated: Sequence[bool] | None = None,
        **_: Any,
    ) -> list[float]:
        """−1 for a malformed completion, else 0: the format term by itself, beside this reward with it "separate".

        With TRL's "normalize_then_sum" one malformed completion then does not hide what differs between the others.
        """
        return [MALFORMED if p.format_error else 0.0 for p in self._parse(completions, expert_action, truncated)]

    def _parse(
        self, completions: Sequence[Any], experts: Sequence[str], truncated: Sequence[bool] | None
    ) -> list[Completion]:
        cut_off = truncated or [False] * len(completions)
        parse = parse_aloud if self.options.thoughts == "anywhere" else parse_completion
        parsed = [parse(completion_text(c), truncated=t) for c, t in zip(completions, cut_off, strict=True)]
        if self.options.similarity == "text":
            return parsed
        faults = [p.action and why_no_action(p.action, e.strip()) for p, e in zip(parsed, experts, strict=True)]
        return [Completion(format_error=f) if f else p for f, p in zip(faults, parsed, strict=True)]

    def excess_copied(self, actions: Sequence[str], experts: Sequence[str], contexts: Sequence[str]) -> list[float]:
        """How much more of each action than of the expert's stands in the context, in [0, 1].

        >>> StepReward().excess_copied(["let x = 2"], ["so 2 + 3"], ["let x = 2"])
        [0.75]
        """
        triples = zip(*map(self._compared, (actions, experts, contexts)), strict=True)
        return [max(0.0, _copied(a, context) - _copied(e, context)) for a, e, context in triples]

    def _compared(self, texts: Sequence[str]) -> list[str]:
        return list(map(one_spelling, texts) if self.options.elements == "latex" else texts)


def reward_functions(recipe: Recipe) -> list[Any]:
    """The reward functions of the stages srl and rlvr."""
    if recipe.stage == "rlvr":
        return [repair_outcome if recipe.reward.outcome == "tests" else answer_correctness]
    step_reward = StepReward(recipe.reward)
    return [step_reward, step_reward.format_penalty] if recipe.reward.format_term == "separate" else [step_reward]


def step_similarity(completions: Sequence[Any], expert_action: Sequence[str], **columns: Any) -> list[float | None]:
    """SRL's reward as in the paper, for `trl grpo --reward_funcs srl.rewards.step_similarity`: see `StepReward`."""
    return StepReward()(completions, expert_action, **columns)


def answer_correctness(
    completions: Sequence[Any],
    answer: Sequence[str],
    truncated: Sequence[bool] | None = None,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """RLVR's reward: 1.0 if the final answer equals the known one (`math-verify`), else 0.0.

    A truncated completion is wrong. None, which TRL leaves out, where the known answer is not known ("proof").
    """
    cut_off = truncated or [False] * len(completions)
    right = are_correct([completion_text(c) for c in completions], list(answer))
    if log_extra:
        if "trajectory_id" in columns:
            log_extra("trajectory_id", list(columns["trajectory_id"]))
        log_extra("answer", list(answer))
    return [
        None if known_answer(known) is None else float(r and not t)
        for r, t, known in zip(right, cut_off, answer, strict=True)
    ]


def _copied(text: str, context: str) -> float:
    """The share of a text that also stands, in this order, in the context."""
    return matched(text, context) / len(text) if text else 0.0


def _logistic(x: float) -> float:
    """1 / (1 + e⁻ˣ), which overflows for no x."""
    return 0.5 * (1 + math.tanh(x / 2))
