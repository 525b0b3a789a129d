r"""Where the answer stands in a text: in the last `\boxed{}`, or else behind a final `Answer:`, `####`, "answer is"."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from srl.rewards.notation import FORMULA, plain, quantity, without_delimiters

TAIL_CHARACTERS = 2_000
"""A text without a box is read from its end; a box with more in it than this holds no answer."""
PASSAGE_CHARACTERS = 50
"""Boxes no further apart may be one answer."""

MEMBERS = 4
"""`P = 6/12 = 1/2 = 0.5`: a longer chain is working, not an answer."""
OPERATIONS = 20
"""So many more than four times the known answer's own are working, not an answer."""
WORDS_OF_AN_ANSWER = 6
"""A sentence has more."""

UNKNOWN = frozenset(
    [
        *("", "proof", "notfound", "not found", "none", "null", "nan", "n/a", "unknown", "unavailable", "-", "?"),
        *("no answer", "not available", "not provided", "see solution", "see the solution", "see explanation"),
    ]
)
"""What data sets write where they have no answer to compare with."""

_MARK = re.compile(
    r"^[ \t]*####[ \t]*(?=[^\s#*][^\n]*\s*\Z)"  # GSM8K's; elsewhere it is a heading
    r"|(?i:(?<![a-z])answers?[ \t*_]*[:：])"
    r"|(?i:^[ \t>]*(?:#{1,6}[ \t]*)?[*_]*(?:the[ \t]+)?(?:final[ \t]+)?answer[*_]*[ \t]*$)"  # a heading
    r"|(?i:\bfinal[ \t]+answers?[ \t]+(?:is|are|=)(?![a-z]))"
    r"|(?P<weak>(?i:\banswers?(?:[ \t]+(?:to|of|for)\b[^.:\n]{0,80}?)?[ \t]+(?:is|are)(?![a-z])))",
    re.M,
)
_OPENING = re.compile(r"(?i)(?:[\s:：*_=}]|(?:therefore|thus|then|hence|simply|given by|equal to)\b)*")
_CLOSING = re.compile(r"(?i)[\s*_]*(?:\.?\s*I hope (?:it|this) is correct.*|</answer>.*|<\|.*)?[\s*_]*$", re.S)

_VALUE = re.compile(
    r"[(\[][^()\[\]\n]*\d[^()\[\]\n]*[)\]]|(?<![\w.])[-+−]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:/\d+)?(?:\s*\\?%)?"
)
_PROSE = re.compile(
    r"(?<![A-Za-z\\{])(?!(?:and|sqrt|inf|log|exp|mod|(?:arc)?(?:sin|cos|tan|cot|sec|csc))\b)[A-Za-z]{3,}"
)
_VERB = re.compile(r"(?i)\b(?:is|are|equals|was|be|has|have)\b")


def last_box(text: str) -> str | None:
    r"""The content of the last closed `\boxed{}`, as the evaluation of Qwen2.5-Math reads an answer.

    >>> last_box(r"\boxed{1}, no: \boxed{\frac{1}{2}}, or \boxed{3")
    '\\frac{1}{2}'
    """
    spans = _boxes(text)
    return _content(text, *spans[-1]) if spans else None


def marked_answer(text: str) -> str | None:
    r"""What stands behind the last `Answer:`, `Final answer is`, `####` or, without these, "answer is".

    Of a sentence, its formulas, or else its numbers: of several, all.

    >>> [marked_answer(text) for text in ("Answer: (2, 4)", "The final answer is $x = 3$.", "#### 7", "So x is 3.")]
    ['(2, 4)', 'x = 3', '7', None]
    """
    text = text[-TAIL_CHARACTERS:].rstrip()
    marks = list(_MARK.finditer(text))
    strong = [mark for mark in marks if mark["weak"] is None]
    for mark in [*strong[-1:], *marks[-1:]]:
        behind = text[mark.end() :]
        answer = _answer_behind(behind)
        # "The answer is positive. So …" gives none; the same words at the end of the text do.
        if answer and (mark["weak"] is None or re.search(r"[\d\\$]", answer) or "\n" not in behind.strip()):
            return answer
    return None


def _answer_behind(rest: str) -> str | None:
    rest = rest[_OPENING.match(rest).end() :]  # type: ignore[union-attr]
    if display := re.match(r"\$\$.+?\$\$|\\\[.+?\\\]", rest, re.S):
        return without_delimiters(display[0])
    line, _, below = rest.partition("\n")
    line = _CLOSING.sub("", line)
    if line.endswith(":") and below:  # it announces what stands below
        return _answer_behind(below)
    if not _PROSE.search(FORMULA.sub("", line)) or quantity(without_delimiters(line)) is not None:
        return without_delimiters(line) or None
    return _of_sentence(line)


def _of_sentence(sentence: str) -> str | None:
    """The values in a sentence, behind its last verb if there are any; a few words without a value are the answer."""
    if not re.search(r"[\d\\$]", sentence):
        words = sentence.rstrip(".!")
        return words if len(words.split()) <= WORDS_OF_AN_ANSWER else None
    behind = sentence[max((verb.end() for verb in _VERB.finditer(sentence)), default=0) :]
    for part in (behind, sentence):
        found = [without_delimiters(item) for item in FORMULA.findall(part)] or _VALUE.findall(part)
        if found:
            return ", ".join(item.strip() for item in found)
    return None


