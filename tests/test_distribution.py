"""What is published: one name and version everywhere; a wheel and an sdist that work away from this folder."""

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from project_copy import ROOT, build_wheel, copy_of_the_project

import srl

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_name_and_version_are_the_same_everywhere():
    assert PROJECT["name"] != "srl"  # another package on PyPI
    assert f"pip install {PROJECT['name']}" in (ROOT / "README.md").read_text()
    assert f"pypi.org/p/{PROJECT['name']}" in (ROOT / ".github/workflows/release.yml").read_text()
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {srl.__version__}\n" in citation
    assert f'\ntitle: "{PROJECT["name"]}: ' in citation
    releases = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == srl.__version__


def environment_with(wheel, folder):
    """A fresh environment with the wheel; the packages it needs are those that run this test."""
    venv.create(folder, symlinks=True)
    packages = Path(pytest.__file__).parents[1]  # where an editable srl, if there is one, is not followed from
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "what_it_needs.pth").write_text(f"{packages}\n")
    python = folder / "bin/python"
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel], check=True)
    return folder / "bin"


@pytest.mark.slow
def test_an_installed_wheel_cuts_steps(tmp_path):
    programs = environment_with(build_wheel(tmp_path), tmp_path / "environment")

    def run(*command):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=True).stdout

    assert run(programs / "srl", "--version") == f"srl {srl.__version__}\n"
    code = f"import srl, importlib.metadata as m; print(srl.__file__, m.version({PROJECT['name']!r}))"
    path, version = run(programs / "python", "-c", code).split()
    assert Path(path).is_relative_to(tmp_path / "environment")
    assert version == srl.__version__
    assert "similarity    C" in run(programs / "srl", "doctor")

    solution = {"problem": "What is 1+1?", "solution": "1. **Add**: 1+1\n2. **Say**: two"}
    (tmp_path / "solutions.jsonl").write_text(json.dumps(solution))
    run(programs / "srl", "steps", "solutions.jsonl", "--out", "steps", "--hold-out", "0")
    (row,) = map(json.loads, (tmp_path / "steps/train.steps.jsonl").read_text().splitlines())
    assert row["expert_action"] == "1. **Add**: 1+1"
    # Also what is no Python: recipes, models, the report's page.
    files = [file for file in (ROOT / "src/srl").rglob("*") if file.is_file()]
    expected = {f.relative_to(ROOT / "src").as_posix() for f in files if f.suffix not in (".pyc", ".so", ".c")}
    (wheel,) = tmp_path.glob("*.whl")
    assert expected <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_the_registry_would_take_wheel_and_sdist(tmp_path):
    """As the release job builds them: the wheel from the sdist."""
    for tool in ("build", "twine"):
        pytest.importorskip(tool, reason=f"{tool} is not installed; `make test-slow` installs it")
    project = copy_of_the_project(tmp_path)
    subprocess.run([sys.executable, "-m", "build", project, "--outdir", tmp_path / "dist"], check=True)
    files = sorted((tmp_path / "dist").iterdir())
    stem = f"{PROJECT['name'].replace('-', '_')}-{srl.__version__}"
    assert [file.name.startswith(stem) for file in files] == [True, True]
    assert {file.suffix for file in files} == {".gz", ".whl"}
    assert any("_matcher" in name and name.endswith(".so") for name in zipfile.ZipFile(files[0]).namelist())
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
