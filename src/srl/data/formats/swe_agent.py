r"""SWE-agent runs (`*.traj`, versions 0 and 1), and the rows of nebius/SWE-agent-trajectories.

    {"trajectory": [{"action": "ls -a\n", "observation": "main.py\r\n", "thought": "I look.", "state": "{…}"}],
     "history": [{"role": "system", "content": "…", "agent": "main", "message_type": "system_prompt"},
                 {"role": "user", "content": "We're solving this issue: …", "agent": "main"}, …],
     "info": {"exit_status": "submitted", "submission": "diff …"}}

The action is the command that ran (`action`), for runs with tool calls too: it is there in every version, and
is what the environment understood. Demonstrations, other agents' turns and the `exit_cost` that the harness
puts in the expert's place are no steps. Some files hold only `history`.
Source: https://swe-agent.com/latest/usage/trajectories/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from srl.data.formats.fields import facts, first_text, items, mapping, optional_text, submapping
from srl.data.formats.labels import verdict
from srl.data.formats.thoughts import untagged
from srl.data.formats.turns import Turn, converse, is_messages, joined, parse, read_turn
from srl.errors import UserError
from srl.files import Row
from srl.records import Trajectory

NAME = "swe-agent"

_MAIN = ("main", "primary")
_EXIT = re.compile(r"exit_\w+").fullmatch
_FENCE = re.compile(r"^```(\S*)[ \t\r]*$", re.M)


def recognise(value: Any) -> str | None:
    """Whether a file has the steps of SWE-agent, or its history."""
    if not isinstance(value, dict):
        return None
    trajectory, history = value.get("trajectory"), value.get("history")
    first = trajectory[0] if isinstance(trajectory, list) and trajectory else None
    if isinstance(first, dict) and isinstance(first.get("action"), str) and "observation" in first:
        return "`trajectory` with `action` and `observation`"
    if isinstance(first, dict) and isinstance(first.get("role"), str) and "system_prompt" in first:
        return "`trajectory` with `role` and `system_prompt`"
    if is_messages(history) and isinstance(history, list) and ("agent" in history[0] or "message_type" in history[0]):
        return "`history` with `agent`"
    return None


def read(row: Row, trajectory_id: str) -> Trajectory:
    """One run as a trajectory; one that ended without submitting is not verified.

    Raises:
        UserError: neither steps nor history, or one of no known shape.
        Unusable: no problem, or no action.
    """
    value = mapping(row.value, "row", row.where)
    info = submapping(value, "info")
    status = info.get("exit_status", value.get("exit_status"))
    verified = value["target"] if isinstance(value.get("target"), bool) else verdict(value)
    if verified is None and isinstance(status, str) and not status.startswith("submitted"):
        verified = False
    config = _config(value)
    issue = submapping(config, "problem_statement")
    known = first_text(issue, ("text",)) or first_text(value, ("problem_statement",))
    found = converse(_turns(value, row.where), problem=known)
    instructions = joined([found.instructions or "", _command_docs(config, found.instructions or "")])
    name = first_text(value, ("instance_id",)) or first_text(issue, ("id",))
    return Trajectory(
        id=trajectory_id,
        problem=found.problem,
        steps=found.steps,
        environment=True,
        verified=verified,
        instructions=instructions or None,
        metadata=facts(row.where, NAME, value, skipped_turns=found.skipped, exit_status=status, instance_id=name),
    )


def _turns(value: dict[str, Any], where: str) -> Iterator[Turn]:
    """The run as turns in which the expert says only its commands."""
    trajectory, history = value.get("trajectory"), value.get("history")
    if not trajectory and not history:
        raise UserError(f"{where}: expected steps in `trajectory` or messages in `history`, found neither")
    steps = items(trajectory or [], "trajectory", where)
    if steps and isinstance(steps[0], dict) and "role" in steps[0]:
        steps, history = [], steps
    messages = _own(items(history or [], "history", where))
    for index, message in enumerate(messages):
        turn = read_turn(message, f"{where}, message {index}")
        if turn.role == "system" and not turn.text:
            turn = turn._replace(text=optional_text(message.get("system_prompt"), "system_prompt", where))
        if turn.role != "assistant":
            yield turn
        elif steps:
            break  # the rest is in the steps, which no history processor has shortened
        else:
            yield _commanded(message, turn, where)
    for index, step in enumerate(steps):
        place = f"{where}, step {index}"
        fields = mapping(step, "trajectory", place)
        thought = fields.get("thought")
        yield Turn(
            "assistant",
            _command(optional_text(fields.get("action"), "action", place)),
            untagged(optional_text(fields.get("response") if thought is None else thought, "thought", place).strip()),
        )
        yield Turn("tool", optional_text(fields.get("observation"), "observation", place))


def _own(history: list[Any]) -> list[Any]:
    """The messages that belong to the run: no demonstrations, no other agents."""
    agents = [message.get("agent") for message in history if isinstance(message, dict)]
    main = [agent for agent in _MAIN if agent in agents]

    def is_foreign(message: Any) -> bool:
        return isinstance(message, dict) and (
            bool(message.get("is_demo"))
            or message.get("message_type") == "demonstration"
            or bool(main and message.get("agent") not in (*main, None))
        )

    return [message for message in history if not is_foreign(message)]


def _commanded(message: dict[str, Any], turn: Turn, where: str) -> Turn:
    """An assistant message of a history, as its command: given, called, or in its last code block."""
    action = message.get("action")
    if action is not None:
        thought = untagged(optional_text(message.get("thought"), "thought", where).strip())
        return Turn("assistant", _command(optional_text(action, "action", where)), thought)
    if turn.calls:
        return turn
    block = last_block(turn.text)
    if block is None:
        return Turn("assistant", "")  # SWE-agent asks again for a turn without a block
    before, command = block
    return Turn("assistant", _command(command), joined([turn.thought, before.strip()]))


def last_block(said: str) -> tuple[str, str] | None:
    """The text before the last code block, and what is in the block, which SWE-agent runs; None if there is no block.

    Blocks in blocks belong to the outer one.
    """
    opened: list[re.Match[str]] = []
    blocks: list[tuple[re.Match[str], re.Match[str]]] = []
    for fence in _FENCE.finditer(said):
        if opened and not fence[1]:
            start = opened.pop()
            if not opened:
                blocks.append((start, fence))
        else:
            opened.append(fence)
    if not blocks:
        return None
    start, end = blocks[-1]
    return said[: start.start()], said[start.end() : end.start()]


def _command(action: str) -> str:
    command = action.strip()
    return "" if _EXIT(command) else command


def _config(value: dict[str, Any]) -> dict[str, Any]:
    config = value.get("replay_config")
    config = parse(config) if isinstance(config, str) else config
    return config if isinstance(config, dict) else {}


def _command_docs(config: dict[str, Any], said: str) -> str:
    """What the expert was told of its tools through the API, where its system prompt does not say it."""
    docs = submapping(submapping(config, "agent"), "tools").get("command_docs")
    return docs if isinstance(docs, str) and docs.strip() not in said else ""
