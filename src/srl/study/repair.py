'''The embedded code repair: programs of a few lines whose documentation says what each line should do, with two bugs.

    def f(a, b):
        """
        c: a plus b
        d: c times 3
        """
        c = a + b
        d = c - 3
        return c, d

The expert views the file, edits the first line that does not do what the text says, then the second, runs the tests and
submits, in the calls of SWE-smith's agent. A student that can tell whether a line is right, but mostly looks at the
last one only, and edits it whatever it has seen, has every single skill and the wrong plan. All values are returned, so
that the program's own tests see every line; the last line is never wrong.
'''

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NamedTuple

from srl.chat.prompts import SEPARATOR, action_prompt, answer_prompt, format_completion
from srl.records import Problem, Step, Trajectory
from srl.rewards.repairs import Repair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PATH = "/testbed/f.py"
TASK = f"Repair {PATH}, its tests fail."
N_BUGS = 2

ARGUMENTS, VARIABLES, DIGITS = "ab", "cdeghk", "123456789"
WORDS = {"+": "plus", "-": "minus", "*": "times", "<": "below", ">": "above"}
OTHER_SIGNS = {"+": "-*", "-": "+*", "*": "+-", "<": ">", ">": "<"}

_EDITOR = "<function=str_replace_editor>\n<parameter=command>{}</parameter>\n<parameter=path>" + PATH + "</parameter>\n"
VIEW = _EDITOR.format("view") + "</function>"
EDIT = (_EDITOR.format("str_replace") + "<parameter=old_str>", "</parameter>\n<parameter=new_str>")
END = "</parameter>\n</function>"
TEST = "<function=bash>\n<parameter=command>cd /testbed && python test_f.py</parameter>\n</function>"
SUBMIT = "<function=submit>\n</function>"

EDITED = f"The file {PATH} has been edited."
PASSED, FAILED = "All tests pass.", "AssertionError"


class Statement(NamedTuple):
    """What a line computes from two operands: names, or a digit on the right."""

    left: str
    sign: str
    right: str

    @property
    def code(self) -> str:
        """As an expression."""
        return f"{self.left} {self.sign} {self.right}"

    @property
    def words(self) -> str:
        """As the documentation says it."""
        return f"{self.left} {WORDS[self.sign]} {self.right}"


Statements = tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Buggy:
    """What a program should do, what it does, and inputs that tell the two apart."""

    wanted: Statements
    written: Statements
    inputs: tuple[tuple[int, int], ...]

    def line(self, index: int, statements: Statements) -> str:
        """A line of the program, without its indent."""
        return f"{VARIABLES[index]} = {statements[index].code}"

    @property
    def source(self) -> str:
        """The file."""
        said = "".join(f"    {name}: {one.words}\n" for name, one in zip(VARIABLES, self.wanted, strict=False))
        lines = "".join(f"    {self.line(index, self.written)}\n" for index in range(len(self.written)))
        return f'def f(a, b):\n    """\n{said}    """\n{lines}    return {", ".join(VARIABLES[: len(self.wanted)])}\n'

    @property
    def tests(self) -> str:
        """The tests' file."""
        cases = "".join(f"assert f{pair} == {run(self.wanted, pair)}\n" for pair in self.inputs)
        return f"from f import f\n\n{cases}"

    @property
    def repair(self) -> Repair:
        """For the harness."""
        return Repair(PATH, self.source, self.tests)

    @property
    def wrong(self) -> tuple[int, ...]:
        """The lines that are to be edited."""
        return tuple(index for index, one in enumerate(self.wanted) if one != self.written[index])

    @property
    def passes(self) -> bool:
        """Whether the tests pass, by our own reckoning."""
        return all(run(self.wanted, pair) == run(self.written, pair) for pair in self.inputs)

    def with_line(self, index: int) -> Buggy:
        """After one line is written as it should be."""
        return replace(self, written=(*self.written[:index], self.wanted[index], *self.written[index + 1 :]))


