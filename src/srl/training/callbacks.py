"""What watches a training run, in the order in which it is told of each event."""

from __future__ import annotations

from transformers import TrainerCallback

from srl.runs.folder import RunFolder
from srl.runs.recipe import Recipe
from srl.training.checkpoints import WholeCheckpoints
from srl.training.guard import DivergenceGuard
from srl.training.progress import RunProgress


def run_callbacks(recipe: Recipe) -> list[TrainerCallback]:
    """Progress, then the guard, so that the number which ends a run is logged; checkpoints are whole after that."""
    run = RunFolder(recipe.output_dir)
    return [
        RunProgress(run, recipe.optim.max_num_tokens),
        DivergenceGuard(run),
        WholeCheckpoints(run, recipe.checkpoints.save_total_limit),
    ]
