r"""A shell command as words: how it is written (blanks, needless quotes, the order of options) does not count.

Two commands have equal `words` only if a POSIX shell with GNU tools does the same with both. So a quoted `*` stays
another word than an open one, options change places only for the programs and options in `KNOWN`, and what these few
rules cannot read (a substitution in double quotes, an open quote) is left as it is written.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

Word = tuple[str, str]
"""("word", text), ("sign", one of the shell's), ("option", its name and value) or ("here", a document)."""

_TOKEN = re.compile(
    r"""(?P<blank>(?:[ \t]|\\\n)+)
      | (?P<comment>\#[^\n]*)
      | (?P<sign>\n|&&|\|\||;;|&>>|&>|\|&|(?<![^\s;&|()])\(\(|[;&|()]
            |\d*(?:<<<|<<-|<<|>>|>\||[<>]&|<>|[<>]))
      | (?P<word>(?:'[^']*+'|"(?:[^"\\]|\\.)*+"|\\.|[^\s'"\\;&|()<>`])++)""",
    re.VERBOSE | re.DOTALL,
)
_PIECE = re.compile(r"""'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|\\(?P<escaped>.)|(?P<open>.)""", re.DOTALL)
_IN_DOUBLE = re.compile(r"\\([$`\"\\])|\\\n|([$!])")
_ACTIVE = "*?[]{}~$!="
"""Signs that may mean something to the shell where they are not quoted."""
_UNREADABLE = re.compile(r"[\0\1]|\$['\"{]")
_QUOTE = re.compile(r"[\\'\"]")
_HERE = re.compile(r"\d*<<-?")
_ASSIGNMENT = re.compile(r"\w+\0?=")
_FILE = re.compile(r"[^\s:]*/[^\s:]*|[^\s:/]*\w\.\w{1,5}")
_RESERVED = frozenset(
    (
        *("if", "then", "else", "elif", "fi", "for", "in", "do", "done", "case", "esac", "while", "until", "function"),
        *("select", "time", "coproc", "{", "}", "!", "[[", "]]"),
    )
)
_ENDS_A_COMMAND = frozenset(["\n", "&&", "||", ";;", "|&", ";", "&", "|", "(", ")", "((", "x(", ")x"])


class Options(NamedTuple):
    """The options of a program that may change places: none overrides another."""

    flags: str
    with_value: str = ""
    long: tuple[str, ...] = ()
    """Long options, with or without a value after `=`."""
    exclusive: tuple[str, ...] = ()
    """Of each of these flags only one may be given; the last would win."""


KNOWN = {
    "cat": Options("nEsTv"),
    "cp": Options("rpvf"),
    "diff": Options("urNqibw"),
    "grep": Options(
        "nriRvlLcwxoqsHhEFGP", "ABCmef", ("--include", "--exclude-dir", "--color"), ("rR", "EFGP", "Hh", "lLcoq", "ef")
    ),
    "head": Options("qv", "nc", (), ("qv", "nc")),
    "ls": Options("adFhilrRst"),
    "mkdir": Options("pv", "m"),
    "mv": Options("fv"),
    "pytest": Options("xvqsl", "km", ("--tb", "--maxfail", "--lf")),
    "rm": Options("rRfv"),
    "sort": Options("rnuf", "kto"),
    "tail": Options("qvf", "nc", (), ("qv", "nc")),
    "uniq": Options("cdui", "", (), ("du",)),
    "wc": Options("lwcmL"),
}
_TESTS_OF_FIND = frozenset(
    ("-name", "-iname", "-path", "-ipath", "-type", "-size", "-maxdepth", "-mindepth", "-mtime", "-newer", "-perm")
)


class Command(NamedTuple):
    """A command line, split."""

    words: tuple[Word, ...]
    programs: tuple[str, ...]
    """What each simple command in it runs; without `cd` where there is another."""
    files: tuple[str, ...]
    """The words that look like files or folders, without those of `cd`."""


@lru_cache(maxsize=1024)  # a group is compared with one expert's command
def split_command(text: str) -> Command:
    """Split a command line; one that cannot be read is split at blanks, and equal only to itself.

    >>> split_command("grep  -r -n 'x' a.py").words == split_command("grep -nr x a.py").words
    True
    >>> split_command("ls '*'").words == split_command("ls *").words
    False
    >>> split_command("cd /testbed && python a.py | head").programs
    ('python', 'head')
    """
    tokens = _tokens(text)
    if tokens is None:
        loose: list[Word] = [
            ("sign" if word in _ENDS_A_COMMAND else "loose", word) for word in re.findall(r"\n|[^\s]+", text)
        ]
        return _command(loose, (("unread", text.strip()), *loose))
    sorted_words: list[Word] = []
    for ends, run in groupby(tokens, key=lambda token: token[0] == "sign" and token[1] in _ENDS_A_COMMAND):
        words = list(run)
        sorted_words += words if ends else _options_sorted(words)
    return _command(sorted_words)


def _tokens(text: str) -> list[Word] | None:
    """The words and signs of a command line; None if these rules cannot read it."""
    if _UNREADABLE.search(text):
        return None
    tokens: list[Word] = []
    documents: list[tuple[bool, str]] = []  # that begin after this line: whether quoted, and how their last line looks
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            return None
        position = found.end()
        kind, written = str(found.lastgroup), found[0]
        if kind == "word":
            if (word := _unquoted(written)) is None:
                return None
            if tokens and tokens[-1][0] == "sign" and _HERE.fullmatch(tokens[-1][1]):
                tabs, last = "\t*" if tokens[-1][1].endswith("-") else "", _QUOTE.sub("", written)
                documents.append((last != written, rf"^{tabs}{re.escape(last)}$"))
                tokens[-1] = ("sign", f"{tokens[-1][1]} document")
            else:
                tokens.append(("word", word))
        elif kind == "comment":
            tokens.append(("comment", written))
        elif written == "\n":
            for quoted, last_line in documents:
                if (closed := re.compile(last_line, re.MULTILINE).search(text, position)) is None:
                    return None
                tokens.append(("here", f"{'quoted' if quoted else 'open'}\n{text[position : closed.start()]}"))
                position = min(closed.end() + 1, len(text))
            documents = []
            if tokens and not (tokens[-1][0] == "sign" and tokens[-1][1] in _ENDS_A_COMMAND):
                tokens.append(("sign", "\n"))
        elif kind == "sign":
            tokens.append(("sign", _paren(written, text, found.start())))
    while tokens and tokens[-1] == ("sign", "\n"):
        tokens.pop()
    return None if documents else tokens


def _paren(sign: str, text: str, start: int) -> str:
    """A sign; a parenthesis that touches a word (`$(`, `a=(`, `<(`) is another one."""
    if sign == "(" and re.match(r"[^\s;&|()]", text[start - 1 : start] if start else ""):
        return "x("
    return ")x" if sign == ")" and re.match(r"[^\s;&|()<>]", text[start + 1 : start + 2]) else sign


def _unquoted(written: str) -> str | None:
    r"""A word without needless quotes: signs that mean something to the shell are marked. None if it cannot be read."""
    parts = []
    for piece in _PIECE.finditer(written):
        double = piece["double"]
        if piece["single"] is not None:
            parts.append(piece["single"])
        elif double is not None:
            bare = re.sub(r"\\.", "", double, flags=re.DOTALL)
            if "`" in bare or "$(" in bare:
                return None
            parts.append(_IN_DOUBLE.sub(lambda found: found[1] or (f"\1{found[2]}" if found[2] else ""), double))
        elif piece["escaped"] is not None:
            parts.append("" if piece["escaped"] == "\n" else piece["escaped"])
        else:
            parts.append(f"\0{piece['open']}" if piece["open"] in _ACTIVE else piece["open"])
    word = "".join(parts)
    bare_word = word.replace("\0", "")
    return f"\0{written}" if bare_word in _RESERVED and bare_word != written else word


def _options_sorted(words: list[Word]) -> list[Word]:
    """A simple command, its options in one order if that changes nothing; up to the first redirection."""
    if not words or words[0][0] != "word":
        return words
    end = next((index for index, (kind, _) in enumerate(words) if kind != "word"), len(words))
    given, rest = [text for _, text in words[1:end]], words[end:]
    program = words[0][1]
    if program == "find":
        found = _tests_of_find(given)
    else:
        found = _options_of(given, KNOWN[program]) if program in KNOWN else None
    if found is None:
        return words
    options, others = found
    return [words[0], *(("option", one) for one in sorted(options)), *(("word", one) for one in others), *rest]


def _options_of(given: list[str], known: Options) -> tuple[list[str], list[str]] | None:
    """The options and the other words of a command; None if an option is not known, or their order may count."""
    if any("\0$" in word for word in given):
        return None  # it may become an option
    options: list[str] = []
    others: list[str] = []
    waiting = iter(given)
    for word in waiting:
        if not word.startswith("-") or word == "-":
            others.append(word)
        elif word.startswith("--"):
            name = word.partition("\0=")[0]
            if name not in known.long:
                return None
            options.append(word)
        else:
            letters = word[1:]
            while letters:
                letter, letters = letters[0], letters[1:]
                if letter in known.with_value:
                    value = letters or next(waiting, None)
                    if value is None:
                        return None
                    options.append(f"{letter} {value}")
                    letters = ""
                elif letter in known.flags:
                    options.append(letter)
                else:
                    return None
    names = [re.split(r" |\0=", option)[0] for option in options]
    if any(len({name for name in names if name in group}) > 1 for group in known.exclusive):
        return None
    valued = [name for name, option in zip(names, options, strict=True) if name != option]
    if len(set(valued)) < len(valued):
        return None  # of some the last counts, of others the order
    return options, others


def _tests_of_find(given: list[str]) -> tuple[list[str], list[str]] | None:
    """The tests of `find` and its folders; None if there is anything else, such as an action or an "or"."""
    start = next((index for index, word in enumerate(given) if word.startswith(("-", "(", "\0!"))), len(given))
    folders, tests = given[:start], given[start:]
    if len(tests) % 2 or any(name not in _TESTS_OF_FIND for name in tests[::2]):
        return None
    if len(set(tests[::2])) < len(tests[::2]):
        return None
    return [f"{name} {value}" for name, value in zip(tests[::2], tests[1::2], strict=True)], folders


def _command(words: list[Word], whole: tuple[Word, ...] | None = None) -> Command:
    programs, files = [], []
    starts, program = True, ""
    for kind, text in words:
        if kind == "sign" and text in _ENDS_A_COMMAND:
            starts = True
        elif kind in ("word", "loose") and starts and not _ASSIGNMENT.match(text):
            starts, program = False, text
            programs.append(text)
        elif kind in ("word", "loose") and program != "cd" and _FILE.fullmatch(text):
            files.append(text)
    return Command(whole or tuple(words), tuple(p for p in programs if p != "cd") or tuple(programs), tuple(files))
