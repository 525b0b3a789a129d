"""What says whether an expert is right: columns of any name in any format, named columns, and files beside the runs."""

import json
import re

import pytest

from srl.data.formats.columns import Columns, answer_of, is_bare
from srl.data.formats.labels import verdict
from srl.data.labels import read_labels
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.errors import UserError
from srl.files import read_rows, write_jsonl
from srl.rewards.answer_text import known_answer

ALL = StepOptions(hold_out=0.0, targets="all")
STEPS = "1. **Add**: 2 + 2 is 4.\n\n2. **Double**: 2 * 4 is \\boxed{8}."


def chat(*turns):
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def call(name):
    return {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": name, "arguments": "{}"}}]}


RUN = [{"role": "user", "content": "Fix it."}, call("ls"), {"role": "tool", "content": "a"}, call("done")]
ROWS = {
    "numbered-solutions": {"problem": "2 + 2, doubled?", "solution": STEPS},
    "messages of one answer": {"messages": chat("2 + 2, doubled?", STEPS)},
    "messages of a run": {"messages": RUN},
    "swe-smith": {"messages": chat("Fix it.", "<function=ls>\n</function>", "a", "<function=submit>\n</function>")},
    "mini-swe-agent": {
        "trajectory_format": "mini-swe-agent-1",
        "info": {"exit_status": "Submitted"},
        "messages": chat("Fix it.", "```bash\nls\n```", "<returncode>0</returncode>", "```bash\ntrue\n```"),
    },
    "swe-agent": {"trajectory": [{"action": "ls", "observation": "a"}], "history": [], "problem_statement": "Fix it."},
    "openhands": {
        "instruction": "Fix it.",
        "history": [
            {"source": "user", "action": "message", "args": {"content": "Fix it."}},
            {"id": 1, "source": "agent", "action": "run", "args": {"command": "ls"}},
        ],
    },
    "react": {"question": "Who?", "text": "Thought: So.\nAction: Search[x]\nObservation: y"},
    "gsm8k": {"question": "2 + 2?", "answer": "2+2=<<2+2=4>>4\n#### 4"},
    "prompt-completion": {"prompt": "2 + 2?", "completion": "4"},
    "srl": {"problem": "p", "steps": [{"action": "a"}, {"action": "b"}]},
}


def report_of(tmp_path, *rows, **options):
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return prepare(Source(tmp_path / "rows.jsonl", **options), None, ALL)


LEFT_OUT = {"wrong final answer", "failed run", "marked as wrong"}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize(
    ("name", "good", "bad"), [("verified", True, False), ("is_correct", 1, 0), ("passed", "yes", "no")]
)
def test_a_label_counts_in_every_format(tmp_path, kind, name, good, bad):
    if kind == "srl" and name != "verified":
        pytest.skip("srl's own rows say `verified`")
    report = report_of(tmp_path, *(ROWS[kind] | {name: label, "id": str(label)} for label in (bad, good)))
    assert report.kept == 1
    assert set(report.dropped) <= LEFT_OUT


@pytest.mark.parametrize("kind", ROWS)
def test_a_named_column_counts_in_every_format(tmp_path, kind):
    rows = [ROWS[kind] | {"ok": label, "id": str(label)} for label in ("wrong", "right")]
    report = report_of(tmp_path, *rows, columns=Columns(correct="ok"))
    assert report.kept == 1
    assert set(report.dropped) <= LEFT_OUT


LABELLED = [
    ({"deepseek_grade": "No"}, ("deepseek_grade",), False),
    ({"correct": "Yes"}, (), True),
    ({"correctness_math_verify": False, "correctness_llama": True}, (), True),
    ({"correctness_math_verify": False, "correctness_llama": None}, (), False),
    ({"info": {"success": False}}, (), False),
    ({"report": {"resolved": "unresolved"}}, (), False),
    ({"correct": "22", "passed": "7/9", "verified": None, "grade": 0.5}, (), None),
    ({"resolved": [True], "reward": [1.0]}, (), None),
]


@pytest.mark.parametrize(("row", "names", "expected"), LABELLED)
def test_what_rows_say_of_their_success(row, names, expected):
    assert verdict(row, names) is expected


def test_grades_belong_to_their_attempt(tmp_path):
    row = {"question": "q?", "deepseek_attempt": STEPS, "gemini_attempt": STEPS, "deepseek_grade": "No"}
    row["gemini_grade"] = "Yes"
    write_jsonl(tmp_path / "rows.jsonl", [row])
    assert prepare(Source(tmp_path / "rows.jsonl", columns=Columns(solution="gemini_attempt")), None, ALL).kept == 1
    with pytest.raises(UserError, match="1 × wrong final answer"):
        prepare(Source(tmp_path / "rows.jsonl"), None, ALL)


def test_labels_of_a_list_of_solutions_are_those_of_its_items(tmp_path):
    row = {
        "problem": "2 + 2, doubled?",
        "answer": "8",
        "generations": [f"<think>{k}</think>\n\nAttempt {k}.\n\n{STEPS}" for k in range(3)],
        "correctness_math_verify": [True, False, False],
        "correctness_llama": [None, False, True],
        "messages": chat("2 + 2, doubled?", STEPS),
    }
    write_jsonl(tmp_path / "rows.jsonl", [row])
    report = prepare(Source(tmp_path / "rows.jsonl"), tmp_path / "out", ALL)
    assert (report.read, report.kept, report.dropped) == (3, 2, {"wrong final answer": 1})
    steps = [row.value for row in read_rows(tmp_path / "out/train.steps.jsonl")]
    assert [(row["expert_action"][:10], row["thought"]) for row in steps if row["step_index"] == 1] == [
        ("Attempt 0.", "0"),
        ("Attempt 2.", "2"),
    ]


def test_a_named_answer_is_compared_in_chats_too(tmp_path):
    rows = [{"messages": chat(f"2 + 2, doubled? {gold}", STEPS), "gold answer": gold} for gold in ("8", "9", None)]
    report = report_of(tmp_path, *rows, columns=Columns(answer="gold answer"))
    assert (report.kept, report.answers_checked, report.dropped) == (2, 1, {"wrong final answer": 1})


def test_columns_may_lie_inside_objects(tmp_path):
    row = {"q": "2 + 2, doubled?", "by": {"model": {"text": STEPS}}, "meta": "{'gold': '9', 'ok': None}"}
    columns = Columns("q", "by.model.text", "meta.gold", "meta.ok")
    with pytest.raises(UserError, match="1 × wrong final answer"):
        report_of(tmp_path, row, columns=columns)
    assert report_of(tmp_path, row, columns=Columns("q", "by.model.text")).kept == 1
    with pytest.raises(UserError, match=r"no field `by\.model\.txt`; it has `by\.model\.text`"):
        report_of(tmp_path, row, columns=Columns("q", "by.model.txt"))


NESTED = {"question": "2+2?", "m": {"proof": "1. **Add**: 4.\n\n2. **Say**: four."}}


@pytest.mark.parametrize("empty", [None, {"proof": None}])
def test_a_column_inside_null_is_null(tmp_path, empty):
    report = report_of(tmp_path, NESTED, {"question": "3+3?", "m": empty}, columns=Columns("question", "m.proof"))
    assert (report.kept, report.dropped) == (1, {"empty solution": 1})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns("question", "m.prof"), "no field `m.prof`; it has `m.proof`"),
        (Columns("quest", "m.proof"), "no field `quest`; it has `question`, `m`"),
        (Columns("question", "m.proof.x"), "no field `m.proof.x`; it has `m.proof`"),
    ],
)
def test_a_named_column_that_a_row_lacks_is_named(tmp_path, columns, message):
    with pytest.raises(UserError, match=re.escape(message)):
        report_of(tmp_path, NESTED, columns=columns)


