"""Which format a file is of; tool calls, thoughts and verdicts in any shape."""

import json

import pytest
from format_files import FORMAT_OF, ORDER, REAL, REAL_FORMAT_OF, SAMPLES, rows, whole

from srl.data.formats import messages, openhands, process_rewards, prompt_completion, react, swe_smith, turns
from srl.data.formats.columns import Columns
from srl.data.formats.solutions import NumberedSolutions
from srl.errors import Unusable, UserError
from srl.files import Row
from srl.records import Step


@pytest.mark.parametrize("name", FORMAT_OF)
def test_every_sample_is_recognised_as_what_it_is(name):
    for value in rows(SAMPLES / name):
        found = [reader for reader in ORDER if reader.recognise(value)]
        assert found[0] is FORMAT_OF[name]
        # A conversation is a conversation in any dress; but nothing else is taken for another format.
        assert set(found[1:]) <= {messages}


def test_there_is_a_sample_of_every_format_and_no_other_file():
    assert set(FORMAT_OF.values()) == set(ORDER)
    assert {path.name for path in SAMPLES.iterdir()} == set(FORMAT_OF)


@pytest.mark.parametrize("name", REAL_FORMAT_OF)
def test_every_real_file_is_recognised_as_what_it_is(name):
    if not REAL.is_dir():
        pytest.skip("the real files (../shared/data) are not here")
    for value in rows(REAL / name):
        assert next(reader for reader in ORDER if reader.recognise(value)) is REAL_FORMAT_OF[name]


@pytest.mark.parametrize(
    "name",
    [
        "math_trajectories/deepseek_v3_math/solutions.jsonl",
        "math_trajectories/deepseek_v3_math/problems.jsonl",
        "math_eval/aime24/test.jsonl",
        "swe_instances/pandas-dev__pandas.95280573.pr_53652.json",
    ],
)
def test_real_files_of_other_kinds_are_recognised_by_nobody(name):
    if not REAL.is_dir():
        pytest.skip("the real files (../shared/data) are not here")
    for value in rows(REAL / name):
        assert not [reader.NAME for reader in ORDER if reader.recognise(value)]


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "text",
        [],
        {},
        [[]],
        [None],
        {"messages": []},
        {"messages": "hello"},
        {"trajectory": [1], "history": 3},
        {"prompt": "p", "response": "r"},
        {"text": "Step 1: a thought.\nStep 2: an action."},
        {"question": "q", "steps": ["a"], "problem": "p"},
        {"prompt": [{"role": "user", "content": "p"}], "completions": "c", "labels": None},
    ],
)
def test_other_values_are_recognised_by_nobody(value):
    assert not [reader.NAME for reader in ORDER if reader.recognise(value)]


def test_prompt_and_completion_of_a_run_and_of_one_answer():
    user, agent = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}

    def readers(**row):
        return [reader for reader in ORDER if reader.recognise(row)]

    assert readers(prompt=[user], completion=[agent]) == [prompt_completion]
    assert readers(prompt="u", completion="a") == [prompt_completion]
    assert readers(prompt=[user], completion=[agent, user, agent]) == [messages]
    assert readers(prompt=[user], completion=[{**agent, "tool_calls": [{"name": "ls"}]}]) == [messages]
    assert readers(prompt=[user], completion=[agent], reward=0.0) == [messages]
    assert readers(prompt="u", completion="a", reward=0.0) == [messages]
    assert messages.read(Row("w", {"prompt": "u", "completion": "a", "reward": 0.0}), "t").verified is False


ASKED = [{"role": "user", "content": "u"}]
ANSWERED = [{"role": "assistant", "content": "a"}]
RUN = [*ANSWERED, {"role": "tool", "content": "seen"}, *ANSWERED]
TOOLS = {"info": json.dumps({"oai_tools": [{"name": "ls"}]})}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "completion": ANSWERED},
        {"prompt": ASKED, "completion": RUN, "reward": 1.0, **TOOLS},
        {"prompt": ASKED, "completion": RUN, "reward": 1.0, "tool_defs": json.dumps([{"name": "ls"}])},
        {"prompt": ASKED, "completion": ANSWERED, "reward": 1.0, "tool_defs": "[]"},
        {"prompt": ASKED, "reward_model": {"ground_truth": "4"}},
        {"prompt": ASKED, "response": "1. **A**: x.\n2. **B**: y."},
    ],
)
def test_chats_as_json_text_read_as_those_in_lists(row):
    as_text = {name: json.dumps(value) if name in ("prompt", "completion") else value for name, value in row.items()}
    readers = [*ORDER, NumberedSolutions(Columns())]
    plain, written = (next(reader for reader in readers if reader.recognise(each)) for each in (row, as_text))
    assert plain is written
    assert plain.read(Row("w", row), "t") == written.read(Row("w", as_text), "t")


def test_the_tools_of_a_rollout_make_it_a_run():
    rollout = {"prompt": "u", "completion": ANSWERED, "reward": 1.0}
    assert messages.read(Row("w", {**rollout, **TOOLS}), "t").instructions == '{"name": "ls"}'
    assert not hasattr(messages.read(Row("w", {**rollout, "tool_defs": "[]"}), "t"), "environment")


