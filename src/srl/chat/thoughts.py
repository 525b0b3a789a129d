"""Thoughts in a chat template's own marks: `<|channel>thought … <channel|>` (Gemma 4), channels (gpt-oss), `[THINK]`.

A thought is `<think>…</think>` everywhere in srl. Where a template writes it otherwise, the model reads and writes the
template's marks, and `Marks` stands between the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

OPEN_THOUGHT, CLOSE_THOUGHT = "<think>", "</think>"

ANSWER, THOUGHT = "It is four, an even number.", "Two and two make four."

_CHANNEL = re.compile(r"<\|channel\|?>")

Render = Callable[[dict[str, Any]], str | None]
"""The conversation of the probe with this assistant's message at its end; None where the template takes none."""


@dataclass(frozen=True)
class Marks:
    """What a template writes before a thought, between it and the answer, and before an answer without a thought."""

    open: str
    close: str
    direct: str = ""

    def written(self, completion: str) -> str:
        """(The beginning of) a completion of ours as the model writes it."""
        if not completion.startswith(OPEN_THOUGHT):
            return self.direct + completion
        thought, closed, action = completion.removeprefix(OPEN_THOUGHT).partition(CLOSE_THOUGHT)
        return self.open + thought + (self.close + action.lstrip("\n") if closed else "")

    def read(self, written: str) -> str:
        """What the model wrote as a completion of ours; marks too many or too few stay so."""
        if self.direct.strip():
            written = re.sub(rf"\A\s*{re.escape(self.direct.strip())}", "", written)
        return self._close.sub(f"{CLOSE_THOUGHT}\n", self._open.sub(OPEN_THOUGHT, written))

    @cached_property
    def _open(self) -> re.Pattern[str]:
        return _with_or_without_space(self.open)

    @cached_property
    def _close(self) -> re.Pattern[str]:
        return _with_or_without_space(self.close)


GEMMA = Marks("<|channel>thought\n", "\n<channel|>")
"""Of templates that take such thoughts off an assistant's message and write none (the first versions of Gemma 4's)."""


def _with_or_without_space(mark: str) -> re.Pattern[str]:
    core = mark.strip()
    before, after = mark.partition(core)[::2]
    return re.compile(rf"(?:{re.escape(before)})?{re.escape(core)}(?:{re.escape(after)})?")


def find_marks(
    template: str, prompt: str, question: str, render: Render, added_tokens: list[str]
) -> tuple[Marks | None, str | None]:
    """The marks of a template, None if they are `<think>` and `</think>`; and why srl cannot read its thoughts, if so.

    `prompt` is the rendered probe up to where the assistant begins, `question` its last turn. The marks are what the
    template writes around a thought there, if each holds a token of its own, so that no text is taken for one.
    """
    thinks = {"reasoning_content": THOUGHT, "reasoning": THOUGHT, "thinking": THOUGHT}
    whole = render({"role": "assistant", "content": ANSWER, **thinks})
    if whole is None or THOUGHT not in whole:
        if (channel := _CHANNEL.search(template)) is None:
            return None, None
        stripped = render({"role": "assistant", "content": GEMMA.open + THOUGHT + GEMMA.close + ANSWER})
        is_gemmas = stripped is not None and ANSWER in stripped and THOUGHT not in stripped
        return (GEMMA, None) if is_gemmas else (None, _unreadable(channel[0]))
    before, _, after = whole.partition(THOUGHT)
    if OPEN_THOUGHT in before.rpartition(question)[2]:
        return None, None
    before_answer = (render({"role": "assistant", "content": ANSWER}) or "").partition(ANSWER)[0]
    for start in (prompt, before_answer):  # the prompt may have opened a thought
        opening, close = before.removeprefix(start), after.partition(ANSWER)[0]
        if before.startswith(start) and all(any(token in mark for token in added_tokens) for mark in (opening, close)):
            direct = before_answer.removeprefix(start) if before_answer.startswith(start) else ""
            return Marks(opening, close, direct), None
    return None, _unreadable(before.strip()[-40:])


def _unreadable(mark: str) -> str:
    return f"keeps thoughts in a channel of its own ({mark!r}) instead of <think>"
