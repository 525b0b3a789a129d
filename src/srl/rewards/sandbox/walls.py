"""Runs a command on a copy of a tree behind walls: what a model wrote is not run anywhere else.

Behind the walls there are Python, the tree, and nothing else of this machine: no network, no other processes, no
environment, nothing that can be written but the copy, which lives in memory and is gone afterwards. Time, processes,
memory, disk and output are limited. `inside.py` is what starts there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from srl.errors import UserError
from srl.rewards.sandbox.inside import TESTBED, Job

Walls = Literal["bubblewrap", "namespaces", "none"]
End = Literal["exit", "time", "memory", "output"]
NOT_ISOLATED = "the network, the files and the processes of this user, the memory of all processes together"
"""What is open without walls."""
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
)
SECONDS_TO_DIE = 60.0
SECONDS_BETWEEN_LOOKS = 0.1
TRIAL_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Limits:
    """What a command may use; it is ended at the first that it reaches."""

    seconds: float = 180
    cpu_seconds: int = 60
    """Of one process: it does not depend on what else the machine does."""
    memory_bytes: int = 2 << 30
    """Of one process as address space, of all together as resident memory."""
    processes: int = 64
    disk_bytes: int = 256 << 20
    """Of the tree with all that is written there, and as much again of /tmp; both lie in memory."""
    output_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    end: End
    exit_code: int
    """Negative after a signal; where `end` is not "exit", that of having been killed."""
    output: bytes
    """Standard output and error together."""
    report: bytes
    """What was written to the report's file descriptor."""
    problem: str | None
    """Why a patch did not apply; the command was not run then."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Walls that were tried on this machine."""

    walls: Walls

    def run(
        self,
        command: Sequence[str],
        source: Path,
        *,
        patches: Sequence[str] = (),
        protected: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        limits: Limits = Limits(),
    ) -> Finished:
        """Copy the tree `source`, apply the patches to the copy, and run the command in it.

        Args:
            command: Its first item is an absolute path. "{report}" stands for the number of the report's descriptor.
            source: A folder; it is only read.
            patches: Unified diffs; what they change of `protected` has no effect.
            protected: Paths in the tree that cannot be changed, as the tests.
            environment: All of it, but HOME and TMPDIR.
            limits: See there.

        Raises:
            RuntimeError: the walls could not be built, though they could before.
        """
        reading, writing = os.pipe()
        with (
            open(reading, "rb", buffering=0) as report,
            self.started(
                command, source, writing, patches=patches, protected=protected, environment=environment, limits=limits
            ) as process,
        ):
            end, output, report_text = _watch(process, report.fileno(), limits)
        first, _, rest = report_text.partition(b"\n")
        try:
            problem = json.loads(first)["problem"]
        except (ValueError, TypeError, KeyError):
            if end == "exit":
                raise RuntimeError(output.decode(errors="replace").strip().rpartition("\n")[2][-300:]) from None
            problem = None
        return Finished(end, process.returncode, output, rest, problem)

    @contextmanager
    def started(
        self,
        command: Sequence[str],
        source: Path,
        report: int,
        *,
        patches: Sequence[str] = (),
        protected: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        limits: Limits = Limits(),
    ) -> Iterator[subprocess.Popen[bytes]]:
        """As `run`, for who watches the command by themselves: time, output and memory of all together are not limited.

        Args:
            command: As for `run`, like all others but one.
            source: See there.
            report: A descriptor of which the command gets a copy; closed here. The first line that comes back is a
                JSON object whose `problem` says why a patch did not apply.
            patches: See there.
            protected: See there.
            environment: See there.
            limits: See there.

        When the block is left, the command and all that it started have ended.
        """
        reading, info = os.pipe()
        with (
            tempfile.TemporaryDirectory(prefix="srl-box-", ignore_cleanup_errors=True) as root,
            open(reading, "rb") as of_bubblewrap,
        ):
            try:
                job = Job(
                    walls=self.walls,
                    root="/box" if self.walls == "bubblewrap" else root,
                    source="/source" if self.walls == "bubblewrap" else str(source.resolve()),
                    protected=[path for path in protected if (source / path).exists()],
                    visible=_visible(),
                    patches=list(patches),
                    command=[part.replace("{report}", str(report)) for part in command],
                    environment={"PATH": "/usr/local/bin:/usr/bin:/bin", **(environment or {})},
                    cpu_seconds=limits.cpu_seconds,
                    memory_bytes=limits.memory_bytes,
                    processes=limits.processes,
                    disk_bytes=limits.disk_bytes,
                    report_fd=report,
                )
                starter = [sys.executable, "-I", "-S", "-c", _inside()]
                if self.walls == "bubblewrap":
                    starter = [*_bubblewrap(job, source, info), *starter]
                process = subprocess.Popen(
                    starter,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={"PATH": os.defpath},
                    cwd="/",
                    pass_fds=(report, info) if self.walls == "bubblewrap" else (report,),
                    start_new_session=True,
                )
            finally:
                os.close(report)
                os.close(info)
            with process, _first_inside(of_bubblewrap.read()) as first_inside:
                try:
                    assert process.stdin
                    with suppress(BrokenPipeError):
                        process.stdin.write(json.dumps(dataclasses.asdict(job)).encode())
                        process.stdin.close()
                    yield process
                finally:
                    _kill(process, first_inside, isolated=self.walls != "none")


