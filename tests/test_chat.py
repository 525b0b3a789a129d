"""What chat templates do with our prompts, and how a completion becomes tokens and text."""

from datetime import date

import pytest
from chat_templates import tokenizer_with
from transformers import PreTrainedTokenizerFast

from srl.chat.prompts import format_completion, parse_completion, step_prompt
from srl.chat.tokenizer import read_chat
from srl.errors import UserError

TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
OPENING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}EXTRA{% endif %}"
CHATML = "{% for m in messages %}" + TURN + "{% endfor %}" + OPENING
PROMPT = step_prompt("How much is 6 times 7?", "1. Start\n\n")


def chat_with(extra="", template=CHATML, **options):
    names = {name: options.pop(name) for name in ("eos", "pad", "special") if name in options}
    return read_chat(tokenizer_with(template.replace("EXTRA", extra), **names), "m", **options)


def refusal(template, **options):
    with pytest.raises(UserError) as error:
        chat_with(template=template, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


OPEN, CLOSED = "{{ '<think>\n' }}", "{{ '<think>\n\n</think>\n\n' }}"
SWITCHED = "{% if enable_thinking is defined and enable_thinking %}" + OPEN + "{% else %}" + CLOSED + "{% endif %}"


@pytest.mark.parametrize(
    "chat",
    [
        chat_with(),
        chat_with(special=("<think>", "</think>")),
        chat_with(OPEN),
        chat_with(OPEN, special=("<think>", "</think>")),
        chat_with(open_thought=True),
        chat_with(SWITCHED),
        chat_with(eos="<|im_end|>"),
    ],
)
@pytest.mark.parametrize("thought", ["6 * 7 is 42, äöü", "<|im_start|>?"])
def test_what_sft_teaches_is_read_back_as_it_was(chat, thought):
    """The tokens after the prompt, decoded, are the completion: thought and action."""
    completion = format_completion(thought, "2. **Multiply**: 42")
    read = parse_completion(chat.text(chat.target_ids(completion)))
    assert (read.thought, read.action, read.format_error) == (thought, "2. **Multiply**: 42", None)


def test_the_prompt_with_its_target_is_the_conversation_that_the_template_would_render():
    """Two independent ways to the same tokens, where the template changes nothing."""
    chat = chat_with()
    completion = format_completion("6 * 7 is 42", "2. 42")
    (prompt_ids,) = chat.prompt_ids([PROMPT])
    whole = chat.tokenizer.apply_chat_template(
        [*PROMPT, {"role": "assistant", "content": completion}], return_dict=True
    )["input_ids"]
    ours = [*prompt_ids, *chat.target_ids(completion)]
    assert ours == whole[: len(ours)]
    assert chat.tokenizer.decode(whole[len(ours) :]) == "\n"


def test_a_template_that_opens_the_thought():
    chat = chat_with(OPEN)
    assert chat.opening == "<think>"
    assert chat.prompt_text(PROMPT).endswith("<think>\n")
    assert not chat.tokenizer.decode(chat.target_ids("<think>hm</think>\n2. 42")).startswith("<think>")
    assert chat.text(chat.encode("</think>\n2. 42")).count("</think>") == 2  # the model's own text is not repaired


def test_a_completion_without_a_thought_closes_what_the_prompt_opened():
    chat = chat_with(OPEN)
    assert chat.text(chat.target_ids("42")) == "<think>\n</think>\n\n42"


def test_open_thought_ends_the_prompt_with_it():
    plain, opened = chat_with(), chat_with(open_thought=True)
    assert opened.prompt_text(PROMPT) == plain.prompt_text(PROMPT) + "<think>"
    (ids,) = opened.prompt_ids([PROMPT])
    assert chat_with().tokenizer.decode(ids) == opened.prompt_text(PROMPT)
    already = chat_with(OPEN, open_thought=True)
    assert already.prompt_text(PROMPT).count("<think>\n") == 1


@pytest.mark.parametrize(("extra", "options"), [(SWITCHED, {}), ("", {"open_thought": True}), (OPEN, {})])
def test_a_saved_tokenizer_asks_as_it_was_told_to(extra, options, tmp_path):
    """Whoever loads the trained model, with srl or without, gives it the prompt that it was trained on."""
    chat = chat_with(extra, **options)
    chat.tokenizer.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert loaded.apply_chat_template([*PROMPT], add_generation_prompt=True, tokenize=False) == chat.prompt_text(PROMPT)
    again = read_chat(loaded, "again")
    assert (again.opening, again.prompt_ids([PROMPT])) == (chat.opening, chat.prompt_ids([PROMPT]))


def test_options_given_are_defaults_and_whoever_says_otherwise_is_heard():
    marked = CHATML.replace("EXTRA", "{{ mark }}{% if not wide %}!{% endif %}")
    chat = chat_with(template=marked, template_kwargs={"mark": "1'2", "wide": True})
    assert chat.prompt_text(PROMPT).endswith("assistant\n1'2")
    asked = {"add_generation_prompt": True, "tokenize": False}
    assert chat.tokenizer.apply_chat_template([*PROMPT], **asked).endswith("assistant\n1'2")
    assert chat.tokenizer.apply_chat_template([*PROMPT], **asked, mark="3", wide=False).endswith("assistant\n3!")


def test_a_closed_thought_is_opened_by_the_templates_own_switch_or_refused():
    assert chat_with(SWITCHED).prompt_text(PROMPT).endswith("<think>\n")
    assert "ends the prompt with a closed thought" in refusal(CHATML.replace("EXTRA", CLOSED))
    assert "closed thought" in refusal(CHATML.replace("EXTRA", SWITCHED), template_kwargs={"enable_thinking": False})


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
SHORTENED = "(m['content'].replace('/think', '') if m['role'] == 'system' else m['content'])"
REWRITES = CHATML.replace("m['content']", SHORTENED)


@pytest.mark.parametrize("template", [NO_SYSTEM + CHATML, REWRITES])
def test_without_a_faithful_system_turn_its_text_goes_to_the_head_of_the_user_turn(template):
    chat = chat_with(template=template)
    text = chat.prompt_text(PROMPT)
    assert "<|im_start|>system" not in text
    assert f"<|im_start|>user\n{PROMPT[0]['content']}\n\nQuestion: How much" in text
    alone = chat.prompt_text(PROMPT[1:])  # without a system text nothing moves
    assert alone.startswith("<|im_start|>user\nQuestion: How much")


def test_a_template_that_changes_the_question_is_refused():
    shouts = CHATML.replace("m['content']", "m['content'].upper()")
    assert "changes the text of the system turn" in refusal(shouts)


def with_marks(opening, closing, direct="", field="reasoning_content"):
    """ChatML in which an assistant's thought stands between marks."""
    thought = f"(({opening!r} + m['{field}'] + {closing!r}) if m['{field}'] is defined else {direct!r})"
    message = f"({thought} if m['role'] == 'assistant' else '') + m['content']"
    return CHATML.replace("m['content']", message).replace("EXTRA", "")


MARKED = {
    "tags": with_marks("[THINK]", "[/THINK]", field="thinking"),
    "lines": with_marks("<|thought>\n", "\n<thought|>\n\n", field="reasoning"),
    "channels": with_marks("<|inner|>", "<|stop|><|im_start|>assistant<|outer|>", "<|outer|>"),
}


@pytest.mark.parametrize("open_thought", [False, True])
@pytest.mark.parametrize("kind", MARKED)
def test_thoughts_in_marks_of_the_templates_own(kind, open_thought, tmp_path):
    chat = chat_with(template=MARKED[kind], open_thought=open_thought)
    completion = format_completion("6 * 7 is 42", "2. 42\n\n<think>")
    target = chat.target_ids(completion)
    assert chat.text(target) == completion
    whole = chat.prompt_text(PROMPT) + chat.tokenizer.decode(target)
    fields = dict.fromkeys(("reasoning_content", "thinking", "reasoning"), "6 * 7 is 42")
    turns = [*PROMPT, {"role": "assistant", "content": "2. 42\n\n<think>", **fields}]
    assert whole + "\n" == chat.tokenizer.apply_chat_template(turns, chat_template=MARKED[kind], tokenize=False)
    chat.tokenizer.save_pretrained(tmp_path)
    again = read_chat(PreTrainedTokenizerFast.from_pretrained(tmp_path), "again")
    assert (again.marks, again.opening) == (chat.marks, "<think>" * open_thought)


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("2. 42", "no <think>"),
        ("<|outer|>2. 42", "no <think>"),
        ("<|inner|>hm", "no </think>"),
        ("<|inner|>hm<|stop|><|im_start|>assistant<|outer|> ", "empty action"),
        ("<|inner|> <|stop|><|im_start|>assistant<|outer|>2. 42", "empty thought"),
        ("<|inner|>a<|inner|>b<|stop|><|im_start|>assistant<|outer|>2. 42", "several <think>"),
        ("Well. <|inner|>hm<|stop|><|im_start|>assistant<|outer|>2. 42", "text before <think>"),
        ("<|inner|>hm<|stop|><|im_start|>assistant<|outer|>2. 42", None),
        ("<think>hm</think>2. 42", None),  # as the system prompt asks
    ],
)
def test_faults_between_other_marks_have_the_same_names(written, fault):
    chat = chat_with(template=MARKED["channels"])
    text = chat.text(chat.tokenizer.encode(written))
    assert parse_completion(text).format_error == fault
    assert "<|outer|>" not in text


