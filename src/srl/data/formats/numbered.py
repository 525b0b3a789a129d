"""A written solution with numbered steps -> steps (paper §5.1: each complete numbered step is one action).

DeepSeek-R1 writes such texts (s1K-1.1):

    We factor first.                       the preamble belongs to step 1 (paper, figure 3)

    1. **Factor**: 12 = 2 * 2 * 3.         step 1, title "1. **Factor**:"

    2. **Count**: there are 6 divisors.    step 2, title "2. **Count**:"

    Answer: 6                              the conclusion: not a step

Nothing is rewritten: actions and conclusion are slices of the text. What does not fit is refused with a
reason rather than guessed; the paper excludes it too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal, NamedTuple

from srl.errors import Unusable
from srl.records import Step

Reason = Literal[
    "empty solution",
    "no numbered steps",
    "only one step",
    "numbering restarts",
    "numbers not 1..k",
    "step without text",
    "section between steps",
    "steps hold too little of the text",
]

# The heading families, the most prominent first. A pattern starts with its line, captures the number and ends
# where the title does: with the line after `#`, else with the bold ("1. **Title**:"), else after the number.
_FAMILIES = {
    "### Step 1: Title": r"#{1,6}[ \t]*\**(?i:step)[ \t]+([0-9]{1,3})\b(?!\.[0-9]).*",
    "**Step 1: Title**": r"\*\*(?i:step)[ \t]+([0-9]{1,3})(?=[ \t]*[:.)*–—-])(?!\.[0-9])(?:.*?\*\*[:.]?|.*)",
    "Step 1:": r"(?i:step)[ \t]+([0-9]{1,3})[ \t]*[:.)–—-](?![0-9])",
    "### 1. Title": r"#{1,6}[ \t]*\**([0-9]{1,3})[.)](?![0-9]).*",
    "**1. Title**": r"\*\*([0-9]{1,3})[.)](?![0-9])(?:.*?\*\*[:.]?|.*)",
    "1. **Title**": r"([0-9]{1,3})[.)][ \t]*\*\*(?=[^\s*]).*?\*\*[:.]?",
    "1.": r"([0-9]{1,3})[.)](?=\s|\Z)",
}
_NAMES = list(_FAMILIES)
_NUMBERED = re.compile("^(?=[#*sS0-9])(?:" + "|".join(f"({p})" for p in _FAMILIES.values()) + ")", re.M)

# Code and formulas, where "2." is no heading. The empty group marks a formula left open at the end of its
# paragraph (TeX allows no empty line in one): looking further for its end would take quadratic time.
_LEFT_OPEN = r"((?=\n[ \t\r]*\n)|\Z)"
_OPAQUE = re.compile(
    r"```.*?```|~~~.*?~~~"
    rf"|\$\$.*?(?:\$\$|{_LEFT_OPEN})"
    rf"|(?<!\\)\\\[.*?(?:\\\]|{_LEFT_OPEN})"
    rf"|(?<!\\)\\\(.*?(?:\\\)|{_LEFT_OPEN})"
    rf"|\\begin\{{(?P<name>\w+\*?)\}}.*?(?:\\end\{{(?P=name)\}}|{_LEFT_OPEN})",
    re.S,
)

_RULE = r"(?:-{3,}|\*{3,}|_{3,})[ \t\r]*"
_IS_RULE = re.compile(_RULE).fullmatch

# What begins the text after the last step.
_LABEL = re.compile(  # "### Conclusion", "**Final Answer**", "Answer: 60", "The final answer is 60"
    r"^(?:#{1,6}[ \t]*)?(?:\*\*)?"
    r"(?i:(?:final[ \t]+)?(?:answer|conclusion)[ \t]*(?::|\*\*|\r?$)|the[ \t]+final[ \t]+answer[ \t]+is\b)",
    re.M,
)
_SEPARATOR = re.compile(rf"^[ \t\r]*\n{_RULE}$", re.M)  # the empty line tells "---" from an underline
_PARAGRAPH = re.compile(r"^[ \t\r]*\n(?=\S)(?![-+*][ \t]|[0-9]+[.)])", re.M)  # unindented, and no list
_UNINDENTED = re.compile(rf"^(?=\S)(?!{_RULE}$)", re.M)

STEPS_SHARE = 0.5
"""Of the text from the first number to the final answer: steps that hold less are a list of something else (givens,
cases). Of 421 real solutions with numbered steps, 7 have from 5% to 48%, and none of these is solved in its list; the
next have 53% and more."""

_SHORT_LINE = 100  # a longer "Step 2: …" line is prose, not a title
_MANY_LINES = 10_000  # nobody writes so many numbered lines


class NotNumbered(Unusable):
    """The solution is not a list of numbered steps; `reason` is one of `Reason`, to count by."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)