@pytest.mark.parametrize("prompt", ["[1, 2, 3]", "[a] or [b]?", '[{"from": "Rome", "to": "Bonn"}]', "[[", "[]"])
def test_text_that_only_begins_as_a_list_stays_text(prompt):
    row = Row("w", {"prompt": prompt, "completion": prompt})
    instance = prompt_completion.read(row, "t")
    assert (instance.prompt[0]["content"], instance.expert_action) == (prompt, prompt)


def test_a_preference_row_is_no_completion_and_a_chat_about_bash_no_agent():
    assert not [r for r in ORDER if r.recognise({"prompt": "p", "chosen": "c", "rejected": "r"})]
    chat = [{"role": "user", "content": "How do I list files?"}, {"role": "assistant", "content": "```bash\nls\n```"}]
    assert [r for r in ORDER if r.recognise({"messages": chat})] == [messages]


@pytest.mark.parametrize(
    "calls",
    [
        [{"id": "c", "type": "function", "function": {"name": "ls", "arguments": '{"path": "é"}'}}],
        [{"function": {"name": "ls", "arguments": {"path": "é", "depth": None}}}],  # padded by a table
        [{"function": "ls", "arguments": {"path": "é"}}],
        [{"name": "ls", "args": {"path": "é"}}],
        {"name": "ls", "input": {"path": "é"}},
        ['{"name": "ls", "arguments": {"path": "é"}}'],
        '[{"function": {"name": "ls", "arguments": "{\\"path\\": \\"é\\"}"}}]',
        "[{'function': {'name': 'ls', 'arguments': {'path': 'é', 'depth': None}}}]",
    ],
)
def test_tool_calls_of_any_shape_are_one_line(calls):
    turn = turns.read_turn({"role": "assistant", "content": None, "tool_calls": calls}, "w")
    assert turn.calls == ('{"name": "ls", "arguments": {"path": "é"}}',)


@pytest.mark.parametrize("calls", [7, "ls", [7], [{"function": {"arguments": "{}"}}], [None], "{'a': 1", "[" * 9999])
def test_tool_calls_of_no_shape_are_refused(calls):
    with pytest.raises(UserError, match="w: expected"):
        turns.read_turn({"role": "assistant", "tool_calls": calls}, "w")


def test_text_around_a_written_call_is_thought():
    said = 'I ask. <tool_call>{"name": "ls", "arguments": {}}</tool_call> Then <tool_call> more'
    turn = turns.read_turn({"role": "assistant", "content": said}, "w")
    assert turn.calls == ('{"name": "ls", "arguments": {}}',)
    assert turn.text == "I ask.  Then <tool_call> more"


def test_a_greeting_is_no_step_and_rejected_turns_take_their_answers_along():
    said = [
        ("assistant", "Hello!"),
        ("user", "Fix it."),
        ("assistant", ""),
        ("user", "Say something."),
        ("assistant", "ok"),
    ]
    found = turns.converse(turns.Turn(role, text) for role, text in said)
    assert found == turns.Conversation(None, "Fix it.", (Step("ok"),), skipped=2)


@pytest.mark.parametrize(
    ("row", "verified"),
    [
        ({"reward": 1.0}, True),
        ({"reward": 0}, False),
        ({"reward": 0.5}, None),
        ({"resolved": 0, "reward": 1.0}, False),
        ({"success": True}, True),
        ({"test_result": {"report": {"resolved": True}}}, True),
        ({"resolved": None, "reward": "1"}, None),
        ({"reward_info": {"reward": 0.0}}, False),
    ],
)
def test_what_a_row_says_of_its_success(row, verified):
    said = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    assert messages.read(Row("w", {"messages": said, **row}), "t").verified is verified


@pytest.mark.parametrize(
    ("reader", "value", "reason"),
    [
        (messages, {"messages": []}, "no action"),
        (messages, {"messages": [{"role": "user", "content": "u"}]}, "no action"),
        (messages, {"messages": [{"role": "assistant", "content": "a"}]}, "no problem"),
        (
            swe_smith,
            {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
            "no action",
        ),
        (openhands, [{"source": "agent", "action": "run", "args": {"command": "ls"}}], "no problem"),
        (react, {"question": "q", "text": "no labels"}, "no action"),
        (prompt_completion, {"prompt": "p", "completion": " "}, "no action"),
        (process_rewards, {"prompt": "p", "completions": [], "labels": []}, "no action"),
    ],
)
def test_rows_without_a_trajectory_are_counted_by_reason(reader, value, reason):
    with pytest.raises(Unusable) as caught:
        reader.read(Row("w", value), "t")
    assert caught.value.reason == reason


def test_one_plain_answer_in_numbered_steps_is_a_written_solution():
    answer = "We see.\n\n1. **Add**: 4\n\n2. **Double**: 8\n\nAnswer: 8"
    row = {"messages": [{"role": "user", "content": "2 + 2, doubled?"}, {"role": "assistant", "content": answer}]}
    trajectory = whole(messages.read(Row("x", row), "x"))
    assert [step.action for step in trajectory.steps] == ["We see.\n\n1. **Add**: 4", "2. **Double**: 8"]
    assert trajectory.conclusion == "Answer: 8"
    assert not trajectory.in_environment
    with_tools = whole(messages.read(Row("x", {**row, "tools": '["ls"]'}), "x"))
    assert [step.action for step in with_tools.steps] == [answer]
