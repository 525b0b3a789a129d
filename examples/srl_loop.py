"""Supervised Reinforcement Learning (SRL, arXiv 2510.25992), whole: from expert solutions to the optimizer step.

    python examples/srl_loop.py        # a minute or two on one CPU core; downloads nothing

On held-out problems the mean reward rises from 0.84 to 0.94; steps equal to the expert's, from 26% to 65%.

An expert has solved problem x in steps y_1, …, y_N. SRL turns them into N−1 small tasks, k = 1 … N−1 (section 4.2):

    x_k = [x, y_1, …, y_k−1]            the prompt: the problem and the expert's steps before step k
    o_i ~ p_θ(· | x_k),  i = 1 … G      the rollouts: <think> the model's own thought </think>, then its step y'_i
    r_i = R(y'_i, y_k), or −1           the reward: how similar the two steps are, in [0, 1]; −1 for a broken format
    keep x_k if std(r_1 … r_G) > ε      dynamic sampling: a group whose rewards agree teaches nothing (section 4.3)
    Â_i = (r_i − mean r) / std r        the advantage of a rollout over the others of its group
    J(θ) = mean_i mean_t min(ρ_it Â_i, clip(ρ_it, 1 − ε, 1 + ε) Â_i)      the objective of GRPO (equation 1)

Each line is one function below, in the same order; `main` is the loop. `srl train` does the same with TRL, which adds
GPUs, LoRA, logs and resuming. tests/test_srl_loop.py shows that its loss and gradient are the ones computed here.

The last letters of a tensor's name are its dimensions: B prompts, G rollouts per prompt, R = B·G rows, T tokens,
V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib import resources
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from srl import StepInstance, parse_completion, step_instances
from srl.rewards.similarity import matched
from srl.study.domain import distinct_problems
from srl.study.tiny import solve

B, G = 32, 8  # prompts per batch and rollouts per prompt; the paper has 512 and 8 (table 8)
MAX_NEW_TOKENS = 40
MIN_STD = 0.01  # the ε of dynamic sampling; the paper does not give it
MAX_ROUNDS = 10  # without a limit, a model that always succeeds (or always fails) would be sampled forever
CLIP = 0.2  # the ε of equation 1; the paper does not give it, this is the default of verl and of TRL
UPDATES = 2  # optimizer steps per batch; in the first, ρ is 1 everywhere
LEARNING_RATE = 3e-4  # the paper has 5e-7, for a model 20,000 times as large


def cut_steps(problems: list[str]) -> list[StepInstance]:
    """x_k and y_k for every step of the expert's solutions but the last, which is never a target."""
    return [instance for problem in problems for instance in step_instances(solve(problem), system_prompt="")]


class Group(NamedTuple):
    """The G rollouts of one prompt."""

    prompt_ids: list[int]
    completion_ids: list[list[int]]
    rewards_G: Tensor


@torch.no_grad()
def rollout(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, instances: list[StepInstance]) -> list[Group]:
    """o_i ~ p_θ(· | x_k): sample G completions of every prompt, and reward them."""
    prompts = [list(instance.prompt) for instance in instances]
    inputs = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )
    # top_k = 0, because `generate` cuts off all but 50 tokens by default: that would not be p_θ.
    rows_RT = model.generate(
        **inputs, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=MAX_NEW_TOKENS, num_return_sequences=G
    )
    end, start = tokenizer.eos_token_id, inputs.input_ids.shape[1]
    completions = [ids[: ids.index(end) + 1] if end in ids else ids for ids in rows_RT[:, start:].tolist()]
    groups = []
    for i, instance in enumerate(instances):
        prompt_ids = inputs.input_ids[i][inputs.attention_mask[i].bool()].tolist()
        group = completions[i * G : (i + 1) * G]
        rewards = [reward(tokenizer.decode(ids[:-1]), instance.expert_action, ids[-1] != end) for ids in group]
        groups.append(Group(prompt_ids, group, torch.tensor(rewards)))
    return groups


def reward(completion: str, expert_action: str, truncated: bool) -> float:
    """r = R(y', y) = 2M / T, or −1 if the completion is not a thought in <think>…</think> followed by a step.

    M is the number of characters in the matching blocks that difflib finds, T that of both steps. Only the step is
    compared, so the model may think as it likes; a thought earns what the step after it earns.
    """
    parsed = parse_completion(completion, truncated=truncated)
    if parsed.format_error:
        return -1.0
    return 2 * matched(parsed.action, expert_action) / (len(parsed.action) + len(expert_action))


def is_informative(rewards_G: Tensor) -> bool:
    """std(r_1 … r_G) > ε, with the standard deviation of the population, as the paper writes it."""
    return rewards_G.std(correction=0).item() > MIN_STD


