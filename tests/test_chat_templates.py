"""Every chat template that TRL comes with: right, or refused with a reason."""

from pathlib import Path

import pytest
from chat_templates import TEMPLATES, table, tokenizer_with

from srl.chat.prompts import format_completion, parse_completion, step_prompt
from srl.chat.tokenizer import read_chat
from srl.errors import UserError

DOCS = Path(__file__).parents[1] / "docs/models.md"
PROMPT = step_prompt("Is 6 > 7, <think>? {{ x }}", "1. **Compare** them\n\n")


def accepted():
    for name, template in TEMPLATES.items():
        try:
            yield name, read_chat(tokenizer_with(template), name)
        except UserError:
            continue


def test_the_table_in_the_docs_is_what_srl_does():
    """Made by `python tests/chat_templates.py`."""
    assert table() in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "chat"), list(accepted()))
def test_an_accepted_template_asks_whole_and_reads_back_what_sft_teaches(name, chat):
    text = chat.prompt_text(PROMPT)
    for turn in PROMPT:
        assert turn["content"].strip() in text
    assert "</think>" not in text.rpartition("Compare")[2]
    assert chat.tokenizer.decode(chat.prompt_ids([PROMPT])[0]) == text
    completion = format_completion("six is less", "2. **Answer**: no")
    target = chat.target_ids(completion)
    # The prompt and the target together hold the tags once each, whoever wrote them.
    whole = text.rpartition("Compare")[2] + chat.tokenizer.decode(target[:-1])
    assert (whole.count("<think>"), whole.count("</think>")) == (1, 1)
    assert parse_completion(chat.text(target)).action == "2. **Answer**: no"
    assert target[-1] in chat.end_ids
    assert not set(target[:-1]) & set(chat.end_ids)


def test_most_templates_are_accepted():
    names = [name for name, _ in accepted()]
    assert len(names) > len(TEMPLATES) / 2
    assert {"qwen2_5", "qwen3", "qwen3_5_think", "qwen3_5_nothink", "llama3_2", "gemma", "gemma3"} <= set(names)


@pytest.mark.parametrize("name", ["gptoss", "gemma4", "gemma4_v5", "llava_next"])
def test_thoughts_in_other_channels_and_templates_for_images_are_refused_by_name(name):
    with pytest.raises(UserError, match=f"^{name}: its chat template "):
        read_chat(tokenizer_with(TEMPLATES[name]), name)
