"""Kinds of rows that were once read wrong, each in several spellings."""

import json

import pytest
from format_files import call

from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Found, Source, read_trajectories
from srl.data.steps import step_instances
from srl.errors import UserError
from srl.files import read_rows, write_jsonl
from srl.records import Problem, Step, Trajectory

ALL = StepOptions(hold_out=0.0, targets="all")


def read(tmp_path, *rows, name="rows.jsonl", **options):
    """The items of a file with these rows."""
    if name.endswith(".jsonl"):
        write_jsonl(tmp_path / name, rows)
    else:
        (tmp_path / name).write_text(json.dumps(rows[0]))
    return list(read_trajectories(Source(tmp_path / name, **options), Found()))


def user(text):
    return {"role": "user", "content": text}


def said(text, **more):
    return {"role": "assistant", "content": text, **more}


def calling(name, arguments="{}", text=None):
    return said(text, tool_calls=[{"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}])


# --- conversations ----------------------------------------------------------------------------------

ASKED = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Warm?"}]}
CALLED = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"city": "Oslo"}'}
SEEN = {"type": "function_call_output", "call_id": "c", "output": "4"}
TOLD = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "No."}]}
REASONED = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I ask."}]}
ITEMS = [
    [ASKED, REASONED, CALLED, SEEN, TOLD],
    [{"role": "user", "content": "Warm?"}, {**REASONED, "content": [{"text": "I ask."}]}, CALLED, SEEN, TOLD],
    [ASKED, {**TOLD, "content": "I ask."}, CALLED, {**SEEN, "output": [{"type": "input_text", "text": "4"}]}, TOLD],
    [{**ASKED, "content": "Warm?"}, {"type": "reasoning", "summary": "<think>I ask.</think>"}, CALLED, SEEN, TOLD],
]


@pytest.mark.parametrize("items", ITEMS)
@pytest.mark.parametrize("column", ["messages", "conversation", "trajectory"])
def test_items_of_the_responses_api(tmp_path, items, column):
    (trajectory,) = read(tmp_path, {column: items})
    assert trajectory.problem == "Warm?"
    assert trajectory.steps == (
        Step(call("weather", city="Oslo"), observation="4", thought="I ask."),
        Step("No."),
    )


def test_codex_logs_are_read_as_one_session(tmp_path):
    events = [{"timestamp": "t", "type": "session_meta", "payload": {"id": "x"}}]
    events += [{"timestamp": "t", "type": "response_item", "payload": item} for item in ITEMS[0]]
    events += [{"timestamp": "t", "type": "event_msg", "payload": {"type": "token_count"}}]
    (trajectory,) = read(tmp_path, *events)
    assert [step.action for step in trajectory.steps] == [call("weather", city="Oslo"), "No."]


def test_several_sessions_in_a_file_are_several_trajectories(tmp_path):
    def event(session, role, text):
        return {"type": role, "sessionId": session, "message": {"role": role, "content": text}}

    events = [event(name, *turn) for name in ("a", "b") for turn in (("user", f"Do {name}."), ("assistant", "Done."))]
    assert [item.id for item in read(tmp_path, *events)] == ["a", "b"]


@pytest.mark.parametrize(
    "twice",
    [
        calling("ls", text="I look.") | {"thought": "I look."},
        calling("ls", text="I look.") | {"reasoning_content": "Hm. I look."},
        calling("ls", text="<think>I look.</think>") | {"reasoning": "I look."},
    ],
)
def test_a_thought_that_is_kept_twice_is_one(tmp_path, twice):
    (trajectory,) = read(tmp_path, {"messages": [user("List."), twice, {"role": "tool", "content": "a"}, said("One.")]})
    assert trajectory.steps[0].thought.count("I look.") == 1


LABELS = ("OBSERVATION:\n", "Observation: ", "EXECUTION RESULT of [ls]:\n", "")
REACT_LABELS = ("Observation 1: ", "**Observation:** ", "**Observation 12**:\n", "observation: ")


@pytest.mark.parametrize("label", [*LABELS, *REACT_LABELS])
def test_the_word_that_announces_an_observation_is_left_out(tmp_path, label):
    turns = [user("List."), calling("ls"), {"role": "tool", "content": f"{label}a\nObservation: b"}, said("Two.")]
    (trajectory,) = read(tmp_path, {"messages": turns})
    assert trajectory.steps[0].observation == "a\nObservation: b"


