"""Small packages of the package registry, at pinned versions, with their tests: what local instances are made of.

`builtin/swe/packages.toml` lists them. They are fetched by pip, checked by their hash, and never part of srl.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from srl.errors import UserError
from srl.files import new_folder


@dataclass(frozen=True, slots=True)
class Package:
    """One source distribution."""

    name: str
    version: str
    sha256: str
    code: tuple[str, ...]
    """Folders and files in it that bugs are put into."""
    tests: tuple[str, ...]
    """Folders and files with its tests; never changed."""
    import_from: str
    """The folder in it that goes on Python's path."""

    @property
    def folder(self) -> str:
        """Its name under `sources/`."""
        return f"{self.name}-{self.version}"

    def files(self, tree: Path) -> list[Path]:
        """The Python files of `code`, without the tests, in order; relative to the tree."""
        all_files = sorted(path.relative_to(tree) for path in tree.rglob("*.py"))
        code = [path for path in all_files if any(path.is_relative_to(part) for part in self.code)]
        return [path for path in code if not any(path.is_relative_to(part) for part in self.tests)]


def read_packages() -> list[Package]:
    """The packages of srl's list, in its order."""
    text = (resources.files("srl") / "builtin" / "swe" / "packages.toml").read_text(encoding="utf-8")
    return [
        Package(
            name, entry["version"], entry["sha256"], tuple(entry["code"]), tuple(entry["tests"]), entry["import_from"]
        )
        for name, entry in tomllib.loads(text).items()
    ]


def unpacked(package: Package, sources: Path, sdists: Path | None) -> Path:
    """The package's tree under `sources`, fetched if it is not there.

    Args:
        package: Which.
        sources: Where the trees are.
        sdists: A folder that holds the source distributions, where there is no network.

    Raises:
        UserError: it is not in `sdists`, or pip cannot fetch it, or it is another file than the pinned one.
    """
    tree = sources / package.folder
    if tree.is_dir():
        return tree
    with tempfile.TemporaryDirectory(prefix="srl-sdist-") as folder:
        archive = _find(package, sdists) if sdists else _download(package, Path(folder))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != package.sha256:
            raise UserError(f"{archive}: expected the file with sha256 {package.sha256:.16}…, found {found:.16}…")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        sources.mkdir(parents=True, exist_ok=True)
        with new_folder(tree) as new:
            shutil.copytree(Path(folder) / archive.name.removesuffix(".tar.gz"), new, symlinks=True, dirs_exist_ok=True)
    return tree


def _find(package: Package, sdists: Path) -> Path:
    archive = sdists / f"{package.folder}.tar.gz"
    if not archive.is_file():
        raise UserError(
            f"{archive}: no such file; --sdists names a folder with the source distributions, or leave it out"
        )
    return archive


def _download(package: Package, folder: Path) -> Path:
    """By pip, which checks the hash before it looks into the file."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", package.name]
    ended = subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(requirement)],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise UserError(
            f"{package.name} {package.version} could not be fetched ({reason:.200}); "
            "source distributions that are there already are taken from --sdists FOLDER"
        )
    return next(folder.glob("*.tar.gz"))