def test_a_model_may_leave_out_the_space_beside_marks():
    chat = chat_with(template=MARKED["lines"])
    for written in ("<|thought>\nhm\n<thought|>\n\n2. 42", "<|thought>hm<thought|>2. 42"):
        assert chat.text(chat.tokenizer.encode(written)) == "<think>hm</think>\n2. 42"


def test_a_mark_between_thought_and_answer_ends_no_turn():
    template = MARKED["channels"]
    stop = tokenizer_with(template).convert_tokens_to_ids("<|stop|>")
    chat = chat_with(template=template, eos="<|im_end|>", stop_ids=[stop, 7])
    assert stop not in chat.end_ids
    assert 7 in chat.end_ids


def test_a_switch_turns_thoughts_in_marks_on_unless_the_user_says_otherwise():
    switched = "{% if enable_thinking is defined and enable_thinking %}<|on|>{% endif %}"
    template = MARKED["tags"].replace("{% for", switched + "{% for", 1)
    assert chat_with(template=template).prompt_text(PROMPT).startswith("<|on|>")
    off = chat_with(template=template, template_kwargs={"enable_thinking": False})
    assert not off.prompt_text(PROMPT).startswith("<|on|>")


CLOSED_MARKS = MARKED["tags"].replace("assistant\n' }}{%", "assistant\n[THINK]\n[/THINK]' }}{%")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHATML + "<|channel>thought\n", "channel of its own"),  # neither written nor taken off
        (with_marks("Thought: ", "\nAnswer: "), "\\nThought:')"),  # may stand in any text
        (with_marks("", "<|im_end|>\n<|im_start|>assistant\n"), "channel of its own"),
        (CLOSED_MARKS, "ends the prompt with a closed thought"),
    ],
)
def test_marks_that_cannot_be_read_are_refused(template, reason):
    assert reason in refusal(template)


