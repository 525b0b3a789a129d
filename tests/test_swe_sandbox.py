"""Patches that take more than their share, or reach out of the sandbox: ended, and the machine as it was."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from hostile import (
    LIMITS,
    hostile,
    leftovers,
)

from srl.rewards.sandbox.walls import resident_bytes


def test_forking_without_end(walls, package):
    started = time.monotonic()
    result = hostile(
        walls,
        package,
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
    )
    assert not result.resolved
    assert time.monotonic() - started < LIMITS.seconds + 15
    assert leftovers(package) == []


def test_filling_the_disk(walls, package):
    before = shutil.disk_usage("/").free
    result = hostile(
        walls,
        package,
        """
        for n in range(100):
            with open(f"/tmp/{n}", "wb") as file:
                file.write(bytes(1 << 20))
        """,
    )
    assert not result.resolved
    assert "No space left on device" in result.log
    assert before - shutil.disk_usage("/").free < 1 << 30


def test_filling_the_memory_in_one_process(walls, package):
    result = hostile(walls, package, "x = bytearray(1 << 30)\n")
    assert not result.resolved
    assert "MemoryError" in result.log


def test_filling_the_memory_in_many_processes(walls, package):
    result = hostile(
        walls,
        package,
        """
        import os, time
        for n in range(8):
            if not os.fork():
                x = bytearray(os.urandom(1 << 20)) * 100
                time.sleep(60)
                os._exit(0)
        time.sleep(60)
        """,
    )
    assert (result.resolved, result.reason) == (False, "ended at the limit of memory")


def test_printing_a_gigabyte(walls, package):
    result = hostile(
        walls,
        package,
        """
        import os
        for n in range(1 << 14):
            os.write(1, bytes(1 << 16))
        """,
    )
    assert not result.resolved
    assert len(result.log) < 1 << 18


def test_printing_a_gigabyte_past_pytest(walls, package):
    """pytest keeps what tests print; a process with the sandbox's own descriptors does not ask it."""
    result = hostile(
        walls,
        package,
        """
        import os
        for fd in range(3, 64):
            try:
                for n in range(1 << 14):
                    os.write(fd, b"x" * (1 << 16))
            except OSError:
                pass
        """,
    )
    assert not result.resolved
    assert len(result.log) < 1 << 18


def test_opening_sockets(walls, package):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        result = hostile(
            walls,
            package,
            f"""
            import socket
            socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), timeout=5).sendall(b"secret")
            """,
        )
        assert not result.resolved
        with pytest.raises(TimeoutError):
            server.accept()


def test_sending_a_packet_abroad(walls, package):
    result = hostile(
        walls,
        package,
        """
        import socket
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"secret", ("192.0.2.1", 53))
        """,
    )
    assert "Network is unreachable" in result.log


def test_killing_its_parent_and_everyone(walls, package):
    """By the numbers that they have inside and outside; the first process inside cannot be killed from there."""
    bystander = subprocess.Popen(["sleep", "60"])
    code = f"""
        import os
        for pid in ({bystander.pid}, {os.getpid()}, os.getppid(), 1, -1):
            try:
                os.kill(pid, 9)
            except OSError:
                pass
        assert os.getppid() == 1
        """
    assert hostile(walls, package, code).resolved
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_reading_the_environment_and_files_of_the_harness(walls, package, monkeypatch):
    monkeypatch.setenv("SRL_TEST_SECRET", "hush")
    (package / "key").write_text("hush")
    result = hostile(
        walls,
        package,
        f"""
        import os, glob
        found = str(dict(os.environ))
        files = ({str(package / "key")!r}, "/etc/shadow", "/etc/passwd")
        for path in (*glob.glob("/proc/*/environ"), *glob.glob("/proc/*/cmdline"), *files):
            try:
                found += open(path, errors="replace").read()
            except OSError:
                pass
        assert "hush" not in found and "root:x:" not in found, "seen"
        assert not os.path.exists({str(package)!r}) and not os.path.exists("/home")
        """,
    )
    assert result.resolved, result.log  # it did no harm, and it works


def test_leaving_a_daemon(walls, package):
    result = hostile(
        walls,
        package,
        """
        import os, time
        if not os.fork():
            os.setsid()
            if not os.fork():
                for fd in range(64):
                    try:
                        os.close(fd)
                    except OSError:
                        pass
                time.sleep(3600)
            os._exit(0)
        """,
    )
    assert result.resolved, result.log
    assert leftovers(package) == []


def test_a_daemon_that_holds_the_pipes_ends_with_the_command(walls, package):
    started = time.monotonic()
    result = hostile(
        walls,
        package,
        """
        import os, signal, time
        if not os.fork():
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
            os._exit(0)
        """,
    )
    assert result.resolved, result.log
    assert time.monotonic() - started < LIMITS.seconds
    assert leftovers(package) == []


def test_becoming_root_of_a_namespace(walls, package):
    result = hostile(
        walls,
        package,
        """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        assert os.geteuid() != 0 and os.getuid() != 0
        assert libc.unshare(0x10000000) == -1, "a user namespace of its own"
        assert libc.mount(b"tmpfs", b"/box/tmp", b"tmpfs", 0, None) == -1, "a mount"
        assert libc.mount(None, b"/usr", None, 4096 | 32, None) == -1, "a mount that can be written"
        """,
    )
    assert result.resolved, result.log


def test_the_harness_killed_takes_the_sandbox_with_it(walls, package):
    code = f"""
        import sys
        from pathlib import Path
        from srl.rewards.sandbox.walls import Sandbox
        Sandbox({walls.walls!r}).run([sys.executable, "-c", "import time; time.sleep(3600)"], Path({str(package)!r}))
        """
    harness = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    while not leftovers(package):
        assert harness.poll() is None
        time.sleep(0.05)
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    killed = time.monotonic()
    while leftovers(package):  # nobody is there to wait for them
        assert time.monotonic() - killed < 30


def test_what_is_ordered_by_addresses_is_the_same_each_time(walls, package):
    """A set with None in it: Python 3.11 hashes None by its address."""
    command = [sys.executable, "-c", "print([hash(None), {(None, n) for n in range(9)}])"]
    runs = [walls.run(command, package, environment={"PYTHONHASHSEED": "0"}).output for _ in range(3)]
    assert runs[0] == runs[1] == runs[2] != b""


def test_memory_of_a_family_is_counted():
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; x = bytearray(b'1') * (64 << 20); print(flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    try:
        assert resident_bytes(child.pid) > 64 << 20
        assert resident_bytes(os.getpid()) > resident_bytes(child.pid)
    finally:
        child.kill()
        child.communicate()
