"""Shared prefixes tried on a tiny example: a model that takes them otherwise than expected shows here.

`support` refuses what is known not to work; an architecture may still add to its positions, keep its attention's
arguments to itself or mix tokens elsewhere. Its log-probs then differ from those of plain rows.

Shapes: R rows, T tokens, C completion tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from srl.shared_prefix.attention import model_inputs
from srl.shared_prefix.packing import pack
from srl.shared_prefix.sampler import SamplingOptions, sample_completions

PROMPT, COMPLETION = 4, 4
ROWS_RT = 1 + np.arange(3 * (PROMPT + COMPLETION)).reshape(3, -1) % 7
ROWS_RT[1, :6], ROWS_RT[2, :3] = ROWS_RT[0, :6], ROWS_RT[0, :3]  # one prompt twice, and one that leaves it
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Mean difference of log-probs; a wrong one differs by more than rounding in lower precision too: 0.1."""
REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError)
"""What a model raises that is given arguments it does not know. NotImplementedError is a RuntimeError."""


@torch.no_grad()
def problem_with_packs(model: Any, device: torch.device | str, dtype: torch.dtype) -> str | None:
    """What is wrong with a model (in `SHARED_PREFIX_ATTENTION`) on packed rows, for a message; None if nothing is.

    `dtype` is what it computes in. The model runs twice whatever happens, so that ranks stay in step.
    """
    expected_RC = _plain_logprobs(model, torch.from_numpy(ROWS_RT).to(device))
    (one,) = pack(list(ROWS_RT), [PROMPT] * len(ROWS_RT))
    try:
        logits_TV = model(**model_inputs(one, device), use_cache=False).logits[0]
    except REFUSALS as error:
        return str(error)
    labels_T = torch.from_numpy(one.labels_T).clamp(min=0).to(device)
    logprobs_T = logits_TV.float().log_softmax(-1).gather(-1, labels_T[:, None])[:, 0]
    found_RC = torch.stack([logprobs_T[torch.from_numpy(places).to(device)] for places in one.places])
    return _difference(found_RC, expected_RC[one.rows], dtype)


@torch.no_grad()
def problem_with_sampling(model: Any, dtype: torch.dtype) -> str | None:
    """What is wrong with a model's samples over shared keys, for a message; None if nothing is."""
    prompts = ROWS_RT[:, :PROMPT].tolist()
    try:
        options = SamplingOptions(max_new_tokens=COMPLETION)
        completions, logprobs = sample_completions(model, prompts, options, seed=0)
    except REFUSALS as error:
        return str(error)
    rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    training = model.training
    expected_RC = _plain_logprobs(model.eval(), torch.tensor(rows, device=model.device))
    model.train(training)
    return _difference(torch.tensor(logprobs, device=expected_RC.device), expected_RC, dtype)


def _plain_logprobs(model: Any, ids_RT: Tensor) -> Tensor:
    """Of the completions, (R, C), from whole rows."""
    logits = model(input_ids=ids_RT, attention_mask=torch.ones_like(ids_RT), use_cache=False).logits
    logprobs = logits[:, PROMPT - 1 : -1].float().log_softmax(-1)
    return logprobs.gather(-1, ids_RT[:, PROMPT:, None])[..., 0]


def _difference(found_RC: Tensor, expected_RC: Tensor, dtype: torch.dtype) -> str | None:
    gap = (found_RC - expected_RC).abs().mean().item()
    if gap < TOLERANCE.get(dtype, 0.1):  # not if it is NaN
        return None
    return f"on a tiny example this model's log-probs then differ by {gap:.1e}"
