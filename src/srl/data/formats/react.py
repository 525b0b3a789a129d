"""ReAct texts: thoughts, actions and observations written one after the other, a whole run in one field.

    {"question": "Who wrote Faust?",
     "trajectory": "Thought 1: I search.\nAction 1: Search[Faust]\nObservation 1: A play by Goethe.\n
                    Thought 2: Found.\nAction 2: Finish[Goethe]"}

LangChain writes `Action: Search` and `Action Input: Faust`, and ends with `Final Answer:`.
Sources: https://github.com/ysymyth/ReAct, https://arxiv.org/abs/2210.03629, and for turns written so
https://github.com/THUDM/AgentTuning (`Think:` and `Act:`).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from srl.data.formats.fields import facts, first_text, mapping
from srl.data.formats.labels import verdict
from srl.data.formats.thoughts import untagged
from srl.data.formats.turns import Act, call_line, unix
from srl.errors import Unusable
from srl.files import Row
from srl.records import Step, Trajectory

NAME = "react"

_TEXTS = ("trajectory", "text", "output", "completion", "response", "answer", "react", "scratchpad")
_PROBLEMS = ("question", "problem", "input", "instruction", "task", "prompt", "query")

_LABEL = re.compile(
    r"^[ \t]*(?:\*\*)?(?P<label>(?i:thought|think|action input|action|act|observation|final answer|question))"
    r"(?:[ \t]+[0-9]{1,3})?[ \t]*:(?:\*\*)?",
    re.M,
)
_LABELS = {"think": "thought", "act": "action"}


class _Part(NamedTuple):
    label: str
    text: str


def recognise(value: Any) -> str | None:
    """Whether a field holds a text with `Thought:` and `Action:` and what was observed or found."""
    if not isinstance(value, dict):
        return None
    for name in _TEXTS:
        text = value.get(name)
        if isinstance(text, str) and "hought" in text and "ction" in text:
            labels = {part.label for part in _parts(text)}
            if {"thought", "action"} <= labels and labels & {"observation", "final answer"}:
                return f"`{name}` with Thought:, Action: and Observation:"
    return None


def read(row: Row, trajectory_id: str) -> Trajectory:
    """One row as a trajectory; an action with an input becomes a tool call, others stay as they are written.

    Raises:
        UserError: the row is not an object.
        Unusable: no problem, or no action.
    """
    value = mapping(row.value, "row", row.where)
    parts = next(
        (_parts(value[name]) for name in _TEXTS if isinstance(value.get(name), str) and _is_react(value[name])), []
    )
    questions = [index for index, part in enumerate(parts) if part.label == "question"]
    if questions:  # those before the last are examples
        parts = parts[questions[-1] :]
    problem = first_text(value, _PROBLEMS) or (parts[0].text if questions else "")
    if not problem:
        raise Unusable("no problem")
    steps = _steps(parts)
    if not steps:
        raise Unusable("no action")
    return Trajectory(
        id=trajectory_id,
        problem=problem.strip(),
        steps=steps,
        environment=True,
        verified=verdict(value),
        metadata=facts(row.where, NAME, value),
    )


def split_turn(said: str) -> Act | None:
    """A turn written as `Thought: … Action: …`, or None if it is written otherwise."""
    found = _LABEL.match(said)
    if not found or found["label"].lower() not in ("thought", "think", "action", "act"):
        return None
    steps = _steps(_parts(said))
    return Act(steps[0].action, steps[0].thought or "") if len(steps) == 1 else None


def _is_react(text: str) -> bool:
    return bool({"action", "final answer"} & {part.label for part in _parts(text)})


def _parts(text: str) -> list[_Part]:
    found = list(_LABEL.finditer(text))
    ends = [*(label.start() for label in found[1:]), len(text)]
    return [
        _Part(_LABELS.get(name := label["label"].lower(), name), text[label.end() : end].strip())
        for label, end in zip(found, ends, strict=False)  # one end too many if there is none
    ]


def _steps(parts: list[_Part]) -> tuple[Step, ...]:
    steps: list[Step] = []
    thoughts: list[str] = []
    action: str | None = None
    observation: str | None = None
    for index, part in enumerate([*parts, _Part("end", "")]):
        if action is not None and part.label in ("thought", "action", "final answer", "end"):
            steps.append(Step(action, observation=observation, thought="\n\n".join(thoughts) or None))
            thoughts, action, observation = [], None, None
        if part.label == "thought" and part.text:
            thoughts.append(untagged(part.text))
        elif part.label == "action":
            after = parts[index + 1] if index + 1 < len(parts) else None
            has_input = after is not None and after.label == "action input"
            action = call_line(part.text, after.text) if after and has_input else part.text or None
        elif part.label == "final answer" and part.text:
            action = f"Final Answer: {part.text}"
        elif part.label == "observation" and action is not None:
            observation = unix(part.text)
    return tuple(steps)
