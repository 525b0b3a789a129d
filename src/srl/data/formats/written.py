"""A solution in one text, as many formats hold one, and how it becomes a trajectory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from srl.data.formats.cutting import Scheme, cut_solution
from srl.data.formats.numbered import NotNumbered
from srl.records import Step, Trajectory

Annotations = Literal["drop", "thought"]
"""What becomes of a calculator's notes in a solution (`<<48/2=24>>`, GSM8K)."""

_NOTE = re.compile(r"<<([^\s<>][^<>\n]*=[^<>\n]*)>>")
# What a worked solution has and a recipe or a travel plan has not.
_WORKED = re.compile(
    r"\\boxed|\\frac|\\sqrt|\\\(|\\\[|\$\$|####|\$[^$\n]*[=\\^_][^$\n]*\$|\d[ \t]*[+*×·÷^][ \t]*-?\d|[=≈][ \t]*-?\d"
    r"|^(?:#{1,6}[ \t]*)?(?:\*\*)?(?i:(?:final[ \t]+)?answer[ \t]*:|the[ \t]+(?:final[ \t]+)?answer[ \t]+is\b)",
    re.M,
)


@dataclass(frozen=True, slots=True)
class Written:
    """An expert's solution, before it is cut into steps."""

    id: str
    problem: str
    text: str
    """The solution without its thought; "" where only the problem is known."""
    thought: str = ""
    answer: str | None = None
    verified: bool | None = None
    scheme: Scheme = "numbered"
    """How solutions of this kind are cut unless the user says otherwise."""
    is_chat: bool = False
    """Whether it is what an assistant answered: maybe no solution at all, and then one action."""
    instructions: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def has_annotations(text: str) -> bool:
    """Whether a text holds a calculator's notes.

    >>> has_annotations("48/2 = <<48/2=24>>24 clips"), has_annotations("cat <<EOF")
    (True, False)
    """
    return _NOTE.search(text) is not None


def as_trajectory(written: Written, scheme: Scheme | None = None, annotations: Annotations = "drop") -> Trajectory:
    """Cut a solution; the expert's thought about all of it comes before its first step.

    Where it has no steps but the answer is known, the trajectory has none either: a problem, to be solved as a whole.

    Raises:
        NotNumbered: it cannot be cut, and no answer is known.
    """
    steps: tuple[Step, ...] = ()
    conclusion: str | None = None
    metadata = dict(written.metadata)
    try:
        if written.is_chat and scheme is None and not is_worked(written):
            raise NotNumbered("no numbered steps")
        cut = cut_solution(written.text, scheme or written.scheme)
        steps, conclusion = tuple(_without_notes(step, annotations) for step in cut.steps), cut.conclusion
        metadata["family"] = cut.family
    except NotNumbered as refusal:
        if written.answer is not None:
            conclusion = _NOTE.sub("", written.text).strip() or None
            metadata["no_steps"] = refusal.reason if written.text else "no solution"
        elif written.is_chat:
            steps = (Step(written.text),)
        else:
            raise
    if written.thought and steps:
        thought = "\n\n".join(filter(None, (written.thought, steps[0].thought)))
        steps = (replace(steps[0], thought=thought), *steps[1:])
    return Trajectory(
        id=written.id,
        problem=written.problem,
        steps=steps,
        answer=written.answer,
        verified=written.verified,
        conclusion=conclusion,
        metadata=metadata,
    )


def is_worked(written: Written) -> bool:
    """Whether an answer in a chat is the worked solution of a problem: it calculates, or its result is known."""
    return written.answer is not None or written.verified is not None or bool(_WORKED.search(written.text))


def _without_notes(step: Step, annotations: Annotations) -> Step:
    notes = _NOTE.findall(step.action)
    if not notes:
        return step
    thought = "\n".join(notes) if annotations == "thought" else step.thought
    title = _NOTE.sub("", step.title) if step.title else None
    return replace(step, action=_NOTE.sub("", step.action), title=title, thought=thought)
