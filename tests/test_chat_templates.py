"""Every chat template that TRL comes with: right, or refused with a reason."""

from pathlib import Path

import pytest
from chat_templates import TEMPLATES, table, tokenizer_with
from trl.chat_template_utils import add_response_schema, parse_response

from srl.chat.prompts import Completion, format_completion, parse_completion, step_prompt
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
    # The prompt and the target together hold the marks of a thought once each, whoever wrote them.
    whole = text.rpartition("Compare")[2] + chat.tokenizer.decode(target[:-1])
    opening, closing = (chat.marks.open, chat.marks.close) if chat.marks else ("<think>", "</think>")
    assert (whole.count(opening), whole.count(closing)) == (1, 1)
    assert parse_completion(chat.text(target)) == Completion("six is less", "2. **Answer**: no")
    assert target[-1] in chat.end_ids
    assert not set(target[:-1]) & set(chat.end_ids)


MARKED = [(name, chat) for name, chat in accepted() if chat.marks]


@pytest.mark.parametrize(("name", "chat"), MARKED)
def test_a_thought_in_a_templates_own_marks_is_what_the_template_writes_and_trl_reads(name, chat):
    """Three independent ways: our target, the template's rendering of an assistant's message, TRL's parser."""
    target = chat.target_ids(format_completion("six is less", "2. no"))
    thoughts = {"reasoning_content": "six is less", "reasoning": "six is less", "thinking": "six is less"}
    turns = [*PROMPT, {"role": "assistant", "content": "2. no", **thoughts}]
    rendered = chat.tokenizer.apply_chat_template(turns, chat_template=chat.template, tokenize=False)
    if "six is less" in rendered:  # the first versions of Gemma's write no thoughts
        assert rendered.rstrip() == chat.prompt_text(PROMPT) + chat.tokenizer.decode(target)
    known = tokenizer_with(TEMPLATES[name])
    try:
        add_response_schema(known)
    except ValueError:
        assert name in {"muse_glimmer", "diffusion_gemma"}
        return
    parsed = parse_response(known, target, prefix=chat.prompt_ids([PROMPT])[0])
    thought = next(parsed[field].strip() for field in ("reasoning_content", "thinking") if field in parsed)
    assert (thought, parsed["content"]) == ("six is less", "2. no")


def test_templates_with_marks_of_their_own_are_accepted():
    names = {name for name, _ in MARKED}
    assert {"gptoss", "gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5"} <= names


def test_most_templates_are_accepted():
    names = [name for name, _ in accepted()]
    assert len(names) > len(TEMPLATES) / 2
    assert {"qwen2_5", "qwen3", "qwen3_5_think", "qwen3_5_nothink", "llama3_2", "gemma", "gemma3"} <= set(names)


@pytest.mark.parametrize("name", ["idefics3", "smolvlm", "llava_next"])
def test_templates_for_images_are_refused_by_name(name):
    with pytest.raises(UserError, match=f"^{name}: its chat template "):
        read_chat(tokenizer_with(TEMPLATES[name]), name)
