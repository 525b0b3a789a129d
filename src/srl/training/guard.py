"""Training that diverges stops at the first number that is not finite, before anything is saved of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from srl.errors import UserError
from srl.runs.folder import RunFolder

WATCHED = {"loss": "the loss", "grad_norm": "the norm of the gradient", "eval_loss": "the held-out loss"}
TRIAL_TOKENS = 8


class DivergenceGuard(TrainerCallback):
    """Stops every process at the first loss or gradient that is not finite, and when the model gives no numbers.

    The model is tried on a few tokens after each step: sampling from NaN would fail somewhere else first, and the last
    step has no loss after it. Needs `logging_nan_inf_filter` False: transformers otherwise logs 0 in place of NaN.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Look at what was logged; saving comes later.

        Raises:
            UserError: a loss or gradient is not finite.
        """
        for name, spoken in WATCHED.items():
            skipped = args.fp16 and name == "grad_norm"  # float16's loss scaling tries, and skips, such steps
            if name in logs and not math.isfinite(logs[name]) and not skipped:
                raise self._diverged(state, f"{spoken} is {logs[name]}")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Try the model that the step has left.

        Raises:
            UserError: its outputs are not finite.
        """
        if not _is_finite(model):
            raise self._diverged(state, "the model's outputs are not finite")

    def _diverged(self, state: TrainerState, what: str) -> UserError:
        last = self.run.last_checkpoint
        good = f"the last good checkpoint is {last}" if last else "there is no checkpoint before it"
        return UserError(
            f"step {state.global_step}: {what}: training has diverged. No model is written; {good}. Start a new run "
            f"with a lower optim.learning_rate{', or from that checkpoint' if last else ''}"
        )


@torch.no_grad()
def _is_finite(model: Any) -> bool:
    """Whether a model still gives finite logits. Without dropout, so that no random number is drawn."""
    device = next(model.parameters()).device
    ids_BT = torch.arange(1, 1 + TRIAL_TOKENS, device=device)[None]
    training = model.training
    model.eval()
    logits = model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False).logits
    model.train(training)
    return bool(logits.isfinite().all())
