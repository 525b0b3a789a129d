"""Shared prefixes tried on a tiny example: a model that takes them otherwise than expected shows here.

`support` refuses what is known not to work; an architecture may still add to its positions, keep its attention's
arguments to itself or mix tokens elsewhere. Its log-probs then differ from those of plain rows.

They are compared in float32, whatever the model computes in otherwise: what a trained model makes of an arbitrary
example has no digits in bfloat16, so that its plain log-probs there differ from themselves as much as from wrong ones.

Shapes: R rows, T tokens, C completion tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from srl.shared_prefix.attention import model_inputs
from srl.shared_prefix.packing import pack
from srl.shared_prefix.sampler import SamplingOptions, sample_completions
from srl.shared_prefix.weights import Lent, lend, take_back

PROMPT, COMPLETION = 4, 4
ROWS_RT = 1 + np.arange(3 * (PROMPT + COMPLETION)).reshape(3, -1) % 7
ROWS_RT[1, :6], ROWS_RT[2, :3] = ROWS_RT[0, :6], ROWS_RT[0, :3]  # one prompt twice, and one that leaves it
LOWER = (torch.bfloat16, torch.float16)
WINDOW = 3
"""Of layers with a sliding window, so that it matters here."""
TOLERANCE = 1e-3
"""Mean difference of log-probs in float32. Rounding makes 1e-6 of it in tiny models, 2e-5 in trained ones."""
REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
"""What a model raises that is given arguments it does not know. NotImplementedError is a RuntimeError."""


@torch.no_grad()
def problem_with_packs(model: Any) -> str | None:
    """What is wrong with a model (in `SHARED_PREFIX_ATTENTION`) on packed rows, for a message; None if nothing is.

    The model is to be whole and not wrapped. What it computes in, an autocast around this call included, is tried too:
    it must run.
    """
    try:
        _packed_logprobs(model)
        with in_float32(model), with_windows_of(WINDOW, model):
            found_RC = _packed_logprobs(model)
    except REFUSALS as error:
        return str(error)
    with in_float32(model), with_windows_of(WINDOW, model):
        return _difference(found_RC, _plain_logprobs(model, torch.from_numpy(ROWS_RT).to(model.device)))


@torch.no_grad()
def problem_with_sampling(model: Any) -> str | None:
    """What is wrong with a model's samples over shared keys, for a message; None if nothing is. As above."""
    prompts = ROWS_RT[:, :PROMPT].tolist()
    options = SamplingOptions(max_new_tokens=COMPLETION)
    try:
        sample_completions(model, prompts, options, seed=0)
        with in_float32(model), with_windows_of(WINDOW, model):
            completions, logprobs = sample_completions(model, prompts, options, seed=0)
    except REFUSALS as error:
        return str(error)
    rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    training = model.training
    with in_float32(model), with_windows_of(WINDOW, model):
        expected_RC = _plain_logprobs(model.eval(), torch.tensor(rows, device=model.device))
    model.train(training)
    return _difference(torch.tensor(logprobs, device=expected_RC.device), expected_RC)


def _plain_logprobs(model: Any, ids_RT: Tensor) -> Tensor:
    """Of the completions, (R, C), from whole rows."""
    logits = model(input_ids=ids_RT, attention_mask=torch.ones_like(ids_RT), use_cache=False).logits
    logprobs = logits[:, PROMPT - 1 : -1].float().log_softmax(-1)
    return logprobs.gather(-1, ids_RT[:, PROMPT:, None])[..., 0]


def _packed_logprobs(model: Any) -> Tensor:
    """The same of `ROWS_RT`, from one pack."""
    (one,) = pack(list(ROWS_RT), [PROMPT] * len(ROWS_RT))
    logits_TV = model(**model_inputs(one, model.device), use_cache=False).logits[0]
    labels_T = torch.from_numpy(one.labels_T).clamp(min=0).to(logits_TV.device)
    logprobs_T = logits_TV.float().log_softmax(-1).gather(-1, labels_T[:, None])[:, 0]
    places_RC = torch.from_numpy(np.stack([one.places[i] for i in np.argsort(one.rows)]))
    return logprobs_T[places_RC.to(logprobs_T.device)]


def _difference(found_RC: Tensor, expected_RC: Tensor) -> str | None:
    gap = (found_RC - expected_RC).abs().mean().item()
    if gap < TOLERANCE:  # not if it is NaN
        return None
    return f"on a tiny example this model's log-probs then differ by {gap:.1e}"


@contextmanager
def with_windows_of(size: int, model: Any) -> Iterator[None]:
    """The model's sliding windows are so many tokens long; afterwards what they were."""
    owners = [owner for owner in (model.config.get_text_config(), *model.modules()) if _window_of(owner)]
    before = [owner.sliding_window for owner in owners]
    for owner in owners:
        owner.sliding_window = size
    try:
        yield
    finally:
        for owner, window in zip(owners, before, strict=True):
            owner.sliding_window = window


def _window_of(owner: Any) -> int | None:
    window = getattr(owner, "sliding_window", None)
    return window if isinstance(window, int) else None


# --- float32 --------------------------------------------------------------------------------------------


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """The model computes in float32, without autocast or TF32; its weights are what they were afterwards.

    Weights of lower precision are converted a layer at a time, while that layer runs: there need not be room for all.
    """
    size = model.config.get_text_config().num_hidden_layers
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == size]
    layers = [layer for stack in stacks for layer in stack]
    in_layers = {module for layer in layers for module in layer.modules()}
    lent: dict[nn.Module, Lent] = {}

    def convert(layer: nn.Module, _: Any) -> None:
        lent[layer] = lend(layer.modules(), torch.float32, LOWER)

    def restore(layer: nn.Module, *_: Any) -> None:
        take_back(lent.pop(layer))

    hooks = [layer.register_forward_pre_hook(convert) for layer in layers]
    hooks += [layer.register_forward_hook(restore) for layer in layers]
    lent[model] = lend((module for module in model.modules() if module not in in_layers), torch.float32, LOWER)
    try:
        with torch.autocast(model.device.type, enabled=False), _without_tf32():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in list(lent):  # a layer that raised an error has not restored its own
            restore(module)


@contextmanager
def _without_tf32() -> Iterator[None]:
    """On GPUs, products of float32 matrices may be set to round to 10 bits; not here."""
    matmul = torch.backends.cuda.matmul
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, exact)
    try:
        yield
    finally:
        setattr(matmul, name, before)
