"""The package's shape: imports run one way, and `import srl` is light."""

import ast
import doctest
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import srl

PACKAGE = Path(srl.__file__).parent

ROOMS = [
    "errors",
    "records",
    "files",
    "runs",
    "chat",
    "rewards",
    "data",
    "shared_prefix",
    "engines",
    "training",
    "verl",
    "evaluation",
    "report",
    "study",
    "cli",
]
"""A room (a folder or a single file) imports only from rooms above it, and from itself."""

MAY_IMPORT_TORCH = ("shared_prefix", "runs.model", "training", "chat.tokenizer", "engines.transformers", "verl")


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            yield name, ast.parse(path.read_text())


NAMES = {name for name, _ in modules()}


def imported(tree):
    """The modules of srl that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("srl."):
            module = node.module.removeprefix("srl.")
            names = {f"{module}.{alias.name}" for alias in node.names}
            yield from (names & NAMES) or {module}


def test_rooms_import_one_way():
    edges = [(name, other) for name, tree in modules() for other in imported(tree)]
    assert len(edges) > 30
    place = {room: index for index, room in enumerate(ROOMS)}
    wrong = [
        f"{name} imports {other}"
        for name, other in edges
        if place[other.partition(".")[0]] > place[name.partition(".")[0]]
    ]
    assert not wrong


def test_no_modules_import_one_another():
    """`TopologicalSorter` raises `CycleError`, which names the circle. A package's front re-exports its own files."""
    graph = {name: {other for other in imported(tree) if not name.startswith(other + ".")} for name, tree in modules()}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(NAMES)


def test_the_top_of_the_package_fits_one_look():
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 18


READING_PATH = (
    *("cli/train", "training/train", "training/rows", "training/trainer", "training/rollouts"),
    *("training/dynamic_sampling", "rewards/functions", "chat/prompts"),
)
"""From `srl train` to TRL's optimizer step, with `share_prefix = "off"`; AGENTS.md names the same files."""


def test_the_way_from_command_to_optimizer_step_is_short():
    assert len(READING_PATH) <= 8
    assert sum(len((PACKAGE / f"{name}.py").read_text().splitlines()) for name in READING_PATH) <= 1200
    map_of_rooms = (PACKAGE.parents[1] / "AGENTS.md").read_text()
    assert all(name.rpartition("/")[2] in map_of_rooms for name in READING_PATH)


def test_trl_and_torch_stay_in_their_rooms():
    heavy = {"torch", "trl", "transformers", "datasets", "peft", "accelerate"}
    for name, tree in modules():
        top_level = {
            alias.name.partition(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        assert not top_level & heavy or name.startswith(MAY_IMPORT_TORCH), f"srl.{name} imports {top_level & heavy}"


def test_importing_srl_loads_nothing_heavy():
    heavy = ("torch", "trl", "transformers", "datasets", "sympy", "scipy", "openai", "matplotlib", "numpy")
    code = f"import srl, srl.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_system_without_limits_for_processes_lacks_only_what_needs_them(tmp_path):
    """The modules `resource` and `fcntl` are absent on Windows."""
    code = """
import sys
from pathlib import Path
sys.modules["resource"] = sys.modules["fcntl"] = None
from srl import UserError
from srl.cli import main
from srl.files.folders import locked
from srl.rewards.answers import are_correct
try:
    are_correct(["\\\\boxed{1/2}"], ["0.5"])
except UserError as error:
    print(error)
with locked(Path(sys.argv[1])):
    pass
main(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no locks here" in done.stderr
    assert done.stdout.startswith("checking final answers needs processes with a limit of memory: expected")
    assert "usage: srl" in done.stdout


@pytest.mark.parametrize("name", sorted(NAMES))
def test_examples_in_docstrings_hold(name):
    """Also: every module can be imported by itself."""
    if name == "evaluation.inspect_task":
        pytest.importorskip("inspect_ai", reason="the optional inspect-ai is not installed")
    if name == "evaluation.swe.agent":
        pytest.importorskip("minisweagent", reason="the optional mini-swe-agent is not installed")
    if name == "verl.plugin":
        pytest.importorskip("verl", reason="verl lives in an environment of its own; test_verl.py makes one")
    assert doctest.testmod(importlib.import_module(f"srl.{name}")).failed == 0


def test_files_are_short_and_no_test_borrows_from_another():
    root = PACKAGE.parents[1]
    files = [path for folder in ("src", "tests", "benchmarks", "examples") for path in (root / folder).rglob("*.py")]
    assert len(files) > 100
    assert not [path.name for path in files if len(path.read_text().splitlines()) > 400]
    tests = [ast.parse(path.read_text()) for path in files if path.parent == root / "tests"]
    from_modules = {node.module for tree in tests for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in from_modules if name and name.startswith("test_")]
