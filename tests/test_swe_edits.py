"""Search/replace edits: what applies, what does not and why, and diffs that git takes."""

import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srl.evaluation.swe.edits import Edit, NotApplicable, apply_edits, parse_edits, unified_diff


def block(path, search, replace):
    """As a model writes it; the texts are whole lines."""
    return f"### {path}\n<<<<<<< SEARCH\n{search}=======\n{replace}>>>>>>> REPLACE\n"


def edited(files, text):
    return {path: after for path, (_, after) in apply_edits(parse_edits(text), files.get).items()}


def test_a_completion_with_prose_fences_and_several_blocks():
    text = (
        "The bug is in two places.\n\n```python\n"
        + block("pkg/a.py", "x = 1\n", "x = 2\n")
        + "<<<<<<< SEARCH\ny = 1\n=======\n>>>>>>> REPLACE\n```\nAnd:\n```\n"
        + block("`pkg/b c.py`", "", "new\n")
        + "```\n"
    )
    assert parse_edits(text) == [
        Edit("pkg/a.py", ("x = 1",), ("x = 2",)),
        Edit("pkg/a.py", ("y = 1",), ()),
        Edit("pkg/b c.py", (), ("new",)),
    ]
    assert edited({"pkg/a.py": b"x = 1\ny = 1\nz\n"}, text) == {"pkg/a.py": b"x = 2\nz\n", "pkg/b c.py": b"new\n"}


FILE = b"def f():\n    return 1\n\ndef g():\n    return 1\n\n\tlast"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I cannot help with that.", "no edit"),
        ("", "no edit"),
        ("<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n", "a block without a file"),
        ("### a.py\n<<<<<<< SEARCH\ndef f():\n", "a block that does not end"),
        ("### a.py\n<<<<<<< SEARCH\ndef f():\n=======\nx\n", "a block that does not end"),
        ("### a.py\n<<<<<<< SEARCH\ndef f():\n>>>>>>> REPLACE\n", "a block that does not end"),
        (block("b.py", "x\n", "y\n"), "a file that is not there"),
        (block("../a.py", "x\n", "y\n"), "a path that leads out of the repository"),
        (block("/etc/passwd", "x\n", "y\n"), "a path that leads out of the repository"),
        (block(".git/config", "", "y\n"), "a path that leads out of the repository"),
        (block("a.py", "def h():\n", "y\n"), "a search text that is not there"),
        (block("a.py", "return 1\n", "return 2\n"), "a search text that differs in white space"),
        (block("a.py", "def f():\n  return 1\n", "y\n"), "a search text that differs in white space"),
        (block("a.py", "    return 1\n", "    return 2\n"), "a search text that stands twice"),
        (block("a.py", "def\n", "y\n"), "a search text that is not there"),
        (block("a.py", "", "y\n"), "an empty search text"),
        (block("a.py", "\n", "y\n"), "an empty search text"),
        (block("a.py", "def f():\n", "def f():\n"), "nothing changed"),
        (block("a.py", "def f():\n", "x\n") + block("a.py", "x\n", "def f():\n"), "nothing changed"),
        (block("a.py", "def f():\n", "x\n") + block("a.py", "def f():\n", "y\n"), "a search text that is not there"),
    ],
)
def test_what_does_not_apply_is_counted_by_why(text, reason):
    with pytest.raises(NotApplicable) as raised:
        edited({"a.py": FILE}, text)
    assert str(raised.value) == reason


def test_overlapping_copies_stand_twice():
    with pytest.raises(NotApplicable, match="stands twice"):
        edited({"a": b"x\nx\nx\n"}, block("a", "x\nx\n", "y\n"))


@pytest.mark.parametrize(
    ("before", "search", "replace", "after"),
    [
        (b"a\r\nb\r\nc\r\n", "b\n", "x\ny\n", b"a\r\nx\r\ny\r\nc\r\n"),
        (b"a\r\nb\nc\r\n", "b\nc\n", "x\n", b"a\r\nx\r\n"),
        (b"a\r\nb\nc\r\n", "b\n", "x\n", b"a\r\nx\nc\r\n"),
        (b"a\r\nb", "b\n", "x\ny\n", b"a\r\nx\ny"),
        (b"a\nb", "b\n", "c\n", b"a\nc"),
        (b"a\nb", "a\nb\n", "", b""),
        (b"\xe9 latin\nb\n\xff\n", "b\n", "é\n", b"\xe9 latin\n\xc3\xa9\n\xff\n"),
        (b"one\n", "one\n", "", b""),
        (b"a\x0cb\nc\n", "c\n", "d\n", b"a\x0cb\nd\n"),
    ],
)
def test_line_ends_and_bytes_stay_as_they_are(before, search, replace, after):
    assert edited({"f": before}, block("f", search, replace)) == {"f": after}


def test_a_search_text_in_windows_line_ends_is_the_same_text():
    assert edited({"f": b"a\nb\n"}, block("f", "b\n", "c\n").replace("\n", "\r\n")) == {"f": b"a\nc\n"}


def applied(tmp_path, before, diff):
    """The file after `git apply`, in a folder that is no repository; None if it is not there."""
    (tmp_path / "sub").mkdir(exist_ok=True)
    file = tmp_path / "sub" / "f é.py"
    file.unlink(missing_ok=True)
    if before is not None:
        file.write_bytes(before)
    command = ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", "-"]
    ended = subprocess.run(command, cwd=tmp_path, input=diff.encode(), capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode() + diff
    return file.read_bytes() if file.exists() else None


PIECES = [b"a", b"\n", b"\r\n", b"\xff", b"\xe2\x80\xa8", b"\x0c", b"-- x", b"\0"]
CONTENT = st.lists(st.sampled_from(PIECES), max_size=12)


@settings(max_examples=50, deadline=None)
@given(before=st.none() | CONTENT.map(b"".join), after=CONTENT.map(b"".join))
def test_git_applies_the_diff_of_any_two_files(tmp_path_factory, before, after):
    if before == after or (before is None and not after):
        return
    diff = unified_diff({"sub/f é.py": (before, after)})
    assert applied(tmp_path_factory.mktemp("tree"), before, diff) == after


def test_a_file_of_five_megabytes(tmp_path):
    lines = [f"line {number} of so many".encode() for number in range(250_000)]
    before = b"\n".join(lines) + b"\n"
    assert len(before) > 5_000_000
    started = time.monotonic()
    files = apply_edits(parse_edits(block("sub/f é.py", "line 200000 of so many\n", "changed\n")), lambda path: before)
    diff = unified_diff(files)
    with pytest.raises(NotApplicable, match="not there"):
        edited({"a": before}, block("a", "line x of so many\n" * 2000, ""))
    assert time.monotonic() - started < 20
    assert len(diff) < 1000
    assert applied(tmp_path, before, diff) == before.replace(b"line 200000 of so many", b"changed")
