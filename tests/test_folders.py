"""Folders: whole or absent whatever is killed, and one process at a time."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from srl.errors import UserError
from srl.files import clear_left_overs, locked, new_folder, write_text

N_FILES = 3000

HOLD = """
import sys, time
from pathlib import Path
from srl.files import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""

REPLACE = """
import sys
from pathlib import Path
from srl.files import new_folder
with new_folder(Path(sys.argv[1]), overwrite=True, marker="0") as folder:
    for index in range(int(sys.argv[2])):
        (folder / str(index)).write_text("new")
    print("written", flush=True)
"""


def started(code, *arguments):
    """A process, once it has printed its line."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline()
    return process


def test_a_folder_has_one_owner_at_a_time(tmp_path):
    folder = tmp_path / "run"
    holder = started(HOLD, folder)
    with pytest.raises(UserError, match=f"in use by process {holder.pid} on .* since ") as found, locked(folder):
        pass
    assert "\n" not in str(found.value)
    holder.kill()
    holder.wait()
    assert (folder / ".lock").exists()  # left behind, and stale
    with locked(folder):
        assert f'"pid": {os.getpid()}' in (folder / ".lock").read_text()
    assert not (folder / ".lock").exists()


def test_a_lock_leaves_nothing_and_takes_nothing(tmp_path):
    with locked(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
    with locked(tmp_path / "used"):
        (tmp_path / "used/file").write_text("kept")
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["file"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old/.lock").write_text("no JSON")
    with locked(tmp_path / "old"), locked(tmp_path / "other"):
        pass
    assert (tmp_path / "old").is_dir()


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01])
def test_a_kill_at_the_exchange_loses_neither_the_old_nor_the_new(tmp_path, delay):
    out = tmp_path / "out"
    out.mkdir()
    for index in range(N_FILES):
        (out / str(index)).write_text("old")
    process = started(REPLACE, out, N_FILES)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:  # until the exchange has begun, in whatever way
        if not out.exists() or not (out / "2999").exists() or list(tmp_path.glob(".out.old-*")):
            break
        if (out / "0").read_text() == "new":
            break
    time.sleep(delay)
    process.kill()
    process.wait()
    with pytest.raises(UserError, match="not empty"), new_folder(out):
        pass
    texts = [path.read_text() for path in out.iterdir() if path.name != ".lock"]
    assert len(texts) == N_FILES
    assert len(set(texts)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_killed_processes_leave_is_cleared_and_what_others_write_is_not(tmp_path):
    out = tmp_path / "out"
    slow = "import time\n" + REPLACE.replace('print("written", flush=True)', "print(1, flush=True); time.sleep(60)")
    killed, going_on = started(slow, out, 1), started(slow, out, 1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    hidden = list(tmp_path.glob(".out.*"))
    assert len(hidden) == 2
    with new_folder(out) as folder:
        (folder / "0").write_text("mine")
        assert len(list(tmp_path.glob(".out.*"))) == 2  # mine, and that of the process that goes on
    going_on.kill()
    going_on.wait()
    assert (out / "0").read_text() == "mine"


def test_two_at_once_do_not_overwrite_one_another_silently(tmp_path):
    slow = new_folder(tmp_path / "out")
    (slow.__enter__() / "0").write_text("slow")
    with new_folder(tmp_path / "out") as fast:
        (fast / "0").write_text("fast")
    with pytest.raises(UserError, match="not empty"):
        slow.__exit__(None, None, None)
    assert (tmp_path / "out/0").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_run_was_writing_is_cleared_and_nothing_else(tmp_path):
    write_text(tmp_path / "run.json", "{}")
    (tmp_path / ".model").mkdir()
    (tmp_path / ".run.json.0123abcd").write_text("half")
    (tmp_path / ".gitignore").write_text("*")
    clear_left_overs(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", ".gitignore"}
    shutil.rmtree(tmp_path)


def test_a_folder_in_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: expected a folder to write in"), new_folder(tmp_path / "file/out"):
        pass
    with pytest.raises(UserError, match="file/run: expected a folder to write in"), locked(tmp_path / "file/run"):
        pass
