"""Is a final answer right? The one home of answer equality: rewards, `srl steps` and `srl evaluate` ask here.

`math-verify` decides, where it can neither hang nor eat the memory. Its own time limit is an alarm signal, which
works only in a process's main thread and cannot stop C code; so it runs in worker processes that are killed after
a hard limit. Samples of one problem mostly repeat a few answers: a text is first reduced to its last `\\boxed{}`,
and each distinct pair (answer, known answer) is compared once.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

from srl.rewards.workers import Failure, Workers

TIMEOUT_SECONDS = 10.0
MEMORY_BYTES = 4 * 2**30
MAX_WORKERS = 8
"""Each holds sympy, about 100 MB; eight compare over a thousand answers per second."""
PAIRS_PER_TASK = 64
PAIRS_REMEMBERED = 50_000
TAIL_CHARACTERS = 2_000
"""A text without a box is read from its end; a box with more in it than this holds no answer."""
PASSAGE_CHARACTERS = 50
"""Boxes no further apart may be one answer."""


class Verdict(NamedTuple):
    """What was found in a text, and whether it is right."""

    correct: bool
    answer: str | None
    """As written: the content of the last box, or else what math-verify took for the answer. None: no answer."""
    failure: str | None = None
    """What the comparison took too much of, time or memory; `correct` is then False."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How math-verify reads and compares; the defaults are the ones used everywhere in srl."""

    whole_text: bool = False
    """Let math-verify search the text instead of reading the last box."""
    latex: bool = True
    expressions: bool = True
    precision: int = 6
    strict: bool = True
    allow_set_relation_comp: bool = False


Pair = tuple[str, str]
"""What to read the answer from, and the known answer."""

_known: dict[tuple[Pair, Rules], Verdict] = {}


def are_correct(texts: list[str], answers: list[str]) -> list[bool]:
    """Whether the final answer in each text (a whole solution) equals the known one; in parallel on all cores.

    A text without an answer, or one that takes over 10 s or 4 GiB to compare, is wrong.
    """
    return [verdict.correct for verdict in judge(texts, answers)]


