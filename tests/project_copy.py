"""The project built somewhere else, so that no build leaves anything in the working tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copy_of_the_project(folder):
    left_by_use = {"build", "dist", "runs", "steps"}  # at the top; `srl.runs` is a package
    left_anywhere = shutil.ignore_patterns(".*", "*.so", "*.egg-info", "__pycache__")

    def unwanted(path, names):
        return left_anywhere(path, names) | (left_by_use & set(names) if Path(path) == ROOT else set())

    return shutil.copytree(ROOT, folder / "project", ignore=unwanted)


def build_wheel(folder, **environment):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, copy_of_the_project(folder)]
    subprocess.run(command, check=True, env=os.environ | environment)
    (wheel,) = folder.glob("*.whl")
    return wheel
