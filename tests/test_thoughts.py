"""A text is taken apart into thought and rest, however the two are marked; what only speaks of marks stays whole."""

import pytest

from srl.chat.prompts import format_completion, parse_completion
from srl.data.formats.thoughts import reasoning_of, split_thought, untagged
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.files import read_rows, write_jsonl

MARKED = [
    "<think>We try 6 * 7.</think>\n\nIt is 42.",
    "<think>\nWe try 6 * 7.\n</think>It is 42.",
    "<thinking>We try 6 * 7.</thinking> It is 42.",
    "<thought>We try 6 * 7.</thought>It is 42.",
    "<reasoning>\nWe try 6 * 7.\n</reasoning>\n<answer>\nIt is 42.\n</answer>",
    "We try 6 * 7.</think>It is 42.",
    "We try 6 * 7.\n</think>\nIt is 42.",
    "We try 6 * 7. </think>\n\nIt is 42.",
    "<|begin_of_thought|>\n\nWe try 6 * 7.\n\n<|end_of_thought|>\n\n"
    "<|begin_of_solution|>\n\nIt is 42.\n\n<|end_of_solution|>",
    "[THINK]We try 6 * 7.[/THINK]It is 42.",
    "◁think▷We try 6 * 7.◁/think▷It is 42.",
    "<seed:think>We try 6 * 7.</seed:think>It is 42.",
    "It is <think>We try 6 * 7.</think>42.",
]


@pytest.mark.parametrize("text", MARKED)
def test_thought_and_rest(text):
    thought, rest = split_thought(text)
    assert (thought, " ".join(rest.split())) == ("We try 6 * 7.", "It is 42.")
    parsed = parse_completion(format_completion(thought, rest))
    assert (parsed.thought, parsed.action, parsed.format_error) == (thought, rest, None)


@pytest.mark.parametrize(
    ("text", "thought", "rest"),
    [
        ("<think>one</think>\n<think>two</think>\ndone", "one\n\ntwo", "done"),
        ("First.\n<think>one</think>\nThen.\n<think>two</think>\nDone.", "one\n\ntwo", "First.\n\nThen.\n\nDone."),
        ("<think>\n\n</think>\n\ndone", "", "done"),
        ("<think>cut off in the mid", "cut off in the mid", ""),
        ("Done.</think>", "", "Done."),
    ],
)
def test_several_thoughts_and_unfinished_ones(text, thought, rest):
    assert split_thought(text) == (thought, rest)


@pytest.mark.parametrize(
    "text",
    [
        "It is 42.",
        "Write `<think>` and `</think>` around it.",
        'The tag "</think>" ends it.',
        "Use </think> to stop.",
        "I write it:\n\n```bash\necho '<think>x</think>'\n```",
        "<function=edit>\n<parameter=new>\n<think>x</think>\n</parameter>\n</function>",
        '<tool_call>{"name": "write", "arguments": {"text": "<think>x</think>"}}</tool_call>',
        "I replace it.\n<function=edit>\n<parameter=new>\n</think>\n</parameter>\n</function>",
        "a <b> c </b> [d] <|im_end|>",
    ],
)
def test_tags_that_are_only_spoken_of_stay(text):
    assert split_thought(text) == ("", text)


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": "I look."},
        {"reasoning_content": "<think>I look.</think>"},
        {"reasoning_content": "", "reasoning": "<think>\nI look.\n</think>\n"},
        {"thinking": "I look.</think>"},
        {"reasoning": None, "reasoning_details": [{"type": "reasoning.text", "text": "I look."}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "I look."}, {"type": "reasoning.encrypted"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "I look.", "signature": "x"}]},
    ],
)
def test_a_thought_beside_the_content(message):
    assert reasoning_of(message) == "I look."


def test_no_thought_beside_the_content():
    assert reasoning_of({"reasoning": {"effort": "low"}, "reasoning_details": [7], "content": "x"}) == ""
    assert untagged("") == ""


@pytest.mark.parametrize("piece", ["<think>", "</think>", "<think></thinking>", "```", "[THINK] ", "<function=", "x "])
def test_hostile_texts_take_linear_time(piece):
    for text in (piece * 200_000, piece * 200_000 + "</think>"):
        split_thought(text)


def test_targets_that_no_completion_can_say_are_left_out_and_counted(tmp_path):
    quoting = {"action": "echo '</think>' >> template.jinja"}
    thinking_of_tags = {"action": "cat template.jinja", "thought": "It must close with </think>."}
    steps = [thinking_of_tags, {"action": "ls", "thought": "So."}, quoting, {"action": "done"}]
    write_jsonl(tmp_path / "t.jsonl", [{"problem": "Fix the template.", "steps": steps}])
    report = prepare(Source(tmp_path / "t.jsonl"), tmp_path / "out", StepOptions(hold_out=0.0, targets="all"))
    assert report.malformed == {"steps with several </think>": 1, "thoughts with several </think>": 1}
    assert any("1  thoughts with several </think>" in line for line in report.lines())
    written = [row.value for row in read_rows(tmp_path / "out/train.steps.jsonl")]
    assert [(row["expert_action"], row["thought"]) for row in written] == [
        ("cat template.jinja", None),
        ("ls", "So."),
        ("done", None),
    ]
    assert quoting["action"] in written[2]["prompt"][-1]["content"]  # it was done, and stays in the context
