r"""OpenHands event logs: the actions of the agent and the observations that name them as their `cause`.

    [{"id": 0, "source": "user", "action": "message", "args": {"content": "Fix the bug."}},
     {"id": 1, "source": "agent", "action": "run", "args": {"command": "ls", "thought": "I look."}},
     {"id": 2, "source": "agent", "observation": "run", "content": "setup.py", "cause": 1}]

One step: `{"name": "run", "arguments": {"command": "ls"}}`, thought "I look.", observed "setup.py". Where an
event keeps the call that the model made (`tool_call_metadata`), that is the action; calls of one response are
one step. The log is a list (of events, or of pairs of them in older files), or `history` of an evaluation's row.
The events of the OpenHands SDK (version 1) say the same in other words:

    {"kind": "ActionEvent", "source": "agent", "thought": [{"type": "text", "text": "I look."}], "tool_call_id": "c",
     "tool_call": {"name": "terminal", "arguments": "{\"command\": \"ls\"}"}, "llm_response_id": "r", …}
    {"kind": "ObservationEvent", "tool_call_id": "c", "observation": {"content": [{"type": "text", "text": …}]}, …}

Sources: https://github.com/All-Hands-AI/OpenHands, openhands/events/serialization, and
https://github.com/OpenHands/software-agent-sdk, openhands/sdk/event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from srl.data.formats.fields import facts, first_text, items, kind, mapping, optional_text, submapping
from srl.data.formats.labels import crashed, verdict
from srl.data.formats.thoughts import reasoning_of, untagged
from srl.data.formats.turns import call_line, joined, read_turn, tools_text, unix
from srl.errors import Unusable, UserError
from srl.files import Row
from srl.records import Step, Trajectory

NAME = "openhands"

_COLUMNS = ("history", "trajectory", "events")
# What the harness writes into the log beside actions of the agent and their observations.
_NO_STEPS = (
    *("system", "recall", "null", "think", "change_agent_state", "agent_state_changed", "user_rejected", "start"),
    *("condensation", "condensation_request", "loop_recovery"),
)
# What it notes on an action beside what the agent asked for.
_NOT_ASKED = (
    *("thought", "hidden", "confirmation_state", "security_risk", "blocking", "is_static", "cwd", "include_extra"),
    *("image_urls", "file_urls", "wait_for_response", "kernel_init_code", "translated_ipython_code", "impl_source"),
    *("return_axtree", "browsergym_send_msg_to_user", "keep_prompt", "is_confirmed", "action_risk"),
)
_DEFAULTS = {"start": (0, 1), "end": (-1,), "is_input": (False, "false")}


@dataclass(slots=True)
class _Open:
    """A step whose observations are still coming in."""

    response: str | None
    calls: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    answered: bool = False


def recognise(value: Any) -> str | None:
    """Whether a file, or `history` in a row, is a list of events."""
    if isinstance(value, dict):
        for name in _COLUMNS:
            if _is_log(value.get(name)):
                return f"`{name}` of events"
        return None
    return "a list of events" if _is_log(value) else None


def read(row: Row, trajectory_id: str) -> Trajectory:
    """One log as a trajectory: a step per response of the model that acts.

    Raises:
        UserError: no events, or one of no known shape.
        Unusable: no problem, or no action.
    """
    value = row.value if isinstance(row.value, dict) else {}
    log: Any = row.value if not value else next((value[name] for name in _COLUMNS if name in value), None)
    asked: list[str] = []
    instructions: list[str] = []
    steps: list[_Open] = []
    causes: dict[Any, _Open] = {}
    thoughts: list[str] = []  # of a think event, for the step that follows
    finished = False
    for place, event in _events(items(log, "history", row.where), row.where):
        sort = event.get("action")
        if sort is None:
            _observe(event, steps, causes, place)
        elif not isinstance(sort, str):
            raise UserError(f"{place}: expected text in `action`, found {kind(sort)}")
        elif sort == "system":
            args = submapping(event, "args")
            instructions += [first_text(args, ("content",)) or "", tools_text(args.get("tools"))]
        elif event.get("source") == "user":
            if sort == "message":
                (steps[-1].seen if steps else asked).append(_said(event, place))
                if steps:
                    steps[-1].answered = True
        elif sort == "think":
            thoughts.append(first_text(submapping(event, "args"), ("thought",)) or "")
        elif event.get("source") != "environment" and sort not in _NO_STEPS and (asked or sort != "message"):
            _act(event, steps, causes, thoughts, place)
            thoughts = []
            finished = sort in ("finish", "FinishAction") or finished
    instance = submapping(value, "instance")
    problem = joined(asked) or first_text(value, ("instruction",)) or first_text(instance, ("problem_statement",))
    if not problem:
        raise Unusable("no problem")
    if not steps:
        raise Unusable("no action")
    verified = verdict(value)
    if verified is None and crashed(value) and not finished:
        verified = False
    return Trajectory(
        id=trajectory_id,
        problem=problem,
        steps=tuple(_closed(step) for step in steps),
        environment=True,
        verified=verified,
        instructions=joined(instructions) or None,
        metadata=facts(row.where, NAME, value),
    )


def _is_log(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    first = value[0][0] if isinstance(value[0], list) and value[0] else value[0]
    if not isinstance(first, dict) or "role" in first:
        return False
    if isinstance(first.get("kind"), str) and first["kind"].endswith("Event"):
        return True
    if isinstance(first.get("action"), str):
        return isinstance(first.get("args"), dict) or (first["action"] == "message" and "content" in first)
    return isinstance(first.get("observation"), str) and "content" in first and "extras" in first


def _events(log: list[Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    asked = False
    for index, entry in enumerate(log):
        place = f"{where}, event {index}"
        for event in entry if isinstance(entry, list) else [entry]:
            event = mapping(event, "event", place)
            if "kind" in event:
                event = _classic(event, place)
            elif isinstance(event.get("action"), str) and "args" not in event:
                event = _with_args(event, is_task=event["action"] == "message" and not asked)
            asked = asked or event.get("action") == "message"
            yield place, event


def _with_args(event: dict[str, Any], *, is_task: bool) -> dict[str, Any]:
    """An action of older logs, which keep no source and what was asked for beside the action; the first is the task."""
    args = {key: value for key, value in event.items() if key not in ("action", "source", "id", "timestamp", "message")}
    return {**event, "source": event.get("source") or ("user" if is_task else "agent"), "args": args}


def _classic(event: dict[str, Any], where: str) -> dict[str, Any]:
    """An event of the SDK as the event of version 0 that says the same; empty if none does."""
    call_id = event.get("tool_call_id")
    if event["kind"] == "SystemPromptEvent":
        said = _text(event.get("system_prompt"), where)
        return {"action": "system", "args": {"content": said, "tools": event.get("tools")}}
    if event["kind"] == "MessageEvent":
        said = _text(submapping(event, "llm_message").get("content"), where)
        return {"source": event.get("source"), "action": "message", "args": {"content": said}}
    if event["kind"] == "ActionEvent" and event.get("action") is not None:  # null: a call that no tool takes
        thought, tool = _text(event.get("thought"), where), first_text(event, ("tool_name",)) or "tool"
        asked = {key: value for key, value in submapping(event, "action").items() if key != "kind"}
        message = {
            "content": thought,
            "reasoning_content": event.get("reasoning_content"),
            "tool_calls": [{"id": call_id, "function": event.get("tool_call")}],
        }
        response = {"id": event.get("llm_response_id"), "choices": [{"message": message}]}
        return {
            "id": call_id,
            "source": "agent",
            "action": tool,
            "args": {"thought": thought, **asked},
            "tool_call_metadata": {"tool_call_id": call_id, "model_response": response},
        }
    if "observation" in event or "error" in event:  # a result, an error of the agent, a refusal of the user
        seen = submapping(event, "observation")
        content = next((seen[key] for key in ("content", "output") if seen.get(key)), event.get("error"))
        name = first_text(event, ("tool_name",)) or "tool"
        return {"observation": name, "content": _text(content, where), "cause": call_id}
    return {}


def _text(content: Any, where: str) -> str:
    return read_turn({"role": "user", "content": content}, where).text


def _act(event: dict[str, Any], steps: list[_Open], causes: dict[Any, _Open], thoughts: list[str], where: str) -> None:
    """Open the step of an action, or join it to the step of the same response of the model."""
    metadata = submapping(event, "tool_call_metadata")
    response, message = _response(metadata)
    call = _own_call(metadata, message) or _rendered(event, where)
    if not call:
        return
    if not (steps and response is not None and steps[-1].response == response):
        steps.append(_Open(response))
    step = steps[-1]
    step.calls.append(call)
    said = first_text(submapping(event, "args"), ("thought",)) or first_text(message, ("content",)) or ""
    for thought in (*thoughts, reasoning_of(message), untagged(said)):
        if thought.strip() and thought not in step.thoughts and thought != call:
            step.thoughts.append(thought)
    if isinstance(event.get("id"), int | str):
        causes[event["id"]] = step


def _observe(event: dict[str, Any], steps: list[_Open], causes: dict[Any, _Open], where: str) -> None:
    """Give what came back to the step that caused it; to the last one where no cause is named."""
    if event.get("observation") in (None, *_NO_STEPS):
        return
    cause = event.get("cause")
    if event["observation"] == "error" and cause is None and causes:
        return  # in a log with ids it answers a call that the harness rejected, and did not note
    step = causes.get(cause) if isinstance(cause, int | str) else steps[-1] if steps else None
    if step:
        step.seen.append(optional_text(event.get("content"), "content", where))
        step.answered = True


def _response(metadata: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The id and the message of the model's response that an event belongs to."""
    response = submapping(metadata, "model_response")
    choices = response.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return first_text(response, ("id",)), submapping(choice, "message") if isinstance(choice, dict) else {}


