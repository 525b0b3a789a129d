"""Bugs put into code: every documented kind, the text around them untouched, the same for every run."""

import re
import textwrap

import pytest

from srl.evaluation.swe import mutations
from srl.evaluation.swe.mutations import changes_the_program, find_mutations

KINDS = {
    "comparison": ("return (a)  <  b", "return (a)  <=  b"),
    "identity, membership": ("return a  in b", "return a  not in b"),
    "arithmetic": ("return a + b", "return a - b"),
    "logic": ("return a and b", "return a or b"),
    "condition": ("if not a: b()", "if a: b()"),
    "number": ("return a[1:]", "return a[2:]"),
    "truth": ("return a(x=True)", "return a(x=False)"),
    "arguments": ("return a(b, 'é')", "return a('é', b)"),
    "return": ("return a.b", "return None"),
    "loop": ("for a in b: break", "for a in b: continue"),
    "lost statement": ("a += b", "pass"),
}


def test_the_table_of_kinds_is_whole():
    documented = re.findall(r"^\| ([a-z, ]+) \|", mutations.__doc__, re.MULTILINE)
    assert set(documented) - {"kind"} == set(KINDS)


@pytest.mark.parametrize(("kind", "before", "after"), [(kind, *pair) for kind, pair in KINDS.items()])
def test_each_kind_changes_its_own_text_only(kind, before, after):
    source = f"# é\ndef f(a, b):\n    {before}  # stays\n".encode()
    changed = [mutation.apply(source).decode() for mutation in find_mutations(source) if mutation.kind == kind]
    assert f"# é\ndef f(a, b):\n    {after}  # stays\n" in changed


def test_code_outside_functions_docstrings_and_annotations_stay():
    source = b'X = 1 < 2\nclass C:\n    y: int = 3\n    def m(self, n: "1 < 2" = 5) -> 7:\n        """1 < 2"""\n'
    assert find_mutations(source) == []


def test_mutations_of_a_real_file_parse_and_differ():
    with open(textwrap.__file__, "rb") as file:
        source = file.read()
    found = find_mutations(source)
    assert found == find_mutations(source)
    assert len(found) > 80
    some = found[::4]
    good = [mutation for mutation in some if changes_the_program(mutation, source)]
    assert len(good) > 0.95 * len(some)
    lines = source.splitlines()
    for mutation in good:
        changed = mutation.apply(source).splitlines()
        assert changed[: mutation.line - 1] == lines[: mutation.line - 1]
        assert changed != lines


def test_a_mutation_that_is_no_program_or_no_change_is_known():
    source = b"def f(a):\n    return g(a, a)\n"
    swapped, lost = find_mutations(source)
    assert (swapped.kind, lost.kind) == ("return", "arguments")
    assert changes_the_program(swapped, source)
    assert not changes_the_program(lost, source)


def test_windows_line_ends_stay_and_other_encodings_are_refused():
    source = "def f(a):\r\n    x = 'é'; return a == 'é'\r\n".encode()
    (mutation,) = [mutation for mutation in find_mutations(source) if mutation.kind == "comparison"]
    assert mutation.apply(source) == source.replace(b"==", b"!=")
    assert mutation.line == 2
    with pytest.raises(UnicodeDecodeError):
        find_mutations("# coding: latin-1\nx = 'é'\n".encode("latin-1"))
