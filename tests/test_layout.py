"""The package's shape: imports run one way, and `import srl` is light."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import srl

PACKAGE = Path(srl.__file__).parent

# Each module may import only from modules further left (or in its own group).
ORDER = [
    {"errors", "records", "workers"},
    {"files", "similarity", "formats.numbered"},
    {"formats.solutions", "formats.native", "formats.fields", "prompts", "groups"},
    {"formats.turns"},
    {"formats.react", "formats.openhands", "formats.swe_agent", "formats.process_rewards", "formats.verl"},
    {"formats.messages"},
    {"formats.swe_smith", "formats.mini_swe_agent", "formats.prompt_completion"},
    {"steps", "answers", "trajectories", "decontaminate"},
    {"tiny"},
    {"recipe", "data_folder"},
    {"rows"},
    {"prepare"},
    {"show"},
    {"rewards", "run_folder"},
    {"trunk.packing", "trunk.kernels", "trunk.support"},
    {"trunk.attention", "trunk.plan"},
    {"trunk.branches"},
    {"trunk.sampler"},
    {"trunk.trial"},
    {"trunk.trainer"},
    {"model_card"},
    {"trainer", "progress"},
    {"train", "forecast", "evaluation"},
    {"report.runs", "report.evaluations"},
    {"report.rollouts"},
    {"report.page"},
    {"sample", "experiment"},
    {"cli"},
]


def rank(module):
    """The group of a module; a subpackage's own files belong to the subpackage."""
    for index, group in enumerate(ORDER):
        if any(module == name or module.startswith(name + ".") for name in group):
            return index
    raise AssertionError(f"srl.{module} has no place in the order of imports")


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if name not in ("__init__", "formats", "trunk", "report"):
            yield name, ast.parse(path.read_text())


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "srl.formats":  # its readers, and their Protocol
            yield from (f"formats.{alias.name}" for alias in node.names if alias.name != "Format")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("srl."):
            yield node.module.removeprefix("srl.")


def test_imports_run_one_way():
    edges = [(name, other) for name, tree in modules() for other in imported(tree)]
    assert len(edges) > 30
    wrong = [f"{name} imports {other}" for name, other in edges if rank(other) > rank(name)]
    assert not wrong


def test_trl_and_torch_stay_in_their_rooms():
    heavy = {"torch", "trl", "transformers", "datasets", "peft", "accelerate"}
    rooms = {"trainer", "train", "rows", "progress", "forecast", "evaluation.huggingface"}
    rooms |= {
        "trunk.kernels",
        "trunk.support",
        "trunk.attention",
        "trunk.branches",
        "trunk.sampler",
        "trunk.trial",
        "trunk.trainer",
    }
    for name, tree in modules():
        top_level = {
            alias.name.partition(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        assert not top_level & heavy or name in rooms, f"srl.{name} imports {top_level & heavy} at the top"


def test_importing_srl_loads_nothing_heavy():
    heavy = ("torch", "trl", "transformers", "datasets", "sympy", "scipy", "openai", "matplotlib", "numpy")
    code = f"import srl, srl.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", sorted(name for name, _ in modules()))
def test_examples_in_docstrings_hold(name):
    """Also: every module can be imported by itself."""
    if name == "evaluation.inspect_task":
        pytest.importorskip("inspect_ai", reason="the optional inspect-ai is not installed")
    assert doctest.testmod(importlib.import_module(f"srl.{name}")).failed == 0
