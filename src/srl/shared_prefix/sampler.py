"""Sampling completions of prompts that begin alike: what they share is computed once and kept once.

The prompts are packed (`packing`), one forward pass computes every shared token once, and from there all
completions take each step together over the same keys and values (`branches`); finished ones are dropped.

Shapes: P prompts, B rows (completions being decoded), T tokens, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from srl.errors import UserError
from srl.shared_prefix.attention import model_inputs
from srl.shared_prefix.branches import BRANCH_ATTENTION, BranchCache
from srl.shared_prefix.packing import pack
from srl.shared_prefix.support import why_no_sampling

PREFILL_TOKENS = 8192
"""Prompt tokens per forward pass, as far as single prompts are not longer: bounds the activations."""
FINISHED_SHARE = 1 / 8
"""Finished rows are computed in vain until they are so many: dropping them copies the tails of the others."""

Prompt = tuple[int, ...]


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn; the defaults are the raw policy."""

    max_new_tokens: int
    temperature: float = 1.0
    """0: the most probable token."""
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    eos_token_ids: tuple[int, ...] = ()

    @classmethod
    def from_generation_config(cls, config: GenerationConfig) -> SamplingOptions:
        """From transformers' words; what is not set there is neutral here. What it cannot say: `why_no_sampling`."""
        eos = config.eos_token_id
        temperature = 1.0 if config.temperature is None else config.temperature
        return cls(
            max_new_tokens=config.max_new_tokens,
            temperature=temperature if config.do_sample else 0.0,
            top_k=config.top_k or 0,
            top_p=1.0 if config.top_p is None else config.top_p,
            min_p=config.min_p or 0.0,
            eos_token_ids=() if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        )


