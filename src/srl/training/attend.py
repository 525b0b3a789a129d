"""A run from its opening to its end: one process group has the folder, and what goes wrong outside is one line."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from accelerate import PartialState

from srl.engines.engines import require_vllm
from srl.errors import UserError, disk_fault
from srl.files import locked
from srl.runs.folder import RunFolder, open_run
from srl.runs.recipe import Recipe
from srl.training.heartbeat import watched_by_one_another
from srl.training.out_of_memory import is_out_of_memory, what_to_change

FOR_GPUS = ("fsdp", "deepspeed", "use_vllm")

LOST_PEER = re.compile(r"gloo|nccl|connection (reset|closed)|broken pipe|socket", re.IGNORECASE)
"""In what torch raises where another process of the run has ended or does not answer."""


@contextmanager
def attended(recipe: Recipe, processes: PartialState, *, resume: bool, overwrite: bool) -> Iterator[RunFolder]:
    """The run folder, opened and locked by the main process; the others wait until it is.

    Raises:
        UserError: as `open_run`; vLLM is asked for and does not fit; another process has the folder; the disk is full,
            read-only or gone; another process of this run has ended; memory is full.
    """
    run = RunFolder(recipe.output_dir)
    if recipe.trl.get("use_vllm"):
        require_vllm("[trl] use_vllm")
    with ExitStack() as stack:
        stack.enter_context(watched_by_one_another(processes))
        try:
            with processes.main_process_first():
                if processes.is_main_process:
                    stack.enter_context(locked(run.path, "end it, or wait; two runs would mix their lines"))
                    open_run(recipe, resume=resume, overwrite=overwrite)
            yield run
        except UserError:
            raise
        except Exception as error:
            if (line := _in_one_line(error, recipe, run, processes)) is None:
                raise
            raise UserError(line) from error


def check_launch(recipe: Recipe, processes: PartialState) -> None:
    """Make sure that as many processes run as were asked for, on devices that the recipe's options are for.

    Raises:
        UserError: an option for GPUs, and there are none: accelerate would pass over some without a word.
            `accelerate launch --cpu --num_processes N` has started one process, also without a word. It then leaves an
            address at which several would meet, and no number of them.
    """
    by_accelerate = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
    if by_accelerate and processes.num_processes == 1 and "WORLD_SIZE" not in os.environ:
        raise UserError(
            "accelerate launch --cpu was asked for several processes and has started one; use "
            "torchrun --nproc_per_node N -m srl.cli train …"
        )
    asked = [name for name in FOR_GPUS if recipe.trl.get(name)]
    if asked and not torch.accelerator.is_available():
        raise UserError(
            f"[trl] {asked[0]} = {recipe.trl[asked[0]]!r} is for GPUs, and this machine has none; train where "
            "there are some, or set it to false"
        )


def how_to_go_on(run: RunFolder) -> str:
    """The command that takes up a run, for messages."""
    return f"go on with: srl train {run.path / 'config.toml'} --resume"


def _in_one_line(error: Exception, recipe: Recipe, run: RunFolder, processes: PartialState) -> str | None:
    """What happened outside the program; None if it is an error of its own."""
    if processes.num_processes > 1 and isinstance(error, RuntimeError) and LOST_PEER.search(str(error)):
        reason = str(error).splitlines()[0]
        return (
            f"process {processes.process_index} of {processes.num_processes}: another one has ended or does not "
            f"answer ({reason:.200}); {how_to_go_on(run)}"
        )
    if is_out_of_memory(error):
        return f"{what_to_change(recipe, processes)}; then start a new run"
    fault = disk_fault(error)
    if not run.exists:
        return fault or f"{run.path}: the run folder is gone ({str(error).splitlines()[0]:.200})"
    if fault:
        free = shutil.disk_usage(run.path).free / 1e9
        kept = f"{run.last_checkpoint.name} is whole; " if run.last_checkpoint else ""
        return f"{run.path}: {fault} ({free:.1f} GB free); {kept}make room or mend it, then {how_to_go_on(run)}"
    return None
