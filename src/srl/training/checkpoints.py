"""Checkpoints become whole here: the manifest once all processes have written, then old ones go. And are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from srl.errors import UserError
from srl.runs.checkpoints import best_of, n_processes, problem_with, rotate, write_manifest
from srl.runs.folder import RunFolder
from srl.training.out_of_memory import is_out_of_memory


class WholeCheckpoints(TrainerCallback):
    """Writes manifests and rotates; transformers must not rotate (`save_total_limit` None): it would do so before."""

    def __init__(self, run: RunFolder, save_total_limit: int) -> None:
        self.run, self.save_total_limit = run, save_total_limit

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Find the best checkpoint in this folder, and say where numbers will differ from an uninterrupted run's."""
        if not state.global_step:
            return
        checkpoint = self.run.path / f"checkpoint-{state.global_step}"
        if best := best_of(checkpoint):
            state.best_model_checkpoint = str(best)
        before = n_processes(checkpoint)
        if before != args.world_size and state.is_world_process_zero:  # it holds random states for so many
            print(
                f"resumed with {args.world_size} process(es), stopped with {before}: what is sampled from here on "
                "differs from an uninterrupted run",
                flush=True,
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Declare the checkpoint whole, then delete old ones: at every moment there is a whole one."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            write_manifest(self.run.path / f"checkpoint-{state.global_step}", args.world_size)
            rotate(self.run.path, self.save_total_limit, state.best_model_checkpoint)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Refuse to write a model if its checkpoint was damaged meanwhile; transformers would take the last weights.

        Raises:
            UserError: the best checkpoint is no longer whole.
        """
        if args.load_best_model_at_end and state.best_model_checkpoint:
            best = Path(state.best_model_checkpoint)
            if problem := problem_with(best):
                raise UserError(f"{best}: the best checkpoint is no longer whole ({problem}); no model is written")


@contextmanager
def reading(checkpoint: Path | None, trainer: Trainer) -> Iterator[None]:
    """Around training: what is raised before the first step of a resumed run is the checkpoint's fault.

    Raises:
        UserError: its files have the right sizes but cannot be read.
    """
    first_step = _FirstStep()
    trainer.add_callback(first_step)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if checkpoint is None or first_step.begun or is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"{checkpoint} cannot be read ({type(error).__name__}: {reason:.200}); delete it, and "
            "--resume goes on from the one before it"
        ) from error


class _FirstStep(TrainerCallback):
    begun = False

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """All of the checkpoint has been read."""
        self.begun = True