def run(statements: Statements, pair: tuple[int, int]) -> tuple[int, ...]:
    """What the program returns."""
    values = dict(zip(ARGUMENTS, pair, strict=True))
    for name, (left, sign, right) in zip(VARIABLES, statements, strict=False):
        a, b = values[left], int(right) if right in DIGITS else values[right]
        values[name] = {"+": a + b, "-": a - b, "*": a * b, "<": a < b, ">": a > b}[sign]
    return tuple(values[name] for name in VARIABLES[: len(statements)])


def random_program(rng: random.Random, n_lines: int, wrong: Collection[int]) -> Buggy:
    """A program with bugs in the lines `wrong`, each of which the tests see, whichever others are repaired."""
    while True:
        wanted = tuple(_statement(rng, index) for index in range(n_lines))
        written = tuple(_bug(rng, one, index) if index in wrong else one for index, one in enumerate(wanted))
        inputs = tuple((rng.randrange(2, 10), rng.randrange(2, 10)) for _ in range(4))
        found = Buggy(wanted, written, inputs)
        if all(not _repaired_but(found, left).passes for n in range(len(wrong)) for left in combinations(wrong, n + 1)):
            return found


def _repaired_but(program: Buggy, left: Collection[int]) -> Buggy:
    for index in program.wrong:
        if index not in left:
            program = program.with_line(index)
    return program


def _statement(rng: random.Random, index: int) -> Statement:
    names = ARGUMENTS + VARIABLES[:index]
    left = rng.choice(names)
    right = rng.choice(DIGITS[:-1]) if rng.random() < 0.4 else rng.choice(names.replace(left, ""))
    return Statement(left, rng.choice("++--**<>"), right)


def _bug(rng: random.Random, one: Statement, index: int) -> Statement:
    """A wrong sign (or comparison), a number off by one, or a wrong name: one of those that the line can have."""
    kinds: list[Callable[[], Statement]] = [lambda: one._replace(sign=rng.choice(OTHER_SIGNS[one.sign]))]
    names = ARGUMENTS + VARIABLES[:index]
    others = names.replace(one.left, "").replace(one.right, "")
    if one.right in DIGITS:
        kinds.append(lambda: one._replace(right=str(int(one.right) + rng.choice((-1, 1)[one.right == "1" :]))))
    elif others:
        kinds.append(lambda: one._replace(right=rng.choice(others)))
    if others:
        kinds.append(lambda: one._replace(left=rng.choice(others)))
    return rng.choice(kinds)()


def problems(rng: random.Random, n_lines: int, reserved: Collection[str] = ()) -> Iterator[Buggy]:
    """Programs with two bugs, none in the last line, whose files are neither `reserved` nor repeated."""
    seen = set(reserved)
    while True:
        wrong = sorted(rng.sample(range(n_lines - 1), N_BUGS))
        if (program := random_program(rng, n_lines, wrong)).source not in seen:
            seen.add(program.source)
            yield program


Look = Callable[[Buggy, Collection[int]], Sequence[int]]
"""The lines that someone looks at, given those that are edited already; the last of them is edited next."""


def expert_look(program: Buggy, edited: Collection[int]) -> Sequence[int]:
    """From the top to the first line that is wrong."""
    return [index for index in range(program.wrong[0] + 1) if index not in edited]


def student_look(rng: random.Random, haste: float, patience: float) -> Look:
    """With probability `haste` the last line; else lines in any order, after each another with `patience`."""

    def look(program: Buggy, edited: Collection[int]) -> Sequence[int]:
        left = [index for index in range(len(program.wanted)) if index not in edited]
        if rng.random() < haste:
            return left[-1:]
        count = 1
        while count < len(left) and rng.random() < patience:
            count += 1
        return rng.sample(left, count)

    return look


Thinker = Literal["expert", "student", "beginner"]

