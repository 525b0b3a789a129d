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
    log                               speeds; means over rows in evaluation; training rollouts go to completions/ once
    _save_checkpoint                  also save where the refills are, and what was kept lately
    _load_optimizer_and_scheduler     and restore it, and the order of the prompts
    _get_train_sampler                keep the sampler for that; refuse rows that fill no batch

The parents override more: `chat_trainer` how prompts become tokens and completions text, `shared_prefix.trainer`
how log-probs are computed and samples drawn.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather, gather_object

from srl.errors import UserError
from srl.files import write_text
from srl.shared_prefix.trainer import SharedPrefixTrainer
from srl.training.chat_trainer import ChatTrainer
from srl.training.config import SRLConfig
from srl.training.dynamic_sampling import RECENT_STEPS, RefillCursor, first_round_size, is_informative, refill_size
from srl.training.expert_logprobs import expert_logprob_gains
from srl.training.held_out import RowMeans
from srl.training.preflight import Preflight
from srl.training.rollout_table import add_rollouts, empty_table
from srl.training.rollouts import Group, Rollout, share_out, weighted_sum

logger = logging.getLogger(__name__)

REFILL_STATE = "refill_state.json"


class SRLTrainer(ChatTrainer, SharedPrefixTrainer):
    """`GRPOTrainer` whose batches hold only informative groups. Takes `GRPOTrainer`'s arguments.

    Options that a `GRPOConfig` lacks have the defaults of `SRLConfig`. Refused by name: streams of rows, tools,
    environments, images.

    Serves SRL and RLVR alike: with 0/1 rewards the same filter keeps groups with 0 < correct < G.
    """

    _tag_names = ["trl", "srl"]  # noqa: RUF012  (TRL's own way to tag a trainer)
    _name = "SRL"
    _paper = {  # noqa: RUF012
        "title": "Supervised Reinforcement Learning: From Expert Trajectories to Step-wise Reasoning",
        "id": "2510.25992",
    }

    _config = SRLConfig
    # What TRL may ask for before `__init__` ends.
    _replayed: list[Group] | None = None
    _evaluated: RowMeans | None = None
    _table_is_written = False
    preflight: Preflight | None = None
    told: Callable[[str], None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        evaluated = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset or ()]
        if not all(isinstance(rows, Sized) for rows in [self.train_dataset, *evaluated]):
            raise UserError("SRLTrainer draws and counts rows by index: expected map-style datasets, found a stream")
        if self.tools or self.environments is not None or self._is_vlm:
            raise UserError("SRLTrainer takes text prompts only: no tools, environments or images")
        self._refill = RefillCursor(len(self.train_dataset), self.args.seed)
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT_STEPS)
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
        if self._table_is_written:
            self._logs, self._table_is_written = empty_table(), False
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
        """Sample rounds of groups until the processes together have enough informative ones for all their batches.

        Returns (the groups to train on here, those sampled here that nobody trains on). All processes run the same
        number of rounds of the same size, because generation and `gather` are collective.
        """
        wanted, n_processes = len(inputs) // self.num_generations, self.accelerator.num_processes
        n_wanted = wanted * n_processes
        extra = first_round_size(n_wanted, self._recent, self.args.max_oversampling) - n_wanted
        groups = self._sample_round(inputs + self._refill_rows(math.ceil(extra / n_processes)))
        n_kept, n_refills = self._count_informative(groups), 0
        while n_kept < n_wanted and n_refills < self.args.max_refills:
            if self.told:
                self.told(f"{n_kept} of {n_wanted} groups have signal, refill {n_refills + 1}")
            size = refill_size(n_wanted - n_kept, n_kept, len(groups) * n_processes, largest=n_wanted)
            groups += self._sample_round(self._refill_rows(math.ceil(size / n_processes)))
            n_kept, n_refills = self._count_informative(groups), n_refills + 1
        self._recent.append((n_kept, len(groups) * n_processes))
        chosen, dropped = share_out(groups, wanted, self.accelerator.process_index)
        self._log_filter(groups, n_refills, n_missing=sum(not group.informative for group in chosen))
        return chosen, dropped

    def _sample_round(self, rows: list[dict[str, Any]]) -> list[Group]:
        """Generate and reward one completion per row; rows come in groups of G equal prompts."""
        prompts = [row["prompt"] for row in rows]
        prompt_ids, completion_ids, env_mask, messages, logprobs, columns, _, _ = super()._generate(prompts)
        none = [None] * len(rows)
        parts = zip(prompt_ids, completion_ids, messages, logprobs or none, env_mask or none, strict=True)
        rollouts = [Rollout(*one) for one in parts]
        rows = [row | self._columns_of(columns, i) for i, row in enumerate(rows)]
        rewards_BF = self._rewards(rows, prompts, messages, completion_ids).cpu()
        first = self.accelerator.process_index * len(rows)
        rewards_BF = rewards_BF[first : first + len(rows)]
        reward_B = weighted_sum(rewards_BF, self.reward_weights)
        extra = dict(self._pending_extra_logs)
        self._pending_extra_logs.clear()

        groups = []
        for start in range(0, len(rows), self.num_generations):
            span = slice(start, start + self.num_generations)
            reward_G = reward_B[span].tolist()
            informative = not self.args.dynamic_sampling or self._is_informative(reward_G, rewards_BF[span])
            logged = {name: values[span] for name, values in extra.items()}
            groups.append(Group(rows[span], rollouts[span], rewards_BF[span], reward_G, logged, informative))
        return groups

    def _columns_of(self, fields: dict[str, Any], index: int) -> dict[str, Any]:
        """What a `rollout_func` adds to a row, for the reward functions: TRL's rule."""
        return {name: values[index] if isinstance(values, list) else values for name, values in fields.items()}

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

    def _count_informative(self, groups: list[Group]) -> int:
        """Informative groups so far, over all processes."""
        return sum(gather_object([sum(group.informative for group in groups)]))

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL's hook: the completions of a batch."""
        if self._replayed is None:
            return super()._generate(prompts)
        rollouts = [rollout for group in self._replayed for rollout in group.rollouts]
        prompt_ids, completion_ids, messages, *optional = map(list, zip(*rollouts, strict=True))
        logprobs, env_mask = (None if column[0] is None else column for column in optional)
        return prompt_ids, completion_ids, env_mask, messages, logprobs, {}, None, []

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        """TRL's hook: rewards of all processes, (B, reward functions)."""
        if self._replayed is None:
            return self._rewards(inputs, prompts, completions, completion_ids_list)
        for group in self._replayed:
            for column, values in group.table_columns(kept=group.informative).items():
                self._log_completion_extra(column, values)
        return gather(torch.cat([group.rewards_GF for group in self._replayed]).to(self.accelerator.device))

    # --- rewards ------------------------------------------------------------------------------------

    def _rewards(
        self, rows: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids: list[list[int]]
    ) -> torch.Tensor:
        """What TRL's reward functions say, given our columns too: all processes' (B, reward functions).

        NaN for what does not count: in training, a truncated completion that `mask_truncated_completions` keeps out of
        the loss; in evaluation, a row that is repeated to fill a batch.
        """
        start = time.perf_counter()
        # TRL's rule: the last token does not end the text.
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        rows = [{**row, "truncated": ids[-1] not in ends} for row, ids in zip(rows, completion_ids, strict=True)]
        if self.args.expert_logprob_gain:
            gains = expert_logprob_gains(self, self.chat, rows, prompts, completions)
            rows = [{**row, "expert_logprob_gain": gain} for row, gain in zip(rows, gains, strict=True)]
        if evaluated := self._evaluation():
            rows = evaluated.marked(rows, self.accelerator.process_index, self.accelerator.num_processes)
        rewards_BF = super()._calculate_rewards(rows, prompts, completions, completion_ids)
        left_out = "repeated" if evaluated else "truncated" if self.mask_truncated_completions else None
        flags = [bool(left_out and row[left_out]) for row in rows]
        rewards_BF[gather(torch.tensor(flags, device=rewards_BF.device))] = torch.nan
        if evaluated:
            evaluated.add(rewards_BF, self._pending_metrics)
            self._pending_metrics.clear()
        if self.preflight:
            self.preflight.look(self, rows, completion_ids, completions, rewards_BF)
        self._reward_seconds += time.perf_counter() - start
        return rewards_BF

    def _evaluation(self) -> RowMeans | None:
        """What the evaluation under way has measured; None in training."""
        if self.model.training:
            return None
        if self._evaluated is None:
            loader = self.callback_handler.eval_dataloader
            self._evaluated = RowMeans(len(loader.dataset) * self.num_generations_eval if loader else math.inf)
        return self._evaluated

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
        elif self._evaluated:
            metrics = self._metrics["eval"]
            means = self._evaluated.means(metrics, self.reward_weights, self.reward_func_names)
            metrics.update({name: [mean] for name, mean in means.items()})
            self._evaluated = None
        write = self.args.log_completions and training and not self._table_is_written
        self.log_completions = write and bool(self._logs["prompt"])
        super().log(logs, start_time)
        self.log_completions = self.args.log_completions
        if training:
            self._table_is_written = True  # it stays, for whoever wants to read it, until the next batch
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
            write_text(
                folder / REFILL_STATE, json.dumps({"position": self._refill.position, "recent": [*self._recent]})
            )
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """TRL's hook for state of its own, called on every process when a run resumes."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            state = json.loads(Path(checkpoint, REFILL_STATE).read_text())
            self._refill.position = state["position"]
            self._recent = deque(map(tuple, state.get("recent", [])), RECENT_STEPS)  # version 0.1 had none
            for _ in range(int(self.state.epoch)):  # transformers skips the batches of this epoch, not those before
                next(iter(self._sampler))