def find_sandbox(*, allow_unsandboxed: bool = False) -> Sandbox:
    """The best walls that this machine can build, each tried before it is believed.

    Root builds its own: bubblewrap would leave the command root's user, whose processes no limit counts.

    Raises:
        UserError: there are none, and `allow_unsandboxed` is False.
    """
    wanted: tuple[Walls, ...] = ("namespaces",) if os.geteuid() == 0 else ("bubblewrap", "namespaces")
    reasons = []
    for walls in wanted:
        reason = why_not(walls)
        if reason is None:
            return Sandbox(walls)
        reasons.append(f"{walls}: {reason}")
    if allow_unsandboxed and sys.platform == "linux":
        return Sandbox("none")
    raise UserError(
        f"patches are run in a sandbox, and this machine offers none ({'; '.join(reasons)}); install bubblewrap, or "
        f"take a machine that allows user namespaces; --allow-unsandboxed runs them with these open: {NOT_ISOLATED}"
    )


def open_sandbox(*, allow_unsandboxed: bool = False) -> Sandbox:
    """`find_sandbox`, and a line that says what it found."""
    sandbox = find_sandbox(allow_unsandboxed=allow_unsandboxed)
    isolated = f"none; open: {NOT_ISOLATED}" if sandbox.walls == "none" else sandbox.walls
    print(f"sandbox: {isolated}", flush=True)
    return sandbox


@cache
def why_not(walls: Walls) -> str | None:
    """Why these walls cannot be built here; None if a trial showed that they stand."""
    if sys.platform != "linux":
        return "only on Linux"
    if walls == "bubblewrap" and not shutil.which("bwrap"):
        return "bwrap is not installed"
    if not shutil.which("git", path=os.defpath):
        return f"no git in {os.defpath}"
    look = "import os; print(sorted(os.listdir('/proc')).count('1'), os.listdir('/box/tree'), len(os.listdir('/box')))"
    with tempfile.TemporaryDirectory(prefix="srl-trial-") as tree:
        (Path(tree) / "found").touch()
        try:
            ended = Sandbox(walls).run([sys.executable, "-I", "-c", look], Path(tree), limits=Limits(TRIAL_SECONDS))
        except (RuntimeError, OSError) as error:
            return str(error)
    expected = b"1 ['found'] 3"
    return None if ended.output.strip() == expected else f"a trial gave {ended.output[-200:]!r}"


@cache
def _inside() -> str:
    return (Path(__file__).parent / "inside.py").read_text(encoding="utf-8")


