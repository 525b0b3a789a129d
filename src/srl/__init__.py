"""Supervised Reinforcement Learning (SRL, arXiv 2510.25992): small models that learn from expert steps.

`import srl` loads no torch; `SRLTrainer` and `SRLConfig` do so when they are first asked for.
"""

from typing import Any

from srl.chat.prompts import parse_completion, step_prompt
from srl.data.steps import step_instances
from srl.errors import UserError
from srl.records import Step, StepInstance, Trajectory
from srl.rewards.similarity import ratio

__version__ = "0.2.0"

__all__ = [
    "SRLConfig",
    "SRLTrainer",
    "Step",
    "StepInstance",
    "Trajectory",
    "UserError",
    "parse_completion",
    "ratio",
    "step_instances",
    "step_prompt",
]


def __getattr__(name: str) -> Any:
    if name in ("SRLConfig", "SRLTrainer"):
        from srl.training import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module 'srl' has no attribute {name!r}")
