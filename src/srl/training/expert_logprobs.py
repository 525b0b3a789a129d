"""How much a thought raises the log-prob of the expert's action: a column for reward functions (docs/rewards.md)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from trl import GRPOTrainer
from trl.trainer.utils import pad

from srl.chat.prompts import completion_text, format_thought, parse_completion
from srl.chat.tokenizer import Chat


def expert_logprob_gains(
    trainer: GRPOTrainer, chat: Chat | None, rows: list[dict[str, Any]], prompts: list[Any], completions: list[Any]
) -> list[float]:
    """Per rollout, the expert action's mean log-prob after the thought, minus that after an empty thought.

    A malformed completion counts as an empty thought: every process makes the same number of passes.
    """
    # In training a process holds whole groups, with one prompt each; in evaluation that is not sure.
    group_size = trainer.num_generations if trainer.model.training else 1
    thoughts = [
        parse_completion(completion_text(completion), truncated=row["truncated"]).thought
        for completion, row in zip(completions, rows, strict=True)
    ]
    actions = [row["expert_action"].strip() for row in rows]
    with_thought = _action_logprobs(trainer, chat, prompts, thoughts, actions)
    n_groups = len(prompts[::group_size])
    without = _action_logprobs(trainer, chat, prompts[::group_size], [""] * n_groups, actions[::group_size])
    return [logprob - without[i // group_size] for i, logprob in enumerate(with_thought)]


def _action_logprobs(
    trainer: GRPOTrainer, chat: Chat | None, prompts: list[Any], thoughts: list[str], actions: list[str]
) -> list[float]:
    """Mean log-prob per token that the policy gives each action after its prompt and thought."""
    prompt_ids = trainer._tokenize_prompts(prompts)[0]
    encode = chat.encode if chat else partial(trainer._tokenizer.encode, add_special_tokens=False)
    thought_ids = [encode(format_thought(thought)) for thought in thoughts]
    action_ids = [trainer._tokenizer.encode(action, add_special_tokens=False) for action in actions]
    device = trainer.accelerator.device
    rows = [torch.tensor(p + t + a) for p, t, a in zip(prompt_ids, thought_ids, action_ids, strict=True)]
    ids_BT = pad(rows, padding_value=trainer._tokenizer.pad_token_id, padding_side="left").to(device)
    mask_BT = pad([torch.ones_like(row) for row in rows], padding_side="left").to(device)
    args = trainer.args
    batch_size = args.per_device_train_batch_size if trainer.model.training else args.per_device_eval_batch_size
    with torch.no_grad():
        logprobs_BT, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids_BT, mask_BT, max(map(len, action_ids)), batch_size=batch_size
        )
    return [row_T[-len(ids) :].mean().item() for row_T, ids in zip(logprobs_BT, action_ids, strict=True)]