@cache
def _visible() -> list[str]:
    """What Python needs to run with the packages of this one."""
    python = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, sysconfig.get_path("stdlib")}
    python |= {os.path.dirname(os.path.realpath(sys.executable))}
    python |= {path for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    shown: list[str] = []
    for path in (*SYSTEM, *sorted(map(os.path.abspath, python))):
        inside_another = any(path.startswith(f"{other}/") for other in shown if not os.path.islink(other))
        if os.path.exists(path) and path not in shown and not inside_another:
            shown.append(path)
    return shown


def _bubblewrap(job: Job, source: Path, info: int) -> list[str]:
    command = ["bwrap", "--info-fd", str(info), "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    command += ["--disable-userns"] * _bubblewrap_can_disable_namespaces()
    for memory in ("/box", "/tmp"):
        command += ["--size", str(job.disk_bytes), "--tmpfs", memory]
    command += ["--ro-bind", str(source.resolve()), "/source"]
    for path in job.protected:
        command += ["--ro-bind", str(source.resolve() / path), f"/box/tree/{path}"]
    for path in job.visible:
        link = os.path.islink(path)
        command += ["--symlink", os.readlink(path), path] if link else ["--ro-bind", path, path]
    command += ["--symlink", "/box/tree", TESTBED, "--dev", "/dev", "--proc", "/proc"]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--"]


@cache
def _bubblewrap_can_disable_namespaces() -> bool:
    return b"--disable-userns" in subprocess.run(["bwrap", "--help"], capture_output=True, check=False).stdout


@contextmanager
def _first_inside(info: bytes) -> Iterator[list[int]]:
    """A descriptor of the first process behind bubblewrap's walls, by what it writes for `--info-fd`; without it none.

    bubblewrap ends when the command has, which may be before the rest of its namespace is gone.
    """
    ends: list[int] = []
    with suppress(ProcessLookupError):  # it has ended
        ends += [os.pidfd_open(json.loads(info)["child-pid"])] if info else []
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _watch(process: subprocess.Popen[bytes], report_fd: int, limits: Limits) -> tuple[End, bytes, bytes]:
    """Collect output and report until the process ends or reaches a limit; returns which, and both."""
    assert process.stdout
    output_fd = process.stdout.fileno()
    collected = {output_fd: bytearray(), report_fd: bytearray()}
    end: End = "exit"
    deadline = time.monotonic() + limits.seconds
    with selectors.DefaultSelector() as selector:
        for descriptor in collected:
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        next_look = 0.0
        while selector.get_map() and end == "exit":
            for key, _ in selector.select(SECONDS_BETWEEN_LOOKS):
                piece = os.read(key.fd, 65536)
                collected[key.fd] += piece
                if not piece:
                    selector.unregister(key.fd)
            now = time.monotonic()
            if now > deadline:
                end = "time"
            elif any(len(text) > limits.output_bytes for text in collected.values()):
                end = "output"
            elif now > next_look:
                next_look = now + SECONDS_BETWEEN_LOOKS
                if resident_bytes(process.pid) > limits.memory_bytes:
                    end = "memory"
    if end == "exit":
        # Both pipes are closed, so nothing is left inside but, at most, a process that let go of them.
        end = "exit" if _ends_before(deadline, process.pid) else "time"
    return end, bytes(collected[output_fd][: limits.output_bytes]), bytes(collected[report_fd])


def _ends_before(deadline: float, pid: int) -> bool:
    """Wait for a process, but leave its number taken: `_kill` ends what is left of its group by it."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _kill(process: subprocess.Popen[bytes], first_inside: Sequence[int], *, isolated: bool) -> None:
    """End it and, with it, all that it started: the PID namespace ends with its first process.

    If `isolated`, that one is waited for, whom the kernel lets go only when all in its namespace are gone: it is
    `first_inside` or, behind walls of ours, a child of the process. On a busy machine this takes seconds.

    Raises:
        RuntimeError: it is still there after a minute.
    """
    if process.returncode is not None:  # its number may be another's by now
        return
    with ExitStack() as opened:
        waited_for = set(first_inside)
        for child in [pid for pid, (parent, _) in _processes().items() if parent == process.pid and isolated]:
            with suppress(ProcessLookupError):  # it has ended
                waited_for.add(end := os.pidfd_open(child))
                opened.callback(os.close, end)
        ends = select.poll()
        for end in waited_for:
            ends.register(end, select.POLLIN)
        os.killpg(process.pid, signal.SIGKILL)
        for end in first_inside:  # bubblewrap, killed early, has not yet asked that this one die with it
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(end, signal.SIGKILL)
        process.wait()
        while waited_for and (ended := ends.poll(SECONDS_TO_DIE * 1000)):
            for end, _ in ended:
                ends.unregister(end)
                waited_for.discard(end)
    if waited_for:
        raise RuntimeError(f"what ran in the sandbox was killed, and is still there after {SECONDS_TO_DIE:g} s")


def resident_bytes(pid: int) -> int:
    """Memory that a process and all below it have in use; pages that they share are counted for each."""
    parents = _processes()
    family = {pid}
    while more := {child for child, (parent, _) in parents.items() if parent in family} - family:
        family |= more
    return sum(parents[member][1] for member in family if member in parents) * os.sysconf("SC_PAGE_SIZE")


def _processes() -> dict[int, tuple[int, int]]:
    """Of every process its parent, and its memory in pages."""
    found: dict[int, tuple[int, int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                fields = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()
                found[int(name)] = (int(fields[1]), int(fields[21]))
    return found
