r"""mini-swe-agent runs (`*.traj.json`, versions 1 and 2): one bash block per turn.

    {"info": {"exit_status": "Submitted", "submission": "diff …"}, "trajectory_format": "mini-swe-agent-1",
     "messages": [{"role": "system", "content": "…"}, {"role": "user", "content": "<pr_description>…"},
                  {"role": "assistant", "content": "THOUGHT: I look.\n\n```bash\nls\n```"},
                  {"role": "user", "content": "<returncode>0</returncode>\n<output>\nsetup.py\n</output>"}]}

The block is the action, fence and all: the agent's instructions demand it, and it runs nothing else. As in the agent
itself, other blocks (```python; ```bash beside ```mswea_bash_command, which version 2 asks for) are talk, and a turn
with no block or several was rejected: it is no step, and neither is the answer that says so. The last message is the
submitted diff; it stays as the observation of the last step. Version 2 also makes tool calls, and ends with a message
of the role `exit`.
Source: https://mini-swe-agent.com/latest/usage/output_files/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from srl.data.formats.fields import facts, first_text, items, mapping, optional_text, submapping, text
from srl.data.formats.labels import verdict
from srl.data.formats.messages import messages_of
from srl.data.formats.turns import Act, Turn, call_line, converse, is_messages, read_turn, said_or_called
from srl.files import Row
from srl.records import Trajectory

NAME = "mini-swe-agent"

_OPEN = re.compile(r"```(?:bash|mswea_bash_command|sh)[ \t\r]*\n")
_CLOSE = "\n```"
_OF_VERSION_2 = "```mswea_bash_command"
_THOUGHT = re.compile(r"\s*THOUGHT:\s*")


def recognise(value: Any) -> str | None:
    """Whether a file says so, or its messages answer bash blocks with a return code."""
    if isinstance(value, dict):
        stated = first_text(value, ("trajectory_format",)) or ""
        if stated.startswith("mini-swe-agent"):
            return f"`trajectory_format` {stated}"
        if "mini_version" in submapping(value, "info"):
            return "`info.mini_version`"
        value = value.get("messages")
    if not is_messages(value):
        return None
    contents = [first_text(turn, ("content",)) or "" for turn in value[:12] if isinstance(turn, dict)]
    if any(_OPEN.search(content) for content in contents) and any("<returncode>" in text[:20] for text in contents):
        return "bash blocks, answered by `<returncode>`"
    return None


def read(row: Row, trajectory_id: str) -> Trajectory:
    """One run as a trajectory: a step per turn with exactly one bash block (or tool calls).

    Raises:
        UserError: no messages, or one of no known shape.
        Unusable: no problem, or no action.
    """
    value = row.value if isinstance(row.value, dict) else {}
    info = submapping(value, "info")
    status = info.get("exit_status")
    verified = verdict(value)
    if verified is None and isinstance(status, str) and status != "Submitted":
        verified = False  # LimitsExceeded, a crash: it never said that it was done
    model = submapping(submapping(info, "config"), "model").get("model_name")
    found = converse(_turns(row), _act)
    return Trajectory(
        id=trajectory_id,
        problem=found.problem,
        steps=found.steps,
        environment=True,
        verified=verified,
        instructions=found.instructions,
        metadata=facts(row.where, NAME, value, skipped_turns=found.skipped, exit_status=status, model=model),
    )


def bash_blocks(said: str) -> list[tuple[int, int]]:
    """Where the commands in the bash blocks of a text begin and end, without their fences."""
    blocks: list[tuple[int, int]] = []
    position = 0
    while opened := _OPEN.search(said, position):
        end = said.find(_CLOSE, opened.end())
        if end < 0:
            break
        blocks.append((opened.end(), end))
        position = end + len(_CLOSE)
    return blocks


def _act(turn: Turn) -> Act | None:
    if turn.calls:
        return said_or_called(turn)
    blocks = bash_blocks(turn.text)
    if _OF_VERSION_2 in turn.text:
        blocks = [place for place in blocks if turn.text[: place[0]].rstrip().endswith(_OF_VERSION_2)] or blocks
    if len(blocks) != 1:
        return None
    start, end = blocks[0]
    before, fence, language = turn.text[:start].rpartition("```")
    thought = _THOUGHT.sub("", before, count=1).strip() if _THOUGHT.match(before) else before.strip()
    command = turn.text[start:end].strip()
    block = f"{fence}{language.strip()}\n{command}{_CLOSE}"
    return Act(block, "\n\n".join(filter(None, (turn.thought, thought)))) if command else None


def _turns(row: Row) -> Iterator[Turn]:
    value = row.value
    messages = items(value.get("messages"), "messages", row.where) if isinstance(value, dict) else messages_of(row)
    for index, message in enumerate(messages):
        place = f"{row.where}, message {index}"
        fields = mapping(message, "messages", place)
        extra = submapping(fields, "extra")
        if fields.get("role") == "exit" or extra.get("interrupt_type") == "FormatError":
            continue  # the harness notes that the run has ended; that it left out a turn it could not parse
        if fields.get("type") == "function_call_output":
            yield Turn("tool", optional_text(fields.get("output"), "output", place))
        elif fields.get("object") == "response":
            yield Turn("assistant", "", calls=_noted_calls(extra, place))
        else:
            yield read_turn(fields, place)


def _noted_calls(extra: dict[str, Any], where: str) -> tuple[str, ...]:
    """The commands of a turn that is kept as a raw response of OpenAI's Responses API, as the harness noted them."""
    actions = items(extra.get("actions", []), "extra.actions", where)
    commands = [mapping(action, "extra.actions", where).get("command") for action in actions]
    return tuple(call_line("bash", {"command": text(command, "command", where)}) for command in commands)
