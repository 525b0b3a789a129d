"""Turns of a conversation, in the shapes that chat APIs and data sets give them -> steps.

    {"role": "assistant", "content": "I look.", "tool_calls": [{"function": {"name": "ls", "arguments": "{}"}}]}
    {"role": "assistant", "content": [{"type": "reasoning", "value": "I look."}, {"type": "tool_call", "value": …}]}
    {"from": "function_call", "value": "{\"name\": \"ls\", \"arguments\": {}}"}

all say: thought "I look.", action `{"name": "ls", "arguments": {}}`. Sources:
https://platform.openai.com/docs/api-reference/chat, https://docs.anthropic.com/en/api/messages,
https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md (ShareGPT and OpenAI columns).
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from srl.data.formats.fields import first_text, items, kind, mapping, text
from srl.data.formats.thoughts import reasoning_of, split_thought, untagged
from srl.errors import Unusable, UserError
from srl.records import Message, Step

_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "ai", "model", "chatgpt", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "environment", "tool_response"), "tool"),
    "function_call_output": "tool",
}
_THOUGHTS = ("reasoning", "thinking", "thought")
_CALLS = ("tool_call", "tool_use", "tool-call", "function_call", "toolCall")
_CONTENTS = ("text", "value", "content", "thinking", "reasoning", "refusal")

_OBSERVATION = re.compile(
    r"\s*(?:\*\*)?(?:(?i:observation)(?:[ \t]+[0-9]{1,3})?|EXECUTION RESULT of \[[^\]\n]*\])"
    r"(?:[ \t]*:\*\*|(?:\*\*)?[ \t]*:)[ \t]*\n?"
)
_CALL_END = "</tool_call>"
_TOOL_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.S)


class Turn(NamedTuple):
    """One turn, in words of ours."""

    role: str
    """system, user, assistant or tool."""
    text: str
    thought: str = ""
    calls: tuple[str, ...] = ()
    """The tool calls, each on a line of its own."""


class Act(NamedTuple):
    """What a turn of the expert does, and why."""

    action: str
    thought: str = ""


class Conversation(NamedTuple):
    """What a conversation is as a trajectory."""

    instructions: str | None
    problem: str
    steps: tuple[Step, ...]
    skipped: int
    """Turns of the expert that are no steps: empty, or rejected by its environment."""


def is_messages(value: Any) -> bool:
    """Whether a value looks like a conversation: a list of objects with roles."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and isinstance(turn.get("role") or turn.get("from"), str) for turn in value[:3])
    )


def as_chat(said: Any) -> Any:
    """A prompt or a completion, which tables may hold as a JSON text of messages; any other text stays as it is."""
    turns = parse(said) if isinstance(said, str) and said.lstrip()[:1] == "[" else None
    return turns if isinstance(turns, list) and turns and all(map(_is_message, turns)) else said


def _is_message(turn: Any) -> bool:
    """Rather than data with such names: `[{"from": "Rome", "to": "Bonn"}]`."""
    name = (turn.get("role") or turn.get("from")) if isinstance(turn, dict) else None
    has_content = any(key in turn for key in ("content", "value", "tool_calls")) if name else False
    return has_content and isinstance(name, str) and name.lower() in _ROLES


def read_turn(message: Any, where: str) -> Turn:
    """One message as a turn.

    Raises:
        UserError: an unknown role, contents or tool calls of no known shape.
    """
    message = mapping(message, "messages", where)
    name = message.get("role") or message.get("from")
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        found = repr(name[:40]) if isinstance(name, str) else kind(name)
        raise UserError(f"{where}: expected a role such as user or assistant, found {found}")
    content = message.get("content", message.get("value", message.get("text")))
    if role != "assistant" and isinstance(content, str):  # most of a log is what came back
        return Turn(role, content)
    if name == "function_call":
        return Turn(role, "", reasoning_of(message), tuple(_calls(message if content is None else content, where)))
    texts, thoughts, calls = _parts(content, where)
    said = "\n\n".join(texts)
    if role != "assistant":
        return Turn(role, said)
    thought, said = split_thought(said)
    for key in ("tool_calls", "function_call"):
        calls += _calls(message.get(key), where)
    if not calls:
        said, calls = _written_calls(said, where)
    return Turn(role, said.strip(), joined(dict.fromkeys([reasoning_of(message), *thoughts, thought])), tuple(calls))


