"""SRL on TRL: `GRPOTrainer` whose batches hold only informative groups. No mathematics of its own.

A step of TRL is: take a batch of prompts, `_generate_and_score_completions` (sample, reward, advantage), loss.
Here that method first samples until the batch is full of informative groups (`_sample_batch`) and then replays
the chosen groups to TRL: TRL's requests for completions and rewards are answered with the groups' own. So
advantages, old and reference log-probs and every loss option are TRL's, computed after filtering.

Methods of TRL that are overridden here, all but `log` private to TRL. `tests/test_trainer.py` proves that TRL 1.16
calls each of them:

    _generate_and_score_completions   sample a full batch first
    _generate                         while replaying: the completions of the chosen groups
    _calculate_rewards                while replaying: their rewards; else our extra columns for reward functions
    log                               speeds; training rollouts go to completions/ once
    _save_checkpoint                  also save where the refills are
    _load_optimizer_and_scheduler     and restore it, and the order of the prompts
    _get_train_sampler                keep the sampler for that; refuse rows that fill no batch

`shared_prefix.trainer`, the parent class, overrides those that compute log-probs and draw samples.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather, gather_object

from srl.errors import UserError
from srl.files import write_text
from srl.shared_prefix.trainer import SharedPrefixConfig, SharedPrefixTrainer
from srl.training.dynamic_sampling import RefillCursor, is_informative, refill_size
from srl.training.expert_logprobs import expert_logprob_gains
from srl.training.rollouts import Group, add_rollouts, empty_table

logger = logging.getLogger(__name__)

REFILL_STATE = "refill_state.json"


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

    def __post_init__(self) -> None:
        """Derive TRL's batch sizes and check what dynamic sampling and exact resuming need of them."""
        super().__post_init__()
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