def sample_completions(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    options: SamplingOptions,
    *,
    num_generations: int = 1,
    seed: int | Sequence[int] | None = None,
    max_rows: int = 256,
) -> tuple[list[list[int]], list[list[float]]]:
    """Draw `num_generations` completions of each prompt; prompts may repeat and come in any order.

    A seed (one for all, or one per prompt) gives the n-th completion of a prompt the same random numbers whatever
    else is sampled with it; without one, torch's global generator gives it. At most `max_rows` completions are
    decoded together.

    Returns:
        Token ids per completion, with the end-of-sequence token if it came, and their log-probs: those of the policy
        at this temperature (at 1 if greedy), before top-k, top-p and min-p, as the trainer computes them. In the
        order of the prompts, the completions of one together.

    Raises:
        UserError: `why_no_sampling` says so, or a prompt is empty.
    """
    if reason := why_no_sampling(model):
        raise UserError(f"{type(model).__name__} cannot sample with shared prefixes: {reason}; use `generate`")
    rows: list[Prompt] = [tuple(prompt) for prompt in prompt_ids for _ in range(num_generations)]
    if () in rows:
        raise UserError(f"expected a token at least, found prompt {rows.index(()) // num_generations + 1} empty")
    seed = int(torch.randint(2**62, ())) if seed is None else seed
    seeds = [seed] * len(prompt_ids) if isinstance(seed, int) else seed
    repetitions: dict[tuple[int, Prompt], int] = defaultdict(int)
    generators = []
    for i, row in enumerate(rows):
        name = seeds[i // num_generations], row
        generators.append(_generator(*name, repetitions[name]))
        repetitions[name] += 1

    # Sorted, so that the rows of a wave share as much as they can.
    order = sorted(range(len(rows)), key=rows.__getitem__)
    n_waves = math.ceil(len(rows) / max_rows)
    completions: dict[int, tuple[list[int], list[float]]] = {}
    transformer = model.get_base_model() if hasattr(model, "peft_config") else model  # adapters live in its layers
    with _sampling_mode(transformer) as policy:
        for wave in range(n_waves):
            chosen = order[len(rows) * wave // n_waves : len(rows) * (wave + 1) // n_waves]
            drawn = _sample_wave(policy, [rows[i] for i in chosen], [generators[i] for i in chosen], options)
            completions.update(zip(chosen, drawn, strict=True))
    return [completions[i][0] for i in range(len(rows))], [completions[i][1] for i in range(len(rows))]


def _sample_wave(
    policy: PreTrainedModel, rows: list[Prompt], generators: list[np.random.Generator], options: SamplingOptions
) -> list[tuple[list[int], list[float]]]:
    """Token ids and log-probs of one completion per row."""
    rows_of: dict[Prompt, list[int]] = defaultdict(list)
    for row, prompt in enumerate(rows):
        rows_of[prompt].append(row)
    prompts, cache, logits_PV = _prefill(policy, list(rows_of))
    n_completions_P = torch.tensor([len(rows_of[prompt]) for prompt in prompts], device=policy.device)
    cache.repeat_rows(n_completions_P)
    logits_BV = logits_PV.repeat_interleave(n_completions_P, 0)

    order = [row for prompt in prompts for row in rows_of[prompt]]
    position_B = torch.tensor([len(rows[row]) for row in order], device=policy.device)
    uniform_BT = np.stack([generators[row].random(options.max_new_tokens) for row in order])
    completions = _decode(policy, cache, logits_BV, position_B, torch.from_numpy(uniform_BT).to(policy.device), options)
    return [completion for _, completion in sorted(zip(order, completions, strict=True))]


def _prefill(policy: PreTrainedModel, prompts: list[Prompt]) -> tuple[list[Prompt], BranchCache, Tensor]:
    """The prompts in the order of their cache, the cache, and the logits after each prompt, (P, V)."""
    # A pack leaves a row's last token out, for nothing follows it. Here -1 does.
    arrays = [np.array((*prompt, -1)) for prompt in prompts]
    packs = pack(arrays, [len(prompt) for prompt in prompts], max_places=PREFILL_TOKENS)
    cache = BranchCache(packs)
    logits = []
    for packed in packs:
        inputs = model_inputs(packed, policy.device)
        last_P = torch.tensor([places[0] for places in packed.places], device=policy.device)
        logits.append(policy(**inputs, use_cache=False, logits_to_keep=last_P, branch_cache=cache).logits[0])
    if cache.n_layers != policy.config.num_hidden_layers:
        raise NotImplementedError(f"{type(policy).__name__}: only {cache.n_layers} of its layers are attention")
    return [prompts[i] for packed in packs for i in packed.rows], cache, torch.cat(logits)


def _decode(
    policy: PreTrainedModel,
    cache: BranchCache,
    logits_BV: Tensor,
    position_B: Tensor,
    uniform_BT: Tensor,
    options: SamplingOptions,
) -> list[tuple[list[int], list[float]]]:
    """Token ids and log-probs of a row each, from the logits after its prompt, the next position, random numbers."""
    eos = torch.tensor(options.eos_token_ids, dtype=torch.long, device=logits_BV.device)
    token_BT = torch.zeros_like(uniform_BT, dtype=torch.long)
    logprob_BT = torch.zeros_like(uniform_BT, dtype=_precise(logits_BV.dtype))
    length_B = torch.full_like(position_B, options.max_new_tokens)
    computed = torch.arange(len(position_B), device=position_B.device)  # the rows in the cache
    for t in range(options.max_new_tokens):
        tokens, logprob_BT[computed, t] = draw(logits_BV, uniform_BT[computed, t], options)
        token_BT[computed, t] = tokens
        ended = computed[torch.isin(tokens, eos)]
        length_B[ended] = length_B[ended].clamp(max=t + 1)
        going = length_B[computed] > t + 1
        n_finished = len(computed) - int(going.sum())
        if n_finished == len(computed):
            break
        if n_finished >= FINISHED_SHARE * len(computed):
            cache.repeat_rows(going.long())
            computed, tokens = computed[going], tokens[going]
        position = position_B[computed] + t
        outputs = policy(input_ids=tokens[None], position_ids=position[None], use_cache=False, branch_cache=cache)
        logits_BV = outputs.logits[0]
    rows = zip(token_BT.tolist(), logprob_BT.tolist(), length_B.tolist(), strict=True)
    return [(ids[:length], logprobs[:length]) for ids, logprobs, length in rows]


# --- drawing tokens -------------------------------------------------------------------------------------


def draw(logits_BV: Tensor, uniform_B: Tensor, options: SamplingOptions) -> tuple[Tensor, Tensor]:
    """A token per row, from a random number in [0, 1) each, and its log-prob under the policy."""
    logits_BV = logits_BV.to(_precise(logits_BV.dtype))
    if options.temperature == 0:
        token_B1 = logits_BV.argmax(-1, keepdim=True)
        return token_B1[:, 0], logits_BV.log_softmax(-1).gather(-1, token_B1)[:, 0]
    scaled_BV = logits_BV / options.temperature
    logprob_BV = scaled_BV.log_softmax(-1)
    # By the inverse of the distribution function: multinomial draws a random number per token of the vocabulary.
    cumulated_BV = _narrowed(scaled_BV, logprob_BV, options).cumsum(-1)
    total_B1 = cumulated_BV[:, -1:]
    below_total_B1 = total_B1.nextafter(torch.zeros_like(total_B1))  # where rounding reaches the total, none is left
    target_B1 = torch.minimum(uniform_B[:, None].to(total_B1.dtype) * total_B1, below_total_B1)
    token_B1 = torch.searchsorted(cumulated_BV, target_B1, right=True)
    return token_B1[:, 0], logprob_BV.gather(-1, token_B1)[:, 0]


def _narrowed(scaled_BV: Tensor, logprob_BV: Tensor, options: SamplingOptions) -> Tensor:
    """Probabilities to draw from: by transformers' own warpers in its order, as in `generate`."""
    warpers: list[Any] = []
    if options.top_k:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        warpers.append(TopPLogitsWarper(options.top_p))
    if options.min_p:
        warpers.append(MinPLogitsWarper(options.min_p))
    if not warpers:
        return logprob_BV.exp()
    for warper in warpers:
        scaled_BV = warper(None, scaled_BV)
    return scaled_BV.softmax(-1)


def _generator(seed: int, prompt: Prompt, repetition: int) -> np.random.Generator:
    """Random numbers that depend on nothing else."""
    content = np.array((seed, repetition, *prompt), dtype=np.int64).tobytes()
    key = int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


# --- transformers' side ---------------------------------------------------------------------------------


@contextmanager
def _sampling_mode(model: Any) -> Iterator[PreTrainedModel]:
    """The model with this module's attention, without dropout and gradients."""
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    model.set_attn_implementation(BRANCH_ATTENTION)
    try:
        with torch.inference_mode():  # no_grad costs a fifth more where operations are small
            yield model
    finally:
        model.set_attn_implementation(attention)
        model.train(training)