@dataclass(frozen=True, slots=True)
class Cut:
    """A solution cut into steps: the actions, then the conclusion, are the text in its order."""

    steps: tuple[Step, ...]
    conclusion: str | None
    """What follows the last step ("### Conclusion …", "Answer: 60"); None if nothing does."""
    family: str
    """The heading family chosen, e.g. "1. **Title**"."""


class _Line(NamedTuple):
    """A line that begins with a number, and its family (an index of `_NAMES`)."""

    start: int
    end: int  # of the title, if there is one
    number: int
    number_width: int  # from the start to after the number: "### Step 1"
    family: int


def cut_steps(solution: str) -> Cut:
    r"""Cut a solution at its numbered headings.

    Raises:
        NotNumbered: it has none that count 1..k, or where to cut would be a guess.

    >>> cut = cut_steps("Let us see.\n\n1. **Add**: 2 + 2 = 4\n2. **Double**: 8\n\nAnswer: 8")
    >>> [step.action for step in cut.steps]
    ['Let us see.\n\n1. **Add**: 2 + 2 = 4', '2. **Double**: 8']
    >>> cut.steps[1].title, cut.conclusion, cut.family
    ('2. **Double**:', 'Answer: 8', '1. **Title**')
    """
    text = solution.strip()
    if not text:
        raise NotNumbered("empty solution")
    readable = masked(text)
    headings = _choose(_numbered_lines(readable))
    family = max(heading.family for heading in headings)  # the plainest, if they differ
    trailer = _trailer_start(readable, headings, is_list=_is_list(readable, headings, _NAMES[family]))
    starts = [0, *(heading.start for heading in headings[1:]), trailer]
    steps = [_step(text, heading, *span) for heading, span in zip(headings, pairwise(starts), strict=True)]
    _check_share(readable, headings, trailer)
    first, _, rest = text[trailer:].strip().partition("\n")
    conclusion = rest.strip() if _IS_RULE(first) else text[trailer:].strip()
    return Cut(tuple(steps), conclusion or None, _NAMES[family])


def masked(text: str, fill: str = "x") -> str:
    """The same text, offset for offset, with code and closed formulas made unreadable."""
    return _OPAQUE.sub(lambda found: found[0] if "" in found.groups() else fill * len(found[0]), text)


