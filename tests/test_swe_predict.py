"""From instances to patches: repositories, prompts, both protocols, the predictions file, a run that goes on."""

import json
import subprocess
import threading

import pytest
from chat_server import completion, refusal, serving

from srl.engines.protocols import Reply
from srl.errors import UserError
from srl.evaluation.swe.instances import SOURCES, Instance, instance_row, load_instances
from srl.evaluation.swe.options import PredictOptions
from srl.evaluation.swe.predict import predict
from srl.evaluation.swe.predictions import Prediction, empty, gold, read_predictions, write_predictions
from srl.evaluation.swe.protocols import EndToEnd, OracleEdit, answer_of, named_files
from srl.evaluation.swe.repository import Commit, Folder, WithBug, find_repositories, source_tree
from srl.files import write_jsonl

FILES = {"calc/add.py": "def add(a, b):\n    return a + b\n", "calc/__init__.py": "", "tests/test_add.py": "x = 1\n"}
BUG = "--- a/calc/add.py\n+++ b/calc/add.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    return a + b\n+    return a - b\n"
FIX = BUG.replace("-    return a + b\n+    return a - b", "-    return a - b\n+    return a + b")
EDIT = "### calc/add.py\n<<<<<<< SEARCH\n    return a - b\n=======\n    return a + b\n>>>>>>> REPLACE\n"
ADD = "tests/test_add.py::test_add"


def instance(number=1, **fields):
    known = {"repo": "calc", "base_commit": "calc-1", "patch": FIX, "bug_patch": BUG, "tests": ("tests",)}
    base = {"problem_statement": f"2 + 2 is 0 ({number})", "fail_to_pass": (ADD,), "pass_to_pass": ()}
    return Instance(id=f"calc__{number}", **(known | base | fields))


@pytest.fixture
def local(tmp_path):
    """A folder of three local instances."""
    folder = tmp_path / "local"
    for path, text in FILES.items():
        (folder / SOURCES / "calc-1" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / SOURCES / "calc-1" / path).write_text(text)
    write_jsonl(folder / "instances.jsonl", [instance_row(instance(number)) for number in range(3)])
    return folder


def git(folder, *arguments):
    settings = ("-c", "user.name=x", "-c", "user.email=x@x")
    return subprocess.run(["git", *settings, *arguments], cwd=folder, capture_output=True, check=True, text=True).stdout


def test_instances_are_read_as_they_are_written(local):
    assert load_instances(local) == [instance(number) for number in range(3)]


def test_a_commit_and_a_folder_are_the_same_repository(local, tmp_path):
    tree = local / SOURCES / "calc-1"
    clone = tmp_path / "clones" / "o__calc"
    subprocess.run(["cp", "-r", str(tree), str(tmp_path / "work")], check=True)
    git(tmp_path / "work", "init", "-q")
    git(tmp_path / "work", "add", ".")
    git(tmp_path / "work", "commit", "-qm", "one")
    git(tmp_path, "clone", "-q", "--bare", "work", str(clone))
    commit = git(tmp_path / "work", "rev-parse", "HEAD").strip()
    for one in (Folder(tree), Commit(clone, commit)):
        assert one.paths() == sorted(FILES)
        assert {path: one.read(path).decode() for path in FILES} == FILES
        assert one.read("none.py") is None
        assert one.read("../clones/o__calc/HEAD") is None
        (tmp_path / "whole").mkdir(exist_ok=True)
        whole = Folder(source_tree(WithBug(one, BUG), tmp_path / "whole"))
        assert {path: whole.read(path).decode() for path in whole.paths()} == FILES
        buggy = WithBug(one, BUG)
        assert b"a - b" in buggy.read("calc/add.py")
        assert buggy.read("tests/test_add.py") == b"x = 1\n"
    remote = instance(7, repo="o/calc", base_commit=commit, tests=())
    assert b"a - b" in find_repositories([remote], local, tmp_path / "clones")[remote.id].read("calc/add.py")
    others = [instance(8, repo="o/none", tests=()), instance(9, repo="o/calc", base_commit="0" * 40, tests=())]
    with pytest.raises(UserError, match=r"2 instances are not there: missing a clone of o/none as .*; commit 000"):
        find_repositories(others, local, tmp_path / "clones")
    with pytest.raises(UserError, match=r"missing calc/none.py of .*calc-1 \(1 instance\)"):
        find_repositories([instance(patch=FIX.replace("add.py", "none.py"))], local, None)
    with pytest.raises(UserError, match="does not apply"):
        find_repositories([instance(bug_patch=FIX)], local, None)


