"""How a model is asked for an answer: at once (the paper's protocol), or step by step as SRL trains it.

An `Attempt` is one sample of one problem under way: it has a prompt to answer until it has an end. Engines answer
prompts and know nothing of protocols.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from srl.chat.prompts import (
    ANSWER_SYSTEM_PROMPT,
    SEPARATOR,
    STEP_SYSTEM_PROMPT,
    Completion,
    after_thought,
    answer_prompt,
    parse_completion,
    step_prompt,
    title_prompt,
)
from srl.records import Message
from srl.runs.folder import RunFolder
from srl.runs.recipe import ChatOptions

ProtocolName = Literal["answer", "stepwise"]

PROMPT_TOO_LONG = "prompt too long"
"""Why a prompt was not answered, where that is no error."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a model is asked; by default as `srl steps` asks."""

    step: str = STEP_SYSTEM_PROMPT
    """The system prompt for steps; empty: no system turn."""
    answer: str = ANSWER_SYSTEM_PROMPT
    """The system prompt for whole solutions."""
    give_title: bool = False
    """Whether a step is asked for with its title given."""

    def describe(self, protocol: ProtocolName) -> str:
        """The manner for a person, in one line."""
        system = self.answer if protocol == "answer" else self.step
        prompt = f"system prompt {' '.join(system.split())[:60]!r}…" if system else "no system prompt"
        return prompt + (", titles given (the model writes them first)" if self.titles(protocol) else "")

    def titles(self, protocol: ProtocolName) -> bool:
        """Whether titles are given in this protocol."""
        return self.give_title and protocol == "stepwise"


def manner_of(
    model: str, protocol: ProtocolName, system_prompt: str | None = None, give_title: bool | None = None
) -> Manner:
    """How to ask a model: as its run was trained, if it is a run folder, unless another prompt or choice is given.

    `system_prompt` stands in for that of the protocol; an empty one leaves every system turn out.
    """
    run = RunFolder(Path(model))
    manner = replace(Manner(), **(run.prompts if run.exists else {}))
    if system_prompt == "":
        manner = replace(manner, step="", answer="")
    elif system_prompt is not None:
        stepwise = protocol == "stepwise"
        manner = replace(manner, step=system_prompt) if stepwise else replace(manner, answer=system_prompt)
    return manner if give_title is None else replace(manner, give_title=give_title)


def chat_of(model: str, given: ChatOptions) -> ChatOptions:
    """How conversations with a model become tokens: as in its run, if it is a run folder, and as is given.

    The tokenizer of a run's model asks so by itself, but for the date; what was used is known then.
    """
    run = RunFolder(Path(model))
    if not run.exists:
        return given
    own = run.recipe.chat
    return ChatOptions(
        template_kwargs=own.template_kwargs | given.template_kwargs,
        open_thought=own.open_thought or given.open_thought,
        today=given.today or own.today,
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine wrote for one prompt."""

    text: str
    tokens: int | None
    """The engine's own count of what it wrote; None if it gives none."""
    truncated: bool
    """Whether the token limit ended it."""
    prompt_tokens: int | None = None
    """The engine's count of the prompt; None if it gives none."""


def tokens_of(replies: Sequence[Reply]) -> int | None:
    """All that the engine wrote; None if it does not say for one of them."""
    counted = [reply.tokens for reply in replies if reply.tokens is not None]
    return sum(counted) if len(counted) == len(replies) else None


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

    A step that has a `\\boxed` answer ends it. When the model repeats a step, or has written `max_steps`, it is asked
    once for the answer, with all its steps before it: the last step is mostly no target of training, and what states
    the answer may stand after it. A malformed completion ends it without an answer.

    A model trained with titles given first writes the title, which is then given to it.
    """

    problem: str
    manner: Manner
    max_steps: int
    replies: list[Reply] = field(default_factory=list)
    end: str | None = None
    """"stop", "asked for the answer", or why there is no answer."""
    actions: list[str] = field(default_factory=list)
    title: str = ""
    """Of the step that is asked for next, where titles are given and this one is written."""
    answer: str = ""
    """What was written when the answer was asked for."""
    _answer_is_due: bool = False

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The problem and the steps so far, as in training; for the title or the answer, if one of them is due."""
        if self._answer_is_due:
            return step_prompt(self.problem, self._context, self.manner.answer)
        if self._title_is_due:
            return title_prompt(self.problem, self._context)
        return step_prompt(self.problem, self._context + self.title, self.manner.step)

    def take(self, reply: Reply) -> Completion:
        """Add the model's step to the solution or end the attempt, and return the thought and step that were read."""
        self.replies.append(reply)
        if self._answer_is_due:
            self.answer = after_thought(reply.text)
            self.end = "truncated" if reply.truncated else "asked for the answer"
            return Completion(action=self.answer)
        return self._take_title(reply) if self._title_is_due else self._take_step(reply)

    def _take_title(self, reply: Reply) -> Completion:
        lines = after_thought(reply.text).splitlines()
        if reply.truncated or not lines:
            self.end = "no title"
            return Completion(format_error=self.end)
        self.title = lines[0].strip() + "\n"
        return Completion(action=lines[0].strip())

    def _take_step(self, reply: Reply) -> Completion:
        completion = parse_completion(reply.text, truncated=reply.truncated)
        action, self.title = self.title + completion.action, ""
        if completion.format_error:
            self.end = completion.format_error
        elif action in self.actions:
            self._answer_is_due = True
        else:
            self.actions.append(action)
            if "\\boxed" in action:
                self.end = "stop"
            else:
                self._answer_is_due = len(self.actions) == self.max_steps
        return completion

    @property
    def solution(self) -> str:
        """The steps, without the thoughts; empty where an answer does not count."""
        return self._context + self.answer if self.end in ("stop", "asked for the answer") else ""

    @property
    def _title_is_due(self) -> bool:
        return self.manner.give_title and not self.title

    @property
    def _context(self) -> str:
        return "".join(action + SEPARATOR for action in self.actions)


Attempt = OneAnswer | Stepwise
