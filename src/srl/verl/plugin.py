"""What verl loads of srl, in its own processes and environment: reward, filter of groups, advantages, checkpoints.

Tested with verl 0.9.1, whose options name the classes here (`srl.verl.options`). Nothing else in srl imports this.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
import transfer_queue
from transformers import AutoTokenizer
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.protocol import DataProto
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback
from verl.trainer.ppo.core_algos import register_adv_est
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from srl.runs.recipe import Recipe, read_recipe
from srl.training.dynamic_sampling import is_informative
from srl.verl.metrics import held_out_rewards
from srl.verl.scoring import Scored, Scorer, advantages, exported_chat

TOLD = "srl"
"""verl's name for all that the reward told of a completion; of texts verl makes no means."""

MIN_FAULTY = 8
"""So many faulty completions at least end a run: of fewer no share can be told."""

TRAIN = "train"
"""verl's name for the part of its queue with prompts to train on; the other is "val"."""


def _folder(config: Any) -> Path:
    return Path(config.trainer.v1.sampler.sampler_kwargs.folder)


class StepRewards(RewardManagerBase):
    """verl's reward manager: rewards each completion as srl does with TRL.

    verl's own would decode without special tokens, of which `<think>` is one in some vocabularies, and does not tell a
    reward function whether a completion was cut off.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **others: Any) -> None:
        super().__init__(config, tokenizer, compute_score)
        recipe = read_recipe(_folder(config) / "recipe.toml")
        self.scorer = Scorer(recipe, exported_chat(_folder(config), tokenizer, recipe))

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """The reward of one completion, and numbers of which verl logs means for held-out problems."""
        item = data[-1]
        responses = item.batch["responses"]
        length = int(item.batch["attention_mask"][-len(responses) :].sum())
        ids, row = responses[:length].tolist(), item.non_tensor_batch["srl_row"]
        scored = await asyncio.get_running_loop().run_in_executor(None, self.scorer, ids, row)
        # A mean must be over equally many numbers for each prompt; `srl.verl.metrics` divides by the well-formed share.
        metrics = {"step_similarity": 0.0, **scored.metrics} if scored.metrics else {}
        return {"reward_score": scored.reward, "reward_extra_info": {**metrics, TOLD: json.dumps(asdict(scored))}}


@dataclass
class _Group:
    """The sampled completions of one prompt."""

    rows: list[dict[str, Any]]
    """Of the table of rollouts."""
    metrics: list[dict[str, float]]
    n_tokens: int = 0
    """Of prompts and completions."""

    @property
    def rewards(self) -> list[float]:
        """In the order of rows."""
        return [row["reward"] for row in self.rows]


class InformativeGroups(ReplayBuffer):
    """verl's replay buffer, which drops a group unless its rewards deviate by more than `rollout.min_reward_std`.

    verl's own drops a group only if they do not deviate at all. Also: after `rollout.max_refills` batches of further
    prompts a batch is filled with groups without signal, whose advantages are 0; a completion that could not be sampled
    or rewarded ends the run; and the rollouts of each step, dropped ones too, go to completions/.
    """

    def __init__(self, sampler_kwargs: Any, **arguments: Any) -> None:
        self.folder = Path(sampler_kwargs["folder"])
        self.recipe = read_recipe(self.folder / "recipe.toml")
        rollout = self.recipe.rollout
        super().__init__(
            sampler_kwargs=sampler_kwargs,
            filter_groups_metric="reward" if rollout.dynamic_sampling else None,
            train_batch_size=rollout.prompts_per_step,
            gen_batch_size=1 if rollout.dynamic_sampling else rollout.prompts_per_step,
            **arguments,
        )
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "tokenizer")
        self.chat = exported_chat(self.folder, tokenizer, self.recipe)
        self.most_groups = rollout.prompts_per_step * (1 + rollout.max_refills)
        self.groups: dict[str, _Group] = {}
        """Of the step that is sampled, by verl's id of the prompt."""
        _register_advantages(self.recipe)

    def _sync_metadata_from_transfer_queue(self) -> None:
        super()._sync_metadata_from_transfer_queue()
        if any(self.failure_keys.values()):
            raise RuntimeError("a completion could not be sampled or rewarded; the error stands further up")

    def _dapo_filtered_keys(self, partition_id: str) -> tuple[set[str], Counter]:
        """verl's hook: the finished groups to drop, and how many of them had which mean."""
        if partition_id != TRAIN or self.filter_groups_metric is None:
            return set(), Counter()
        finished = self.finished_keys[TRAIN]
        self._note(finished - self.groups.keys())
        if len(self.groups) >= self.most_groups:
            return set(), Counter()
        dropped = {uid for uid in finished if not self._is_informative(uid)}
        return dropped, Counter(round(_mean(self.groups[uid].rewards), 2) for uid in dropped)

    def _select_prompt_uids(
        self, partition_id: str, sampleable_keys: set[str], batch_size: int
    ) -> tuple[Any, Any, Any]:
        """verl's hook: the groups of the batch; those with signal first, then the oldest."""
        _, *snapshots = super()._select_prompt_uids(partition_id, sampleable_keys, batch_size)
        steps = self.prompt_global_steps[partition_id]

        def rank(uid: str) -> tuple[bool, int]:
            return partition_id == TRAIN and uid in self.groups and not self._is_informative(uid), steps.get(uid, 0)

        return sorted(sampleable_keys, key=rank)[:batch_size], *snapshots

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """A batch, and metrics; the rollouts of a step go to completions/."""
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id != TRAIN:
            return batch, metrics
        kept = {_prompt_of(key) for key in batch.keys}
        self._note(kept - self.groups.keys())
        if global_steps == 1:
            self._check_form()
        metrics |= {f"srl/{name}": value for name, value in self._metrics(kept).items()}
        self._write_table(global_steps, kept)
        self.groups = {}
        return batch, metrics

    def _check_form(self) -> None:
        """End a run whose first completions are malformed, as TRL's path does before its first optimizer step."""
        faults = [row["format_error"] for group in self.groups.values() for row in group.rows if "format_error" in row]
        n_faulty, least = sum(fault is not None for fault in faults), self.recipe.rollout.min_well_formed
        if n_faulty >= MIN_FAULTY and 1 - n_faulty / len(faults) < least:
            raise RuntimeError(
                f"{1 - n_faulty / len(faults):.0%} of the first {len(faults)} completions are well formed, fewer than "
                f"rollout.min_well_formed = {least:g}; docs/models.md says what helps"
            )

    def _note(self, uids: set[str]) -> None:
        """Read the groups of some finished prompts from verl's queue."""
        keys = sorted(key for key in self.partitions[TRAIN] if _prompt_of(key) in uids)
        if not keys:
            return
        names = ["prompts", "responses", "srl_row", "extra_fields"]
        fields = transfer_queue.kv_batch_get(keys, TRAIN, select_fields=names)
        for key, prompt, response, row, extra in zip(keys, *(list(fields[name]) for name in names), strict=True):
            group = self.groups.setdefault(_prompt_of(key), _Group([], []))
            group.n_tokens += len(prompt) + len(response)
            told = Scored(**json.loads(getattr(extra, "data", extra)["reward_extra_info"][TOLD]))
            self._add(group, response.tolist(), told, getattr(row, "data", row)["prompt"])

    def _is_informative(self, uid: str) -> bool:
        return is_informative(self.groups[uid].rewards, self.recipe.rollout.min_reward_std)

    def _add(self, group: _Group, completion_ids: list[int], scored: Scored, prompt: Iterable[Any]) -> None:
        completion = [{"role": "assistant", "content": self.chat.text(completion_ids)}]
        reward = float(np.float32(scored.reward))  # as both engines compare and normalize it
        group.rows.append({"prompt": list(prompt), "completion": completion, "reward": reward, **scored.columns})
        group.metrics.append({"completions/clipped_ratio": float(scored.truncated), **scored.metrics})

    def _metrics(self, kept: set[str]) -> dict[str, float]:
        """TRL's and our names for what the filter did and what was sampled."""
        rollout, groups = self.recipe.rollout, self.groups.values()
        n_missing = sum(not self._is_informative(uid) for uid in kept)
        found = {
            "reward_before_filtering": _mean(reward for group in groups for reward in group.rewards),
            "kept_fraction": _mean(self._is_informative(uid) for uid in self.groups),
            "num_tokens": sum(group.n_tokens for group in groups),
            "refills": (len(groups) - rollout.prompts_per_step) / rollout.prompts_per_step,
            "short_batch_groups": n_missing if rollout.dynamic_sampling else 0,
        }
        all_metrics = [metrics for group in groups for metrics in group.metrics]
        for name in {name for metrics in all_metrics for name in metrics}:
            found[name] = _mean(metrics[name] for metrics in all_metrics if name in metrics)
        return found

    def _write_table(self, step: int, kept: set[str]) -> None:
        table = []
        for uid, group in self.groups.items():
            rewards_G = torch.tensor(group.rewards)
            advantages_G = _advantages(self.recipe, rewards_G) if uid in kept else torch.zeros_like(rewards_G)
            for row, advantage in zip(group.rows, advantages_G.tolist(), strict=True):
                table.append({"step": step, **row, "advantage": advantage, "kept": uid in kept})
        folder = self.folder / "completions"
        folder.mkdir(exist_ok=True)
        path = folder / f"completions_{step:05d}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)


