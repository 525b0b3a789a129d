"""The files of an instance before its fix: from a local clone at a commit, or from the folder of a package."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from srl.errors import UserError
from srl.evaluation.swe.instances import SOURCES, Instance
from srl.evaluation.swe.patches import changed_files


class Repository(Protocol):
    """Files by their paths."""

    def paths(self) -> list[str]:
        """Of all files, in order."""
        ...

    def read(self, path: str) -> bytes | None:
        """A file's content; None if there is no such file."""
        ...


class Folder:
    """A tree on disk."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree.resolve()

    def paths(self) -> list[str]:
        """Of all files but those of caches and metadata, in order."""
        found = [path.relative_to(self.tree) for path in self.tree.rglob("*") if path.is_file()]
        kept = [path for path in found if not any(part.startswith(".") or part == "__pycache__" for part in path.parts)]
        return sorted(map(str, kept))

    def read(self, path: str) -> bytes | None:
        """A file's content; what a link leads out of the tree to is not there."""
        file = (self.tree / path).resolve()
        return file.read_bytes() if file.is_relative_to(self.tree) and file.is_file() else None


class Commit:
    """A commit of a local clone, read from its objects: nothing is checked out."""

    def __init__(self, clone: Path, commit: str) -> None:
        self.clone, self.commit = clone, commit

    def paths(self) -> list[str]:
        """Of all files, in order."""
        listed = self._git("ls-tree", "-r", "-z", "--name-only", self.commit)
        assert listed is not None
        return sorted(name.decode(errors="replace") for name in listed.split(b"\0") if name)

    def read(self, path: str) -> bytes | None:
        """A file's content at the commit."""
        return self._git("cat-file", "blob", f"{self.commit}:{path}")

    def _git(self, *arguments: str) -> bytes | None:
        ended = subprocess.run(["git", "-C", str(self.clone), *arguments], capture_output=True, check=False)
        return None if ended.returncode else ended.stdout


class WithBug:
    """A repository that a bug is put into."""

    def __init__(self, repository: Repository, bug_patch: str) -> None:
        self.repository = repository
        self.changed = _patched(repository, bug_patch)

    def paths(self) -> list[str]:
        """Of all files, in order."""
        return self.repository.paths()

    def read(self, path: str) -> bytes | None:
        """A file's content, bug included."""
        return self.changed[path] if path in self.changed else self.repository.read(path)


def _patched(repository: Repository, patch: str) -> dict[str, bytes | None]:
    names = changed_files(patch)
    with tempfile.TemporaryDirectory(prefix="srl-bug-") as folder:
        for name in names:
            if (content := repository.read(name)) is not None:
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).write_bytes(content)
        command = ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", "-"]
        ended = subprocess.run(command, cwd=folder, input=patch.encode(), capture_output=True, check=False)
        if ended.returncode:
            reason = ended.stderr.decode(errors="replace").strip()
            raise UserError(f"the patch that puts the bug in does not apply ({reason:.200}); is it the right commit?")
        return {name: Folder(Path(folder)).read(name) for name in names}


def source_tree(repository: Repository, scratch: Path) -> Path:
    """The whole tree as a folder, without the bug of a `WithBug`; a commit is written to the empty folder `scratch`."""
    if isinstance(repository, WithBug):
        return source_tree(repository.repository, scratch)
    if isinstance(repository, Folder):
        return repository.tree
    assert isinstance(repository, Commit)
    archive = subprocess.Popen(
        ["git", "-C", str(repository.clone), "archive", repository.commit], stdout=subprocess.PIPE
    )
    with archive, tarfile.open(fileobj=archive.stdout, mode="r|") as files:
        files.extractall(scratch, filter="data")
    return scratch


def find_repositories(instances: Sequence[Instance], folder: Path, clones: Path | None) -> dict[str, Repository]:
    """Instance -> its repository.

    Args:
        instances: Of any kind.
        folder: Where `sources/` of local instances is.
        clones: Where the clones are, as `owner__name`, `owner/name` or `name`.

    Raises:
        UserError: a package, a clone or a commit that is not there; says all that are missing.
    """
    found: dict[str, Repository] = {}
    missing: dict[str, int] = {}
    for instance in instances:
        place, repository = _repository(instance, folder, clones)
        absent = place if repository is None else _absent_file(instance, repository, place)
        if absent:
            missing[absent] = missing.get(absent, 0) + 1
        elif repository:
            found[instance.id] = WithBug(repository, instance.bug_patch) if instance.bug_patch else repository
    if missing:
        what = "; ".join(f"{place} ({count} instance{'s'[: count > 1]})" for place, count in missing.items())
        raise UserError(f"the files of {sum(missing.values())} instances are not there: missing {what}")
    return found


def _absent_file(instance: Instance, repository: Repository, place: str) -> str | None:
    """A file that the known fix changes and that is not there, as in a clone without all its objects."""
    return next((f"{path} of {place}" for path in instance.files_to_change if repository.read(path) is None), None)


def _repository(instance: Instance, folder: Path, clones: Path | None) -> tuple[str, Repository | None]:
    if instance.tests:
        tree = folder / SOURCES / instance.base_commit
        return str(tree), Folder(tree) if tree.is_dir() else None
    name = instance.repo.removeprefix("swesmith/")
    if clones is None:
        return f"a clone of {name}: --clones FOLDER", None
    for place in (name.replace("/", "__"), name, name.rpartition("/")[2]):
        if (clones / place).is_dir():
            commit = Commit(clones / place, instance.base_commit)
            there = commit._git("cat-file", "-e", f"{instance.base_commit}^{{commit}}") is not None
            return f"commit {instance.base_commit:.12} in {clones / place}", commit if there else None
    return f"a clone of {name} as {clones / name.replace('/', '__')}", None
