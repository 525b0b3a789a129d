"""Run in verl's environment: what our filter and our advantages make of groups of rewards, and verl's own of the same.

python parity.py GROUPS.json EXPORT RESULT.json
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.protocol import DataProto
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder

from srl.verl.plugin import InformativeGroups, _Group


def batch(groups):
    """verl's batch of these groups, each completion two tokens long, its reward at the last."""
    rewards = torch.tensor([reward for group in groups for reward in group])
    tokens = torch.zeros(len(rewards), 2)
    tokens[:, 1] = rewards
    uids = np.array([str(i) for i, group in enumerate(groups) for _ in group], dtype=object)
    tensors = {"token_level_rewards": tokens, "response_mask": torch.ones(len(rewards), 2)}
    return DataProto.from_dict(tensors=tensors, non_tensors={"uid": uids})


def advantages_of(groups, estimator):
    keys = [f"{i}_{session}_0" for i, group in enumerate(groups) for session in range(len(group))]
    config = OmegaConf.create({"norm_adv_by_std_in_grpo": True})
    data = compute_advantage_for_multi_trajectories(batch(groups), keys, estimator, config=config)
    assert torch.equal(data.batch["advantages"][:, 0], data.batch["advantages"][:, 1])
    same = compute_advantage(batch(groups), estimator, config=config).batch["advantages"][:, 0]
    assert torch.equal(same, data.batch["advantages"][:, 0])
    flat = data.batch["advantages"][:, 0].tolist()
    size = len(groups[0])
    return [flat[start : start + size] for start in range(0, len(flat), size)]


def main(groups_path, export, result):
    groups = json.loads(Path(groups_path).read_text())
    sampler = InformativeGroups(
        {"folder": export},
        trainer_mode="sync",
        trainer_config={},
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        refill_fn=lambda n: None,
    )
    # As its polling finds them: finished, read from the queue.
    for i, group in enumerate(groups):
        sampler.finished_keys["train"].add(str(i))
        sampler.groups[str(i)] = _Group([{"reward": reward} for reward in group], [])
    assert sampler._dapo_filtered_keys("train") == (set(), {})  # so many were sampled that the batch is to be filled
    sampler.most_groups = len(groups) + 1
    dropped, counts = sampler._dapo_filtered_keys("train")
    assert sum(counts.values()) == len(dropped)

    rows = json.loads(Path(export, "prompts.json").read_text())
    builder = ContinuousTokenBuilder(AutoTokenizer.from_pretrained(Path(export, "tokenizer")))
    found = {
        "kept": [str(i) not in dropped for i in range(len(groups))],
        "advantages": advantages_of(groups, "srl_grpo"),
        "of_verl": advantages_of(groups, "grpo"),
        "prompt_ids": [builder.build_initial_tokens(prompt) for prompt in rows],
    }
    Path(result).write_text(json.dumps(found))


main(*sys.argv[1:])
