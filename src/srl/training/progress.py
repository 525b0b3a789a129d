"""What a person sees of a training run, and what metrics.jsonl keeps of it."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from srl.runs.folder import RunFolder

SHOWN = {
    "reward_before_filtering": "reward {:.3f}",
    "kept_fraction": "kept {:.0%}",
    "format_error_rate": "malformed {:.0%}",
    "samples_per_second": "{:.0f} samples/s",
    "eval_reward": "held-out reward {:.3f}",
    "eval_exact_step_rate": "exact steps {:.1%}",
}
SHOWN_OF_SFT = {
    "loss": "loss {:.3f}",
    "mean_token_accuracy": "token accuracy {:.3f}",
    "eval_loss": "held-out loss {:.3f}",
}
"""The few of TRL's and our metrics that are shown while waiting. (GRPO's loss says nothing: it starts at 0.)"""

SECONDS_BETWEEN_LINES = 5.0


class RunProgress(TrainerCallback):
    """A bar with ETA on a terminal, plain lines otherwise; every logged metric to metrics.jsonl. Rank 0 only.

    On all ranks it also ends the run, with evaluation and checkpoint as they are due, once `max_num_tokens` are used.
    """

    def __init__(self, run: RunFolder, max_num_tokens: int = 0) -> None:
        self.run, self.max_num_tokens = run, max_num_tokens
        self.bar: Progress | None = None
        self.started = self.last_line = 0.0
        self.first_step = 0
        self.share_of_tokens = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock, and the bar on a terminal."""
        self.started, self.first_step = time.monotonic(), state.global_step
        if state.is_world_process_zero and sys.stdout.isatty():
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.description}"), console=Console())
            self.bar.start()
            self.bar.add_task("", total=None if self.max_num_tokens else state.max_steps, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **_: Any,
    ) -> None:
        """Keep the metrics; show the few that tell how it goes."""
        if self.max_num_tokens and "loss" in logs:  # of a step; TRL counts alike on all ranks
            self.share_of_tokens = logs["num_tokens"] / self.max_num_tokens
            if self.share_of_tokens >= 1:
                control.should_training_stop = True
                control.should_evaluate = args.eval_strategy != "no"
                control.should_save = args.save_strategy != "no"
        if not state.is_world_process_zero:
            return
        if "train_loss" in logs:  # transformers' is the mean since the run was resumed
            losses = [line["loss"] for line in state.log_history if "loss" in line]
            logs = logs | {"train_loss": sum(losses) / max(1, len(losses))}
        self.run.append_metrics({"step": state.global_step, **logs})
        forms = SHOWN if {"reward", "eval_reward"} & logs.keys() else SHOWN_OF_SFT
        shown = [form.format(logs[name]) for name, form in forms.items() if logs.get(name) is not None]
        evaluated = any(name.startswith("eval_") for name in logs)
        if self.bar and evaluated:
            self.bar.console.print(f"step {state.global_step}: {', '.join(shown)}")
        elif self.bar:
            total = round(state.global_step / self._share_done(state))
            self.bar.update(
                self.bar.tasks[0].id, completed=state.global_step, total=total, description=", ".join(shown)
            )
        elif shown and (evaluated or self._is_due(state)):
            print(
                f"step {state.global_step}/{state.max_steps}  {', '.join(shown)}{self._remaining(state)}",
                flush=True,
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the bar away."""
        if self.bar:
            self.bar.stop()

    def _is_due(self, state: TrainerState) -> bool:
        due = state.global_step >= state.max_steps or time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES
        if due:
            self.last_line = time.monotonic()
        return due

    def _remaining(self, state: TrainerState) -> str:
        share, before = self._share_done(state), self.first_step / state.max_steps
        if share >= 1 or state.global_step == self.first_step:
            return ""
        seconds = (time.monotonic() - self.started) / (share - before) * (1 - share)
        return f"  {timedelta(seconds=round(seconds))} left"

    def _share_done(self, state: TrainerState) -> float:
        """By steps or by tokens, whichever will end the run first."""
        return max(state.global_step / state.max_steps, self.share_of_tokens)
