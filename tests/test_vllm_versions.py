"""vLLM: one range of versions, and one line where another is installed, or none."""

import tomllib
from pathlib import Path

import pytest
from accelerate import PartialState
from packaging.specifiers import SpecifierSet

from srl.engines.engines import VLLM, engine_name
from srl.errors import UserError
from srl.runs.recipe import Data, Model, Recipe
from srl.training.attend import attended

ROOT = Path(__file__).parents[1]


def test_the_extra_has_the_versions_that_are_asked_for():
    (extra,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["vllm"]
    assert extra == f"vllm{VLLM}"
    assert "0.30.0" in SpecifierSet(VLLM)


def installed(folder, version):
    """A package of that name and version, as pip would leave it."""
    (folder / "vllm").mkdir()
    (folder / "vllm/__init__.py").touch()
    about = folder / f"vllm-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


def train(folder):
    recipe = Recipe(
        stage="srl",
        output_dir=folder / "run",
        model=Model(model_name_or_path="x"),
        data=Data(path="x"),
        trl={"use_vllm": True},
    )
    with attended(recipe, PartialState(cpu=True), resume=False, overwrite=False):
        pass


def evaluate(folder):
    assert engine_name("vllm") == "vllm"


@pytest.mark.parametrize(("run", "asked"), [(train, "[trl] use_vllm"), (evaluate, "--engine vllm")])
@pytest.mark.parametrize("version", [None, "0.20.0", "0.31.0", "0.30.0"])
def test_other_versions_are_named_with_the_range(tmp_path, monkeypatch, run, asked, version):
    if version:
        installed(tmp_path, version)
    monkeypatch.syspath_prepend(tmp_path)
    if version == "0.30.0":
        run(tmp_path)
        return
    with pytest.raises(UserError) as found:
        run(tmp_path)
    there = f"found {version}" if version else "it is not installed here"
    assert str(found.value) == f"{asked}: expected vLLM {VLLM}, {there}; pip install 'supervised-rl[vllm]' brings one"
    assert not (tmp_path / "run").exists()
