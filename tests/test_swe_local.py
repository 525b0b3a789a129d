"""Local instances made from a small package of one's own, then graded: gold resolved, empty not, and the numbers."""

import hashlib
import json
import os
import tarfile

import pytest

from srl.errors import UserError
from srl.evaluation.compare import compare
from srl.evaluation.swe import local
from srl.evaluation.swe.instances import SOURCES, load_instances
from srl.evaluation.swe.local import make_instances
from srl.evaluation.swe.packages import Package, read_packages, unpacked
from srl.evaluation.swe.score import score
from srl.evaluation.swe.testing import SuiteRun
from srl.rewards.sandbox.walls import Sandbox, why_not

CODE = '''
def clamp(x, low, high):
    """Between low and high."""
    if x < low:
        return low
    if not x <= high:
        x = high
    return x


def total(numbers):
    result = 0
    for number in numbers:
        result += number
    return result
'''
TESTS = """
import random
import pytest
from clamp import clamp, total
@pytest.mark.parametrize("x", [1, 2, 3, 4, 5])
def test_clamp(x): assert clamp(x, 2, 4) == [2, 2, 3, 4, 4][x - 1]
def test_total(): assert total([1, 2]) == 3
def test_none(): assert total([]) == 0
def test_flaky(): assert hash("a") % 2 == 0 or hash("a") % 3 == 0
@pytest.mark.parametrize("name", sorted(map(hash, "ab")))
def test_named_by_chance(name): assert total([name]) == name
"""


@pytest.fixture(scope="module")
def sandbox():
    if reason := why_not("namespaces"):
        pytest.skip(f"no sandbox: {reason}")
    return Sandbox("namespaces")


