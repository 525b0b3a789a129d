"""Loading a causal model from a folder that may be broken, hostile or meant for something else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.integrations.fsdp import is_fsdp_enabled

from srl.errors import UserError
from srl.runs.hub import why_not_loaded

MAX_REASON_LENGTH = 300
"""Of what transformers says, which may fill a screen."""

TERMINAL_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def load_model(path: str, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase | None = None, **options: Any) -> Any:
    """The causal model of a folder or Hub id, whole: every weight was there, had its shape and is finite.

    Never runs code of the folder's own. `options` are those of `from_pretrained`. With `tokenizer`, its ids are
    checked against the model's vocabulary.

    Raises:
        UserError: what is wrong with the folder, in one line.
    """
    with loading(path, "model"), _only_errors():
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            **{**options, "trust_remote_code": False, "ignore_mismatched_sizes": True, "output_loading_info": True},
        )
    if found["mismatched_keys"]:
        name, in_file, expected = sorted(found["mismatched_keys"])[0]
        raise UserError(
            f"{path}: the weights do not fit config.json: {name} has the shape {tuple(in_file)}, expected "
            f"{tuple(expected)}{_and_more(len(found['mismatched_keys']) - 1)}"
        )
    if found["missing_keys"]:  # transformers would fill them with random numbers
        name = sorted(found["missing_keys"])[0]
        raise UserError(
            f"{path}: no weights for {name}{_and_more(len(found['missing_keys']) - 1)}; the file is not whole, or this "
            "is no causal language model"
        )
    _check_finite(model, path)
    if tokenizer is not None:
        _check_token_ids(model, tokenizer, path)
    return model


def max_positions(path: str) -> int | None:
    """How many tokens the model takes, prompt and completion together; None if it does not say."""
    with loading(path, "configuration"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()
    return getattr(config, "max_position_embeddings", None)


@contextmanager
def loading(path: str, what: str) -> Iterator[None]:
    """Whatever transformers raises meanwhile is one line: a broken file can make it raise anything.

    Raises:
        UserError: `what` of `path` could not be loaded, and why.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(TERMINAL_STYLE.sub("", str(error)).split())
        if "custom code" in reason:
            reason = "it needs Python code of its own (trust_remote_code), which srl does not run"
        elif isinstance(error, OSError) and not Path(path).exists():
            reason = why_not_loaded(error)
        elif not isinstance(error, OSError | ValueError):  # those explain themselves
            reason = f"{type(error).__name__}: {reason}"
        raise UserError(f"{path}: no {what} could be loaded: {reason:.{MAX_REASON_LENGTH}}") from error


@contextmanager
def _only_errors() -> Iterator[None]:
    """Without the table that transformers prints of weights that it misses: ours is the one line."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(before)


def _and_more(count: int) -> str:
    return f" (and {count} more)" if count else ""


def _check_finite(model: Any, path: str) -> None:
    if is_fsdp_enabled():  # then most ranks hold no weights yet
        return
    for name, weight in model.named_parameters():
        # A sum needs no copy of the weight, and no sum of finite weights leaves the range of float64.
        if weight.is_floating_point() and not weight.sum(dtype=torch.float64).isfinite():
            raise UserError(f"{path}: {name} holds NaN or infinite weights; training that diverged leaves such models")


def _check_token_ids(model: Any, tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Refuse ids that every prompt, padding or the end of a completion would look up beyond the embedding.

    An added token that nothing uses may lie beyond it, as the image token of text-only Gemma 3 does.
    """
    size = model.config.get_text_config().vocab_size
    opening = tokenizer.apply_chat_template([{"role": "user", "content": "1"}], add_generation_prompt=True)
    used = {
        "the chat template": opening["input_ids"],
        "the tokenizer's vocabulary": [tokenizer.vocab_size - 1],
        "the tokenizer's end of turn": [tokenizer.eos_token_id],
        "the tokenizer's padding": [tokenizer.pad_token_id],
        "the eos_token_id of generation_config.json": _listed(model.generation_config.eos_token_id),
    }
    for what, ids in used.items():
        largest = max((token for token in ids if token is not None), default=0)
        if largest >= size:
            raise UserError(
                f"{path}: {what} has the token id {largest}, beyond the model's vocabulary of {size}; is this another "
                "model's tokenizer?"
            )


def _listed(ids: Any) -> list[int | None]:
    return ids if isinstance(ids, list) else [ids]
