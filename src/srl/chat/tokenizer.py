"""How a conversation becomes tokens: the tokenizer of a model, and its chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from srl.errors import UserError


def load_tokenizer(model_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; refuses one that cannot render our conversations."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path)
    except (OSError, ValueError) as error:  # not on the Hub, no network, no tokenizer in the folder
        raise UserError(f"{model_path}: no tokenizer could be loaded: {str(error).strip().splitlines()[0]}") from None
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


def set_template_options(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> None:
    """Give options of the chat template (`enable_thinking`, …) new defaults, which are saved with the tokenizer.

    So whoever asks the trained model asks it as it was trained.
    """
    for name, value in options.items():
        default = f"{{%- set {name} = {name} if {name} is defined else {value!r} %}}"  # Jinja reads Python's literals
        tokenizer.chat_template = default + str(tokenizer.chat_template)
