"""Instances of every known data set by one loader, and patches turned round."""

import json
import subprocess
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srl.errors import UserError
from srl.evaluation.swe.instances import load_instances
from srl.evaluation.swe.patches import changed_files, reversed_patch
from srl.files import write_jsonl

SHARED = Path(__file__).parents[2] / "shared" / "data" / "swe_instances"
FIX = "diff --git a/pkg/x.py b/pkg/x.py\nindex 1..2 100644\n--- a/pkg/x.py\n+++ b/pkg/x.py\n@@ -1 +1 @@\n-bad\n+good\n"
ROW = {
    "instance_id": "o__r-1",
    "repo": "o/r",
    "base_commit": "abc",
    "patch": FIX,
    "test_patch": FIX,
    "problem_statement": "It is bad.\r\nReally.",
    "FAIL_TO_PASS": '["t.py::test_x[a, \\"b\\"]"]',
    "PASS_TO_PASS": "[]",
}


def test_three_notations_of_tests_give_the_same_instance(tmp_path):
    tests = ['t.py::test_x[a, "b"]']
    pro = {key: value for key, value in ROW.items() if "PASS" not in key}
    pro |= {"fail_to_pass": repr(tests), "pass_to_pass": "[]"}
    smith = ROW | {"FAIL_TO_PASS": tests, "PASS_TO_PASS": []}
    found = []
    for name, row in (("bench", ROW), ("pro", pro), ("smith", smith)):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / f"{name}.parquet")
        found += load_instances(tmp_path / f"{name}.parquet")
    assert found[0] == found[1] == found[2]
    assert found[0].fail_to_pass == tuple(tests)
    assert found[0].files_to_change == ("pkg/x.py",)
    assert found[0].problem_statement == "It is bad.\nReally."


def test_the_patch_of_swe_smith_is_the_bug(tmp_path):
    row = {key: value for key, value in ROW.items() if key != "test_patch"}
    (tmp_path / "one.json").write_text(json.dumps(row | {"repo": "swesmith/o__r.abc", "FAIL_TO_PASS": ["t"]}))
    (instance,) = load_instances(tmp_path / "one.json")
    assert instance.bug_patch == FIX
    assert instance.patch.endswith("+bad\n-good\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"FAIL_TO_PASS": "[]"}, "FAIL_TO_PASS is empty"),
        ({"FAIL_TO_PASS": "[1]"}, "expected a list of tests"),
        ({"FAIL_TO_PASS": "["}, "expected a list of tests"),
        ({"PASS_TO_PASS": None}, "expected a list of tests"),
        ({"patch": ""}, "expected a text `patch`"),
        ({"instance_id": 7}, "expected a text `instance_id`"),
        ({"test_patch": "", "image_name": "swesmith.x", "patch": "GIT binary patch\n"}, "cannot be turned round"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(tmp_path, change, message):
    write_jsonl(tmp_path / "rows.jsonl", [ROW | change])
    with pytest.raises(UserError, match=message) as raised:
        load_instances(tmp_path / "rows.jsonl")
    assert "rows.jsonl:1" in str(raised.value)


def test_an_instance_that_stands_twice_is_refused(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [ROW, ROW])
    with pytest.raises(UserError, match=r"rows.jsonl:2: the instance o__r-1 stands twice"):
        load_instances(tmp_path / "rows.jsonl")


def git(folder, *arguments, text=None):
    command = ["git", "-c", "core.autocrlf=false", *arguments]
    return subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, check=False)


CONTENTS = st.text(st.sampled_from("ab-+ \\\r\x0c\u2028é\n"), max_size=40)


@settings(max_examples=25, deadline=None)
@given(before=CONTENTS, after=CONTENTS)
def test_a_reversed_patch_takes_back_what_the_patch_does(tmp_path_factory, before, after):
    folder = tmp_path_factory.mktemp("tree")
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    for side, text in (("a", before), ("b", after)):
        (folder / side / "x y.py").write_bytes(text.encode())
    diff = subprocess.run(
        ["git", "diff", "--no-index", "--no-prefix", "a", "b"], cwd=folder, capture_output=True, check=False
    ).stdout.decode()
    if not diff:
        return
    assert changed_files(diff) == ("x y.py",)
    assert reversed_patch(reversed_patch(diff)) == diff
    applied = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"],
        cwd=folder / "b",
        input=reversed_patch(diff).encode(),
        capture_output=True,
        check=False,
    )
    assert applied.returncode == 0, applied.stderr
    assert (folder / "b" / "x y.py").read_bytes() == before.encode()


def test_added_deleted_and_renamed_files_are_turned_round(tmp_path):
    long = "".join(f"line {number}\n" for number in range(20))
    (tmp_path / "old").mkdir()
    for path, text in {"gone.py": "x\n", "old/name.py": long, "stays.py": "no end"}.items():
        (tmp_path / path).write_text(text)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    before = git(tmp_path, "write-tree").stdout.strip()
    for path, text in {"came.py": "y\n", "new.py": long.replace("line 3", "3"), "stays.py": "no end yet"}.items():
        (tmp_path / path).write_text(text)
    for path in ("gone.py", "old/name.py"):
        (tmp_path / path).unlink()
    git(tmp_path, "add", "--all")
    diff = git(tmp_path, "diff", "--cached", "-M", before).stdout
    assert "rename from" in diff
    assert set(changed_files(diff)) == {"gone.py", "old/name.py", "stays.py"}
    assert git(tmp_path, "apply", "-", text=reversed_patch(diff)).stderr == ""
    git(tmp_path, "add", "--all")
    assert git(tmp_path, "write-tree").stdout.strip() == before
    assert not (tmp_path / "came.py").exists()


@pytest.mark.parametrize("hunk", ["@@ -1,2 +1 @@\n-a\n", "@@ -1 +1 @@\n-a\n-b\n", "@@ -1 +1 @@\n-a\nrubbish\n"])
def test_hunks_that_lie_about_their_length_are_refused(hunk):
    with pytest.raises(ValueError, match="than its header says"):
        reversed_patch("--- a/x\n+++ b/x\n" + hunk)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public sample files are not beside this checkout")
def test_public_files_load():
    instances = load_instances(SHARED / "SWE-bench_Lite" / "dev.parquet")
    assert len(instances) == 23
    assert all(instance.fail_to_pass and instance.files_to_change and instance.test_patch for instance in instances)
    assert not any("\r" in instance.problem_statement or instance.bug_patch for instance in instances)
    (smith,) = load_instances(next(SHARED.glob("pandas*.json")))
    assert smith.files_to_change == ("pandas/core/indexes/base.py",)
    assert smith.bug_patch == reversed_patch(smith.patch) != smith.patch