def call_line(name: str, arguments: Any) -> str:
    """A tool call as one line, the way every format's calls become actions.

    >>> call_line("ls", '{"path": "é"}')
    '{"name": "ls", "arguments": {"path": "é"}}'
    """
    if isinstance(arguments, str):
        parsed = parse(arguments) if arguments.strip() else {}
        arguments = parsed if isinstance(parsed, dict) else arguments
    elif isinstance(arguments, dict):
        # Tables give every call the arguments of all calls, null where it has none.
        arguments = {key: value for key, value in arguments.items() if value is not None}
    return as_json({"name": name, "arguments": {} if arguments is None else arguments})


def as_json(value: Any) -> str:
    """A value as JSON in one line.

    Raises:
        Unusable: its lists stand in one another too deep.
    """
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        raise Unusable("nested too deeply") from None


def parse(written: str) -> Any:
    """JSON inside a text, or a Python literal (data sets written with `str`); None if it is neither."""
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        pass
    if written.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        with warnings.catch_warnings():  # of odd escapes in the text
            warnings.simplefilter("ignore")
            return json.loads(json.dumps(ast.literal_eval(written.strip())))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def prompt_messages(prompt: Any, where: str) -> tuple[Message, ...]:
    """A prompt as given, messages or a text, as the messages that chat templates take."""
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    messages = []
    for index, message in enumerate(items(prompt, "prompt", where)):
        turn = read_turn(message, f"{where}, prompt message {index}")
        said = message.get("content")
        if not isinstance(said, str):
            said = joined([turn.thought, *turn.calls, turn.text])
        messages.append(Message(role=turn.role, content=said))
    return tuple(messages)


def stretches(turns: Iterable[Turn]) -> Iterator[Turn]:
    """The turns with neighbouring ones of the assistant as one: what it says before its call belongs to the call.

    Empty turns stay by themselves: they are no steps.
    """
    before: Turn | None = None
    for turn in turns:
        if before and before.role == turn.role == "assistant" and any(before[1:]) and any(turn[1:]):
            texts, thoughts = joined([before.text, turn.text]), joined([before.thought, turn.thought])
            before = Turn("assistant", texts, thoughts, before.calls + turn.calls)
            continue
        if before:
            yield before
        before = turn
    if before:
        yield before


def tools_of(row: Mapping[str, Any]) -> Any:
    """The tools that a row lists, wherever data sets keep them; None if it lists none."""
    for place in (row, row.get("info"), row.get("metadata")):
        place = parse(place) if isinstance(place, str) else place
        if isinstance(place, dict):
            for name in ("tools", "oai_tools", "tool_defs", "functions", "available_tools"):
                if place.get(name) and place[name] not in ("[]", "null"):
                    return place[name]
    return None


def tools_text(tools: Any) -> str:
    """The tools column of a row, a list or a JSON text of one: one tool per line."""
    listed = parse(tools) if isinstance(tools, str) else tools
    if isinstance(listed, list):
        return "\n".join(tool if isinstance(tool, str) else as_json(tool) for tool in listed)
    return tools if isinstance(tools, str) else ""


def said_or_called(turn: Turn) -> Act | None:
    """What a turn does by itself: its tool calls, one per line, or else what it says."""
    if turn.calls:
        said = "" if turn.text in turn.thought else turn.text  # some logs keep the thought twice
        return Act("\n".join(turn.calls), joined([turn.thought, said]))
    return Act(turn.text, turn.thought) if turn.text else None