def test_a_link_out_of_the_tree_leads_to_no_file(local, tmp_path):
    (tmp_path / "secret.py").write_text("hush")
    (local / SOURCES / "calc-1" / "link.py").symlink_to(tmp_path / "secret.py")
    assert Folder(local / SOURCES / "calc-1").read("link.py") is None


@pytest.fixture
def repository(local):
    return WithBug(Folder(local / SOURCES / "calc-1"), BUG)


def test_the_oracle_prompt_shows_the_issue_and_the_buggy_file(repository):
    attempt = OracleEdit("It is wrong.", repository, ("calc/add.py",), 10_000)
    system, user = attempt.prompt
    assert "<think>" in system["content"]
    assert user["content"] == ("Issue:\nIt is wrong.\n\n### calc/add.py\n```\ndef add(a, b):\n    return a - b\n```\n")
    attempt.take(Reply(f"<think>{EDIT.replace('+', '*')}</think>\n<solution>\n{EDIT}</solution>", 5, truncated=False))
    assert attempt.end == "patch"
    assert attempt.patch.endswith("-    return a - b\n+    return a + b\n")
    assert attempt.patch.startswith("diff --git a/calc/add.py b/calc/add.py\n")


@pytest.mark.parametrize(
    ("text", "truncated", "end"),
    [
        (EDIT, True, "truncated"),
        ("no", False, "no edit"),
        (EDIT.replace("- b", "% b"), False, "a search text that is not there"),
    ],
)
def test_what_comes_to_no_patch_has_a_reason(repository, text, truncated, end):
    attempt = OracleEdit("It is wrong.", repository, ("calc/add.py",), 10_000)
    attempt.take(Reply(text, None, truncated=truncated))
    assert (attempt.end, attempt.patch) == (end, "")


def test_a_prompt_over_the_budget_is_not_asked(repository):
    assert OracleEdit("long " * 1000, repository, ("calc/add.py",), 1000).end == "prompt too long"
    assert EndToEnd("long " * 1000, repository, 1000).end == "prompt too long"


def test_end_to_end_finds_the_file_and_then_repairs_it(repository):
    attempt = EndToEnd("It is wrong.", repository, 10_000)
    assert attempt.prompt[1]["content"] == "Issue:\nIt is wrong.\n\nFiles:\ncalc/__init__.py\ncalc/add.py\n"
    attempt.take(Reply("<think>tests/test_add.py?</think>\n- `calc/add.py`\nmade/up.py", 3, truncated=False))
    assert attempt.end is None
    assert attempt.prompt == OracleEdit("It is wrong.", repository, ("calc/add.py",), 10_000).prompt
    attempt.take(Reply(EDIT, 4, truncated=False))
    assert (attempt.end, len(attempt.replies)) == ("patch", 2)
    lost = EndToEnd("It is wrong.", repository, 10_000)
    lost.take(Reply("I do not know.", 3, truncated=False))
    assert lost.end == "no file named"


def test_the_list_of_files_is_cut_to_the_budget(repository):
    class Many:
        def paths(self):
            return [f"top{n}.py" for n in range(20)] + [f"deep/er/and/deeper/{n}.py" for n in range(2000)]

        def read(self, path):
            return b"x\n" * (1 if path.startswith("top") else 100_000)

    attempt = EndToEnd("It is wrong.", Many(), 3000)
    assert set(attempt.listed) >= {f"top{n}.py" for n in range(20)}
    assert len(attempt.listed) < 500
    attempt.take(Reply("top1.py\ntop2.py\n" + attempt.listed[0], 3, truncated=False))
    assert attempt.repair.files == ("top1.py", "top2.py")  # the third does not fit


def test_files_are_read_from_lists_of_any_style():
    known = ["a.py", "b/c.py", "b/c-d.py"]
    assert named_files("1. ./b/c.py.\n* **b/c-d.py**: why\n(a.py), b/c.py", known) == ["b/c.py", "b/c-d.py", "a.py"]
    assert answer_of("x</think>\n\n<solution>\ny\n</solution>") == "y\n"


