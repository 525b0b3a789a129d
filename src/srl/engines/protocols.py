"""How a model is asked for an answer: at once (the paper's protocol), or step by step as SRL trains it.

An `Attempt` is one sample of one problem under way: it has a prompt to answer until it has an end. Engines answer
prompts and know nothing of protocols.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from srl.chat.prompts import SEPARATOR, Completion, answer_prompt, parse_completion, step_prompt
from srl.records import Message

ProtocolName = Literal["answer", "stepwise"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine wrote for one prompt."""

    text: str
    tokens: int | None
    """The engine's own count of what it wrote; None if it gives none."""
    truncated: bool
    """Whether the token limit ended it."""


@dataclass(slots=True)
class OneAnswer:
    """The paper's protocol: one completion holds the whole solution (appendix B.2.2)."""

    problem: str
    system_prompt: str
    replies: list[Reply] = field(default_factory=list)
    end: str | None = None
    """Why the attempt ended; None while it is under way."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The problem with the instructions for a whole solution."""
        return answer_prompt(self.problem, self.system_prompt)

    def take(self, reply: Reply) -> None:
        """Keep the model's solution; the attempt has then ended."""
        self.replies.append(reply)
        self.end = "truncated" if reply.truncated else "stop"

    @property
    def solution(self) -> str:
        """The completion that the answer is read from; empty if it was cut off, which counts as wrong."""
        return self.replies[-1].text if self.end == "stop" else ""


@dataclass(slots=True)
class Stepwise:
    """As an SRL model is trained: a thought and a step at a time, each step joining the context of the next.

    Ends with a step that has a `\\boxed` answer, after a malformed completion or a repeated step, and at `max_steps`.
    """

    problem: str
    system_prompt: str
    max_steps: int
    replies: list[Reply] = field(default_factory=list)
    end: str | None = None
    actions: list[str] = field(default_factory=list)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The problem and the steps so far, as in training."""
        return step_prompt(self.problem, self._context, self.system_prompt)

    def take(self, reply: Reply) -> Completion:
        """Add the model's step to the solution or end the attempt, and return the thought and step that were read."""
        self.replies.append(reply)
        completion = parse_completion(reply.text, truncated=reply.truncated)
        if completion.format_error:
            self.end = completion.format_error
        elif completion.action in self.actions:
            self.end = "repeated step"
        else:
            self.actions.append(completion.action)
            if "\\boxed" in completion.action:
                self.end = "stop"
            elif len(self.actions) == self.max_steps:
                self.end = "too many steps"
        return completion

    @property
    def solution(self) -> str:
        """The steps without their thoughts; empty unless a step gave an answer."""
        return self._context if self.end == "stop" else ""

    @property
    def _context(self) -> str:
        return "".join(action + SEPARATOR for action in self.actions)


Attempt = OneAnswer | Stepwise