TOOL = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    "where",
    [
        {"tools": [TOOL]},
        {"info": {"oai_tools": [TOOL]}},
        {"functions": json.dumps([TOOL])},
        {"metadata": {"tools": [TOOL]}},
    ],
)
@pytest.mark.parametrize("n_turns", [1, 3])
def test_single_calls_are_agents_with_their_tools_and_rules(tmp_path, where, n_turns):
    turns = [{"role": "system", "content": "Metric units."}, user("Warm?"), calling("weather")]
    turns += [{"role": "tool", "content": "4"}, said("No.")][: n_turns - 1]
    (trajectory,) = read(tmp_path, {"messages": turns, **where})
    assert trajectory.in_environment
    instance = next(step_instances(trajectory, targets="all"))
    assert "Metric units." in instance.prompt[0]["content"]
    assert '"name": "weather"' in instance.prompt[0]["content"]
    assert instance.prompt[-1]["content"] == "Task: Warm?\n\nSo far:\n"
    report = prepare(Source(tmp_path / "rows.jsonl"), tmp_path / "out", ALL)
    assert (report.kept, (tmp_path / "out/train.problems.jsonl").read_text()) == (1, "")


REWARDED = [
    ("Observation: Episode finished, reward = False", False),
    ("The game is over. Reward = True", None),
    ("Episode finished, reward = True", True),
    ("OBSERVATION:\nYou get reward=False.", False),
    ("The reward = False friends", False),
    ("a reward of 0", None),
]


@pytest.mark.parametrize(("last", "verified"), REWARDED)
def test_runs_whose_last_observation_tells_how_they_ended(tmp_path, last, verified):
    turns = [user("Who?"), said("Thought: So.\nAction: search[x]"), user("Observation: y"), said("Action: finish[y]")]
    (trajectory,) = read(tmp_path, {"conversations": [*turns, user(last)]})
    assert [step.action for step in trajectory.steps] == ["search[x]", "finish[y]"]
    assert trajectory.steps[0].observation == "y"
    assert trajectory.verified is verified


# --- software engineering ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turn",
    [
        "I look.\n\n```\nls -a\n```",
        "I look.\n```bash\nls -a\n```\n",
        "<think>I look.</think>\n```\nls -a\n```",
        "I\n```\nquote\n```\nlook.\n\n```\nls -a\n```",
    ],
)
def test_commands_in_code_blocks(tmp_path, turn):
    turns = [user("Fix it."), said(turn), user("OBSERVATION:\na"), said("```\nsubmit\n```")]
    (trajectory,) = read(tmp_path, {"messages": json.dumps(turns), "resolved": True})
    assert [step.action for step in trajectory.steps] == ["ls -a", "submit"]
    assert trajectory.steps[0].observation == "a"
    assert trajectory.steps[0].thought.replace("```\nquote\n```\n", "").replace("\n", " ") == "I look."


@pytest.mark.parametrize("language", ["bash", "sh", "mswea_bash_command"])
def test_a_command_is_a_target_as_its_harness_takes_it(tmp_path, language):
    turns = [user("Fix it."), said(f"THOUGHT: So.\n\n```{language} \nls\ncat a\n```\nThat is it.")]
    turns += [user("<returncode>0</returncode>\n<output>\na\n</output>")]
    (trajectory,) = read(tmp_path, {"messages": turns, "trajectory_format": "mini-swe-agent-1.1"})
    assert trajectory.steps[0].action == f"```{language}\nls\ncat a\n```"
    assert trajectory.steps[0].thought == "So."


def openhands(*events, **row):
    return {"instruction": "Fix it.", "history": [*events], **row}


def run(command, **more):
    return {"source": "agent", "action": "run", "args": {"command": command}, **more}


TASK = {"source": "user", "action": "message", "args": {"content": "Fix it."}}
FINISH = {"id": 9, "source": "agent", "action": "finish", "args": {}}


