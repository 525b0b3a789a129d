"""How a model is asked for a patch: with the files to change given, or with the repository's list of files first.

An attempt has a prompt to answer until it has an end, as in `srl.engines.protocols`. Both settings are those of the
paper's evaluation (Agentless-mini of SWE-RL, arXiv 2502.18449), in our own words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from srl.engines.protocols import PROMPT_TOO_LONG, Reply
from srl.evaluation.swe.edits import NotApplicable, apply_edits, parse_edits, unified_diff
from srl.evaluation.swe.repository import Repository
from srl.records import Message

SweProtocolName = Literal["oracle", "end-to-end", "agent", "predictions"]
"""`predictions`: patches that came from elsewhere."""

CHARACTERS_PER_TOKEN = 3
"""Code has 3 to 4: prompts are measured before any tokenizer sees them, and are rather too short than too long."""
MOST_FILES = 5
"""That a model may name."""
TESTS = re.compile(r"(^|/)(tests?|testing)(/|$)|(^|/)(test_[^/]*|[^/]*_test|conftest)\.py$")

REPAIR_SYSTEM_PROMPT = """\
You repair software. The user gives an issue and the files of a repository that have to do with it. Think about the \
cause first, between <think> and </think>. Then write the changes that resolve the issue, each as a block like this:

### path/of/the/file.py
<<<<<<< SEARCH
the lines to change, exactly as they stand in the file
=======
the lines to put in their place
>>>>>>> REPLACE

The lines between SEARCH and ======= must be whole lines with their indentation, and stand only once in the file: add \
neighbouring lines where they do not. Write as many blocks as you need, and nothing that need not change."""

LOCALIZE_SYSTEM_PROMPT = """\
You find the cause of problems in software. The user gives an issue and the names of the files in a repository. Think \
about where the cause may lie first, between <think> and </think>. Then write the names of the files that must be \
changed to resolve the issue, most likely ones first, one per line and at most {most}, as they stand in the list. Do \
not name tests."""


@dataclass(slots=True)
class OracleEdit:
    """The files that the known fix changes are given; one completion holds the edits."""

    issue: str
    repository: Repository
    files: tuple[str, ...]
    max_input_tokens: int
    system_prompt: str = REPAIR_SYSTEM_PROMPT
    replies: list[Reply] = field(default_factory=list)
    end: str | None = None
    """Why it ended, in a few words to count by; None while it goes on, "patch" if there is one."""
    patch: str = ""

    def __post_init__(self) -> None:
        if prompt_tokens(self.prompt) > self.max_input_tokens:
            self.refuse()

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What to ask next."""
        return _messages(self.system_prompt, _issue(self.issue) + "".join(map(self._shown, self.files)))

    def _shown(self, path: str) -> str:
        content = self.repository.read(path)
        text = "(no such file)\n" if content is None else content.decode(errors="replace").replace("\r\n", "\n")
        return f"\n### {path}\n```\n{text}{'' if text.endswith(chr(10)) else chr(10)}```\n"

    def refuse(self) -> None:
        """End without an answer to the prompt, which is too long."""
        self.end = PROMPT_TOO_LONG

    def take(self, reply: Reply) -> None:
        """Go on with what the model wrote."""
        self.replies.append(reply)
        if reply.truncated:
            self.end = "truncated"
            return
        try:
            self.patch = unified_diff(apply_edits(parse_edits(answer_of(reply.text)), self.repository.read))
            self.end = "patch"
        except NotApplicable as reason:
            self.end = str(reason)


@dataclass(slots=True)
class EndToEnd:
    """The model names files first, from the list of all; then as `OracleEdit`, with those that fit the budget."""

    issue: str
    repository: Repository
    max_input_tokens: int
    system_prompt: str = REPAIR_SYSTEM_PROMPT
    replies: list[Reply] = field(default_factory=list)
    end: str | None = None
    patch: str = ""
    repair: OracleEdit | None = None
    listed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listed = [path for path in self.repository.paths() if path.endswith(".py") and not TESTS.search(path)]
        while self.listed and prompt_tokens(self.prompt) > self.max_input_tokens:
            # The deepest go first: what lies near the top is what most issues are about.
            self.listed.sort(key=lambda path: (path.count("/"), path))
            self.listed = sorted(self.listed[: int(0.9 * len(self.listed))])
        if not self.listed:
            self.refuse()

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What to ask next."""
        if self.repair:
            return self.repair.prompt
        names = "".join(f"{path}\n" for path in self.listed)
        return _messages(LOCALIZE_SYSTEM_PROMPT.format(most=MOST_FILES), f"{_issue(self.issue)}\nFiles:\n{names}")

    def refuse(self) -> None:
        """End without an answer to the prompt, which is too long."""
        self.end = PROMPT_TOO_LONG

    def take(self, reply: Reply) -> None:
        """Go on with what the model wrote."""
        self.replies.append(reply)
        if self.repair:
            self.repair.take(reply)
            self.end, self.patch = self.repair.end, self.repair.patch
        elif reply.truncated:
            self.end = "truncated"
        elif not (files := named_files(answer_of(reply.text), self.listed)):
            self.end = "no file named"
        else:
            self._go_on_with(files)

    def _go_on_with(self, files: list[str]) -> None:
        """As many of the files as fit, in the model's order."""
        for count in range(len(files), 0, -1):
            chosen = tuple(files[:count])
            repair = OracleEdit(self.issue, self.repository, chosen, self.max_input_tokens, self.system_prompt)
            if repair.end is None:
                self.repair = repair
                return
        self.refuse()


SweAttempt = OracleEdit | EndToEnd


def named_files(text: str, known: list[str]) -> list[str]:
    """The files of a list that a text names, in the order of the text.

    >>> named_files("1. `pkg/a.py`: likely\\n- b.py", ["b.py", "pkg/a.py", "pkg/b.py"])
    ['pkg/a.py', 'b.py']
    """
    words = re.findall(r"[\w./+-]+", text)
    return list(
        dict.fromkeys(word for word in (w.removeprefix("./").rstrip(".") for w in words) if word in set(known))
    )[:MOST_FILES]


def answer_of(text: str) -> str:
    """What stands after the thought, without `<solution>` tags; a text without `</think>` is all answer."""
    answer = text.rpartition("</think>")[2].strip("\n")
    return re.sub(r"^</?solution>\n?", "", answer, flags=re.MULTILINE)


def _issue(text: str) -> str:
    return f"Issue:\n{text.strip()}\n"


def _messages(system: str, user: str) -> tuple[Message, ...]:
    turns = (Message(role="system", content=system), Message(role="user", content=user))
    return turns if system else turns[1:]


def prompt_tokens(prompt: tuple[Message, ...]) -> int:
    """The length of a prompt, measured before any tokenizer sees it."""
    return sum(len(message["content"]) for message in prompt) // CHARACTERS_PER_TOKEN
