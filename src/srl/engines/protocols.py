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
    """As the engine counts them; None if it does not say."""
    truncated: bool
    """Cut off by the token limit."""
    prompt_tokens: int | None = None
    """Likewise of the prompt."""


@dataclass(slots=True)
class OneAnswer:
    """The paper's protocol: one completion holds the whole solution (appendix B.2.2)."""

    problem: str
    system_prompt: str
    replies: list[Reply] = field(default_factory=list)
    end: str | None = None
    """Why it ended; None while it goes on."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What to ask next."""
        return answer_prompt(self.problem, self.system_prompt)

    def take(self, reply: Reply) -> None:
        """Go on with what the model wrote."""
        self.replies.append(reply)
        self.end = "truncated" if reply.truncated else "stop"

    @property
    def solution(self) -> str:
        """The text to read the answer from; empty where an answer does not count."""
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
        """What to ask next."""
        return step_prompt(self.problem, self._context, self.system_prompt)

    def take(self, reply: Reply) -> Completion:
        """Go on with what the model wrote, and say how it was read."""
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
        """The steps, without the thoughts; empty where an answer does not count."""
        return self._context if self.end == "stop" else ""

    @property
    def _context(self) -> str:
        return "".join(action + SEPARATOR for action in self.actions)


Attempt = OneAnswer | Stepwise
