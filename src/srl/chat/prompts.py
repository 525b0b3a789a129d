"""The prompt and completion formats; nothing else in srl knows them.

A step prompt (paper, appendix B.2.1; our own words) is a system turn and one user turn that ends with the
expert's steps so far:

    Question: {problem}

    Solution:
    {step 1}

    {step 2}

In an environment (software engineering, tools) the steps are what was done and what came back:

    Task: {problem}

    So far:
    Action:
    {action 1}

    Observation:
    {observation 1}

Every step is followed by a blank line, so each prompt of a trajectory continues the one before, token for
token, until the chat template closes the turn. A completion is `<think>{thought}</think>` and the action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srl.records import Message

STEP_SYSTEM_PROMPT = """\
You help to solve mathematical problems one step at a time. The user gives a problem and, in most cases, the \
first steps of its solution. Write the one step that comes next.

Work it out first in an inner monologue between <think> and </think>: try things, check them, take as much \
room as you need until you are sure. After </think> write only that next step, as it would stand in the \
solution, and stop there; do not go on to solve the whole problem."""

AGENT_SYSTEM_PROMPT = """\
You help to carry out a task in an environment, one action at a time. The user gives the task and, in most \
cases, the latest actions with what the environment answered. Write the one action that comes next.

Work it out first in an inner monologue between <think> and </think>: what is known, what is missing, what \
could go wrong. After </think> write only that next action, exactly as the environment takes it, and stop there."""

ANSWER_SYSTEM_PROMPT = """\
Solve the problem step by step and give the final answer inside \\boxed{}. You may think in a scratch pad \
between <think> and </think> wherever it helps."""

TITLE_REQUEST = """\
Write only the title of the step that comes next in this solution: one line, with its number, like the titles of the \
steps before it."""

SEPARATOR = "\n\n"


def step_prompt(problem: str, context: str, system_prompt: str = STEP_SYSTEM_PROMPT) -> tuple[Message, ...]:
    """The prompt for the step after `context`, which is empty or ends with a newline (`steps.py` builds it).

    An empty `system_prompt` leaves the system turn out.
    """
    return _messages(f"Question: {problem}\n\nSolution:\n{context}", system_prompt)


def asks_for_solution_step(prompt: str | Sequence[Mapping[str, Any]]) -> bool:
    """Whether a prompt is a `step_prompt`, and not one for an action in an environment."""
    text = user_text(prompt)
    return text.startswith("Question: ") and "\n\nSolution:\n" in text


def title_prompt(problem: str, context: str) -> tuple[Message, ...]:
    """The prompt for the title alone of the step after `context`, for a model that was trained with titles given."""
    return _messages(f"{TITLE_REQUEST}\n\nQuestion: {problem}\n\nSolution:\n{context}", "")


def action_prompt(
    problem: str, context: str, system_prompt: str = AGENT_SYSTEM_PROMPT, instructions: str | None = None
) -> tuple[Message, ...]:
    """The prompt for the action after `context`, which is empty or made of `environment_step`s (paper, appendix A).

    `instructions` are the environment's own (its tools and rules); they follow the system prompt.
    """
    system = SEPARATOR.join(filter(None, (system_prompt, instructions)))
    return _messages(f"Task: {problem}\n\nSo far:\n{context}", system)


def environment_step(action: str, observation: str | None) -> str:
    """One action and its answer as later prompts show them."""
    answer = f"Observation:\n{observation}{SEPARATOR}" if observation is not None else ""
    return f"Action:\n{action}{SEPARATOR}{answer}"


def left_out_steps(count: int) -> str:
    """What stands for the `count` earliest steps where a prompt shows only the latest."""
    return f"[{count} earlier step{'s'[: count > 1]} left out]{SEPARATOR}"


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters of a text, with a note of how many were left out of its middle.

    >>> shortened("0123456789", 4)
    '01\\n[… 6 characters left out …]\\n89'
    """
    if len(text) <= limit:
        return text
    head = (limit + 1) // 2
    return f"{text[:head]}\n[… {len(text) - limit} characters left out …]\n{text[len(text) - (limit - head) :]}"


def answer_prompt(problem: str, system_prompt: str = ANSWER_SYSTEM_PROMPT) -> tuple[Message, ...]:
    """The prompt for a whole solution at once: RLVR, SFT on full solutions, evaluation (appendix B.2.2)."""
    return _messages(problem, system_prompt)


def _messages(user: str, system: str) -> tuple[Message, ...]:
    turns = [Message(role="user", content=user)]
    if system:
        turns.insert(0, Message(role="system", content=system))
    return tuple(turns)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote, taken apart. `thought` and `action` are empty where `format_error` is set."""

    thought: str = ""
    action: str = ""
    format_error: str | None = None
    """Why the completion is malformed, in a few words to count by; None if it is well formed."""


def parse_completion(text: str, *, truncated: bool = False) -> Completion:
    """Split a completion into thought and action.

    Well formed means: one `<think>`, then one `</think>`, nothing before the first, text in both parts, and
    not cut off by the length limit. `<solution>` tags around the action are taken off (paper, figure 3).

    >>> parse_completion("<think>6 * 7 is 42</think>2. Multiply: 42")
    Completion(thought='6 * 7 is 42', action='2. Multiply: 42', format_error=None)
    >>> parse_completion("2. Multiply: 42").format_error
    'no <think>'
    """
    if truncated:
        return Completion(format_error="truncated")
    for tag in ("<think>", "</think>"):
        if text.count(tag) != 1:
            return Completion(format_error=f"no {tag}" if tag not in text else f"several {tag}")
    before, _, rest = text.partition("<think>")
    thought, closed, action = rest.partition("</think>")
    if not closed:
        return Completion(format_error="</think> before <think>")
    if before.strip():
        return Completion(format_error="text before <think>")
    action = action.strip()
    if action.startswith("<solution>") and action.endswith("</solution>"):
        action = action.removeprefix("<solution>").removesuffix("</solution>").strip()
    if not thought.strip():
        return Completion(format_error="empty thought")
    if not action:
        return Completion(format_error="empty action")
    return Completion(thought.strip(), action)


def after_thought(text: str) -> str:
    """What a completion says after its thought, if it has one; also of a completion of another form."""
    return text.rpartition("</think>")[2].strip()


def format_completion(thought: str | None, action: str) -> str:
    """The completion that `parse_completion` reads; without a thought the action alone (plain SFT)."""
    return format_thought(thought) + action if thought else action


def format_thought(thought: str) -> str:
    """All of a completion before its action; the thought may be empty here."""
    return f"<think>{thought}</think>\n"


def user_text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """What a prompt tells: its last turn, or the string itself."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def completion_text(completion: str | Sequence[dict[str, Any]]) -> str:
    """The text of a completion as TRL hands it to reward functions: a string, or one assistant message."""
    return completion if isinstance(completion, str) else str(completion[0]["content"])