def test_problems_kept_elsewhere_win_over_a_wrapped_copy(tmp_path):
    write_jsonl(tmp_path / "problems.jsonl", [{"id": 3, "question": "2 + 2, doubled?", "target": 8}])
    row = {"id": 3, "instruction": "Solve it, please. 2 + 2, doubled?", "answer": STEPS}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    prepare(Source(tmp_path / "rows.jsonl", problems=tmp_path / "problems.jsonl"), tmp_path / "out", ALL)
    (problem,) = (row.value for row in read_rows(tmp_path / "out/train.problems.jsonl"))
    assert (problem["prompt"][-1]["content"], problem["answer"]) == ("2 + 2, doubled?", "8")


WRONG_FLAGS = [
    ("prompt-completion", Columns(answer="a"), "--answer-field does not apply to this row of prompt-completion; it"),
    ("prompt-completion", Columns(problem="a"), "--problem-field does not apply to this row of prompt-completion"),
    ("messages of a run", Columns(thought="a"), "--thought-field applies to numbered-solutions only; this row is of"),
    ("messages of a run", Columns(correct="okay"), "okay: no such field in any of 1 rows; the first has `messages`"),
    ("srl", Columns(answer="gold"), "--answer-field gold: no such field in any of 1 rows"),
    ("gsm8k", Columns(problem="q"), "no field `q`; it has `question`, `answer`"),
    ("swe-smith", Columns(correct="messages"), "expected true/yes/correct/right/passed"),
]


