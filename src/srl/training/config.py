"""`SRLConfig`: TRL's `GRPOConfig` with what SRL adds and the paper's values."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import torch

from srl.errors import UserError
from srl.shared_prefix.trainer import SharedPrefixConfig

# Of names in TRL's options and calls, which nobody who trains can change.
warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing(_kwargs)?` is deprecated", FutureWarning)


CHOICES: dict[str, tuple[str, ...]] = {
    "loss_type": ("grpo", "dapo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
}
"""TRL's, of options that it looks at only in a trainer that is built, or at the first loss."""


def usual_oversampling() -> float:
    """On a GPU a sampling round takes about as long whatever its size; on a CPU, as long as it is large."""
    return 1.5 if torch.accelerator.is_available() else 1.0


@dataclass
class SRLConfig(SharedPrefixConfig):
    """`GRPOConfig` with dynamic sampling and shared prefixes; the changed defaults are the paper's (table 8, eq. 1)."""

    dynamic_sampling: bool = field(
        default=True,
        metadata={"help": "Train only on groups whose rewards spread, sampling on until the batch is full."},
    )
    min_reward_std: float = field(
        default=0.01,
        metadata={"help": "Keep a group iff the population std of its rewards exceeds this. The paper gives no value."},
    )
    max_refills: int = field(
        default=10, metadata={"help": "Sampling rounds after the first before a batch is trained on short."}
    )
    max_oversampling: float | None = field(
        default=None,
        metadata={
            "help": "The first round draws what the kept share of recent steps says is needed, at most this many times "
            "the batch. None: 1.5 on an accelerator, 1 on a CPU."
        },
    )
    expert_logprob_gain: bool = field(
        default=False,
        metadata={
            "help": "Give reward functions a column of this name: by how much the thought raises the mean log-prob of "
            "the expert's action. Needs `expert_action` in the rows, and one more forward pass."
        },
    )
    learning_rate: float = field(default=5e-7, metadata={"help": "Paper, table 8."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Paper: no warm-up; schedule not stated."})
    loss_type: str = field(default="grpo", metadata={"help": "Mean over tokens, then over completions: eq. 1."})
    logging_steps: float = field(default=1, metadata={"help": "Log every step."})
    log_completions: bool = field(default=True, metadata={"help": "Write each step's rollouts to completions/."})
    num_completions_to_print: int | None = field(default=0, metadata={"help": "Of these, print so many."})

    def check(self) -> None:
        """Also what dynamic sampling and exact resuming need of TRL's batch sizes."""
        super().check()
        if self.max_oversampling is None:
            self.max_oversampling = usual_oversampling()
        if not 1 <= self.max_oversampling < math.inf:
            raise UserError(f"max_oversampling: expected a number from 1 on, found {self.max_oversampling}")
        for name, choices in CHOICES.items():
            if (found := getattr(self, name)) not in choices:
                raise UserError(f"{name} = {found!r}: expected one of {', '.join(map(repr, choices))}")
        if self.top_k < 0:
            raise UserError(f"top_k = {self.top_k}: expected a number from 0 on; 0 keeps all tokens")
        local_rows = self.per_device_train_batch_size * self.steps_per_generation
        if local_rows % self.num_generations:
            raise UserError(
                f"each process must hold whole groups: per_device_train_batch_size × steps_per_generation is "
                f"{local_rows}, not a multiple of num_generations = {self.num_generations}"
            )
        steps_per_batch = max(1, self.steps_per_generation * self.num_iterations // self.gradient_accumulation_steps)
        if self.save_strategy == "steps" and self.save_steps % steps_per_batch:
            raise UserError(
                f"save_steps = {self.save_steps:g} would cut a generation batch in two (it serves "
                f"{steps_per_batch} optimizer steps); make save_steps a multiple of {steps_per_batch}"
            )
