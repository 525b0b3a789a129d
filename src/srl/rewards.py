"""Reward functions, in the shape that TRL's trainers (and `trl grpo`) call.

    f(prompts, completions, completion_ids, **dataset_columns) -> one float per completion

`SRLTrainer` adds a column of its own, `truncated`: whether a completion was cut off by the length limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from srl.answers import are_correct
from srl.prompts import completion_text, parse_completion
from srl.similarity import ratios_batch

MALFORMED = -1.0


def step_similarity(
    completions: Sequence[Any],
    expert_action: Sequence[str],
    truncated: Sequence[bool] | None = None,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **columns: Any,
) -> list[float]:
    """SRL's reward: how much the action resembles the expert's, in [0, 1]; −1 if malformed (paper §4.2).

    Only the action counts; the thought is free. Logs, per completion, the parts of the rollout as columns and
    `format_error_rate`, `step_similarity` (well-formed completions only) and `exact_step_rate` as metrics.
    """
    cut_off = truncated or [False] * len(completions)
    parsed = [parse_completion(completion_text(c), truncated=t) for c, t in zip(completions, cut_off, strict=True)]
    similarities = ratios_batch([p.action for p in parsed], [expert.strip() for expert in expert_action])
    rewards = [MALFORMED if p.format_error else r for p, r in zip(parsed, similarities, strict=True)]
    if log_metric:
        for reward in rewards:
            log_metric("format_error_rate", float(reward == MALFORMED))
            log_metric("exact_step_rate", float(reward == 1.0))
            if reward != MALFORMED:
                log_metric("step_similarity", reward)
    if log_extra:
        for name in ("trajectory_id", "step_index"):
            if name in columns:
                log_extra(name, list(columns[name]))
        log_extra("thought", [p.thought for p in parsed])
        log_extra("action", [p.action for p in parsed])
        log_extra("expert_action", list(expert_action))
        log_extra("format_error", [p.format_error for p in parsed])
    return rewards


def answer_correctness(
    completions: Sequence[Any],
    answer: Sequence[str],
    truncated: Sequence[bool] | None = None,
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **columns: Any,
) -> list[float]:
    """RLVR's reward: 1.0 if the final answer equals the known one (`math-verify`), else 0.0.

    A truncated completion is wrong.
    """
    cut_off = truncated or [False] * len(completions)
    right = are_correct([completion_text(c) for c in completions], list(answer))
    if log_extra:
        if "trajectory_id" in columns:
            log_extra("trajectory_id", list(columns["trajectory_id"]))
        log_extra("answer", list(answer))
    return [float(r and not t) for r, t in zip(right, cut_off, strict=True)]