def test_the_turn_ends_where_the_template_ends_it():
    chat = chat_with()
    im_end, end_of_text = chat.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert chat.end_ids == (im_end, end_of_text)
    assert chat_with(eos="<|im_end|>", stop_ids=[7]).end_ids[1:] == (7,)
    for end in chat.end_ids:
        assert chat.text([*chat.encode("2. 42"), end, *chat.encode("more")]) == "2. 42"
    plain = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    by_line = chat_with(template=plain)
    assert by_line.tokenizer.convert_ids_to_tokens(list(by_line.end_ids)) == ["<|endoftext|>"]


def test_the_turns_end_pads_where_nothing_else_does():
    assert chat_with().tokenizer.pad_token == "<|im_end|>"
    assert chat_with(pad="<|endoftext|>").tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.parametrize("call", ['strftime_now("%d %b %Y")', "strftime_now( '%d %b %Y' )"])
def test_a_template_that_prints_the_date_prints_the_one_it_is_given(call):
    dated = "{{ 'Today: ' + " + call + " + '\n' }}" + CHATML
    chat = chat_with(template=dated, today=date(2026, 7, 4))
    assert chat.prompt_text(PROMPT).startswith("Today: 04 Jul 2026\n")


def test_a_tokenizer_without_a_template_is_refused():
    with pytest.raises(UserError, match="has no chat template"):
        read_chat(tokenizer_with(None), "m")