@pytest.mark.parametrize(
    "task",
    [
        {"action": "message", "content": "Fix it.", "wait_for_response": False},
        {"action": "message", "content": "Fix it.", "images_urls": None, "source": "user"},
        {"action": "message", "content": "Fix it.", "id": 0},
    ],
)
def test_older_openhands_events_hold_their_arguments_themselves(tmp_path, task):
    row = openhands(
        task,
        {"action": "run", "command": "ls", "thought": "I look.", "is_confirmed": "confirmed", "keep_prompt": True},
        {"observation": "run", "content": "a\r\n", "command": "ls", "exit_code": 0},
        {"action": "edit", "path": "a", "content": "b", "thought": "", "action_risk": None},
        {"observation": "error", "content": "no such file"},
        {"action": "message", "content": "Which file?"},
        {"action": "finish", "outputs": {}, "thought": "Done."},
        success=True,
        error=None,
    )
    (trajectory,) = read(tmp_path, row)
    assert trajectory.problem == "Fix it."
    assert trajectory.steps == (
        Step(call("run", command="ls"), observation="a", thought="I look."),
        Step(call("edit", path="a", content="b"), observation="no such file"),
        Step("Which file?"),
        Step(call("finish"), thought="Done."),
    )
    assert trajectory.verified is True


@pytest.mark.parametrize(
    "error",
    [{"observation": "error", "content": "Bad call."}, {"observation": "error", "content": "x", "id": 3, "extras": {}}],
)
def test_the_answer_to_a_rejected_call_is_no_observation_of_the_step_before(tmp_path, error):
    seen = {"id": 2, "observation": "run", "content": "a", "cause": 1, "extras": {}}
    (trajectory,) = read(tmp_path, openhands(TASK, run("ls", id=1), seen, error, FINISH))
    assert [step.observation for step in trajectory.steps] == ["a", None]


@pytest.mark.parametrize(
    ("row", "verified"),
    [
        (openhands(TASK, run("ls", id=1), error="RuntimeError: too many steps"), False),
        (openhands(TASK, run("ls", id=1), error={"type": "Timeout"}), False),
        (openhands(TASK, run("ls", id=1), FINISH, error="the sandbox did not stop"), None),
        (openhands(TASK, run("ls", id=1), error=""), None),
        (openhands(TASK, run("ls", id=1), error="late", resolved=True), True),
        ({"messages": [user("Fix it."), calling("ls")], "error": "Crashed."}, False),
        ({"messages": [user("Fix it."), calling("ls")], "error": None}, None),
    ],
)
def test_crashed_runs_are_failed_runs(tmp_path, row, verified):
    (trajectory,) = read(tmp_path, row)
    assert trajectory.verified is verified


# --- problems ---------------------------------------------------------------------------------------

PROBLEM_ROWS = [
    {"prompt": [user("7 * 6?")], "answer": "42"},
    {"prompt": "7 * 6?", "ground_truth": 42},
    {"prompt": [{"role": "system", "content": "Be brief."}, user("7 * 6?")], "solution": "$\\boxed{42}$"},
    {"question": "7 * 6?", "final_answer": ["42"]},
    {"conversations": [{"from": "human", "value": "7 * 6?"}], "answer": "42"},
    {"problem": "7 * 6?", "solution": "42"},
    {"problem": "7 * 6?", "solution": "It is \\boxed{42}.", "level": "Level 1", "type": "Algebra"},
    {"problem": "7 * 6?", "messages": [user("7 * 6?"), said("It is \\boxed{42}.")], "solution": "It is \\boxed{42}."},
    {"input": [user("7 * 6?")], "output": "<think>Hm.</think>It is \\boxed{42}.", "category": "math"},
    {"problem": "7 * 6?", "answer": "42", "generations": ["<think>Hm.</think>It is \\boxed{42}."]},
    {"question": "7 * 6?", "r1_attempt": "x", "generated_solution": "42, as \\boxed{42}", "expected_answer": "42"},
]


@pytest.mark.parametrize("row", PROBLEM_ROWS)
def test_a_problem_and_an_answer_without_steps_are_a_row_for_rlvr(tmp_path, row):
    if "r1_attempt" in row:
        row = {"problem": row["question"], **row}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    report = prepare(Source(tmp_path / "rows.jsonl"), tmp_path / "out", ALL)
    (problem,) = (each.value for each in read_rows(tmp_path / "out/train.problems.jsonl"))
    assert (problem["prompt"][-1]["content"], problem["answer"]) == ("7 * 6?", "42")
    assert "Hm." not in (problem["solution"] or "")
    assert report.instances.total() == 0
    assert report.kept == 1