def _numbered_lines(masked: str) -> list[_Line]:
    lines = []
    for found in islice(_NUMBERED.finditer(masked), _MANY_LINES):
        group = found.lastindex or 1  # the family's; the next one, inside it, is the number's
        number, width = int(found[group + 1]), found.end(group + 1) - found.start()
        lines.append(_Line(found.start(), found.end(), number, width, group // 2))
    if len(lines) == _MANY_LINES:
        raise NotNumbered("numbers not 1..k", f"{_MANY_LINES} numbered lines or more")
    return lines


def _choose(lines: list[_Line]) -> list[_Line]:
    """The headings of the steps: numbered sections with steps inside them; or else all lines that say "Step", or
    else all numbered ones, if they count 1..k together; or else those of the most prominent family among them, the
    others being lists inside the steps.
    """
    if not lines:
        raise NotNumbered("no numbered steps")
    together = [line for line in lines if "Step" in _NAMES[line.family]] or lines
    prominent = min(line.family for line in together)
    alone = [line for line in together if line.family == prominent]
    sections = [line for line in lines if _NAMES[line.family] == "### 1. Title"]
    for headings in (sections if "#" not in _NAMES[prominent] else [], together, alone):
        if len(headings) > 1 and all(line.number == k for k, line in enumerate(headings, 1)):
            _check_inner_lists(lines, headings)
            return headings
    numbers = [line.number for line in alone]
    if numbers == [1]:
        raise NotNumbered("only one step")
    raise NotNumbered("numbering restarts" if numbers.count(1) > 1 else "numbers not 1..k", _NAMES[prominent])


def _check_inner_lists(lines: list[_Line], headings: list[_Line]) -> None:
    """A numbered line inside a step must belong to a list of its own, or it may be a step we missed."""
    starts = {heading.start for heading in headings}
    expected = 1
    for line in lines:
        if line.start in starts:
            expected = 1
        elif line.number in (1, expected):
            expected = line.number + 1
        else:
            raise NotNumbered("numbers not 1..k", f"a stray {_NAMES[line.family]!r} line {line.number}")


def _is_list(masked: str, headings: list[_Line], family: str) -> bool:
    """Whether steps are the items of a list; bold numbers without a title are too: `**1.** Red pens`."""
    if family != "**1. Title**":
        return family.startswith("1.")
    return all(_is_bare(masked[line.start + line.number_width : line.end]) for line in headings)


def _trailer_start(masked: str, headings: list[_Line], *, is_list: bool) -> int:
    """Where the text after the last step begins, at the latest at the end."""
    first, last = headings[0], headings[-1]
    written = masked[first.start : first.end]
    rank = len(written) - len(written.lstrip("#")) or 6
    section = re.compile(rf"^#{{1,{rank}}}[ \t]", re.M)  # as high as the steps; any, if they have no `#`
    starts = {heading.start for heading in headings}
    if any(found.start() not in starts for found in section.finditer(masked, first.start, last.start)):
        raise NotNumbered("section between steps")
    found = [pattern.search(masked, last.end) for pattern in (_LABEL, _SEPARATOR, section)]
    # Where no earlier step has an unindented line, an unindented paragraph has left the list (as in Markdown)
    # unless the step announces it: "3. Solve:". "Therefore …" is a conclusion only in this way.
    if is_list and not any(_UNINDENTED.search(masked, a.end, b.start) for a, b in pairwise(headings)):
        paragraph = _PARAGRAPH.search(masked, last.end)
        if paragraph and not masked[last.start : paragraph.start()].rstrip("* \t\r\n").endswith(":"):
            found.append(paragraph)
    return min((match.start() for match in found if match), default=len(masked))


def _check_share(masked: str, headings: list[_Line], trailer: int) -> None:
    """Refuse a list that the solution goes on from, rather than consists of."""
    start, label = headings[0].start, _LABEL.search(masked, headings[-1].end)
    end = max(trailer, label.start() if label else len(masked))
    share = (trailer - start) / (end - start)
    if share < STEPS_SHARE:
        raise NotNumbered("steps hold too little of the text", f"{share:.0%}")


def _step(text: str, heading: _Line, start: int, end: int) -> Step:
    action = text[start:end].rstrip()
    before, _, last = action.rpartition("\n")
    if _IS_RULE(last):  # it separates this step from what follows
        action = before.rstrip()
    preamble, written = action[: heading.start - start], action[heading.start - start :]
    if _is_bare(written[heading.number_width :]):
        raise NotNumbered("step without text", f"step {heading.number}")
    title = _title(written, heading)
    if title and f"\n{title}" in f"\n{preamble}":  # who looks for the title would find this copy of it
        title = None
    return Step(action, title)


def _title(written: str, heading: _Line) -> str | None:
    """The heading as written, if it has words and is not all there is."""
    width = heading.end - heading.start
    if "Step" in _NAMES[heading.family] and _is_bare(written[heading.number_width : width]):
        # "Step 2: …" is a title if it is a short line of one sentence, with text below; else it is prose.
        line = written.partition("\n")[0].rstrip()
        if len(line) > _SHORT_LINE or ". " in line[width:].strip():
            return None
        width = len(line)
    title = written[:width].rstrip()
    if _is_bare(title[heading.number_width :]) or "\n" in title or not written[width:].strip():
        return None
    return title


def _is_bare(after_number: str) -> bool:
    return not after_number.strip(" \t\r\n*:.)–—-")
