"""LaTeX in one spelling, for rewards that compare it: what looks the same when printed should be equal."""

from __future__ import annotations

import re

_SPELLINGS = {
    **dict.fromkeys((r"\dfrac", r"\tfrac"), r"\frac"),
    **dict.fromkeys((r"\(", r"\)", r"\[", r"\]", "$$"), "$"),
    **dict.fromkeys((r"\,", r"\:", r"\;", r"\!", "\\ ", "\\\n", r"\quad", r"\qquad", "~"), " "),
    **dict.fromkeys((r"\left", r"\right", r"\displaystyle"), ""),
    **{r"\geq": r"\ge", r"\leq": r"\le", r"\neq": r"\ne"},
}
_LATEX = re.compile(r"\\(?:[A-Za-z]+|.)|\$\$|~", re.DOTALL)


def one_spelling(text: str) -> str:
    r"""LaTeX in one of its equivalent spellings: fractions, delimiters, relations, sizes, any white space.

    >>> one_spelling(r"\[ \left(\dfrac{1}{2}\right) \geq  x \]") == one_spelling(r"$ (\tfrac{1}{2}) \ge\, x $")
    True
    """
    return " ".join(_LATEX.sub(lambda command: _SPELLINGS.get(command[0], command[0]), text).split())