def converse(
    turns: Iterable[Turn], act: Callable[[Turn], Act | None] = said_or_called, *, problem: str | None = None
) -> Conversation:
    """A conversation as a trajectory: `act` tells the action of an assistant turn, None if it is no step.

    System turns at the beginning are the instructions; what the user says before the expert's first turn is
    the problem (`problem` stands in if that is nothing). All that came between an assistant turn and the next
    is the observation of its step. A turn that is no step takes its answer along.

    Raises:
        Unusable: no problem, or no step.
    """
    instructions: list[str] = []
    asked: list[str] = []
    acts: list[tuple[Act, list[str]]] = []  # with what was observed after each
    skipped = 0
    heard: list[str] | None = asked  # where the next words belong; None: they answer a turn that is no step
    for turn in turns:
        if turn.role == "assistant":
            if heard is asked and not any(asked) and not problem:
                skipped += 1  # a greeting before there is a problem
            elif found := act(turn):
                heard = []
                acts.append((found, heard))
            else:
                skipped += 1
                heard = None
        elif turn.role == "system" and heard is asked:
            instructions.append(turn.text)
        elif heard is not None:
            heard.append(turn.text)
    problem = joined(asked) or problem
    if not problem:
        raise Unusable("no problem")
    if not acts:
        raise Unusable("no action")
    steps = tuple(
        Step(act.action, observation=_unlabelled(unix(joined(seen))) if seen else None, thought=act.thought or None)
        for act, seen in acts
    )
    return Conversation(joined(instructions) or None, problem, steps, skipped)


def _unlabelled(observation: str) -> str:
    """An observation without the word that announces it: prompts announce it themselves."""
    found = _OBSERVATION.match(observation)
    return observation[found.end() :] if found else observation


def joined(texts: Iterable[str]) -> str:
    """The texts that are not blank, with blank lines between them; the first line keeps its indent."""
    return "\n\n".join(text.strip("\r\n") for text in texts if text.strip())


def unix(text: str) -> str:
    """The text with line ends of one kind: terminals answer with CRLF."""
    return text.replace("\r\n", "\n") if "\r" in text else text


def _parts(content: Any, where: str) -> tuple[list[str], list[str], list[str]]:
    """The texts, thoughts and calls in the content of a message."""
    if content is None:
        return [], [], []
    if isinstance(content, str):
        return [content], [], []
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[str] = []
    for part in [content] if isinstance(content, dict) else items(content, "content", where):
        if isinstance(part, str):
            texts.append(part)
            continue
        sort = mapping(part, "content", where).get("type")
        if sort in _CALLS:
            calls += _calls(part.get("value", part), where)
        elif sort in _THOUGHTS:
            thoughts.append(untagged(_inside(part)))
        else:
            texts.append(_inside(part))
    return texts, thoughts, calls


def _inside(part: dict[str, Any]) -> str:
    """The text of one part of a content; where it is of another kind, at least which."""
    for key in _CONTENTS:
        inner = part.get(key)
        if isinstance(inner, str):
            return inner
        if isinstance(inner, list):  # a tool result with parts of its own
            return "\n\n".join(
                each["text"] for each in inner if isinstance(each, dict) and isinstance(each.get("text"), str)
            )
    return f"[{first_text(part, ('type',)) or 'unknown'}]"


def _calls(written: Any, where: str) -> list[str]:
    """Tool calls of any shape as lines: a list, one call, or a text of either."""
    if written is None or written == "":
        return []
    calls = parse(written) if isinstance(written, str) else written
    if isinstance(calls, dict):
        calls = [calls]
    if not isinstance(calls, list):
        raise UserError(f"{where}: expected tool calls as a list or an object, found {kind(written)}")
    return [_call(parse(call) if isinstance(call, str) else call, where) for call in calls]


def _call(call: Any, where: str) -> str:
    call = mapping(call, "tool_calls", where)
    function = call.get("function")
    inner = function if isinstance(function, dict) else call
    name = function if isinstance(function, str) else inner.get("name", inner.get("toolName"))
    keys = ("arguments", "input", "args", "parameters")
    arguments = next((inner[key] for key in keys if inner.get(key) is not None), None)
    return call_line(text(name, "tool_calls[].name", where), arguments)


def _written_calls(said: str, where: str) -> tuple[str, list[str]]:
    """Calls written into the text as <tool_call>{…}</tool_call> (Hermes, Qwen), and the text without them.

    https://github.com/NousResearch/Hermes-Function-Calling
    """
    end = said.rfind(_CALL_END) + len(_CALL_END)  # not further: many open tags and no end take quadratic time
    written = _TOOL_CALL.findall(said, 0, end) if _CALL_END in said else []
    calls = [parse(call.strip()) for call in written]
    if not calls or not all(isinstance(call, dict) and "name" in call for call in calls):
        return said, []  # some models write other things than JSON between these tags: the text stands as it is
    return _TOOL_CALL.sub("", said[:end]) + said[end:], [_call(call, where) for call in calls]
