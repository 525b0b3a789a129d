"""PivotRL's functional reward: right tool, right target, and arguments that are similar enough (docs/rewards.md).

    0                                            another kind of tool, another target, or s too low
    1                                            binary: s ≥ 0.8
    f(s) · (1 − 0.1 · min(length / 500, 1))      continuous: s ≥ 0.4; f(s) = min(1, 0.5 + 0.5 · (s − 0.4) / 0.4);
                                                 length: characters of an edit, else 0

s is R of the old or of the new text, whichever is lower, for an edit; R of the commands for a shell; else 1.
Source: arXiv 2603.21383, and `resources_servers/swe_pivot` of https://github.com/NVIDIA-NeMo/Gym. Different here: R
does not ignore frequent characters and is not cut at 2,000; what the harness would not take is malformed, not 0; of
several calls at once the worst counts, and their number must be right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from srl.rewards.actions.calls import Call
from srl.rewards.similarity import ratio

FULL, PARTIAL = 0.8, 0.4
LONGEST_EDIT, MOST_TAKEN_OFF = 500, 0.1
SEEN = 0.8
"""So much of the lines that the expert looks at must be looked at."""
LEAST_LIKE = 0.3
"""Below it two shell commands have nothing to do with each other."""

_KINDS = {
    "edit": "str_replace_editor str_replace_based_edit_tool text_editor file_editor code_editor edit edit_file "
    "file_edit modify modify_file update_file apply_patch patch_file apply_diff apply_changes write "
    "write_file save_file create_file",
    "look": "grep glob ls search_text find_pattern text_search find_files file_glob match_files grep_files "
    "search_files find_in_files code_search list_dir show_dir ls_dir list_directory read read_file view "
    "view_file file_view cat_file inspect show_file",
    "finish": "finish submit",
}
"""Names that tools of one kind have in different harnesses."""
_KIND_OF = {name.replace("_", ""): kind for kind, names in _KINDS.items() for name in names.split()}
_FILE_IN_COMMAND = re.compile(r"(?:^|[\s='\"(])((?:/[\w.-]+)+|\.\.?/[\w./-]+|[\w.-]+/[\w./-]+)")


def functional_reward(calls: Sequence[Call], experts: Sequence[Call], *, continuous: bool) -> float:
    """What calls earn beside the expert's, in [0, 1].

    The expert's own calls earn 1; in `continuous` 0.9 where they are an edit of 500 characters.
    """
    if len(calls) != len(experts):
        return 0.0
    return min(_one(call, expert, continuous) for call, expert in zip(calls, experts, strict=True))


def _one(call: Call, expert: Call, continuous: bool) -> float:
    kind = _kind(call)
    if call.tool.lower() != expert.tool.lower() and (kind is None or kind != _kind(expert)):
        return 0.0
    if not _same_target(kind, call, expert):
        return 0.0
    similarity = _similarity(kind, call, expert)
    if not continuous:
        return float(similarity >= FULL)
    if similarity < PARTIAL:
        return 0.0
    size = len(_content(call.arguments)) if kind == "edit" else 0
    reward = min(1.0, 0.5 + 0.5 * (similarity - PARTIAL) / (FULL - PARTIAL))
    return reward * (1 - MOST_TAKEN_OFF * min(size / LONGEST_EDIT, 1))


def _kind(call: Call) -> str | None:
    return "shell" if call.shell_command is not None else _KIND_OF.get(call.tool.lower().replace("_", ""))


def _same_target(kind: str | None, call: Call, expert: Call) -> bool:
    if kind == "shell":
        return _same_command_target(call.shell_command or "", expert.shell_command or "")
    if kind not in ("edit", "look"):
        return True
    paths = call.path, expert.path
    if (
        paths[0]
        and paths[1]
        and _end(paths[0], 2 if kind == "edit" else 3) != _end(paths[1], 2 if kind == "edit" else 3)
    ):
        return False
    commands = call.arguments.get("command"), expert.arguments.get("command")
    if kind == "look" or not commands[0] or not commands[1]:
        return True
    return commands[0] == commands[1] and (commands[0] != "view" or _sees_it(call.arguments, expert.arguments))


def _sees_it(arguments: Mapping[str, Any], expert: Mapping[str, Any]) -> bool:
    ranges = [value.get("view_range") for value in (arguments, expert)]
    if not all(isinstance(lines, list) and list(map(type, lines)) == [int, int] for lines in ranges):
        return True
    (start, end), (expert_start, expert_end) = ranges[0] or (0, 0), ranges[1] or (0, 0)
    both = max(0, min(end, expert_end) - max(start, expert_start))
    return ranges[0] == ranges[1] or both / max(1, expert_end - expert_start) >= SEEN


def _same_command_target(command: str, expert: str) -> bool:
    if command.split()[0].rpartition("/")[2] != expert.split()[0].rpartition("/")[2]:
        return False
    files = [{_end(path, 3) for path in _FILE_IN_COMMAND.findall(one)} for one in (command, expert)]
    if files[0] and files[1] and not files[0] & files[1]:
        return False
    return ratio(command.strip(), expert.strip()) >= LEAST_LIKE


def _similarity(kind: str | None, call: Call, expert: Call) -> float:
    if kind == "shell":
        return ratio((call.shell_command or "").strip(), (expert.shell_command or "").strip())
    if kind != "edit":
        return 1.0
    texts = [[str(one.arguments.get(key, "")) for key in ("old_str", "new_str")] for one in (call, expert)]
    if any(texts[0]) and any(texts[1]):
        return min(ratio(one, other) for one, other in zip(*texts, strict=True))
    return ratio(_content(call.arguments), _content(expert.arguments))


def _content(arguments: Mapping[str, Any]) -> str:
    """What an edit writes, and the text that it takes out."""
    if "new_str" in arguments:
        return f"{arguments.get('old_str', '')}\n{arguments['new_str']}"
    return next((str(arguments[key]) for key in ("patch", "diff", "content", "file_text") if key in arguments), "")


def _end(path: str, parts: int) -> str:
    """The last parts of a path: harnesses put repositories into different folders."""
    return "/".join(path.strip().strip("/").split("/")[-parts:])
