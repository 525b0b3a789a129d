"""Small bugs put into Python code, one at a time: what a tired programmer might write.

| kind | before | after |
|---|---|---|
| comparison | `a < b`, `a >= b`, `a == b` | `a <= b`, `a > b`, `a != b`; and back |
| identity, membership | `a is b`, `a in b` | `a is not b`, `a not in b`; and back |
| arithmetic | `a + b`, `a * b`, `a % b` | `a - b`, `a // b`, `a * b`; and back |
| logic | `a and b` | `a or b`; and back |
| condition | `if a:`, `while a:`, `x if a else y` | `if not (a):`, …; a `not` that is there is taken away |
| number | `n` | `n + 1` |
| truth | `True` | `False`; and back |
| arguments | `f(a, b)` | `f(b, a)` |
| return | `return a` | `return None` |
| loop | `break` | `continue`; and back |
| lost statement | `f(a)`, `a += b` as statements | `pass` |

Only code inside functions changes, docstrings and annotations never do. The text around a mutation stays as it is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
COMPARING = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
ARITHMETIC = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "//"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
}
LOGIC = {ast.And: ("and", "or"), ast.Or: ("or", "and")}


@dataclass(frozen=True, slots=True)
class Mutation:
    """A place in a file where one thing can be changed."""

    kind: str
    line: int
    function: str
    """The name of the innermost function around it."""
    start: int
    """In bytes, as `end`."""
    end: int
    replacement: bytes

    def apply(self, source: bytes) -> bytes:
        """The file with the bug in it."""
        return source[: self.start] + self.replacement + source[self.end :]


def find_mutations(source: bytes) -> list[Mutation]:
    r"""All that could be changed in a file, in the order of its text.

    >>> code = b"def f(a, b):\n    return a < b\n"
    >>> [(m.kind, m.apply(code).splitlines()[1].decode().strip()) for m in find_mutations(code)]
    [('return', 'return None'), ('comparison', 'return a <= b')]

    Raises:
        SyntaxError: the file is no Python of this version.
        UnicodeDecodeError: the file is not UTF-8, so that the parser's columns are not those of its bytes.
    """
    source.decode("utf-8")
    found = dict.fromkeys(_Finder(source).walk(ast.parse(source), ""))
    return sorted(found, key=lambda mutation: (mutation.start, mutation.end, mutation.kind))


def changes_the_program(mutation: Mutation, source: bytes) -> bool:
    """Whether the mutated file is Python, and another program than before."""
    try:
        return ast.dump(ast.parse(mutation.apply(source))) != ast.dump(ast.parse(source))
    except (SyntaxError, ValueError):
        return False


class _Finder:
    def __init__(self, source: bytes) -> None:
        self.source = source
        self.line_starts = [0, *(match.end() for match in re.finditer(rb"\r\n|\n|\r", source))]

    def walk(self, node: ast.AST, function: str) -> Iterator[Mutation]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in node.body:
                yield from self.walk(statement, node.name)
            return
        if function:
            for kind, start, end, replacement in self.changes(node):
                yield Mutation(kind, self.line(start), function, start, end, replacement)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "type_comment") or isinstance(node, ast.JoinedStr):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self.walk(child, function)

    def changes(self, node: ast.AST) -> Iterator[tuple[str, int, int, bytes]]:
        """Kind, span and replacement of each change to this node itself."""
        match node:
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                for before, operator, after in zip([left, *comparators[:-1]], ops, comparators, strict=True):
                    kind = "comparison" if isinstance(operator, COMPARING) else "identity, membership"
                    yield from self.operator(kind, before, after, *COMPARISONS[type(operator)])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                yield from self.operator("arithmetic", left, right, *ARITHMETIC[type(op)])
            case ast.BoolOp(op=op, values=values):
                for before, after in pairwise(values):
                    yield from self.operator("logic", before, after, *LOGIC[type(op)])
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                yield self.condition(test)
            case ast.Constant(value=bool() as value):
                yield "truth", *self.span(node), str(not value).encode()
            case ast.Constant(value=int() as value):
                yield "number", *self.span(node), str(value + 1).encode()
            case ast.Call(args=[first, second], keywords=[]) if not isinstance(first, ast.Starred):
                one, other = self.span(first), self.span(second)
                between = self.source[one[1] : other[0]]
                yield "arguments", one[0], other[1], self.text(other) + between + self.text(one)
            case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
                yield "return", *self.span(value), b"None"
            case ast.Break() | ast.Continue():
                yield "loop", *self.span(node), b"continue" if isinstance(node, ast.Break) else b"break"
            case ast.Expr(value=ast.Call()) | ast.AugAssign():
                yield "lost statement", *self.span(node), b"pass"

    def condition(self, test: ast.expr) -> tuple[str, int, int, bytes]:
        span = self.span(test)
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return "condition", *span, self.text(self.span(test.operand))
        return "condition", *span, b"not (" + self.text(span) + b")"

    def operator(
        self, kind: str, before: ast.expr, after: ast.expr, pattern: str, replacement: str
    ) -> Iterator[tuple[str, int, int, bytes]]:
        """An operator has no place of its own in the tree: it stands between its operands, perhaps among brackets."""
        start, end = self.span(before)[1], self.span(after)[0]
        word = rf"\b{pattern}\b" if pattern[0].isalpha() else pattern
        if match := re.search(word.encode(), self.source[start:end]):
            yield kind, start + match.start(), start + match.end(), replacement.encode()

    def span(self, node: ast.AST) -> tuple[int, int]:
        place = vars(node)
        return (
            self.line_starts[place["lineno"] - 1] + place["col_offset"],
            self.line_starts[place["end_lineno"] - 1] + place["end_col_offset"],
        )

    def text(self, span: tuple[int, int]) -> bytes:
        return self.source[slice(*span)]

    def line(self, offset: int) -> int:
        return self.source.count(b"\n", 0, offset) + 1
