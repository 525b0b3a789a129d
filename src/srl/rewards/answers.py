"""Is a final answer right? The one home of answer equality: rewards, `srl steps` and `srl evaluate` ask here.

`math-verify` decides, where it can neither hang nor eat the memory. Its own time limit is an alarm signal, which
works only in a process's main thread and cannot stop C code; so it runs in worker processes that are killed after
a hard limit. Samples of one problem mostly repeat a few answers: a text is first reduced to its answer
(`answer_text.py`), that to plain LaTeX (`notation.py`), and each distinct pair (answer, known answer) is compared once.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from threading import Lock
from typing import Any, NamedTuple

from srl.rewards.answer_text import Reading, is_working, known_answer, last_box, read_answer
from srl.rewards.notation import plain
from srl.rewards.workers import Failure, Workers

CPU_SECONDS = 2.0
"""For one comparison; of the processor's time, so that a busy machine makes no right answer wrong."""
MEMORY_BYTES = 4 * 2**30
MAX_WORKERS = 8
"""Each holds sympy, about 100 MB; eight compare over a thousand answers per second."""
PAIRS_REMEMBERED = 50_000


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


NOT_KNOWN = ""
"""A known answer that is none."""

Pair = tuple[str, str]
"""What to read the answer from, and the known answer."""

_known: dict[tuple[Pair, Rules], Verdict] = {}
_judging = Lock()


def are_correct(texts: list[str], answers: list[str]) -> list[bool]:
    """Whether the final answer in each text (a whole solution) equals the known one; in parallel on all cores.

    A text without an answer, or one that takes over 2 s or 4 GiB to compare, is wrong.
    """
    return [verdict.correct for verdict in judge(texts, answers)]


def judge(texts: Sequence[str], answers: Sequence[str], rules: Rules = Rules()) -> list[Verdict]:
    """As `are_correct`, with what was read and why a comparison failed. Threads wait for one another."""
    if rules.whole_text:
        readings, known = [Reading(text, None) for text in texts], list(answers)
    else:
        readings, known = [read_answer(text) for text in texts], [_plain_known(answer) for answer in answers]
    pairs = [(reading.text, answer) for reading, answer in zip(readings, known, strict=True)]
    with _judging:
        verdicts = {pair: _known[pair, rules] for pair in pairs if (pair, rules) in _known}
        new = [pair for pair in dict.fromkeys(pairs) if pair not in verdicts]
        verdicts |= zip(new, _compare(new, rules), strict=True)
        _remember({(pair, rules): verdicts[pair] for pair in new})
    return [
        verdicts[pair] if reading.written is None else verdicts[pair]._replace(answer=reading.written)
        for reading, pair in zip(readings, pairs, strict=True)
    ]


@lru_cache(maxsize=4096)
def _plain_known(answer: str) -> str:
    known = known_answer(answer)
    return NOT_KNOWN if known is None else plain(known)


def _remember(verdicts: dict[tuple[Pair, Rules], Verdict]) -> None:
    _known.update(verdicts)
    for key in list(_known)[:-PAIRS_REMEMBERED]:  # the oldest
        _known.pop(key, None)


def _compare(pairs: list[Pair], rules: Rules) -> list[Verdict]:
    results = _workers().map([(pair, rules) for pair in pairs], CPU_SECONDS)
    # A pair over the limits is too expensive to be an answer: data, not an error.
    return [
        Verdict(False, last_box(pair[0]), result.reason) if isinstance(result, Failure) else result
        for pair, result in zip(pairs, results, strict=True)
    ]


def _n_workers() -> int:
    return min(MAX_WORKERS, os.cpu_count() or 1)


@cache
def _workers() -> Workers:
    return Workers(_verify, _n_workers(), MEMORY_BYTES, prepare=_load_math_verify)


def _load_math_verify() -> None:
    import logging

    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns where its own time limit is off
    # Once, so that no answer's time limit pays for what is loaded at the first comparison.
    verify(parse("$x + 1$", parsing_timeout=None), parse(r"\boxed{1 + x}", parsing_timeout=None), timeout_seconds=None)


def _verify(task: tuple[Pair, Rules]) -> Verdict:
    (text, answer), rules = task
    box = last_box(text)
    if answer == NOT_KNOWN:
        return Verdict(False, box, "the known answer is not known")
    if not rules.whole_text and box and is_working(box, answer):
        return Verdict(False, box)
    from math_verify import parse, verify

    gold = _parse_known(answer, rules)
    found = parse(_latex_numbers(text), _targets(rules), parsing_timeout=None)
    written = box or next((item for item in reversed(found) if isinstance(item, str)), None)
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
