"""What a reward for steps logs of the completions it sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from srl.chat.prompts import Completion


def log_metrics(
    log_metric: Callable[[str, float], None], parsed: list[Completion], experts: list[str], similarities: list[float]
) -> None:
    """Metrics of each completion: `format_error_rate`, `exact_step_rate`; `step_similarity` if it is well formed."""
    for completion, expert, similarity in zip(parsed, experts, similarities, strict=True):
        log_metric("format_error_rate", float(completion.format_error is not None))
        log_metric("exact_step_rate", float(completion.action == expert))
        if not completion.format_error:
            log_metric("step_similarity", similarity)


def log_rollouts(
    log_extra: Callable[[str, list[Any]], None], parsed: list[Completion], columns: dict[str, Sequence[Any]]
) -> None:
    """The parts of each completion, and which step it answers, as columns of completions/."""
    log_extra("thought", [p.thought for p in parsed])
    log_extra("action", [p.action for p in parsed])
    log_extra("format_error", [p.format_error for p in parsed])
    for name in ("trajectory_id", "step_index", "expert_action", "expert_logprob_gain"):
        if name in columns:
            log_extra(name, list(columns[name]))