def _prompt_of(key: str) -> str:
    """verl's keys are prompt_session_index."""
    return key.split("_")[0]


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / max(1, len(numbers))


def _advantages(recipe: Recipe, reward_G: torch.Tensor) -> torch.Tensor:
    return advantages(
        reward_G,
        divide=recipe.trl.get("scale_rewards", "group") in ("group", True),
        min_reward_std=recipe.rollout.min_reward_std if recipe.rollout.dynamic_sampling else None,
    )


def _register_advantages(recipe: Recipe) -> None:
    """TRL's advantages under the name that `srl.verl.options` gives; this runs in the process that computes them."""

    @register_adv_est("srl_grpo")
    def srl_grpo(
        token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, **others: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        reward_B = token_level_rewards.sum(dim=-1)
        advantage_B = torch.zeros_like(reward_B)
        for prompt in set(index):
            members = torch.from_numpy(np.asarray(index == prompt))
            advantage_B[members] = _advantages(recipe, reward_B[members])
        advantages_BT = advantage_B[:, None] * response_mask
        return advantages_BT, advantages_BT


class Rotation(CheckpointCallback):
    """Keeps the newest checkpoints and the best by held-out reward: verl's own count would delete the best."""

    def on_save(self, trainer: Any, global_step: int, checkpoint_dir: str, **others: Any) -> None:
        """Delete what is not kept; the new checkpoint is evaluated later."""
        limit = read_recipe(_folder(self.config) / "recipe.toml").checkpoints.save_total_limit
        steps = {
            int(path.name.removeprefix("global_step_")): path
            for path in Path(checkpoint_dir).parent.glob("global_step_*")
        }
        rewards = {step: r for step, r in held_out_rewards(_folder(self.config)).items() if step in steps}
        kept = {global_step} | ({max(rewards, key=lambda step: rewards[step])} if rewards else set())
        kept |= set(sorted(steps.keys() - kept)[::-1][: max(0, limit - len(kept))])
        for step in steps.keys() - kept:
            shutil.rmtree(steps[step])