def known_answer(value: Any) -> str | None:
    r"""The known answer of a problem, as data sets hold it; None where it is not known ("proof", "notfound", null).

    Without a currency, degrees or a unit where it is a number; from the last box of a solution, or behind its mark.

    >>> [known_answer(value) for value in (27.0, "so 2+2=4.\n#### 1,004", r"\$36", "22 km/h", r"\frac56", "proof")]
    ['27', '1004', '36', '22', '\\frac56', None]
    """
    match value:
        case bool():
            return None
        case int() | float() if math.isfinite(value):
            return str(int(value)) if value == int(value) else repr(value)
        case str():
            return _known_text(value)
    return None


def _known_text(text: str) -> str | None:
    text = text.strip()
    answer = ", ".join(_last_boxes(text)) or marked_answer(text)
    if answer is None:
        answer = text
    elif "####" in text:  # GSM8K's commas part thousands
        answer = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", answer)
    if words_of(answer) in UNKNOWN:
        return None
    return answer if (value := quantity(without_delimiters(answer))) is None else value


def _last_boxes(text: str) -> list[str]:
    r"""The contents of the last box and, as math-verify reads, of those beside it: `\boxed{1} and \boxed{2}`."""
    spans = _boxes(text)
    first = len(spans) - 1
    while first > 0:
        between = text[spans[first - 1][1] : spans[first][0]]
        if len(between) > 9 and not (len(between) < PASSAGE_CHARACTERS and re.search(r"\b(?:and|or)\b|[,;]", between)):
            break
        first -= 1
    return list(dict.fromkeys(_content(text, *span) for span in spans[max(first, 0) :]))


def words_of(answer: str) -> str:
    """Without markup and case: "\\text{Proof.}" is "proof"."""
    bare = re.sub(r"\\(?:text(?:bf|it|rm)?|mathrm|mbox|boxed)\s*\{([^{}]*)\}", r"\1", answer)
    return " ".join(bare.strip(" $*_.()[]{}").lower().split())


class Reading(NamedTuple):
    """What math-verify is given in place of a text, and the answer as written there if one stands out."""

    text: str
    written: str | None


def read_answer(text: str) -> Reading:
    r"""The part of a text that its answer is read from: the last box alone, for most texts have one.

    Boxes close to one another, such as `\boxed{1} and \boxed{2}`, are left to math-verify with their paragraph. So
    is the end of a text with neither a box nor a marked answer ("So x is 42.").
    """
    boxes = _boxes(text)
    if not boxes:
        marked = marked_answer(text)
        return Reading(text[-TAIL_CHARACTERS:] if marked is None else _boxed(marked), marked)
    start, end = boxes[-1]
    written = _content(text, start, end)
    if end - start > TAIL_CHARACTERS:
        return Reading(r"\boxed{}", "")
    if len(boxes) == 1 or start - boxes[-2][1] > PASSAGE_CHARACTERS:
        return Reading(_boxed(written), written)
    before, after = text[max(0, start - TAIL_CHARACTERS) : start], text[end : end + PASSAGE_CHARACTERS]
    passage = before[before.rfind("\n\n") + 1 :] + text[start:end] + after.split("\n\n")[0]
    for start, end in reversed(_boxes(passage)):
        if r"\boxed" not in (content := _content(passage, start, end)):
            passage = passage[:start] + _boxed(content) + passage[end:]
    return Reading(passage, written)


def _boxed(answer: str) -> str:
    return rf"\boxed{{{plain(answer)}}}"


def is_working(answer: str, known: str) -> bool:
    r"""Whether an answer is a chain of equalities or a long sum rather than the form that the known answer has.

    >>> is_working("x=x=x=1", "1"), is_working("+".join("1" * 951), "951"), is_working(r"P = \frac{6}{12} = 0.5", "1/2")
    (True, True, False)
    """
    for part in re.split(r",|;|\band\b|\bor\b|\\\\|\n", answer):
        members = [re.sub(r"\s", "", member) for member in re.split(r"(?<![<>!\\])=", part)]
        if "=" not in known and (len(members) > MEMBERS or len(set(members)) < len(members)):
            return True
    return _n_operations(answer) > OPERATIONS + 4 * _n_operations(known)


def _n_operations(answer: str) -> int:
    return len(re.findall(r"[-+*/^=]|\\(?:cdot|times|frac|sqrt|div)\b", answer))


def _content(text: str, start: int, end: int) -> str:
    return text[text.index("{", start) + 1 : end - 1].strip()


def _boxes(text: str) -> list[tuple[int, int]]:
    """Start and end of every closed box, by start; in one pass, for a degenerate text has many that stay open."""
    opened: list[int | None] = []
    closed = []
    for token in re.finditer(r"\\boxed\s*\{|\\.|[{}]", text):
        if token[0].endswith("{") and token[0] != r"\{":
            opened.append(token.start() if token[0] != "{" else None)
        elif token[0] == "}" and opened:
            start = opened.pop()
            if start is not None:
                closed.append((start, token.end()))
    return sorted(closed)
