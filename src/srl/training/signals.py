"""Ctrl-C and SIGTERM: the step is finished, a checkpoint saved, and the run ends, all within a bound of time."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from srl.runs.folder import RunFolder
from srl.training.attend import how_to_go_on

GRACE_SECONDS = 25.0
"""From the signal to the end, whatever is going on. `torchrun`, Slurm and Kubernetes kill after 30."""

IMPATIENCE_SECONDS = 1.0
"""A second signal ends the run at once if it comes later: `torchrun` passes on what a terminal has sent already."""

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping_at_signals(trainer: Trainer, run: RunFolder) -> Iterator[None]:
    """Meanwhile a signal saves what can be saved and ends the process with 128 + its number, as shells expect."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    stop = StopAtSignal(run, _steps_per_batch(trainer.args))
    trainer.add_callback(stop)
    inside, outside = socket.socketpair()
    inside.setblocking(False)
    # Python runs handlers between two of its own instructions, which may never come where a collective waits; the
    # byte for this socket is written at once, and a thread waits for it.
    before = {number: signal.signal(number, _ignore) for number in STOPPING}
    wakeup = signal.set_wakeup_fd(inside.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=stop.watch, args=(outside,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        inside.close()


class StopAtSignal(TrainerCallback):
    """Ends a run after the step in which a signal came. Comes after the callback that makes checkpoints whole."""

    def __init__(self, run: RunFolder, steps_per_batch: int) -> None:
        self.run, self.steps_per_batch = run, steps_per_batch
        self.signal: int | None = None
        self.stops = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint, on all processes after the same step.

        Not in the middle of a batch of rollouts, nor where an evaluation without a checkpoint is due: such a
        checkpoint could become the best, which an uninterrupted run would not have.
        """
        if state.global_step % self.steps_per_batch or (control.should_evaluate and not control.should_save):
            return
        if self._any_process_was_told(args):
            self.stops = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The checkpoint is whole: end."""
        if self.stops:
            if state.is_world_process_zero:
                self._say(f"checkpoint-{state.global_step} is saved")
            _end(128 + (self.signal or signal.SIGTERM))

    def _any_process_was_told(self, args: TrainingArguments) -> bool:
        if args.world_size == 1:
            return self.signal is not None
        told = torch.tensor([self.signal is not None], dtype=torch.int32, device=args.device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return bool(told)

    def watch(self, outside: socket.socket) -> None:
        """A thread's work: note the first signal; end everything when time is up or a second one comes."""
        with outside:
            while (number := _next(outside)) not in STOPPING:
                if number is None:  # training has ended
                    return
            self.signal, started = number, time.monotonic()
            if PartialState().is_main_process:
                name = signal.Signals(number).name
                _print(f"{name}: saving after this step, {GRACE_SECONDS:g} s at most; {name} again: at once")
            while (left := started + GRACE_SECONDS - time.monotonic()) > 0:
                outside.settimeout(left)
                again = _next(outside)
                if again is None:
                    return
                if again in STOPPING and time.monotonic() - started > IMPATIENCE_SECONDS:
                    break
        if PartialState().is_main_process:
            last = self.run.last_checkpoint
            self._say(f"this step is lost; {last.name} is kept" if last else "no checkpoint was saved yet")
        os._exit(128 + self.signal)

    def _say(self, what: str) -> None:
        name = signal.Signals(self.signal or signal.SIGTERM).name
        _print(f"srl: stopped by {name}: {what}; {how_to_go_on(self.run)}")


def _next(outside: socket.socket) -> int | None:
    """The number of the next signal, 0 when time is up; None when nothing will come any more."""
    try:
        received = outside.recv(1)
    except TimeoutError:
        return 0
    return received[0] if received else None


def _steps_per_batch(args: Any) -> int:
    """Optimizer steps on the rollouts of one generation batch; 1 where nothing is sampled."""
    if not hasattr(args, "steps_per_generation"):
        return 1
    return max(1, args.steps_per_generation * args.num_iterations // args.gradient_accumulation_steps)


def _ignore(number: int, frame: FrameType | None) -> None:
    """What is done lies in `watch`; a handler in Python is needed for it to be told."""


def _print(line: str) -> None:
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{line}\n".encode())


def _end(code: int) -> None:
    if PartialState().num_processes > 1:  # else Python may wait for, or abort in, the threads of the process group
        sys.stdout.flush()
        os._exit(code)
    raise SystemExit(code)