def judge(texts: Sequence[str], answers: Sequence[str], rules: Rules = Rules()) -> list[Verdict]:
    """As `are_correct`, with what was read and why a comparison failed."""
    read = str if rules.whole_text else _readable
    pairs = [(read(text), answer) for text, answer in zip(texts, answers, strict=True)]
    verdicts = {pair: _known[pair, rules] for pair in pairs if (pair, rules) in _known}
    new = [pair for pair in dict.fromkeys(pairs) if pair not in verdicts]
    size = max(1, min(PAIRS_PER_TASK, len(new) // (8 * _n_workers())))
    verdicts |= zip(new, _compare(new, rules, size), strict=True)
    _remember({(pair, rules): verdicts[pair] for pair in new})
    return [verdicts[pair] for pair in pairs]


def last_box(text: str) -> str | None:
    r"""The content of the last closed `\boxed{}`, as the evaluation of Qwen2.5-Math reads an answer.

    >>> last_box(r"\boxed{1}, no: \boxed{\frac{1}{2}}, or \boxed{3")
    '\\frac{1}{2}'
    """
    spans = _boxes(text)
    return _content(text, *spans[-1]) if spans else None


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


def _readable(text: str) -> str:
    r"""The part of a text that its answer is read from: the last box alone, for most texts have one.

    Boxes close to one another, such as `\boxed{1} and \boxed{2}`, are left to math-verify with their paragraph. So
    is the end of a text without any box ("The answer is 42.").
    """
    boxes = _boxes(text)
    if not boxes:
        return text[-TAIL_CHARACTERS:]
    start, end = boxes[-1]
    if end - start > TAIL_CHARACTERS:
        return r"\boxed{}"
    if len(boxes) == 1 or start - boxes[-2][1] > PASSAGE_CHARACTERS:
        return rf"\boxed{{{_content(text, start, end)}}}"
    before, after = text[max(0, start - TAIL_CHARACTERS) : start], text[end : end + PASSAGE_CHARACTERS]
    return before[before.rfind("\n\n") + 1 :] + text[start:end] + after.split("\n\n")[0]


def _remember(verdicts: dict[tuple[Pair, Rules], Verdict]) -> None:
    _known.update(verdicts)
    for key in list(_known)[:-PAIRS_REMEMBERED]:  # the oldest
        _known.pop(key, None)


def _compare(pairs: list[Pair], rules: Rules, size: int) -> list[Verdict]:
    tasks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    results = _workers().map([(task, rules) for task in tasks], TIMEOUT_SECONDS)
    verdicts: list[Verdict] = []
    for task, result in zip(tasks, results, strict=True):
        if not isinstance(result, Failure):
            verdicts += result
        elif len(task) > 1:  # one of them failed: the others are not lost
            verdicts += _compare(task, rules, size=1)
        else:  # too expensive to be an answer: data, not an error
            verdicts.append(Verdict(False, last_box(task[0][0]), result.reason))
    return verdicts


def _n_workers() -> int:
    return min(MAX_WORKERS, os.cpu_count() or 1)


@cache
def _workers() -> Workers:
    return Workers(_verify_all, _n_workers(), MEMORY_BYTES, prepare=_load_math_verify)


def _load_math_verify() -> None:
    import logging

    import math_verify  # noqa: F401  # now, so that no answer's time limit pays for it

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns where its own time limit is off


def _verify_all(task: tuple[list[Pair], Rules]) -> list[Verdict]:
    pairs, rules = task
    return [_verify(text, answer, rules) for text, answer in pairs]


def _verify(text: str, answer: str, rules: Rules) -> Verdict:
    from math_verify import parse, verify

    gold = _parse_known(answer, rules)
    found = parse(_latex_numbers(text), _targets(rules), parsing_timeout=None)
    written = last_box(text) or next((item for item in reversed(found) if isinstance(item, str)), None)
    if _clearly_differ(gold, found, rules):
        return Verdict(False, written)
    equal = verify(
        gold,
        found,
        float_rounding=rules.precision,
        strict=rules.strict,
        allow_set_relation_comp=rules.allow_set_relation_comp,
        timeout_seconds=None,
    )
    return Verdict(bool(equal), written)


@lru_cache(maxsize=4096)
def _parse_known(answer: str, rules: Rules) -> Any:
    from math_verify import LatexExtractionConfig, parse

    answer = _latex_numbers(answer)
    if "$" not in answer and r"\boxed" not in answer and rules.latex:
        # A bare answer such as "\frac59" is LaTeX only between dollar signs.
        found = parse(f"${answer}$", [LatexExtractionConfig()], parsing_timeout=None)
        if found:
            return found
    return parse(answer, _targets(rules), parsing_timeout=None)


@cache
def _targets(rules: Rules) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    latex = [LatexExtractionConfig(boxed_match_priority=0)] if rules.latex else []
    return latex + ([ExprExtractionConfig()] if rules.expressions else [])


def _latex_numbers(text: str) -> str:
    r"""Numbers as programs write them, in LaTeX; math-verify would read 4.5e33 as 4.5·e·33 (58 answers of Minerva).

    >>> _latex_numbers("4.5e33, -1./3, np.arcsin(10/13)")
    '4.5 \\times 10^{33}, -1/3, \\arcsin(10/13)'
    """
    text = re.sub(r"(?<![\w.])(\d+(?:\.\d*)?)[eE]([+-]?)0*(\d+)(?![\w.])", _power_of_ten, text)
    return re.sub(r"\bnp\.(?=[a-z])", r"\\", re.sub(r"(\d)\.(?=/)", r"\1", text))


def _power_of_ten(number: re.Match) -> str:
    mantissa, sign, exponent = number.groups()
    return rf"{mantissa.rstrip('.')} \times 10^{{{sign.removeprefix('+')}{exponent}}}"


def _clearly_differ(gold: list[Any], found: list[Any], rules: Rules) -> bool:
    """Whether both are numbers, more than 1 in 1,000 apart.

    math-verify would find most of them unequal too, by slow algebra; but it compares to six decimals and takes 0.0
    for 2.88e-19.
    """
    known, answer = _number(gold), _number(found)
    if known is None or answer is None:
        return False
    resolution = 10.0**-rules.precision
    if known == 0:
        return abs(answer) > resolution
    return not math.isclose(known, answer, rel_tol=max(1e-3, resolution))


def _number(parsed: list[Any]) -> float | None:
    from sympy import Expr, UnevaluatedExpr

    expression = next((item for item in parsed if isinstance(item, Expr)), None)
    if expression is None or not expression.is_number or expression.has(UnevaluatedExpr):  # the latter: a percentage
        return None
    try:
        return float(expression.evalf())
    except (TypeError, OverflowError):  # complex, or no float holds it
        return None