@pytest.mark.parametrize(("kind", "columns", "message"), WRONG_FLAGS)
def test_flags_that_do_not_apply_say_where_they_do(tmp_path, kind, columns, message):
    with pytest.raises(UserError) as error:
        report_of(tmp_path, ROWS[kind], columns=columns)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_more_flags_that_do_not_apply(tmp_path):
    verl = {"prompt": chat("p"), "reward_model": {"ground_truth": "4"}, "ok": True}
    with pytest.raises(UserError, match="--correct-field does not apply to this row of verl"):
        report_of(tmp_path, verl, columns=Columns(correct="ok"))
    with pytest.raises(UserError, match="--solution-field: applies to numbered-solutions only, not to messages"):
        report_of(tmp_path, ROWS["messages of a run"], columns=Columns(solution="s"), format="messages")
    with pytest.raises(UserError, match="--cut lines: applies to written solutions"):
        report_of(tmp_path, ROWS["messages of a run"], cut="lines")
    with pytest.raises(UserError, match="--annotations thought: applies to written solutions"):
        report_of(tmp_path, ROWS["react"], annotations="thought")


def test_a_column_that_some_rows_lack_is_counted(tmp_path):
    rows = [ROWS["messages of a run"] | extra for extra in ({"ok": True, "id": 1}, {"id": 2})]
    rows[1] = rows[1] | {"messages": [{"role": "user", "content": "Fix that."}, *RUN[1:]]}
    report = report_of(tmp_path, *rows, columns=Columns(correct="ok"))
    assert report.kept == 2
    assert any("1  have no such field: --correct-field ok" in line for line in report.lines())


FILES = {
    "report.json": ('{"resolved_ids": ["b"], "unresolved_ids": ["a"]}', {"a": False, "b": True, "z": False}),
    "list.json": ('["b", "c"]', {"a": False, "b": True}),
    "map.json": ('{"a": false, "b": {"resolved": true}, "c": "passed"}', {"a": False, "b": True, "c": True, "z": None}),
    "rows.jsonl": ('{"task_id": "b", "resolved": true}\n{"task_id": "a", "reward": 0.0}', {"a": False, "b": True}),
    "rows.json": ('[{"id": "b", "success": 1}]', {"a": None, "b": True}),
    "ids.txt": ("b\nc\n", {"a": False, "b": True}),
    "table.csv": ("id,resolved\na,false\nb,true\n", {"a": False, "b": True, "z": None}),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_verdicts(tmp_path, name):
    content, expected = FILES[name]
    (tmp_path / name).write_text(content)
    labels = read_labels(tmp_path / name)
    assert {key: labels.of([key]) for key in expected} == expected


def test_verdicts_beside_the_runs(tmp_path):
    runs = tmp_path / "runs"
    for name in ("a", "b", "c"):
        (runs / name).mkdir(parents=True)
        run = ROWS["mini-swe-agent"] | ({"instance_id": "x__b"} if name == "b" else {})
        run = run | {"messages": chat(f"Fix {name}.", *(turn["content"] for turn in run["messages"][1:]))}
        (runs / name / f"x__{name}.traj.json").write_text(json.dumps(run))
    (runs / "report.json").write_text(json.dumps({"resolved_ids": ["x__a", "x__b"]}))
    report = prepare(Source(runs, labels=runs / "report.json"), None, ALL)
    assert (report.read, report.kept, report.dropped) == (3, 2, {"failed run": 1})
    (tmp_path / "others.txt").write_text("y__a\ny__b\n")
    with pytest.raises(UserError, match=r"none of its 2 ids \(y__a, y__b, …\) names a trajectory"):
        prepare(Source(runs, labels=tmp_path / "others.txt"), None, ALL)
    (tmp_path / "empty.json").write_text('{"total": 3}')
    with pytest.raises(UserError, match="no verdicts in it"):
        prepare(Source(runs, labels=tmp_path / "empty.json"), None, ALL)


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"answer": 27.0}, "27"),
        ({"expected_answer": "\\frac12"}, "\\frac12"),
        ({"final_answer": ["x = 2"]}, "x = 2"),
        ({"ground_truth": "So:\n#### 1,234"}, "1234"),
        ({"solution": "It is $\\boxed{5}$."}, "5"),
        ({"solution": "128"}, "128"),
        ({"solution": "It follows at once."}, None),
        ({"problem": "Prove that 2 > 1.", "solution": "\\boxed{}: see \\boxed{1}"}, None),
        ({"problem": "Prove that 2 > 1, and find 2 - 1.", "solution": "\\boxed{1}"}, "1"),
        ({"answer": "proof", "solution": "\\boxed{1}"}, None),
        ({"answer": "x" * 500}, None),
        ({"answer": None, "gold": True}, None),
    ],
)
def test_the_known_answer_of_a_row(row, answer):
    assert answer_of(row) == answer


def test_the_column_of_the_solution_is_no_answer():
    assert answer_of({"answer": "1. a"}, "answer") is None
    assert known_answer("None") is None
    assert not is_bare("")
