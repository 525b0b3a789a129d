"""NeMo Gym's rows: a request of the Responses API, and the step, the run or the answer that belongs to it.

    {"responses_create_params": {"input": [{"role": "user", "content": "Fix it."}], "tools": […]},
     "expected_action": {"type": "function_call", "name": "bash", "arguments": "{…}"}}            a pivot: one step
    {"responses_create_params": {…}, "response": {"output": [items]}, "reward": 1.0}              a rollout
    {"responses_create_params": {…}, "expected_answer": "42"}                                     a problem

A pivot's past is context; only the expected step is asked for. Where `input` is empty, the problem stands in
`metadata`. Source: https://github.com/NVIDIA-NeMo/Gym.
"""

from __future__ import annotations

from typing import Any

from srl.data.formats.fields import facts, first_text, items, mapping, submapping
from srl.data.formats.labels import crashed, verdict
from srl.data.formats.responses import item_turns
from srl.data.formats.turns import Turn, converse, joined, prompt_messages, stretches, tools_text
from srl.errors import Unusable
from srl.files import Row
from srl.records import Problem, Trajectory
from srl.rewards.answer_text import known_answer

NAME = "nemo-gym"


def recognise(value: Any) -> str | None:
    """Whether a row has a request."""
    if not isinstance(value, dict) or not isinstance(value.get("responses_create_params"), dict):
        return None
    beside = next((name for name in ("expected_action", "response", "expected_answer") if value.get(name)), None)
    return "`responses_create_params`" + (f" and `{beside}`" if beside else "")


def read(row: Row, trajectory_id: str) -> Trajectory | Problem:
    """One row as a trajectory, of which a pivot asks for the last step only; or as a problem.

    Raises:
        UserError: no request, or an item of no known shape.
        Unusable: no problem, or no action.
    """
    value = mapping(row.value, "row", row.where)
    request = mapping(value.get("responses_create_params"), "responses_create_params", row.where)
    response, metadata = submapping(value, "response"), submapping(request, "metadata")
    asked = request.get("input")
    asked = [{"role": "user", "content": asked}] if isinstance(asked, str) else items(asked, "input", row.where)
    expected = value.get("expected_action")
    answer = value.get("expected_answer")
    if expected is None and not response and answer is not None:
        return Problem(trajectory_id, prompt_messages(asked, row.where), answer=known_answer(str(answer)))
    turns = [*stretches(item_turns(asked, row.where))]
    if expected is not None:
        turns += _expected(expected, row.where)
    else:
        output = items(response.get("output") or [], "response.output", row.where)
        turns += stretches(item_turns(output, row.where))
    known = first_text(metadata, ("problem_statement",)) or first_text(value, ("problem_statement", "question"))
    found = converse(turns, problem=known)
    verified = verdict(value)
    tools = request.get("tools") or response.get("tools")
    rules = joined([found.instructions or "", first_text(request, ("instructions",)) or "", tools_text(tools)])
    return Trajectory(
        id=trajectory_id,
        problem=found.problem,
        steps=found.steps,
        verified=False if verified is None and (crashed(value) or crashed(response)) else verified,
        instructions=rules or None,
        environment=True,
        only_last=expected is not None,
        metadata=facts(row.where, NAME, {**metadata, **value}, skipped_turns=found.skipped),
    )


def _expected(action: Any, where: str) -> list[Turn]:
    """The step that a pivot asks for: calls, or a message."""
    listed = action if isinstance(action, list) else [action]
    spoken = [{"type": "message", "content": each} if isinstance(each, str) else each for each in listed]
    turns = item_turns([{"role": "assistant", **mapping(each, "expected_action", where)} for each in spoken], where)
    found = list(stretches(turns))
    if not found:
        raise Unusable("no action", "nothing is expected")
    return found
