r"""What an agent's action calls, read as the agent's harness reads it.

The expert's action tells the form that its harness takes:

    xml         <function=NAME>, <parameter=KEY>VALUE</parameter> …, </function>     SWE-smith, OpenHands, Qwen3-Coder
    fence       one block ```bash (or another word) with a shell command             mini-swe-agent
    json        {"name": NAME, "arguments": {…}}, one call per line                  calls of an API
    command     a command of SWE-agent, or of a shell

A form takes exactly what its harness takes: in "xml" one call with words around it, in "fence" one block of that word.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

SHELL = "bash"
"""The tool that every shell command calls, whatever a harness names it."""
SHELL_TOOLS = frozenset(
    (
        *("bash", "execute_bash", "run_bash", "bash_exec", "shell", "shell_run", "shell_command", "shell_cmd"),
        *("run_shell_cmd", "terminal", "exec_command", "exec_cmd", "run_command"),
    )
)
_COMMAND_KEYS = ("command", "cmd")

PATH_KEYS = ("path", "file_path", "file", "filename", "file_name", "target_file")
EDITOR_COMMANDS: dict[str, tuple[str, ...]] = {
    "view": (),
    "create": ("file_text",),
    "str_replace": ("old_str",),
    "insert": ("insert_line", "new_str"),
    "undo_edit": (),
}
"""The commands of `str_replace_editor`, and what each must be given beside the path."""
EDITORS = frozenset(("str_replace_editor", "str_replace_based_edit_tool"))

_OPEN = re.compile(r"<function=[^>\n]+>\s*")
_CLOSE = "</function>"
_CLOSE_AFTER_PARAMETER = re.compile(r"</parameter>\s*</function>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>(.*?)</parameter>(?=\s*(?:<parameter=|</function>))", re.DOTALL)
_FENCE = re.compile(r"```([\w+-]+)[ \t\r]*\n")
_LINES_EDIT = re.compile(r"edit (\d+:\d+)[ \t]*\n(.*?)\n?end_of_edit", re.DOTALL)


class NotAnAction(Exception):
    """The harness would not take this text; says why in a few words to count by."""


class Form(NamedTuple):
    """How a harness wants its actions written."""

    kind: str
    fence: str = ""
    """The word after the three ticks, for the kind "fence"."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool, with the arguments it is given."""

    tool: str
    arguments: Mapping[str, Any]

    @property
    def shell_command(self) -> str | None:
        """The command, if the tool is a shell."""
        if self.tool not in SHELL_TOOLS:
            return None
        return next((self.arguments[key] for key in _COMMAND_KEYS if key in self.arguments), "")

    @property
    def path(self) -> str | None:
        """The file that the call is about, if it names one."""
        return next((str(self.arguments[key]) for key in PATH_KEYS if key in self.arguments), None)


def form_of(expert: str) -> Form:
    """The form that the expert's harness takes.

    >>> form_of("```bash\\nls\\n```")
    Form(kind='fence', fence='bash')
    """
    if expert.startswith("<function="):
        return Form("xml")
    if fenced := _FENCE.match(expert):
        return Form("fence", fenced[1])
    return Form("json" if expert.startswith("{") else "command")


def read_calls(text: str, form: Form) -> tuple[Call, ...]:
    """The calls of an action written in a form.

    Raises:
        NotAnAction: its harness would not take it.

    >>> read_calls("<function=bash>\\n<parameter=command>ls -a</parameter>\\n</function>", Form("xml"))
    (Call(tool='bash', arguments={'command': 'ls -a'}),)
    """
    read = {"xml": _xml, "fence": _fenced, "json": _json, "command": _command}[form.kind]
    calls = read(text.strip(), form)
    for call in calls:
        _check(call)
    return calls


def function_blocks(said: str) -> list[tuple[int, int]]:
    """Where the function calls (xml) in a text begin and end; one left open is none."""
    blocks: list[tuple[int, int]] = []
    position = 0
    while opened := _OPEN.search(said, position):
        if said.startswith(_CLOSE, opened.end()):
            position = opened.end() + len(_CLOSE)
        elif closed := _CLOSE_AFTER_PARAMETER.search(said, opened.end()):
            position = closed.end()  # a parameter may itself quote `</function>`
        else:
            break
        blocks.append((opened.start(), position))
    return blocks