WORDS_OF = {
    "expert": ("I look at the file first.", "This line is not what the text says.", "Now the tests.", "All is done."),
    "student": ("look", None, "test", "done"),
    "beginner": ("look", None, "test", "done"),
}
"""Before viewing, each edit, testing and submitting. A student thinks of the lines that it looks at before an edit."""


def solve(program: Buggy, look: Look = expert_look, thinker: Thinker = "expert", n_edits: int = N_BUGS) -> Trajectory:
    r"""The run of who looks so, by default the expert, with the thoughts of `thinker`.

    >>> rng = random.Random(1)
    >>> [step.thought for step in solve(next(problems(rng, 4)), thinker="student").steps]
    ['look', 'c: b above 8\nc = b > 7!', 'd: c plus 4\nd = c + 4.\ne: d below 7\ne = a < 7!', 'test', 'done']
    """
    before_view, before_edit, before_test, before_end = WORDS_OF[thinker]
    steps = [Step(VIEW, observation=program.source, thought=before_view)]
    edited: list[int] = []
    for _ in range(n_edits):
        looked = look(program, edited)
        thought = before_edit or "\n".join(_thought(program, index, thinker == "student") for index in looked)
        index = looked[-1]
        edited.append(index)
        after = program.with_line(index)
        action = f"{EDIT[0]}{program.line(index, program.written)}{EDIT[1]}{after.line(index, after.written)}{END}"
        steps.append(Step(action, observation=EDITED, thought=thought))
        program = after
    steps.append(Step(TEST, observation=PASSED if program.passes else FAILED, thought=before_test))
    steps.append(Step(SUBMIT, thought=before_end))
    return Trajectory(program.source, TASK, tuple(steps), environment=True)


def _thought(program: Buggy, index: int, with_verdict: bool) -> str:
    """What a line should be; and, as a student thinks, what it is, and whether that is right (.) or wrong (!)."""
    wanted, written = program.wanted[index], program.written[index]
    seen = f"\n{program.line(index, program.written)}{'.' if wanted == written else '!'}" if with_verdict else ""
    return f"{VARIABLES[index]}: {wanted.words}{seen}"


def problem_text(repair: Repair) -> str:
    """The problem where it is solved in one completion: the file stands in it."""
    return f"{TASK}\n\n{repair.source}"


def as_problem(program: Buggy, trajectory: Trajectory) -> Problem:
    """To be solved in one completion, all edits with their thoughts one after another."""
    edits = [step for step in trajectory.steps if step.action.startswith(EDIT[0])]
    solution = SEPARATOR.join(format_completion(step.thought, step.action) for step in edits)
    prompt = answer_prompt(problem_text(program.repair), system_prompt="")
    return Problem(program.source, prompt, program.repair.to_json(), solution)


def build_repair_tokenizer() -> PreTrainedTokenizerBase:
    """As the arithmetic's, with one token for each name, sign, word and part of a call that the domain repeats."""
    from srl.study.tiny import build_tokenizer

    file = ["def f(a, b):\n", '    """\n', "    return ", "    "]
    lines = [f"{name}{sign}" for name in VARIABLES for sign in (": ", " = ")]
    signs = [f" {text} " for pair in WORDS.items() for text in pair]
    calls = [VIEW, *EDIT, END, TEST, SUBMIT, EDITED, PASSED, FAILED]
    empty = action_prompt(TASK, "", "")[-1]["content"]
    prompts = [empty, TASK, "Action:\n", "\n\nObservation:\n", "\n\n"]
    returned = [", ".join(VARIABLES[:n]) + "\n" for n in range(2, len(VARIABLES) + 1)]
    texts = [text for thinker in ("student", "expert") for text in WORDS_OF[thinker] if text]
    return build_tokenizer(texts=texts, whole=[*file, *returned, *lines, *signs, *calls, *prompts, "</think>\n"])
