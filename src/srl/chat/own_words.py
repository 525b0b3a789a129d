"""Two plain questions whose answers make a completion in the format, from a model that does not know the format.

Any instruct model can say what it would do next, and then do it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from srl.chat.prompts import SEPARATOR, after_thought, format_completion, parse_completion
from srl.records import Message

THOUGHT_REQUEST = """\
What has to be done next, and why? Think it over aloud in two or three short sentences. Do not write the step itself \
yet."""

STEP_REQUEST = "Now write only this next step, as it would stand in the solution, in one sentence."

_TAGS = re.compile(r"</?think>|</?solution>")
_WHOLE_SENTENCES = re.compile(r".*[.!?](?=\s|$)", re.DOTALL)


def thought_request(prompt: Sequence[Mapping[str, str]]) -> tuple[Message, ...]:
    """Ask for the thought before the step that a prompt asks for."""
    return _asking(prompt, THOUGHT_REQUEST)


def step_request(prompt: Sequence[Mapping[str, str]], thought: str) -> tuple[Message, ...]:
    """Ask for the step after a thought."""
    return _asking(prompt, f"Thought: {thought}{SEPARATOR}{STEP_REQUEST}")


def spoken_thought(reply: str, truncated: bool) -> str:
    """The thought in an answer; of one that was cut off the whole sentences, which may be none.

    >>> spoken_thought("First add 2. Then I wo", True)
    'First add 2.'
    """
    text = _said(reply)
    return _sentences(text) if truncated else text


def spoken_step(reply: str, truncated: bool) -> str:
    """The step in an answer: its first paragraph.

    >>> spoken_step("So 2 + 2 = 4.\\n\\nIs there anything else?", False)
    'So 2 + 2 = 4.'
    """
    step, blank_line, _ = _said(reply).partition(SEPARATOR)
    return _sentences(step) if truncated and not blank_line else step.strip()


def is_in_the_format(thought: str, step: str) -> bool:
    """Whether the two make a completion that is read as these two, and the thought is more than the step."""
    written = parse_completion(format_completion(thought, step))
    return (written.thought, written.action) == (thought, step) and bool(thought and step) and thought != step


def _asking(prompt: Sequence[Mapping[str, str]], request: str) -> tuple[Message, ...]:
    turns = [Message(role=turn["role"], content=turn["content"]) for turn in prompt]
    asked = f"{turns[-1]['content'].rstrip()}{SEPARATOR}{request}"
    return (*turns[:-1], Message(role=turns[-1]["role"], content=asked))


def _said(reply: str) -> str:
    """Without a thought of the model's own before it: it was asked in plain words."""
    return _TAGS.sub("", after_thought(reply)).strip()


def _sentences(text: str) -> str:
    whole = _WHOLE_SENTENCES.match(text)
    return whole[0] if whole else ""