def test_why_problems_have_no_steps_is_said(tmp_path):
    rows = [{"problem": f"{k} * 6?", "solution": "So.", "answer": str(6 * k)} for k in range(3)]
    rows += [{"problem": "7 * 6?", "solution": "1. a\n2. b\n1. c", "answer": "42"}, {"problem": "8?", "answer": "8"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    lines = prepare(Source(tmp_path / "rows.jsonl"), None, ALL).lines()
    for words in ("3  have no steps, and are problems to solve as a whole: no numbered steps", "1  have no steps"):
        assert any(words in line for line in lines)
    assert any("whole: no solution" in line for line in lines)
    assert any("4  solutions of these left out: they miss the known answer" in line for line in lines)


@pytest.mark.parametrize("answer", ["proof", "", None, "notfound"])
def test_a_problem_whose_answer_is_not_known_is_left_out(tmp_path, answer):
    rows = [{"messages": [user("Prove it.")], "answer": answer}, {"messages": [user("7 * 6?")], "answer": "42"}]
    dropped, problem = read(tmp_path, *rows)
    assert dropped.reason == "no action"
    assert isinstance(problem, Problem)


def test_an_object_whose_values_are_rows(tmp_path):
    rows = {f"train/{k}.json": {"problem": f"{k} * 6?", "solution": f"\\boxed{{{6 * k}}}"} for k in range(3)}
    items = read(tmp_path, rows, name="rows.json")
    assert [(item.id, item.answer) for item in items] == [(f"train/{k}.json", str(6 * k)) for k in range(3)]
    assert items[2].metadata["where"].endswith("rows.json[2]")
    with pytest.raises(UserError, match="no known format"):
        read(tmp_path, {"a": {"b": 1}, "c": {"d": 2}}, name="other.json")


# --- ids, types -------------------------------------------------------------------------------------


def test_ids_that_repeat_get_a_number(tmp_path):
    rows = [{"id": 0, "problem": f"{k}?", "steps": [{"action": "a"}, {"action": "b"}]} for k in range(3)]
    rows.append(rows[0] | {"id": "x", "problem": "4?"})
    write_jsonl(tmp_path / "rows.jsonl", rows)
    report = prepare(Source(tmp_path / "rows.jsonl"), tmp_path / "out", StepOptions(hold_out=0.0))
    steps = [row.value["trajectory_id"] for row in read_rows(tmp_path / "out/train.steps.jsonl")]
    assert steps == ["0", "0#2", "0#3", "x"]
    assert report.repeated_ids == 2


@pytest.mark.parametrize(("answer", "text"), [(22, "22"), (2.5, "2.5"), ("22", "22"), (None, None)])
@pytest.mark.parametrize("parquet", [False, True])
def test_numbers_as_answers_of_srls_own_rows(tmp_path, answer, text, parquet):
    write_jsonl(
        tmp_path / "rows.jsonl",
        [{"problem": "p", "steps": [{"action": "22"}, {"action": "2.5"}], "answer": answer, "verified": True}],
    )
    prepare(Source(tmp_path / "rows.jsonl"), tmp_path / "out", StepOptions(hold_out=0.0, parquet=parquet))
    (problem,) = read_rows(tmp_path / f"out/train.problems.{'parquet' if parquet else 'jsonl'}")
    assert problem.value["answer"] == text


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("conclusion", ["x"], "expected text in `conclusion`, found a list"),
        ("answer", {"x": 1}, "expected text in `answer`, found an object"),
        ("answer", True, "expected text in `answer`, found true or false"),
        ("instructions", 7, "expected text in `instructions`, found a number"),
        ("verified", "yes", "expected true or false in `verified`, found text"),
        ("verified", 1, "expected true or false in `verified`, found a number"),
        ("environment", "no", "expected true or false in `environment`, found text"),
        ("metadata", "x", "expected an object in `metadata`, found text"),
        ("steps", [{"action": "a", "thought": ["x"]}], "step 1: expected text in `thought`, found a list"),
    ],
)
def test_wrong_types_in_srls_own_rows_are_one_line(tmp_path, field, value, found):
    with pytest.raises(UserError) as error:
        read(tmp_path, {"problem": "p", "steps": [{"action": "a"}], field: value})
    assert found in str(error.value)
    assert "rows.jsonl:1" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_the_native_row_says_of_its_environment_is_kept(tmp_path):
    row = {"problem": "p", "steps": [{"action": "a"}, {"action": "b"}], "environment": True, "only_last": True}
    (trajectory,) = read(tmp_path, row)
    assert isinstance(trajectory, Trajectory)
    assert trajectory.in_environment
    assert [instance.step_index for instance in step_instances(trajectory)] == [2]