def test_predictions_files_hold_what_was_written(tmp_path):
    instances = [instance(number) for number in range(3)]
    written = write_predictions(tmp_path, "me", [*gold(instances), Prediction("calc__0", "", mode="sampled", index=1)])
    assert [path.name for path in written] == ["predictions-sampled-1.jsonl", "predictions.jsonl"]
    assert read_predictions(tmp_path / "predictions.jsonl", instances) == ("me", gold(instances))
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"instance_id", "model_name_or_path", "model_patch"}] * 3
    (tmp_path / "dict.json").write_text(json.dumps({row["instance_id"]: row for row in rows}))
    (tmp_path / "list.json").write_text(json.dumps(rows))
    for name in ("dict.json", "list.json"):
        assert read_predictions(tmp_path / name, instances) == ("me", gold(instances))
    write_jsonl(tmp_path / "none.jsonl", [{"instance_id": "calc__0", "model_patch": None}])
    assert read_predictions(tmp_path / "none.jsonl", instances) == ("none", empty(instances)[:1])
    for rows, message in (
        ([{"instance_id": "calc__0"}], "expected `instance_id` and `model_patch`"),
        ([{"instance_id": "other", "model_patch": ""}], "other is not among the instances"),
        ([{"instance_id": "calc__0", "model_patch": ""}] * 2, "calc__0 stands twice"),
    ):
        write_jsonl(tmp_path / "bad.jsonl", rows)
        with pytest.raises(UserError, match=message):
            read_predictions(tmp_path / "bad.jsonl", instances)


def test_a_server_is_asked_and_one_that_dies_midway_loses_nothing(local, tmp_path, monkeypatch):
    monkeypatch.setattr("srl.engines.endpoint.FIRST_WAIT_SECONDS", 0.0)
    lock, served = threading.Lock(), []

    def reply(request):
        with lock:
            served.append(request)
            if len(served) > 4:
                return 503
        return completion(EDIT if request["temperature"] == 0 else "no", tokens=7)

    options = PredictOptions(greedy=True, samples=1)
    out = tmp_path / "out"
    with serving(reply) as server:
        with pytest.raises(UserError, match=r"failed 6 times.*--resume"):
            predict(server.url, local, out, options, model="tiny", concurrency=1)
        assert len((out / "samples.jsonl").read_text().splitlines()) == 4
        assert not (out / "predictions.jsonl").exists()
        served.clear()
        server.reply = lambda request: served.append(request) or completion("no", tokens=7)
        with pytest.raises(UserError, match="differs in greedy"):
            predict(server.url, local, out, PredictOptions(samples=1), model="tiny", resume=True)
        predict(server.url, local, out, options, model="tiny", resume=True)
    assert len(served) == 2
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [bool(row["model_patch"]) for row in rows] == [True] * 3
    rows = [json.loads(line) for line in (out / "predictions-sampled-0.jsonl").read_text().splitlines()]
    assert [(row["instance_id"], row["model_patch"]) for row in rows] == [(f"calc__{n}", "") for n in range(3)]


@pytest.mark.parametrize("protocol", ["oracle", "end-to-end"])
def test_a_prompt_that_the_server_finds_too_long_ends_that_sample_only(local, tmp_path, protocol):
    def reply(request):
        asked = json.dumps(request["messages"])
        if "2 + 2 is 0 (1)" in asked and ("a - b" in asked or protocol == "oracle"):
            return refusal("the request exceeds the available context size")
        return completion("calc/add.py" if "a - b" not in asked else EDIT, tokens=7)

    with serving(reply) as server:
        predict(server.url, local, tmp_path / "out", PredictOptions(protocol=protocol), model="tiny")
    samples = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    ends = {sample["instance_id"]: (sample["end"], bool(sample["patch"])) for sample in samples}
    assert ends == {"calc__0": ("patch", True), "calc__1": ("prompt too long", False), "calc__2": ("patch", True)}


def test_a_model_in_this_process_writes_predictions(local, tmp_path, capsys):
    options = PredictOptions(max_tokens=8, batch_size=2, samples=2)
    predict("tiny-base", local, tmp_path / "out", options, limit=2)
    lines = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert all(line["completions"] and line["tokens"] for line in lines)
    assert (tmp_path / "out" / "predictions-sampled-1.jsonl").is_file()
    assert "next: srl swe grade" in capsys.readouterr().out
    with pytest.raises(UserError, match="not empty"):
        predict("tiny-base", local, tmp_path / "out", options)
