r"""Solutions whose steps are rated one by one: PRM800K, Math-Shepherd, and TRL's stepwise supervision.

    {"question": {"problem": "3p + e = 4 …", "ground_truth_answer": "29"},                          PRM800K
     "label": {"steps": [{"completions": [{"text": "We subtract.", "rating": 1}], "chosen_completion": 0}],
               "finish_reason": "solution"}}
    {"input": "2 + 2? Step 1: 2 + 2 = 4 ки\nStep 2: The answer is: 4 ки",                    Math-Shepherd
     "label": "2 + 2? Step 1: 2 + 2 = 4 +\nStep 2: The answer is: 4 +"}
    {"prompt": "2 + 2?", "completions": ["2 + 2 = 4", "The answer is 4"], "labels": [true, true]}      TRL

Each step is an action. Rows that rate a cut-off solution (its steps are the first steps of another row) stay
rows of their own here. Sources: https://github.com/openai/prm800k,
https://huggingface.co/datasets/peiyi9979/Math-Shepherd, https://huggingface.co/docs/trl/dataset_formats.
"""

from __future__ import annotations

import re
from typing import Any

from srl.data.formats.fields import facts, first_text, items, kind, mapping, optional_text, text
from srl.errors import Unusable, UserError
from srl.files import Row
from srl.records import Step, Trajectory

NAME = "process-rewards"

_FIRST_STEP = re.compile(r"(?:\A|\s)Step 1:")
_MARK = "ки"  # where Math-Shepherd's input wants a rating


def recognise(value: Any) -> str | None:
    """Whether a row rates steps."""
    if not isinstance(value, dict):
        return None
    label = value.get("label")
    if isinstance(label, dict) and isinstance(label.get("steps"), list) and isinstance(value.get("question"), dict):
        return "`label.steps` with rated completions (PRM800K)"
    if isinstance(label, str) and isinstance(value.get("input"), str) and _MARK in value["input"]:
        return f"`input` with {_MARK} and `label` with + and - (Math-Shepherd)"
    if isinstance(value.get("completions"), list) and isinstance(value.get("labels"), list):
        return "`completions` with `labels` (TRL stepwise supervision)"
    return None


def read(row: Row, trajectory_id: str) -> Trajectory:
    """One solution as a trajectory.

    Raises:
        UserError: a field of another type than the format's.
        Unusable: a step is rated wrong, or there is none.
    """
    value = mapping(row.value, "row", row.where)
    if isinstance(value.get("label"), dict):
        return _prm800k(value, row.where, trajectory_id)
    reader = _math_shepherd if "label" in value else _stepwise
    problem, steps, answer = reader(value, row.where)
    if not problem.strip():
        raise Unusable("no problem")
    return Trajectory(
        id=trajectory_id,
        problem=problem.strip(),
        steps=_steps(steps),
        answer=answer,
        verified=True if answer else None,  # Math-Shepherd: the last step, which tells it, is rated right
        metadata=facts(row.where, NAME, value, task=first_text(value, ("task",))),
    )


def _prm800k(value: dict[str, Any], where: str, trajectory_id: str) -> Trajectory:
    """The path that the labeler took; verified if it led to a solution, not where he found an error or gave up."""
    question, label = mapping(value.get("question"), "question", where), value["label"]
    chosen = []
    for index, step in enumerate(items(label.get("steps"), "label.steps", where)):
        written = _chosen(mapping(step, "label.steps", where), f"{where}, step {index}")
        if not written.strip():
            break  # nothing right was found here, and the labeler stopped
        chosen.append(written)
    problem = text(question.get("problem"), "question.problem", where).strip()
    if not problem:
        raise Unusable("no problem")
    answer = question.get("ground_truth_answer")
    return Trajectory(
        id=trajectory_id,
        problem=problem,
        steps=_steps(chosen),
        answer=optional_text(answer, "question.ground_truth_answer", where) or None,
        verified=label.get("finish_reason") == "solution",
        metadata=facts(where, NAME, value, finish_reason=label.get("finish_reason")),
    )


def _chosen(step: dict[str, Any], where: str) -> str:
    """The chosen completion, or the labeler's own, or the best rated one that is not wrong."""
    completions = items(step.get("completions") or [], "completions", where)
    rated = [mapping(completion, "completions", where) for completion in completions]
    index, own = step.get("chosen_completion"), step.get("human_completion")
    if index is not None:
        if not isinstance(index, int) or not 0 <= index < len(rated):
            raise UserError(f"{where}: expected `chosen_completion` below {len(rated)} (a number), found another")
        return text(rated[index].get("text"), "completions[].text", where)
    if own is not None:
        return text(own.get("text") if isinstance(own, dict) else own, "human_completion", where)
    ratings = [each["rating"] if isinstance(each.get("rating"), int | float) else -1 for each in rated]
    if not ratings or max(ratings) < 0:
        return ""
    return text(rated[ratings.index(max(ratings))].get("text"), "completions[].text", where)


def _math_shepherd(value: dict[str, Any], where: str) -> tuple[str, list[str], str | None]:
    label = text(value.get("label"), "label", where)
    written = text(value.get("input"), "input", where)
    segments = written.split(_MARK)
    steps: list[str] = []
    ratings: list[str] = []
    position = 0
    for segment in segments[:-1]:  # `label` is `input` with a sign for each mark
        if not label.startswith(segment, position):
            raise UserError(f"{where}: expected `label` to repeat `input` up to its step {len(steps) + 1}")
        position += len(segment) + 1
        steps.append(segment)
        ratings.append(label[position - 1 : position])
    _refuse_wrong([rating == "+" for rating in ratings])
    if not steps:
        raise Unusable("no action")
    found = _FIRST_STEP.search(steps[0])
    if not found:
        raise Unusable("no action", "no `Step 1:`")
    problem, steps[0] = steps[0][: found.start()], steps[0][found.start() :]
    _, told, answer = steps[-1].partition("The answer is:")
    return problem, steps, answer.strip() or None if told else None


def _stepwise(value: dict[str, Any], where: str) -> tuple[str, list[str], None]:
    steps = [text(step, "completions", where) for step in items(value.get("completions"), "completions", where)]
    labels = items(value.get("labels"), "labels", where)
    if len(labels) != len(steps):
        raise UserError(f"{where}: expected {len(steps)} `labels`, one per completion, found {len(labels)}")
    for label in labels:
        if label not in (True, False):
            raise UserError(f"{where}: expected true or false in `labels`, found {kind(label)}")
    _refuse_wrong([bool(label) for label in labels])
    return text(value.get("prompt"), "prompt", where), steps, None


def _refuse_wrong(right: list[bool]) -> None:
    if not all(right):
        raise Unusable("a step is rated wrong", f"step {right.index(False) + 1}")


def _steps(written: list[str]) -> tuple[Step, ...]:
    steps = tuple(Step(action) for step in written if (action := step.strip()))
    if not steps:
        raise Unusable("no action")
    return steps
