"""A small package with a bug, and patches for it that mean harm, graded in the sandbox."""

import os
import shutil
import subprocess
import textwrap
import zlib

import pytest

from srl.evaluation.swe.grading import grade
from srl.evaluation.swe.instances import SOURCES, Instance
from srl.evaluation.swe.predictions import Prediction
from srl.rewards.sandbox.walls import Limits, Sandbox, why_not

KINDS = ("namespaces",) if os.geteuid() == 0 else ("namespaces", "bubblewrap")
LIMITS = Limits(
    seconds=20, cpu_seconds=10, memory_bytes=400 << 20, processes=24, disk_bytes=16 << 20, output_bytes=1 << 16
)
BUGGY = "def add(a, b):\n    return a - b\n"
FIXED = "def add(a, b):\n    return a + b\n"
TEST = "from calc import add\ndef test_add(): assert add(2, 2) == 4\ndef test_zero(): assert add(0, 0) == 0\n"
ADD, ZERO = "tests/test_calc.py::test_add", "tests/test_calc.py::test_zero"
INSTANCE = Instance("calc__1", "calc", "calc-1", "2 + 2 is 0", "", (ADD,), (ZERO,), tests=("tests",))


@pytest.fixture(params=KINDS)
def walls(request):
    """A sandbox of each kind that this machine has."""
    if reason := why_not(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return Sandbox(request.param)


def write_package(folder):
    """The package, as a folder of local instances has it; returns that folder."""
    tree = folder / SOURCES / "calc-1"
    (tree / "tests").mkdir(parents=True)
    (tree / "calc.py").write_text(BUGGY)
    (tree / "tests" / "test_calc.py").write_text(TEST)
    for place in (folder, tree):
        (place / mark_of(folder)).touch()
    return folder


@pytest.fixture
def package(tmp_path):
    """A small package with a bug and tests, as an instance has them."""
    return write_package(tmp_path)


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


def leftovers(package):
    """Processes that still run in a sandbox with this package; others may run at the same time.

    Asked at once: a sandbox is done only when they are gone.
    """
    mark = mark_of(package)
    processes = filter(str.isdigit, os.listdir("/proc"))
    return [pid for pid in processes if os.path.exists(f"/proc/{pid}/root/box/tree/{mark}")]


def mark_of(package):
    """The name of a file that no other package has."""
    return f"mark-{zlib.crc32(str(package).encode())}"
