"""What flows through srl: an expert's trajectory, its steps, and the step instances cut from it.

    Trajectory (problem, steps, answer)  ->  StepInstance (prompt, expert action), one per step
                                         ->  Problem (prompt, answer), to be solved as a whole

No framework here: plain frozen dataclasses that every other module shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict


class Message(TypedDict):
    """One turn of a conversation, as chat templates take it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an expert: what it did, and what came back.

    A step of a numbered solution keeps its text as written in `action`, heading included; `title` is then
    that heading, character for character ("2. **Coprime pairs**:"), and starts a line of `action`.
    """

    action: str
    """What the student must reproduce: the step's text, a command, a tool call. Never empty."""
    title: str | None = None
    """The heading inside `action`; None where the step has none, or has nothing else."""
    observation: str | None = None
    """What the environment answered; None in mathematics."""
    thought: str | None = None
    """The expert's own reasoning before the action: never shown in a prompt and never rewarded (paper §4.2)."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """An expert's way from a problem to its answer."""

    id: str
    problem: str
    steps: tuple[Step, ...]
    """Empty where only the problem and its answer are known, or the solution has no steps to cut it into."""
    answer: str | None = None
    """The known final answer of the problem."""
    verified: bool | None = None
    """Whether the expert reached that answer; None: not known."""
    conclusion: str | None = None
    """What the expert wrote after the last step ("### Conclusion …", "Answer: 60"); not a step."""
    instructions: str | None = None
    """The expert's own system prompt: tools and rules of its environment; None in mathematics."""
    environment: bool | None = None
    """Whether the steps act in an environment; None: they do if one answered any of them."""
    only_last: bool = False
    """Whether the last step alone is asked for, those before it being context (NeMo Gym's pivots)."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def in_environment(self) -> bool:
        """Whether the expert acted in an environment; else its steps are those of a written solution."""
        if self.environment is not None:
            return self.environment
        return any(step.observation is not None for step in self.steps)


@dataclass(frozen=True, slots=True)
class StepInstance:
    """One question to the student: the problem and the expert's steps before `step_index`; and its answer."""

    trajectory_id: str
    step_index: int
    """1-based: the step that `expert_action` takes."""
    prompt: tuple[Message, ...]
    expert_action: str
    next_title: str | None = None
    """The title of this step, if the prompt gives it away (paper §4.2, footnote 1)."""
    thought: str | None = None
    """The expert's thought before this step, where it is known: a target for SFT only."""
    verified: bool | None = None
    """Whether the expert is known to have done right; None: not known."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem to be solved as a whole, for RLVR and SFT on full solutions."""

    trajectory_id: str
    prompt: tuple[Message, ...]
    answer: str | None = None
    """The known final answer."""
    solution: str | None = None
    """A whole solution by an expert, where there is one."""
    thought: str | None = None
    """What the expert thought before all of it (a reasoning model's trace), where that is known: for SFT only."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
