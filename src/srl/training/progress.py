"""What a person sees of a training run, and what metrics.jsonl keeps of it."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from srl.runs.folder import RunFolder
from srl.runs.progress import Progress

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


class RunProgress(TrainerCallback):
    """Progress of a run, and every logged metric to metrics.jsonl. Rank 0 only.

    On all ranks it also ends the run, with evaluation and checkpoint as they are due, once `max_num_tokens` are used.
    """

    def __init__(self, run: RunFolder, max_num_tokens: int = 0) -> None:
        self.run, self.max_num_tokens = run, max_num_tokens
        self.progress: Progress | None = None
        self.share_of_tokens = 0.0
        self.n_evaluated = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show that training starts."""
        if state.is_world_process_zero:
            self.progress = Progress("step", state.max_steps, state.global_step).__enter__()
            if args.eval_on_start:
                self.tell("evaluating the start", at_once=True)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show that the first step has begun; later ones are shown with what the one before came to."""
        if not state.global_step:
            self.tell("the first step", at_once=True)

    def tell(self, text: str, *, at_once: bool = False) -> None:
        """Show what is being done within a step."""
        if self.progress:
            self.progress.update(self.progress.done, text, at_once=at_once)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, eval_dataloader: Any, **_: Any
    ) -> None:
        """Show how far an evaluation is."""
        self.n_evaluated += 1
        if self.progress:
            text = f"held-out batch {self.n_evaluated}/{len(eval_dataloader)}"
            self.progress.update(state.global_step, text, self._expected_steps(state))

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
        self._show(logs, state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the bar away."""
        if self.progress:
            self.progress.__exit__()

    def _show(self, logs: dict[str, float], state: TrainerState) -> None:
        forms = SHOWN if {"reward", "eval_reward"} & logs.keys() else SHOWN_OF_SFT
        shown = ", ".join(form.format(logs[name]) for name, form in forms.items() if logs.get(name) is not None)
        if not shown or not self.progress:
            return
        if any(name.startswith("eval_") for name in logs):
            self.n_evaluated = 0
            self.progress.line(f"step {state.global_step}/{state.max_steps}  {shown}")
        else:
            self.progress.update(state.global_step, shown, self._expected_steps(state))

    def _expected_steps(self, state: TrainerState) -> int:
        """Steps until the run ends, by steps or by tokens, whichever comes first."""
        if not self.share_of_tokens:
            return state.max_steps
        return min(state.max_steps, max(state.global_step, round(state.global_step / self.share_of_tokens)))