def sample_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, instances: Iterator[StepInstance]
) -> tuple[list[Group], int]:
    """Dynamic sampling: go on until B groups are informative. Returns them, and how many it sampled."""
    kept: list[Group] = []
    n_sampled = 0
    while len(kept) < B and n_sampled < MAX_ROUNDS * B:
        groups = rollout(model, tokenizer, list(islice(instances, B)))
        kept += [group for group in groups if is_informative(group.rewards_G)]
        n_sampled += B
    return kept[:B], n_sampled


def advantages(rewards_BG: Tensor) -> Tensor:
    """Â_i = (r_i − mean r) / std r within each group; all tokens of a rollout, thought and step, share it.

    The paper does not say which standard deviation. TRL and verl take that of a sample, and add a little (TRL 1e-4,
    verl 1e-6) so as not to divide by zero.
    """
    mean_B1, std_B1 = rewards_BG.mean(1, keepdim=True), rewards_BG.std(1, keepdim=True)
    return (rewards_BG - mean_B1) / (std_B1 + 1e-4)


def log_probs(model: PreTrainedModel, ids_RT: Tensor) -> Tensor:
    """log p_θ of every token but the first, (R, T−1). Padding is on the right, where no earlier token sees it."""
    logits_RTV = model(ids_RT[:, :-1]).logits
    return logits_RTV.log_softmax(-1).gather(-1, ids_RT[:, 1:, None]).squeeze(-1)


def loss(log_probs_RT: Tensor, old_RT: Tensor, advantages_R: Tensor, mask_RT: Tensor, loss_type: str) -> Tensor:
    """−J(θ). The paper's KL coefficient is 0 (table 8), so there is no KL term and no reference model.

    "grpo" is equation 1: the mean over the tokens of each rollout, then over the rollouts. "dapo" is the mean over all
    tokens, so that long rollouts count for more: the default of verl, on which the paper's code was built.
    """
    ratio_RT = (log_probs_RT - old_RT).exp()  # ρ_it, the new policy over the one that sampled
    advantages_R1 = advantages_R[:, None]
    objective_RT = torch.min(ratio_RT * advantages_R1, ratio_RT.clamp(1 - CLIP, 1 + CLIP) * advantages_R1) * mask_RT
    if loss_type == "dapo":
        return -objective_RT.sum() / mask_RT.sum()
    return -(objective_RT.sum(1) / mask_RT.sum(1)).mean()


def collate(groups: list[Group]) -> tuple[Tensor, Tensor, Tensor]:
    """A batch as tensors: ids (R, T), which of ids[:, 1:] the model wrote (R, T−1), advantages (R,)."""
    rows = [(group.prompt_ids, ids) for group in groups for ids in group.completion_ids]
    ids_RT = pad_sequence([torch.tensor(prompt + ids) for prompt, ids in rows], batch_first=True)
    mask = [torch.tensor([0] * (len(prompt) - 1) + [1] * len(ids)) for prompt, ids in rows]
    rewards_BG = torch.stack([group.rewards_G for group in groups])
    return ids_RT, pad_sequence(mask, batch_first=True), advantages(rewards_BG).flatten()


def endlessly(instances: list[StepInstance], rng: random.Random) -> Iterator[StepInstance]:
    """Epoch after epoch, each in an order of its own."""
    while True:
        yield from rng.sample(instances, len(instances))


def main(n_batches: int = 15) -> tuple[float, float]:
    """Train, and return the mean reward on held-out problems before and after."""
    torch.manual_seed(0)
    rng = random.Random(0)
    # `tiny-base` can carry out each operation of 2+3*4-1*0+2 (modulo 5), but in a wrong order. The expert multiplies
    # first, and writes down results only: how it gets them, the model has to think of by itself.
    problems = list(islice(distinct_problems(rng, 5), 220))
    train, held_out = cut_steps(problems[:200]), cut_steps(problems[200:])
    folder = resources.files("srl") / "builtin" / "models" / "tiny-base"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")  # `generate` continues at the right end
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def held_out_reward() -> float:
        rewards_BG = torch.stack([group.rewards_G for group in rollout(model, tokenizer, held_out)])
        exact = (rewards_BG == 1).float().mean()
        print(f"held-out problems: mean reward {rewards_BG.mean():.3f}, {exact:.0%} of the steps are the expert's")
        return rewards_BG.mean().item()

    print(f"{train[2].prompt[-1]['content']}\n→ the expert: {train[2].expert_action!r}\n")
    before = after = held_out_reward()
    stream = endlessly(train, rng)
    for batch in range(1, n_batches + 1):
        groups, n_sampled = sample_batch(model, tokenizer, stream)
        ids_RT, mask_RT, advantages_R = collate(groups)
        with torch.no_grad():
            old_RT = log_probs(model, ids_RT)
        for _ in range(UPDATES):
            loss(log_probs(model, ids_RT), old_RT, advantages_R, mask_RT, "grpo").backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # table 8
            optimizer.step()
            optimizer.zero_grad()
        print(f"batch {batch}: sampled {n_sampled} groups to train on {len(groups)}")
        if batch % 5 == 0 or batch == n_batches:
            after = held_out_reward()
    return before, after


if __name__ == "__main__":
    main()
