"""The shell in the sandbox: what commands change stays, what they start ends, and nothing gets out."""

import os
import socket
import sys
import time
from dataclasses import replace

import pytest
from hostile import FIXED, LIMITS, SOURCES, diff, leftovers, snapshot

from srl.evaluation.swe.shell import Answer, ShellEnded, open_shell
from srl.rewards.sandbox.walls import Sandbox

SHORT = replace(LIMITS, seconds=0.5)


def shell(walls, package, limits=LIMITS, **options):
    return open_shell(walls, package / SOURCES / "calc-1", limits=limits, **options)


def test_what_a_command_changes_is_there_for_the_next_and_nowhere_else(walls, package):
    before = snapshot(package)
    fix = diff(package, "calc.py", FIXED)
    with shell(walls, package) as box:
        assert box.run("pwd; git status --short").output == "/testbed\n"
        box.run("sed -i s/-/+/ /testbed/calc.py && cd / && echo kept > /tmp/note && mkdir ~/of-mine")
        assert box.run("cat /tmp/note; ls ~; python -c 'import calc; print(calc.add(2, 2))'").output == (
            "kept\nof-mine\n4\n"
        )
        changed = box.run("git diff").output
        assert [line for line in changed.splitlines() if line[0] in "+-"] == [
            line for line in fix.splitlines() if line[0] in "+-"
        ]
        assert box.run("printf '\\377'; echo there >&2; exit 7") == Answer("\ufffdthere\n", 7, "exit")
        assert box.run("python -m pytest -q tests").code == 0
    assert snapshot(package) == before
    assert leftovers(package) == []


def test_patches_are_applied_before_the_first_commit(walls, package):
    with shell(walls, package, patches=[diff(package, "calc.py", FIXED)]) as box:
        assert box.run("git status --short; tail -1 calc.py").output == "    return a + b\n"
    with pytest.raises(RuntimeError, match="a patch does not apply"), shell(walls, package, patches=["--- a\n+++ b\n"]):
        pass


def test_a_command_without_end_is_ended_and_the_next_is_run(walls, package):
    with shell(walls, package, SHORT) as box:
        started = time.monotonic()
        assert box.run("echo begun; trap '' TERM INT; while :; do :; done") == Answer("begun\n", -9, "time")
        assert box.run("sleep 60").end == "time"
        assert box.run("exec >&- 2>&-; sleep 60").end == "time"
        assert time.monotonic() - started < 20
        assert box.run("echo on").output == "on\n"


def test_a_flood_of_output_is_cut(walls, package):
    with shell(walls, package) as box:
        flooded = box.run("yes")
        assert (flooded.end, len(flooded.output)) == ("output", LIMITS.output_bytes)
        assert box.run("head -c 3000 /dev/zero | tr '\\0' '\\1'").output == "\1" * 3000


def test_a_daemon_ends_with_the_command_that_left_it(walls, package):
    with shell(walls, package) as box:
        left = (
            "(setsid sh -c 'while :; do date > /tmp/alive; sleep 0.05; done' > /dev/null 2>&1 &) ; sleep 0.3; echo left"
        )
        assert box.run(left).output == "left\n"
        assert (
            box.run("cat /tmp/alive > /tmp/then; sleep 0.4; cmp /tmp/alive /tmp/then && ls -d /proc/[0-9]*").code == 0
        )
        count = int(box.run("ls -d /proc/[0-9]* | wc -l").output)
        assert count <= 5  # the namespace's first process, the shell, and this command's three
        assert box.run("sleep 50 & echo on").output == "on\n"
    assert leftovers(package) == []


def test_what_ends_the_sandbox_ends_the_shell_alone(walls, package):
    for command, why in (
        ("kill -9 $PPID", "ended its own sandbox"),
        ("kill -9 -1", "ended its own sandbox"),
        (
            "for n in 1 2 3 4 5 6; do python -c 'import time; x = b\"x\" * (90 << 20); time.sleep(9)' & done; wait",
            "ended at the limit of memory",
        ),
    ):
        with shell(walls, package) as box:
            with pytest.raises(ShellEnded, match=why):
                box.run(command)
            with pytest.raises(ShellEnded):
                box.run("echo on")
    assert leftovers(package) == []


def test_nothing_gets_out(walls, package, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hush")
    os.environ["SRL_TEST_SECRET"] = "hush"
    with socket.create_server(("127.0.0.1", 0)) as server, shell(walls, package) as box:
        server.settimeout(0.3)
        port = server.getsockname()[1]
        for command in (
            f"cat {secret}",
            f"ln -s {secret} link && cat link",
            f"cat ../../../../../..{secret}",
            "echo x > /etc/x",
            "echo x > /usr/x",
            f"touch {os.path.dirname(os.path.realpath(sys.executable))}/x",
            f"kill -9 {os.getpid()}",
            f"exec 3<>/dev/tcp/127.0.0.1/{port}",
            "unshare -r true",
            "env | grep -i secret",
            "cat /proc/*/environ | tr '\\0' '\\n' | grep -i secret",
        ):
            answer = box.run(command)
            assert answer.code != 0, command
            assert "hush" not in answer.output
        with pytest.raises(TimeoutError):
            server.accept()
        assert box.run("rm -rf /testbed/ /testbed/* /box /tmp/* 2>/dev/null; echo gone").output == "gone\n"
        assert box.run("ls") == Answer("[Errno 2] No such file or directory: '/testbed'\n", 126, "exit")
    del os.environ["SRL_TEST_SECRET"]
    assert secret.read_text() == "hush"


def test_without_walls_a_command_has_its_limits_still(package):
    with shell(Sandbox("none"), package, SHORT) as box:
        assert box.run("cat calc.py").output.startswith("def add")
        assert box.run("sleep 60").end == "time"
        assert box.run("sleep 60 & echo on").output == "on\n"
    assert leftovers(package) == []
