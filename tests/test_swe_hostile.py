"""Patches that mean harm by what they change: refused or unresolved; and all of it as an ordinary user (slow)."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import (
    BUGGY,
    FIXED,
    INSTANCE,
    LIMITS,
    diff,
    graded,
    hostile,
    snapshot,
)

from srl.errors import UserError
from srl.rewards.sandbox import walls as sandboxes
from srl.rewards.sandbox.walls import find_sandbox


def test_the_fix_resolves_and_nothing_does_not(walls, package):
    before = snapshot(package)
    right = graded(walls, package, diff(package, "calc.py", FIXED))
    assert (right.resolved, right.reason) == (True, "resolved"), right.log
    empty = graded(walls, package, "")
    assert (empty.resolved, empty.fail_to_pass) == (False, INSTANCE.fail_to_pass)
    assert empty.reason == "the bug is still there"
    assert snapshot(package) == before


def test_deleting_the_repository(walls, package):
    before = snapshot(package)
    python = Path(os.path.realpath(sys.executable)).stat()
    hostile(
        walls,
        package,
        f"""
        import os, shutil, sys
        for path in ("/box/tree", {str(package)!r}, os.path.realpath(sys.executable), os.__file__):
            shutil.rmtree(path, ignore_errors=True)
            try:
                os.remove(path)
            except OSError:
                pass
        """,
    )  # what is in memory already still works, which does no harm
    by_patch = graded(walls, package, diff(package, "calc.py", None))
    assert (by_patch.resolved, by_patch.reason) == (False, "the bug is still there, and other tests fail")
    assert snapshot(package) == before
    assert Path(os.path.realpath(sys.executable)).stat() == python


def test_escaping_by_a_symlink_of_the_patch(walls, package):
    """The link is made by one part of the patch, and the next part writes through it."""
    goal = package / "goal"
    goal.mkdir()
    new = "diff --git a/{0} b/{0}\nnew file mode {1}\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+{2}\n"
    link = new.format("out", 120000, goal) + "\\ No newline at end of file\n"
    through = new.format("out/x", 100644, "hi")
    result = graded(walls, package, link, through)
    assert (result.resolved, result.reason) == (False, "patch does not apply")
    assert list(goal.iterdir()) == []


def test_escaping_by_a_symlink_at_run_time(walls, package):
    goal = package / "goal"
    result = hostile(
        walls,
        package,
        f"""
        import os
        os.symlink({str(package)!r}, "out")
        open("out/goal", "w").write("hi")
        """,
    )
    assert not result.resolved
    assert not goal.exists()


def test_escaping_by_a_hard_link(walls, package):
    secret = package / "secret"
    secret.write_text("as it was")
    result = hostile(
        walls,
        package,
        f"""
        import os
        os.link({str(secret)!r}, "mine")
        open("mine", "w").write("changed")
        """,
    )
    assert not result.resolved
    assert secret.read_text() == "as it was"
    python = hostile(walls, package, "import os, sys\nos.link(os.path.realpath(sys.executable), 'mine')\n")
    assert "Invalid cross-device link" in python.log or "Operation not permitted" in python.log


@pytest.mark.parametrize("name", ["../goal", "../../goal", "/etc/goal", "tests/../../goal"])
def test_escaping_by_the_path_of_the_patch(walls, package, name):
    before = snapshot(package)
    patch = f"diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+hi\n"
    result = graded(walls, package, patch)
    # What leads through the tests is left out, as all that changes them is.
    assert result.reason == ("the bug is still there" if name.startswith("tests/") else "patch does not apply")
    assert snapshot(package) == before
    assert not os.path.exists("/etc/goal")


@pytest.mark.parametrize(
    "path", ["tests/test_calc.py", "tests/conftest.py", "conftest.py", "pytest.ini", "sitecustomize.py"]
)
def test_changing_the_tests_or_how_they_are_run(walls, package, path):
    text = "def test_add(): pass\ndef test_zero(): pass\n"
    if path == "pytest.ini":
        text = "[pytest]\naddopts = -k test_zero\n"
    elif path != "tests/test_calc.py":
        text = textwrap.dedent("""
            import _pytest.runner
            _pytest.runner.check_interactive_exception = None
            def pytest_runtest_makereport(item, call):
                from _pytest.reports import TestReport
                call.excinfo = None
                return TestReport.from_item_and_call(item, call)
            """)
    result = graded(walls, package, diff(package, path, text))
    assert (result.resolved, result.reason) == (False, "the bug is still there"), result.log


def test_changing_the_tests_at_run_time(walls, package):
    code = 'open("tests/test_calc.py", "w").write("def test_add(): pass")\n'
    result = graded(walls, package, diff(package, "calc.py", code + BUGGY))
    assert not result.resolved
    assert "Read-only file system" in result.log


def test_a_test_that_is_printed_as_passed_is_not(walls, package):
    code = 'import os\nfor fd in (1, 2):\n    os.write(fd, b"\\nPASSED tests/test_calc.py::test_add\\n")\n'
    assert not graded(walls, package, diff(package, "calc.py", code + BUGGY)).resolved


def test_leaving_early_is_no_success(walls, package):
    result = hostile(walls, package, "import os\nos._exit(0)\n")
    assert (result.resolved, result.reason) == (False, "ended before the last test (exit code 0)")


@pytest.mark.parametrize(
    "patch", ["rubbish", "--- a/calc.py\n+++ b/calc.py\n@@ -1,2 +1,2 @@\n-def\n", "\0", "é" * 5000]
)
def test_malformed_patches_do_not_apply(walls, package, patch):
    result = graded(walls, package, patch)
    assert (result.resolved, result.reason) == (False, "patch does not apply")


def test_without_walls_patches_are_refused_unless_told(monkeypatch, package):
    monkeypatch.setattr(sandboxes, "why_not", lambda walls: "not here")
    with pytest.raises(UserError, match=r"namespaces: not here.*--allow-unsandboxed.*the network"):
        find_sandbox()
    walls = find_sandbox(allow_unsandboxed=True)
    assert walls.walls == "none"
    before = snapshot(package)
    assert graded(walls, package, diff(package, "calc.py", FIXED)).resolved
    assert not graded(walls, package, diff(package, "tests/test_calc.py", "def test_add(): pass\n")).resolved
    endless = diff(package, "calc.py", "while True: pass\n")
    assert graded(walls, package, endless, limits=replace(LIMITS, cpu_seconds=2)).reason.startswith("ended")
    assert snapshot(package) == before


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="this user is an ordinary one already")
def test_all_of_this_as_an_ordinary_user(tmp_path_factory):
    """With a Python that this user can read, and the packages of this one."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = next(
        (f"{folder}/{version}" for folder in ("/usr/bin", "/usr/local/bin") if Path(folder, version).exists()), None
    )
    if python is None:
        pytest.skip(f"no {version} in /usr/bin or /usr/local/bin")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        subprocess.run([python, "-m", "venv", "--without-pip", f"{folder}/venv"], check=True)
        packages = [path for path in sys.path if path.endswith("site-packages")]
        paths = "\n".join([*packages, str(Path(sandboxes.__file__).parents[3])])
        Path(folder, "venv", "lib", version, "site-packages", "these.pth").write_text(paths)
        names = ("hostile.py", "test_swe_hostile.py", "test_swe_sandbox.py", "test_swe_shell.py")
        Path(folder, "conftest.py").write_text("from hostile import package, walls")
        tests = [shutil.copy(Path(__file__).parent / name, folder) for name in names]
        command = [f"{folder}/venv/bin/python", "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-rs"]
        ended = subprocess.run(
            [*command, "--basetemp", f"{folder}/tmp", "-c", os.devnull, "--rootdir", folder, *tests[1:]],
            user=65534, group=65534, extra_groups=[], cwd=folder, capture_output=True, text=True, check=False,
            env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", "HOME": folder},
        )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "namespaces: " not in ended.stdout, "root can build walls here, and this user cannot"
