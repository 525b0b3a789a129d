r"""Written solutions without numbers -> steps: a line, a paragraph or a sentence each.

    Pens cost 4 * 3 = 12.
    With paper, that is 12 + 10 = 22.        three steps by lines, the last of them the answer's
    #### 22

As with numbers, nothing is rewritten, formulas and code are never cut, and what stands after the last cut, mostly
the answer, is a step of its own (which the paper's choice of targets never asks for).
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Literal, get_args

from srl.data.formats.numbered import Cut, NotNumbered, cut_steps, masked
from srl.records import Step

Scheme = Literal["numbered", "lines", "paragraphs", "sentences"]

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

_ENDS: dict[Scheme, re.Pattern[str]] = {
    "lines": re.compile(r"(\r?\n)"),
    "paragraphs": re.compile(r"(\r?\n[ \t\r]*\n)"),
    # A line, or a mark that ends a sentence before a capital, a number, a formula or a bold word; but no
    # enumerator ("2. Add"), initial ("J. Doe") or abbreviation.
    "sentences": re.compile(
        r"(\r?\n)|(?<=[.!?])(?<!^\d\.)(?<!\b[A-Za-z]\.)(?<!\b(?:cf|vs|no|Dr|Mr|St|eq|Eq)\.)(?<!\bMrs\.)"
        r"[)\"'”’*]*([ \t]+)(?=[A-Z0-9\\$(“\"*])",
        re.M,
    ),
}
"""The group is what stands between two steps; a bracket or quote that closes a sentence is the sentence's."""
_INLINE = re.compile(r"(?<![\\$])\$(?![\s$])[^$\n]*(?<![\s\\])\$(?!\d)")  # as Pandoc tells formulas from dollars
_WORD = re.compile(r"\w")


def cut_solution(solution: str, scheme: Scheme) -> Cut:
    r"""Cut a solution by a scheme.

    Raises:
        NotNumbered: it is not in numbered steps; by another scheme: it is one step, or none.

    >>> [step.action for step in cut_solution("Pens: 12.\nAll: 22.\n#### 22", "lines").steps]
    ['Pens: 12.', 'All: 22.', '#### 22']
    >>> [step.action for step in cut_solution("It is $3. Two$ of them are 6. So it is 6.", "sentences").steps]
    ['It is $3. Two$ of them are 6.', 'So it is 6.']
    """
    return cut_steps(solution) if scheme == "numbered" else _cut(solution, scheme)


def schemes_that_cut(solution: str) -> list[Scheme]:
    """All schemes by which a solution can be cut."""
    found: list[Scheme] = []
    for scheme in SCHEMES:
        with suppress(NotNumbered):
            cut_solution(solution, scheme)
            found.append(scheme)
    return found


def _cut(solution: str, scheme: Scheme) -> Cut:
    text = solution.strip()
    if not text:
        raise NotNumbered("empty solution")
    opaque = _INLINE.sub(lambda found: "X" * len(found[0]), masked(text, "X"))  # a sentence may begin with a formula
    ends = [found.span(found.lastindex or 0) for found in _ENDS[scheme].finditer(opaque)]
    starts = [0, *(end for _, end in ends)]
    pieces = [text[start:end] for start, end in zip(starts, [*(start for start, _ in ends), len(text)], strict=True)]
    actions: list[str] = []
    for piece in pieces:
        if not piece.strip():
            continue
        if actions and not _WORD.search(piece):  # a rule, a closing bracket: no step of its own
            actions[-1] = f"{actions[-1]}\n{piece.strip()}"
        else:
            actions.append(piece.strip())
    if len(actions) < 2:
        raise NotNumbered("only one step")
    return Cut(tuple(Step(action) for action in actions), None, scheme)
