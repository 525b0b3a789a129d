"""A plain question whose answer is the thought before a step, from a model that does not know the format.

It is told the step and asked how one comes to it: any instruct model can say that, also one that would not have found
the step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from srl.chat.prompts import SEPARATOR, after_thought, format_completion, parse_completion
from srl.records import Message

THOUGHT_REQUEST = """\
Why is this the next step, and how does one find it? Say it aloud in one or two short sentences, as if you were about \
to write the step. Do not write the step itself."""

_TAGS = re.compile(r"</?think>|</?solution>")
_WHOLE_SENTENCES = re.compile(r".*[.!?](?=\s|$)", re.DOTALL)


def thought_request(prompt: Sequence[Mapping[str, str]], step: str) -> tuple[Message, ...]:
    """Ask for the thought before a step, after the prompt that asks for that step."""
    turns = [Message(role=turn["role"], content=turn["content"]) for turn in prompt]
    request = f"The next step is:{SEPARATOR}{step}{SEPARATOR}{THOUGHT_REQUEST}"
    asked = f"{turns[-1]['content'].rstrip()}{SEPARATOR}{request}"
    return (*turns[:-1], Message(role=turns[-1]["role"], content=asked))


def spoken_thought(reply: str, truncated: bool) -> str:
    """The thought in an answer; of one that was cut off the whole sentences, which may be none.

    >>> spoken_thought("First add 2. Then I wo", True)
    'First add 2.'
    """
    text = _said(reply)
    return _sentences(text) if truncated else text


def is_in_the_format(thought: str, step: str) -> bool:
    """Whether the two make a completion that is read as these two, and the thought is more than the step."""
    written = parse_completion(format_completion(thought, step)) if thought else None
    return written is not None and (written.thought, written.action) == (thought, step.strip()) and thought != step


def _said(reply: str) -> str:
    """Without a thought of the model's own before it: it was asked in plain words."""
    return _TAGS.sub("", after_thought(reply)).strip()


def _sentences(text: str) -> str:
    whole = _WHOLE_SENTENCES.match(text)
    return whole[0] if whole else ""
