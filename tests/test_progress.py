"""What is seen of long work, on a terminal and in a pipe."""

import io
import time
from datetime import timedelta

from srl.runs import progress
from srl.runs.progress import Progress, shown_while


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_in_a_pipe_lines_come_now_and_then_and_at_the_end(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(Progress, "_last_of_any", 0.0)
    out = io.StringIO()
    with Progress("training", 40, stream=out) as shown:
        for step in range(1, 41):
            now += 1.0
            shown.update(step, f"reward {step / 40:.2f}")
    lines = out.getvalue().splitlines()
    assert 3 < len(lines) < 40
    assert lines[-1] == "training 40/40  reward 1.00"
    assert all(" left" in line for line in lines[:-1])


def test_the_eta_follows_the_recent_speed(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress("x", 200, stream=io.StringIO())
    assert shown.remaining is None
    for step in range(1, 101):
        now += 1.0
        shown.update(step)
    assert shown.remaining == timedelta(seconds=100)
    for step in range(101, 121):
        now += 3.0
        shown.update(step)
    assert shown.remaining == timedelta(seconds=240)


def test_while_nothing_happens_the_last_line_comes_again_and_the_eta_shrinks(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_OF_SILENCE", 0.0)
    monkeypatch.setattr(Progress, "_last_of_any", 0.0)
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    out = io.StringIO()
    with Progress("step", 3, stream=out) as shown:
        now = 10.0
        shown.update(1, "reward 0.50")
        now = 14.0
        deadline = time.time() + 20
        while "(4 s)" not in out.getvalue() and time.time() < deadline:
            time.sleep(0.05)
        now = 60.0
        assert shown.remaining == timedelta(seconds=10)  # of the last step, after the one that takes so long
    assert "step 1/3  reward 0.50  0:00:16 left  (4 s)" in out.getvalue().splitlines()
    n_lines = out.getvalue().count("\n")
    time.sleep(1.2)
    assert out.getvalue().count("\n") == n_lines  # its thread has ended


def test_on_a_terminal_there_is_a_bar_and_lines_stay_above_it():
    out = Terminal()
    with Progress("evaluating", 2, stream=out) as shown:
        shown.update(1, "half [done]")
        shown.line("step 1: [3.2, 4.5]")
    text = out.getvalue()
    assert "evaluating" in text
    assert "1/2" in text
    assert "step 1: [3.2, 4.5]" in text  # brackets are no markup


def test_work_without_a_known_end_is_counted():
    out = io.StringIO()
    with Progress("read", None, stream=out) as shown:
        shown._last_line = -1e9
        shown.update(12_345, "kept 12,000")
        assert shown.remaining is None
    assert out.getvalue() == "read 12,345  kept 12,000\n"


def test_short_pieces_of_work_one_after_another_are_not_silent(monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(Progress, "_last_of_any", 0.0)
    out = io.StringIO()
    for what in ("loading libraries", "loading the model", "preparing"):
        shown = Progress(what, None, stream=out)
        now += 6.0
        shown.still_at_it()
    assert out.getvalue() == "loading the model  (6 s)\n"


def test_under_torchrun_the_first_process_shows_it(monkeypatch):
    assert isinstance(shown_while("preparing"), Progress)
    monkeypatch.setenv("RANK", "1")
    assert not isinstance(shown_while("preparing"), Progress)