class SRLTrainer(SharedPrefixTrainer):
    """`GRPOTrainer` whose batches hold only informative groups. Takes `GRPOTrainer`'s arguments.

    Serves SRL and RLVR alike: with 0/1 rewards the same filter keeps groups with 0 < correct < G.
    """

    _tag_names = ["trl", "srl"]  # noqa: RUF012  (TRL's own way to tag a trainer)
    _name = "SRL"
    _paper = {  # noqa: RUF012
        "title": "Supervised Reinforcement Learning: From Expert Trajectories to Step-wise Reasoning",
        "id": "2510.25992",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.train_dataset, Sized):
            raise UserError("SRLTrainer draws refills by index: expected a map-style dataset, found a stream")
        if self.tools or self.environments is not None or self._is_vlm:
            raise UserError("SRLTrainer takes text prompts only: no tools, environments or images")
        self._refill = RefillCursor(len(self.train_dataset), self.args.seed)
        self._replayed: list[Group] | None = None
        self._logged_at = time.perf_counter()
        self._samples_since_log = 0
        self._tokens_at_log = 0
        self._reward_seconds = 0.0
        # TRL keeps one batch of rollouts for its table; with refills a step has more.
        self._logs = empty_table()

    # --- dynamic sampling ---------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's hook: one generation batch, from prompts to advantages."""
        if not self.model.training:
            with self._no_rollout_table():
                return super()._generate_and_score_completions(inputs)
        chosen, dropped = self._sample_batch(inputs)
        with self._replaying(chosen):
            batch = super()._generate_and_score_completions([row for group in chosen for row in group.rows])
        add_rollouts(self._logs, dropped, self.reward_func_names)
        return batch

    @contextmanager
    def _replaying(self, groups: list[Group]) -> Iterator[None]:
        """Meanwhile, answer TRL's requests for completions and rewards with those of these groups."""
        self._replayed = groups
        try:
            yield
        finally:
            self._replayed = None

    def _sample_batch(self, inputs: list[dict[str, Any]]) -> tuple[list[Group], list[Group]]:
        """Sample rounds of groups until every process has as many informative ones as `inputs` has prompts.

        Returns (the groups to train on, the others). All processes run the same number of rounds of the same
        size, because generation and `gather` are collective.
        """
        wanted = len(inputs) // self.num_generations
        groups = self._sample_round(inputs)
        fewest, n_refills = self._fewest_informative(groups), 0
        while fewest < wanted and n_refills < self.args.max_refills:
            size = refill_size(wanted - fewest, fewest, len(groups), largest=wanted)
            groups += self._sample_round(self._refill_rows(size))
            fewest, n_refills = self._fewest_informative(groups), n_refills + 1

        # Stable: informative groups first, in the order sampled; only a short batch reaches the others.
        groups.sort(key=lambda group: not group.informative)
        chosen, dropped = groups[:wanted], groups[wanted:]
        self._log_filter(groups, n_refills, n_missing=sum(not group.informative for group in chosen))
        return [group if group.informative else group.without_signal() for group in chosen], dropped

    def _sample_round(self, rows: list[dict[str, Any]]) -> list[Group]:
        """Generate and reward one completion per row; rows come in groups of G equal prompts."""
        prompts = [row["prompt"] for row in rows]
        prompt_ids, completion_ids, _, messages, logprobs, _, _, _ = super()._generate(prompts)
        generated = list(zip(prompt_ids, completion_ids, messages, logprobs or [None] * len(rows), strict=True))
        rewards_BF = self._rewards(rows, prompts, messages, completion_ids)
        first = self.accelerator.process_index * len(rows)
        rewards_BF = rewards_BF[first : first + len(rows)]
        reward_B = (rewards_BF * self.reward_weights.to(rewards_BF.device)).nansum(dim=1)
        reward_B[rewards_BF.isnan().all(dim=1)] = torch.nan
        extra = dict(self._pending_extra_logs)
        self._pending_extra_logs.clear()

        groups = []
        for start in range(0, len(rows), self.num_generations):
            span = slice(start, start + self.num_generations)
            reward_G = reward_B[span].tolist()
            informative = not self.args.dynamic_sampling or self._is_informative(reward_G, rewards_BF[span])
            columns = {name: values[span] for name, values in extra.items()}
            groups.append(Group(rows[span], generated[span], rewards_BF[span], reward_G, columns, informative))
        return groups

    def _is_informative(self, reward_G: list[float], rewards_GF: torch.Tensor) -> bool:
        """Whether what TRL will normalize over the group spreads: the sum, or each reward function by itself."""
        normalized = [reward_G] if self.multi_objective_aggregation == "sum_then_normalize" else rewards_GF.T.tolist()
        return any(is_informative(rewards, self.args.min_reward_std) for rewards in normalized)

    def _refill_rows(self, n_groups: int) -> list[dict[str, Any]]:
        """Fresh prompts for this process, G rows each; every process moves the shared cursor alike."""
        indices = self._refill.take(n_groups * self.accelerator.num_processes)
        first = self.accelerator.process_index * n_groups
        rows = [self.train_dataset[i] for i in indices[first : first + n_groups]]
        return [row for row in rows for _ in range(self.num_generations)]

    def _fewest_informative(self, groups: list[Group]) -> int:
        """Informative groups so far, on the process that has the fewest: all agree on when to stop."""
        return min(gather_object([sum(group.informative for group in groups)]))

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL's hook: the completions of a batch."""
        if self._replayed is None:
            return super()._generate(prompts)
        generated = [rollout for group in self._replayed for rollout in group.generated]
        prompt_ids, completion_ids, messages, logprobs = map(list, zip(*generated, strict=True))
        return (
            prompt_ids,
            completion_ids,
            None,
            messages,
            None if logprobs[0] is None else logprobs,
            {},
            None,
            [],
        )

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        """TRL's hook: rewards of all processes, (B, reward functions)."""
        if self._replayed is None:
            return self._rewards(inputs, prompts, completions, completion_ids_list)
        for group in self._replayed:
            for column, values in group.table_columns(kept=group.informative).items():
                self._log_completion_extra(column, values)
        return gather(torch.cat([group.rewards_GF for group in self._replayed]))

    # --- rewards ------------------------------------------------------------------------------------

    def _rewards(
        self, rows: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids: list[list[int]]
    ) -> torch.Tensor:
        """What TRL's reward functions say, given our columns too: all processes' (B, reward functions)."""
        start = time.perf_counter()
        # TRL's rule: the last token does not end the text.
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        rows = [{**row, "truncated": ids[-1] not in ends} for row, ids in zip(rows, completion_ids, strict=True)]
        if self.args.expert_logprob_gain:
            gains = expert_logprob_gains(self, rows, prompts, completions)
            rows = [{**row, "expert_logprob_gain": gain} for row, gain in zip(rows, gains, strict=True)]
        rewards_BF = super()._calculate_rewards(rows, prompts, completions, completion_ids)
        self._reward_seconds += time.perf_counter() - start
        return rewards_BF

    # --- what a run leaves behind -------------------------------------------------------------------

    def _log_filter(self, groups: list[Group], n_refills: int, n_missing: int) -> None:
        """Metrics of dynamic sampling, over all processes."""
        rewards = [reward for group in groups for reward in group.reward_G]
        n_informative = sum(group.informative for group in groups)
        gathered = gather_object([(rewards, len(groups), n_informative, n_missing)])
        all_rewards = [reward for rewards, *_ in gathered for reward in rewards if not math.isnan(reward)]
        n_sampled, n_informative, n_missing = (sum(counts) for counts in list(zip(*gathered, strict=True))[1:])
        metrics = self._metrics["train"]
        metrics["reward_before_filtering"].append(math.fsum(all_rewards) / max(1, len(all_rewards)))
        metrics["kept_fraction"].append(n_informative / n_sampled)
        metrics["refills"].append(n_refills)
        metrics["short_batch_groups"].append(n_missing)
        self._samples_since_log += n_sampled * self.num_generations
        if n_missing:
            n_wanted = self.args.generation_batch_size // self.num_generations
            logger.warning(
                f"step {self.state.global_step + 1}: after {n_refills} refills {n_missing} of {n_wanted} groups are "
                f"still without signal (reward std <= {self.args.min_reward_std:g}); training on a short batch"
            )

    @contextmanager
    def _no_rollout_table(self) -> Iterator[None]:
        """Keep evaluation's rollouts out of the table of training's, which TRL would overwrite."""
        table, self._logs = self._logs, empty_table()
        try:
            yield
        finally:
            self._logs = table

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, plus speeds; training rollouts go to completions/ once."""
        training = self.model.training
        seconds = time.perf_counter() - self._logged_at
        if training and self._samples_since_log:
            tokens = self.state.num_input_tokens_seen - self._tokens_at_log
            self._metrics["train"]["samples_per_second"] = [self._samples_since_log / seconds]
            self._metrics["train"]["tokens_per_second"] = [tokens / seconds]
            self._metrics["train"]["reward_time_share"] = [self._reward_seconds / seconds]
        self.log_completions = self.args.log_completions and training and bool(self._logs["prompt"])
        super().log(logs, start_time)
        if training:
            self._logs = empty_table()
            self._samples_since_log = 0
            self._tokens_at_log = self.state.num_input_tokens_seen
        self._logged_at = time.perf_counter()
        self._reward_seconds = 0.0

    # --- resuming -----------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's hook: the order of the prompts, which is drawn anew for every epoch."""
        n_rows, n_prompts = len(self.train_dataset), self.args.generation_batch_size // self.num_generations
        if n_rows < n_prompts:
            raise UserError(f"{n_rows} rows to train on do not fill one batch of {n_prompts} prompts")
        self._sampler = super()._get_train_sampler(dataset)
        return self._sampler

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's hook; the cursor is written first: a checkpoint with a trainer state is then complete."""
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / REFILL_STATE, json.dumps({"position": self._refill.position}))
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """TRL's hook for state of its own, called on every process when a run resumes."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._refill.position = json.loads(Path(checkpoint, REFILL_STATE).read_text())["position"]
            for _ in range(int(self.state.epoch)):  # transformers skips the batches of this epoch, not those before
                next(iter(self._sampler))