@pytest.fixture(scope="module")
def sdists(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdists")
    tree = folder / "clamp-1.0"
    (tree / "tests").mkdir(parents=True)
    (tree / "clamp.py").write_text(CODE)
    (tree / "tests" / "test_clamp.py").write_text(TESTS)
    with tarfile.open(folder / "clamp-1.0.tar.gz", "w:gz") as tar:
        tar.add(tree, "clamp-1.0")
    return folder


@pytest.fixture(scope="module")
def package(sdists):
    digest = hashlib.sha256((sdists / "clamp-1.0.tar.gz").read_bytes()).hexdigest()
    return Package("clamp", "1.0", digest, ("clamp.py",), ("tests",), ".")


@pytest.fixture(scope="module")
def made(sandbox, sdists, package, tmp_path_factory):
    """A folder of four instances."""
    out = tmp_path_factory.mktemp("local") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(local, "read_packages", lambda: [package])
        make_instances(out, sandbox, count=4, seed=1, sdists=sdists, workers=2)
    return out


def test_the_list_of_packages_is_what_it_should_be():
    packages = read_packages()
    assert len(packages) >= 5
    assert all(len(package.sha256) == 64 and package.tests and package.code for package in packages)


def test_instances_are_verified_and_flaky_tests_in_no_list(made, package):
    instances = load_instances(made)
    assert len({instance.id for instance in instances}) == 4
    for instance in instances:
        named = {*instance.fail_to_pass, *instance.pass_to_pass}
        assert not {test for test in named if "flaky" in test or "chance" in test}
        assert len(named) == 7
        assert instance.files_to_change == ("clamp.py",)
        assert "`tests/test_clamp.py::" in instance.problem_statement
    rows = [json.loads(line) for line in (made / "instances.jsonl").read_text().splitlines()]
    assert all(row["mutation"]["function"] in ("clamp", "total") for row in rows)
    assert (made / SOURCES / "clamp-1.0" / "clamp.py").read_text() == CODE


@pytest.mark.slow
def test_the_same_seed_gives_the_same_instances_also_after_an_interrupt(
    made, sandbox, package, sdists, tmp_path, monkeypatch
):
    monkeypatch.setattr(local, "read_packages", lambda: [package])
    out = tmp_path / "again"
    run, runs = local.run_tests, []

    def interrupted(*arguments, **options):
        runs.append(options)
        if len(runs) == 8:
            raise KeyboardInterrupt
        return run(*arguments, **options)

    monkeypatch.setattr(local, "run_tests", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_instances(out, sandbox, count=4, seed=1, sdists=sdists)
    assert not (out / "instances.jsonl").exists()
    with (out / "candidates.jsonl").open("a") as candidates:
        candidates.write('{"id": "cut sho')
    with pytest.raises(UserError, match="not empty"):
        make_instances(out, sandbox, count=4, seed=1, sdists=sdists)
    with pytest.raises(UserError, match="another --seed"):
        make_instances(out, sandbox, count=4, seed=2, sdists=sdists, resume=True)
    make_instances(out, sandbox, count=4, seed=1, sdists=sdists, resume=True)
    for name in ("instances.jsonl", "candidates.jsonl"):
        assert (out / name).read_bytes() == (made / name).read_bytes()


def test_a_package_that_is_another_or_has_no_bugs_to_see_is_refused(sandbox, package, sdists, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"clamp-1\.0\.tar\.gz: expected the file with sha256 000"):
        unpacked(Package("clamp", "1.0", "0" * 64, (), (), "."), tmp_path, sdists)
    with pytest.raises(UserError, match="no such file; --sdists"):
        unpacked(Package("other", "1.0", "0" * 64, (), (), "."), tmp_path, sdists)
    monkeypatch.setattr(local, "read_packages", lambda: [package])
    seen = SuiteRun({"tests/test_clamp.py::test_total": "passed"}, {}, None, "", 0)
    monkeypatch.setattr(local, "run_tests", lambda *arguments, **options: seen)
    with pytest.raises(UserError, match="its tests see only 0 bugs, expected 5; lower --count"):
        make_instances(tmp_path / "out", sandbox, count=5, sdists=sdists)


def test_gold_is_resolved_and_empty_is_not_and_both_compare(made, sandbox, tmp_path, capsys):
    right = score("gold", made, tmp_path / "gold", sandbox, workers=2)
    wrong = score("empty", made, tmp_path / "empty", sandbox, workers=2)
    assert (right.columns[0].scores, wrong.columns[0].scores) == ((1.0,) * 4, (0.0,) * 4)
    assert right.columns[0].interval[0] < 0.5  # four instances say little
    compare([tmp_path / "empty", tmp_path / "gold"])
    printed = capsys.readouterr().out
    assert "4  resolved" in printed
    assert "4  the bug is still there" in printed
    assert "+100.0" in printed
    assert "4 / 0" in printed


def test_samples_of_several_files_grading_that_goes_on_and_instances_without_a_prediction(
    made, sandbox, tmp_path, capsys
):
    instances = load_instances(made)
    rows = [{"instance_id": one.id, "model_name_or_path": "m", "model_patch": one.patch} for one in instances[:2]]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="give --out"):
        score(str(tmp_path / "p.json"), made, None, sandbox)
    results = score(str(tmp_path / "p.json"), made, tmp_path / "out", sandbox)
    assert results.columns[0].scores == (1.0, 1.0, 0.0, 0.0)
    assert "2 of 4 instances have no prediction" in capsys.readouterr().out
    gradings = tmp_path / "out" / "gradings.jsonl"
    first, second = gradings.read_text().splitlines(keepends=True)
    gradings.write_text(first + second[:20])
    again = score(str(tmp_path / "p.json"), made, tmp_path / "out", sandbox, resume=True)
    assert "1 of 2 predictions are there already" in capsys.readouterr().out
    assert again.columns == results.columns
    assert len(list((tmp_path / "out" / "logs").iterdir())) == 2


def test_our_grading_is_that_of_swebench(made, sandbox, tmp_path, capsys):
    pytest.importorskip("swebench", reason="the official harness is not installed")
    for name in ("gold", "empty"):
        score(name, made, tmp_path / name, sandbox, check_with_swebench=True)
        assert "agrees on 4 of 4 logs" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SRL_TEST_NETWORK"), reason="fetches packages; set SRL_TEST_NETWORK=1")
def test_published_packages(sandbox, tmp_path):
    make_instances(tmp_path / "out", sandbox, count=8, workers=2)
    for name, share in (("gold", 1.0), ("empty", 0.0)):
        assert score(name, tmp_path / "out", tmp_path / name, sandbox, workers=2).columns[0].score == share
