"""Which training problems are benchmark problems? By their words: the same text, or most of its 8-grams.

Two rules of the field: exact match after normalisation, and n-gram overlap as for Tülu 3 (arXiv 2411.15124,
section 3.2: 8-grams, over half of the benchmark problem). What stands around the problem does not hide it: a problem
too short for n-grams is looked for inside the training problem, as it stands.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from srl.errors import UserError
from srl.files import read_rows

N = 8
"""Words per n-gram; a benchmark problem of fewer words is found by its text only, whole or inside another."""
SHARE = 0.5
"""Of a benchmark problem's n-grams: from here on a training problem is taken for a copy."""

SHORTEST_INSIDE = 12
"""Characters, after normalisation, from which a short problem is looked for inside others: "x + 1 = 2?" is in many."""

PROBLEM_FIELDS = ("problem", "question", "Question", "Problem", "problem_statement", "prompt")

_DRESS = re.compile(r"\$|(?<!\\)\\[()\[\]]|\\(?:left|right)(?![a-z])")
_SMALL_FRACTION = re.compile(r"\\[dt]frac(?![a-z])")
_GROUP_OF_ONE = re.compile(r"(?<!\\)\{([^{}\\])\}")
"""`x^{2}`. Of longer groups the braces say something: `\\frac{1}{23}` is not `\\frac{12}{3}`."""
_END = ".?:"  # no "!": it may be a factorial

_words = re.compile(r"\w+").findall


class BenchmarkProblems:
    """The problems of benchmarks, to look training problems up in."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read the problems.

        Raises:
            UserError: an unreadable file, or a row without one of `PROBLEM_FIELDS`.
        """
        self._exact: dict[str, str] = {}
        self._short: dict[str, str] = {}
        self._places: list[str] = []
        self._sizes: list[int] = []
        self._index: dict[tuple[str, ...], list[int]] = {}
        for path in paths:
            for row in read_rows(path):
                field = next((name for name in PROBLEM_FIELDS if isinstance(row.value.get(name), str)), None)
                if field is None:
                    raise UserError(f"{row.where}: expected a benchmark problem in one of {', '.join(PROBLEM_FIELDS)}")
                self._add(row.value[field], row.where)

    def match(self, problem: str) -> str | None:
        """Of which benchmark problem this one is a copy, and how that was found; None: of none."""
        text = normalised(problem)
        if place := self._exact.get(text.rstrip(_END)):
            return f"same text as {place}"
        if place := self._inside(text):
            return f"holds the text of {place}"
        shared = Counter(i for gram in _ngrams(problem) for i in self._index.get(gram, ()))
        for i, count in shared.most_common():
            share = count / self._sizes[i]
            if share >= SHARE:
                return f"{share:.0%} of the {N}-grams of {self._places[i]}"
        return None

    def _inside(self, problem: str) -> str | None:
        """The place of a short benchmark problem that stands in another text, not in the middle of a word or number."""
        for short, place in self._short.items():
            start = problem.find(short)
            end = start + len(short)
            if start >= 0 and not _goes_on(problem[end - 1 : end + 1]):
                return place
        return None

    def _add(self, problem: str, place: str) -> None:
        text = normalised(problem)
        self._exact.setdefault(text.rstrip(_END), place)
        grams = _ngrams(problem)
        if not grams and len(text) >= SHORTEST_INSIDE:
            self._short.setdefault(text, place)
        for gram in grams:
            self._index.setdefault(gram, []).append(len(self._places))
        self._places.append(place)
        self._sizes.append(len(grams))


def normalised(text: str) -> str:
    r"""A text without case, white space, typographic variants, and the ways to write one formula in TeX.

    >>> normalised(r"Is \(\dfrac{1}{2}\) \left(x^{2}\right)?"), normalised(r"is $\frac12(x^2)$?")
    ('is\\frac12(x^2)?', 'is\\frac12(x^2)?')
    """
    text = _DRESS.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    text = "".join(_SMALL_FRACTION.sub(r"\\frac", text).split())
    return _GROUP_OF_ONE.sub(r"\1", text)


def _goes_on(pair: str) -> bool:
    return len(pair) == 2 and pair.isalnum()


def _ngrams(text: str) -> set[tuple[str, ...]]:
    words = _words(unicodedata.normalize("NFKC", text).casefold())
    return set(zip(*(words[k:] for k in range(N)), strict=False))