def _xml(text: str, form: Form) -> tuple[Call, ...]:
    blocks = function_blocks(text)
    if len(blocks) != 1 or text.count("<function=", blocks[0][1]):
        raise NotAnAction("no function call" if not blocks else "several function calls")
    block = text[slice(*blocks[0])]
    tool, _, inner = block.removeprefix("<function=").partition(">")
    arguments: dict[str, Any] = {}
    position = 0
    while parameter := _PARAMETER.match(inner, position):
        arguments[parameter[1]] = re.sub(r"^\n|\n$", "", parameter[2])  # as the harness does
        position = parameter.end()
    if inner[position:].strip() != _CLOSE:
        raise NotAnAction("a broken function call")
    for key in ("view_range", "insert_line"):
        if key in arguments:
            arguments[key] = _number(arguments[key])
    return (Call(tool, arguments),)


def _number(written: str) -> Any:
    """Lines of a file, which XML writes as text."""
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        raise NotAnAction("no line numbers where the editor wants them") from None


def _fenced(text: str, form: Form) -> tuple[Call, ...]:
    opened = [fence for fence in _FENCE.finditer(text) if fence[1] == form.fence]
    if len(opened) != 1:
        raise NotAnAction(f"several {form.fence} blocks" if opened else f"no {form.fence} block")
    command, closed, _ = text[opened[0].end() :].partition("\n```")
    if not closed or not command.strip():
        raise NotAnAction("an open or empty block")
    return (Call(SHELL, {"command": command}),)


def _json(text: str, form: Form) -> tuple[Call, ...]:
    calls = []
    for line in text.split("\n"):
        try:
            call = json.loads(line)
        except (ValueError, RecursionError):
            raise NotAnAction("no JSON") from None
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise NotAnAction("JSON that is no call")
        if not isinstance(call.get("arguments"), dict):
            raise NotAnAction("a call without arguments")
        calls.append(Call(call["name"], call["arguments"]))
    return tuple(calls)


def _command(text: str, form: Form) -> tuple[Call, ...]:
    if text.startswith(("<function=", "```", '{"name"')):
        raise NotAnAction("no command")
    if re.match(r"edit \d+:\d+[ \t]*(?:\n|$)", text):
        if not (edit := _LINES_EDIT.fullmatch(text)):
            raise NotAnAction("an edit without end_of_edit")
        return (Call("edit", {"lines": edit[1], "new_str": edit[2]}),)
    if text.split(maxsplit=1)[0] not in EDITORS:
        return (Call(SHELL, {"command": text}),)
    try:
        tool, *words = shlex.split(text)
    except ValueError:
        raise NotAnAction("an open quote") from None
    if len(words) < 2 or any(word.startswith("--") for word in words[:2]):
        raise NotAnAction("an editor's call without command and path")
    arguments: dict[str, Any] = {"command": words[0], "path": words[1]}
    position = 2
    while position < len(words):
        key = words[position].removeprefix("--")
        count = 2 if key == "view_range" else 1
        values = words[position + 1 : position + 1 + count]
        if not words[position].startswith("--") or len(values) < count:
            raise NotAnAction("an editor's call with loose words")
        arguments[key] = [_number(value) for value in values] if count == 2 else values[0]
        position += 1 + count
    if "insert_line" in arguments:
        arguments["insert_line"] = _number(arguments["insert_line"])
    return (Call(tool, arguments),)


def _check(call: Call) -> None:
    """Raise what a harness answers to a call of a known tool without what it needs."""
    arguments = call.arguments
    command = call.shell_command
    if command is not None and (not isinstance(command, str) or not command.strip()):
        raise NotAnAction("a shell without a command")
    if call.tool not in EDITORS:
        return
    name = arguments.get("command")
    if not isinstance(name, str) or name not in EDITOR_COMMANDS:
        raise NotAnAction("no command of the editor")
    needed = ("path", *EDITOR_COMMANDS[name])
    if any(key not in arguments for key in needed):
        raise NotAnAction(f"{name} without {next(key for key in needed if key not in arguments)}")
    texts = [arguments.get(key, "") for key in ("path", "file_text", "old_str", "new_str")]
    if not all(isinstance(one, str) for one in texts) or not arguments["path"].strip():
        raise NotAnAction("no text where the editor wants text")
    lines = [arguments.get("insert_line", 0), *_range(arguments.get("view_range"))]
    if not all(type(line) is int for line in lines):
        raise NotAnAction("no line numbers where the editor wants them")


def _range(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) and len(value) == 2 else [None]
