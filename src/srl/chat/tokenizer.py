"""How a conversation becomes tokens: the tokenizer of a model, and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from srl.errors import UserError
from srl.runs.model import loading


def load_tokenizer(model_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; refuses one that cannot render our conversations."""
    with loading(model_path, "tokenizer"):  # not on the Hub, no network, none in the folder, a broken one
        tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    if tokenizer.chat_template is None:
        raise UserError(f"{model_path}: its tokenizer has no chat template; use an instruction-tuned model or add one")
    opening = tokenizer.apply_chat_template(
        [{"role": "user", "content": ""}], add_generation_prompt=True, tokenize=False
    )
    if opening.rstrip().endswith("<think>"):
        raise UserError(
            f"{model_path}: its chat template opens <think> itself, so every completion would lack the tag; "
            "use a template that ends with the assistant's turn"
        )
    return tokenizer


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Any]) -> list[list[int]]:
    """The tokens of each prompt, up to where the completion begins."""
    return tokenizer.apply_chat_template(list(prompts), add_generation_prompt=True, return_dict=True)["input_ids"]
