"""The first thing that runs in a sandbox: closes the walls, lays out the tree, applies the patches, starts the command.

`walls.py` runs this file's text by `python -I -S -c`, with a `Job` in JSON on standard input, so it needs nothing
but the standard library. What the walls are made of depends on `Job.walls`:

    namespaces   made here: user, mount, PID, network, IPC and UTS namespaces and a root that holds little but Python
    bubblewrap   made by `bwrap` before this starts
    none         there are none: a temporary folder, limits, and the word of the user

A process that is root makes its walls as root and becomes `NOBODY` behind them.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534
TESTBED = "/testbed"
"""Behind walls, another name of the tree: where the containers of SWE-bench and SWE-smith have it."""
DEVICES = ("null", "zero", "full", "random", "urandom")

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE, MNT_DETACH = 16384, 1 << 18, 2
MOUNT_SETATTR, AT_RECURSIVE, AT_FDCWD = 442, 0x8000, -100
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
ADDR_NO_RANDOMIZE = 0x0040000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Job:
    """What to run, on what, behind which walls."""

    walls: str
    root: str
    """An empty folder: to build the new root on, or (`bubblewrap`, `none`) to lay out the tree in."""
    source: str
    """The tree to copy."""
    protected: list[str]
    """Folders and files of the tree that patches and the command cannot change."""
    visible: list[str]
    """Folders and files of this machine that can be read behind the walls."""
    patches: list[str]
    """Applied in turn by `git apply`."""
    command: list[str]
    environment: dict[str, str]
    cpu_seconds: int
    memory_bytes: int
    processes: int
    disk_bytes: int
    report_fd: int
    """What is written there reaches the caller as `Finished.report`."""


def main() -> None:
    """Run the job that stands on standard input."""
    job = Job(**json.loads(sys.stdin.buffer.read()))
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    box = Path(job.root)
    if job.walls == "namespaces":
        box = _behind_namespaces(job)
    else:
        _lay_out(job, box, mounted=job.protected if job.walls == "bubblewrap" else [])
    os.chdir(box / "tree")
    _limit(job)
    problem = _apply(job)
    os.write(job.report_fd, json.dumps({"problem": problem}).encode() + b"\n")
    if problem is None:
        # Addresses that are the same each time: what is ordered by them (a set with None in it) is so, too.
        _check(_libc.personality(ctypes.c_ulong(ADDR_NO_RANDOMIZE)), "personality")
        temporary = str(box / "tmp") if job.walls == "none" else "/tmp"
        environment = job.environment | {"HOME": str(box / "home"), "TMPDIR": temporary}
        os.execve(job.command[0], job.command, environment)


def _lay_out(job: Job, box: Path, mounted: list[str]) -> None:
    """Copy the tree, but not what is mounted there already."""
    there = {os.path.join(job.source, path) for path in mounted}
    shutil.copytree(
        job.source,
        box / "tree",
        symlinks=True,
        dirs_exist_ok=True,
        ignore=lambda folder, names: [name for name in names if os.path.join(folder, name) in there],
    )
    for name in ("home", "tmp"):
        (box / name).mkdir()


def _apply(job: Job) -> str | None:
    """Why a patch does not apply; None if all do. What they change of protected files is left out."""
    excludes = [f"--exclude={path}{end}" for path in job.protected for end in ("", "/*")]
    for patch in job.patches:
        if not patch.strip():
            continue
        git = ["git", "-c", "core.autocrlf=false", "apply", "--whitespace=nowarn", *excludes, "-"]
        environment = {"PATH": os.defpath, "GIT_CEILING_DIRECTORIES": str(Path.cwd().parent)}
        ended = subprocess.run(git, input=patch.encode("utf-8", "surrogatepass"), capture_output=True, env=environment)
        if ended.returncode:
            return ended.stderr.decode(errors="replace").strip()[:500] or f"git apply ended with {ended.returncode}"
    return None


def _limit(job: Job) -> None:
    if job.walls != "none":  # there it would count the processes of this user everywhere
        resource.setrlimit(resource.RLIMIT_NPROC, (job.processes, job.processes))
    for limit, value in (
        (resource.RLIMIT_CPU, job.cpu_seconds),
        (resource.RLIMIT_AS, job.memory_bytes),
        (resource.RLIMIT_FSIZE, job.disk_bytes),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 1 << 20),
    ):
        resource.setrlimit(limit, (value, value))
    Path("/proc/self/oom_score_adj").write_text("1000")  # if the machine runs out of memory, this goes first


def _behind_namespaces(job: Job) -> Path:
    """Returns in the one process inside that goes on; the others wait for it."""
    privileged = os.geteuid() == 0
    if privileged:
        _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS), "unshare")
    else:
        _new_user_namespace(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
    _wait_for_child()  # the first child is process 1 of the new PID namespace: when it ends, the kernel ends them all
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with socket.socket() as any_socket:  # "lo" is all the network there is; up, as bubblewrap has it
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    _new_root(job)
    _wait_for_child()  # the command is not process 1, whose signals the kernel treats otherwise
    if privileged:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        _prctl(PR_SET_DUMPABLE, 1)
        _new_user_namespace(0)  # where the limit of processes counts those in here only
    Path("/proc/sys/user/max_user_namespaces").write_text("0")  # nobody in here becomes root of a namespace of theirs
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    return Path("/box")


def _new_user_namespace(others: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(CLONE_NEWUSER | others), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _wait_for_child() -> None:
    """Fork; the parent closes what it holds and ends as the child does."""
    child = os.fork()
    if child:
        os.closerange(0, 256)
        while True:
            ended, status = os.wait()  # process 1 also gets the orphans
            if ended == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)  # a signal as shells and bubblewrap have it


def _new_root(job: Job) -> None:
    """A root of its own in memory: the tree is the only thing in it that can be written."""
    root = Path(job.root)
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    options = f"size={job.disk_bytes},mode=755"
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, options)
    box, kept = root / "box", root / "protected"
    box.mkdir()
    _mount("tmpfs", box, "tmpfs", MS_NOSUID | MS_NODEV, options)
    _lay_out(job, box, mounted=[])
    for index, path in enumerate(job.protected):
        (kept / str(index)).mkdir(parents=True)
        place, pristine = box / "tree" / path, kept / str(index) / "it"
        shutil.move(place, pristine)
        place.mkdir() if pristine.is_dir() else place.touch()
    if os.geteuid() == 0:
        _give_away(box)
        _give_away(kept)
    for index, path in enumerate(job.protected):
        _bind(kept / str(index) / "it", box / "tree" / path)
    (root / "tmp").mkdir()
    _mount("tmpfs", root / "tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={job.disk_bytes},mode=1777")
    for path in job.visible:
        _show(path, root)
    (root / TESTBED.lstrip("/")).symlink_to("/box/tree")
    (root / "dev").mkdir()
    for name in DEVICES:
        (root / "dev" / name).touch()
        _mount(f"/dev/{name}", root / "dev" / name, None, MS_BIND)
    (root / "proc").mkdir()
    _mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.chdir(root)
    _check(_libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")
    _mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _give_away(top: Path) -> None:
    for folder, folders, files in os.walk(top):
        for path in (folder, *(os.path.join(folder, name) for name in (*folders, *files))):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def _show(path: str, root: Path) -> None:
    place = root / path.lstrip("/")
    if place.exists() or place.is_symlink():  # inside of what is shown already
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.path.islink(path):
        place.symlink_to(os.readlink(path))
        return
    place.mkdir() if os.path.isdir(path) else place.touch()
    _bind(Path(path), place)


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


def _bind(source: Path, place: Path) -> None:
    """Read-only, with all that is mounted below it."""
    _mount(source, place, None, MS_BIND | MS_REC)
    attributes = _MountAttributes(attr_set=MS_RDONLY | MS_NOSUID | MS_NODEV)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    path = os.fsencode(place)
    result = _libc.syscall(MOUNT_SETATTR, AT_FDCWD, path, AT_RECURSIVE, ctypes.byref(attributes), size)
    _check(result, f"mount_setattr {place}")


def _mount(source: str | Path | None, place: str | Path, kind: str | None, flags: int, options: str = "") -> None:
    text = [None if part is None else os.fsencode(part) for part in (source, place, kind)]
    _check(_libc.mount(*text, ctypes.c_ulong(flags), options.encode()), f"mount {place}")


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), "prctl")


def _check(result: int, what: str) -> None:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


if __name__ == "__main__":
    main()
