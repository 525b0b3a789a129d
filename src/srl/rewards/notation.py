r"""One answer in the LaTeX that math-verify reads, however it is written: `½`, `2**(1/4)`, `\$1,250`, `22 km/h`, `Mia`.

math-verify's verdict is never changed: only the text that it is given. What it reads wrongly otherwise is listed in
docs/evaluation.md.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_SYMBOLS = {
    **{"∞": r"\infty ", "π": r"\pi ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/"},
    **{"−": "-", "–": "-", "⁄": "/", "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "±": r"\pm ", "≈": r"\approx "},
    **{"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "°": r"^\circ "},
    **{"º": r"^\circ ", "˚": r"^\circ ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "√": r"\sqrt", "∗": "*"},
    **dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f", " "),
    **dict.fromkeys("\u200b\u2060\ufeff", ""),
    **{"α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "θ": r"\theta "},
    **{"λ": r"\lambda ", "μ": r"\mu ", "ρ": r"\rho ", "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ω": r"\omega "},
    **{"Γ": r"\Gamma ", "Δ": r"\Delta ", "Σ": r"\Sigma ", "Φ": r"\Phi ", "Ω": r"\Omega "},
}
_TRANSLATION = str.maketrans(_SYMBOLS)
_SCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+|[₀₁₂₃₄₅₆₇₈₉₊₋]+")
_FRACTION = re.compile(r"[¼½¾⅐-⅞]")
_ROOT_OF = re.compile(r"(\\sqrt(?:\[[34]\])?)\s*(\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z]))")  # `√12` is the root of 12

_GROUPED = re.compile(r"(?<![\d.,])([1-9]\d{0,2})((?:(?:\\[,;:!]|,\\!|\{,\}|\\ |~| )\d{3})+)(?![\d,]|\.\d*,)")
"""Thousands set apart as only they are. A plain comma is left to math-verify: it may part two answers."""
_MIXED = re.compile(r"^([-+]?\d+)\s+(?=[1-9])(\d{1,2})/(\d{1,3})(?=$|\s+[A-Za-z\\])")
_UNIT_IN_BRACKETS = re.compile(r"(?<=[\d}])\s+\(\s*([A-Za-z]{3,}(?: [A-Za-z]+)*)\s*\)$")

FORMULA = re.compile(r"\$\$.+?\$\$|(?<!\\)\$[^$\n]+(?<!\\)\$(?!\d)|\\\(.+?\\\)|\\\[.+?\\\]", re.S)
"""With its delimiters. `$5 and $7` is none."""
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")

_FUNCTION = re.compile(r"(?<![A-Za-z\\])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp)(?=\s*\()")
_NAMED = re.compile(r"(?<![A-Za-z\\])(pi|theta|infinity|infty|inf|oo)(?![A-Za-z])")
_ARGUMENT = re.compile(r"(\\?(?<![A-Za-z])sqrt|\\sqrt\[[34]\]|\^|\*\*)\s*\(")
_POWER = re.compile(r"\*\*\s*(-?\d+(?:\.\d+)?|[A-Za-z])")

_CURRENCY = r"(?:(?:US|A|C|NZ|HK)?(?:\\?\$|\\text\{\s*\\?\$\s*\})|\\(?:pounds|euro|yen)\b|[€£¥₹₩₽]|USD|EUR|GBP|Rs\.?)"
_CURRENCY_BEFORE = re.compile(rf"([-+]?)\s*{_CURRENCY}\s*(?=[-+]?\s*(?:\d|\.\d|\\frac))")
_CURRENCY_BEHIND = re.compile(rf"(?<=\d)\s*{_CURRENCY}$")
_QUANTITY = re.compile(
    r"(?P<value>[-+]?(?:[\d.,/^{}()\s]|\{-\d+\}|\\[dtc]?frac|\\sqrt|\\(?:pi|cdot|times)\b)*(?:[\d})]|\{-\d+\}|\\pi\b))"
    r"\s*(?P<degree>\^\s*\{?\s*\\circ\s*\}?|\\degree\b|[°º˚])?\s*(?P<unit>(?:[A-Za-z].*)?)",
    re.S,
)
_UNIT_PART = re.compile(r"([A-Za-z]+)\.?(?:\^?\{?-?[1-4]\}?)?")
_BETWEEN_UNITS = re.compile(r"\s*(?:/|\\cdot|\*|\s)\s*")
_SHORT_UNIT = re.compile(
    r"m|g|s|h|l|L|N|J|W|V|K|C|F|cm|mm|km|nm|dm|ft|in|yd|mi|kg|mg|lb|lbs|oz|hr|hrs|min|sec|ms|kW|kJ|kN|Hz|MHz|mL|"
    r"ml|dL|cl|Pa|kPa|eV|mph|kph|kmh|kmph|sq|cu|rpm|cc|ha"
)
_NO_UNIT = re.compile(
    r"and|or|to|mod|sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|max|gcd|lcm|pi|theta|percent|pct|percentage|remainder|"
    r"base|inf|infinity|infty|plus|minus|times|over|choose|more|less|than|fewer|squared|cubed|half|halves|quarter|"
    r"quarters|third|thirds|hundred|thousand|million|billion|trillion|dozen|pairs|pair|is|are|not|if|when|where|"
    r"for|with|only|alpha|beta|gamma|delta|lambda|sigma|omega|true|false|none|no"
)
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_UNIT_WORDS = 4

_WORDS = re.compile(r"[^\W\d_]+(?:[ '’-]+[^\W\d_]+)*")
_ABOUT_THE_LETTERS = re.compile(r"(?<=[\d}\s])(ab|bc|[cdot])\s*$")


def plain(answer: str) -> str:
    r"""An answer in the LaTeX that math-verify reads rightly.

    >>> [plain(text) for text in ("½", "2√3", "2**(1/4)", r"\$1,250", "36°", "22 km/h", "Mia")]
    ['\\frac{1}{2}', '2\\sqrt{3}', '2^{1/4}', '1250', '36', '22', '\\text{Mia}']
    """
    text = _as_programs_write(_unicode(without_delimiters(answer).removeprefix("=").lstrip()))
    text = _thousands(_MIXED.sub(r"\1\\frac{\2}{\3}", text.replace(r"\varnothing", r"\emptyset ")))
    if (value := quantity(text)) is not None:
        return value.strip()
    text = re.sub(r"(?<![\^_\\{])\{?\^\s*\{?\\circ\s*\}?$", "", text)
    return (_in_words(text) or _ABOUT_THE_LETTERS.sub(r"{\1}", text)).strip()


def quantity(text: str) -> str | None:
    r"""The number alone where a text is a number with a currency, degrees or a unit; None if it is something else.

    >>> [quantity(text) for text in (r"\$18.90", "22 square meters", r"9.8 \mathrm{~m/s^2}", "2 million", "5 or 7")]
    ['18.90', '22', '9.8', '2 \\times 10^{6}', None]
    """
    text = _thousands(text.strip())
    without_currency = _CURRENCY_BEHIND.sub("", _CURRENCY_BEFORE.sub(r"\1", text, count=1))
    is_money = without_currency != text
    if is_money:  # its commas part thousands
        without_currency = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", without_currency)
    flat = re.sub(r"\\(?:[,;:! ])|~", " ", _TEXT.sub(r" \1 ", without_currency)).strip().rstrip(".")
    flat = _UNIT_IN_BRACKETS.sub(r" \1", re.sub(r"\s+(?=\^)", "", flat))
    found = _QUANTITY.fullmatch(flat)
    if not found or not (found["degree"] or found["unit"] or is_money):
        return None
    value, unit = found["value"].strip(), found["unit"].strip()
    if not re.search(r"\d|\\pi", value) or value.count("{") != value.count("}") or value.count("(") != value.count(")"):
        return None
    if unit.lower() in _SCALES:
        return rf"{value} \times 10^{{{_SCALES[unit.lower()]}}}"
    separated = flat[: found.start("unit")].endswith((" ", "}")) or bool(found["degree"])
    return value if not unit or _is_unit(unit, separated) else None


def _thousands(text: str) -> str:
    return _GROUPED.sub(lambda number: number[1] + re.sub(r"\D", "", number[2]), text)


def _is_unit(unit: str, separated: bool) -> bool:
    """Whether words behind a number only say of what: "square meters", "km/h", "apples"; not "or", not variables."""
    parts = [part for part in _BETWEEN_UNITS.split(unit) if part]
    found = [_UNIT_PART.fullmatch(part) for part in parts]
    if not parts or len(parts) > _UNIT_WORDS or None in found:
        return False
    words = [match[1] for match in found if match]
    if not separated and (len(words[0]) == 1 or not _SHORT_UNIT.fullmatch(words[0])):
        return False
    return all(
        _SHORT_UNIT.fullmatch(word) or (len(word) > 2 and not _NO_UNIT.fullmatch(word.lower())) for word in words
    )


def without_delimiters(text: str) -> str:
    r"""A text without the delimiters of its formulas, emphasis around it, and the full stop of a sentence.

    >>> without_delimiters(r"**$x = 5$ or \(x = 2\).**"), without_delimiters("$5 and $7")
    ('x = 5 or x = 2', '$5 and $7')
    """
    bare = FORMULA.sub(_inside, text).strip()
    bare = re.sub(r"^(?:\*\*|__)\s*|[*_\s]*(?<!\.)\.?[*_\s]*$", "", bare)
    whole = _TEXT.fullmatch(bare)
    return whole[1].strip() if whole and re.search(r"\d", whole[1]) else bare  # a number is no word


def _inside(formula: re.Match[str]) -> str:
    return formula[0][2:-2] if formula[0].startswith(("$$", "\\")) else formula[0][1:-1]


def _unicode(text: str) -> str:
    if text.isascii():
        return text
    text = _FRACTION.sub(lambda found: r"\frac{{{}}}{{{}}}".format(*_numerals(found[0]).split("⁄")), text)
    text = _SCRIPT.sub(lambda found: f"{'^' if ord(found[0][0]) < 0x2080 else '_'}{{{_numerals(found[0])}}}", text)
    text = _ROOT_OF.sub(r"\1{\2}", text.translate(_TRANSLATION))
    return "".join(unicodedata.normalize("NFKC", c) if "！" <= c <= "～" else c for c in text)


@cache
def _numerals(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def _as_programs_write(text: str) -> str:
    r"""`sqrt(3)`, `2**(1/4)`, `4*pi`, `sin(x)` in LaTeX."""
    text = re.sub(r"\b(?:np|numpy|math)\.(?=[a-z])", "", text)
    start = 0
    while found := _ARGUMENT.search(text, start):
        end = _closing(text, found.end() - 1)
        start = found.end()
        if end is not None:
            command = {"**": "^", "sqrt": r"\sqrt"}.get(found[1], found[1])
            text = f"{text[: found.start()]}{command}{{{text[found.end() : end]}}}{text[end + 1 :]}"
            start = found.start() + len(command)
    text = _POWER.sub(r"^{\1}", text)
    text = _FUNCTION.sub(r"\\\1", text)
    names = {"infinity": "infty", "inf": "infty", "oo": "infty"}
    return _NAMED.sub(lambda name: rf"\{names.get(name[1], name[1])} ", text)


def _closing(text: str, start: int) -> int | None:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index
    return None


def _in_words(text: str) -> str | None:
    r"""A word or several, as text: math-verify takes bare letters for a product, in which `listen` is `silent`."""
    words = re.sub(r"\s+", " ", _TEXT.sub(r"\1", text)).strip().rstrip(".!").strip()
    if not _WORDS.fullmatch(words):
        return None
    if words != text or " " in words or _is_word(words):
        return rf"\text{{{words}}}"
    return None


def _is_word(letters: str) -> bool:
    """Rather than a product of variables: "abc", "xy", "PQR"."""
    if len(letters) < 3:
        return not letters.isascii()
    return len(letters) > 4 or bool(re.search("[eiou]", letters)) or letters.istitle() or not letters.isascii()