def _own_call(metadata: dict[str, Any], message: dict[str, Any]) -> str:
    """The call of the model's message that this event carries out."""
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        if isinstance(call, dict) and call.get("id") == metadata.get("tool_call_id"):
            function = submapping(call, "function")
            if name := first_text(function, ("name",)):
                return call_line(name, function.get("arguments"))
    return ""


def _rendered(event: dict[str, Any], where: str) -> str:
    """An action that kept no call: a message as its text, others as a call of what the agent asked for."""
    if event["action"] == "message":
        return _said(event, where)
    args = mapping(event.get("args", {}), "args", where)
    asked = {
        key: value
        for key, value in args.items()
        if key not in _NOT_ASKED and value not in (None, "", [], {}) and value not in _DEFAULTS.get(key, ())
    }
    if event["action"] == "call_tool_mcp" and isinstance(asked.get("name"), str):
        return call_line(asked["name"], asked.get("arguments"))
    return call_line(event["action"], asked)


def _said(event: dict[str, Any], where: str) -> str:
    args = submapping(event, "args")
    return optional_text(args.get("content", event.get("message")), "args.content", where).strip()


def _closed(step: _Open) -> Step:
    observation = unix(joined(step.seen)) if step.answered else None
    return Step("\n".join(step.calls), observation=observation, thought=joined(step.thoughts) or None)
