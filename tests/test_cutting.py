"""Written solutions without numbers: lines, paragraphs and sentences; what stays whole; chats that are no solutions."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl.data.formats.cutting import SCHEMES, cut_solution, schemes_that_cut
from srl.data.formats.numbered import NotNumbered
from srl.data.formats.written import Written, as_trajectory, is_worked
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.files import read_rows, write_jsonl

ALL = StepOptions(hold_out=0.0, targets="all")


def actions(text, scheme):
    return [step.action for step in cut_solution(text, scheme).steps]


TEXT = """\
We have 3.5 kg for $2.00 each. Dr. Ito pays $x = 3.5 \\cdot 2$ dollars, i.e. 7.

So far:
\\[
x = 7.
y = 2x
\\]
He pays twice! That is 14.
**Answer:** 14"""


def test_lines_keep_displayed_formulas_whole():
    assert actions(TEXT, "lines") == [
        "We have 3.5 kg for $2.00 each. Dr. Ito pays $x = 3.5 \\cdot 2$ dollars, i.e. 7.",
        "So far:",
        "\\[\nx = 7.\ny = 2x\n\\]",
        "He pays twice! That is 14.",
        "**Answer:** 14",
    ]


def test_paragraphs():
    assert len(actions(TEXT, "paragraphs")) == 2
    assert actions("One.\n\n\nTwo,\nstill two.\n \t\n---\n\nThree.", "paragraphs") == [
        "One.",
        "Two,\nstill two.\n---",  # a rule is no step
        "Three.",
    ]


def test_sentences_end_where_a_new_one_begins():
    assert actions(TEXT, "sentences")[:2] == [
        "We have 3.5 kg for $2.00 each.",
        "Dr. Ito pays $x = 3.5 \\cdot 2$ dollars, i.e. 7.",
    ]
    assert actions(TEXT, "sentences")[-3:] == ["He pays twice!", "That is 14.", "**Answer:** 14"]
    assert actions("It is (see eq. 3) 2. And J. Doe agrees. \\(a\\) is it?", "sentences") == [
        "It is (see eq. 3) 2.",
        "And J. Doe agrees.",
        "\\(a\\) is it?",
    ]
    closed = '(Pens are dear.) "So is ink." **Sum.** Then add.'
    assert actions(closed, "sentences") == ["(Pens are dear.)", '"So is ink."', "**Sum.**", "Then add."]
    assert actions("```\na. B\nc. D\n```\n1. Add.\n2. Halve.", "sentences") == [
        "```\na. B\nc. D\n```",
        "1. Add.",
        "2. Halve.",
    ]


@pytest.mark.parametrize("scheme", SCHEMES[1:])
@pytest.mark.parametrize(("text", "reason"), [("", "empty solution"), ("\n \n", "empty"), ("x = 1", "only one")])
def test_what_cannot_be_cut_is_refused(scheme, text, reason):
    with pytest.raises(NotNumbered, match=reason):
        cut_solution(text, scheme)


PIECES = ["One.", " Two! ", "\n", "\n\n", "$a. B$", "\\[", "\\]", "```", "x", "1. ", ")", "$", "\r\n", "**"]


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join), st.sampled_from(SCHEMES[1:]))
def test_no_character_is_lost_or_moved(text, scheme):
    try:
        cut = cut_solution(text, scheme)
    except NotNumbered:
        return
    assert "".join("".join(step.action for step in cut.steps).split()) == "".join(text.split())
    assert all(step.action.strip() == step.action != "" for step in cut.steps)


@pytest.mark.parametrize("piece", ["a. ", "A. B ", "\n", "$", "\\[", "x\n\n", "!?", "(", "  "])
def test_long_texts_take_linear_time(piece):
    schemes_that_cut("x. " + piece * 200_000)


# --- as solutions -----------------------------------------------------------------------------------


def written(text, **more):
    return Written("t", "How many?", text, metadata={"where": "w"}, **more)


NOTES = [
    ("3*4=<<3*4=12>>12\n12+1=<<12+1=13>>13\n#### 13", ["3*4=12", "12+1=13", "#### 13"], ["3*4=12", "12+1=13", None]),
    ("Half: <<48/2=24>>24. All: $<<48+24=72>>72.\nEnd.", ["Half: 24. All: $72.", "End."], ["48/2=24\n48+24=72", None]),
    ("a<b and b<<c\nor c>>d", ["a<b and b<<c", "or c>>d"], [None, None]),
    ("1 << 2 = 4, and 4 >> 2 = 1.\nEnd.", ["1 << 2 = 4, and 4 >> 2 = 1.", "End."], [None, None]),
]


@pytest.mark.parametrize(("text", "clean", "notes"), NOTES)
def test_a_calculators_notes(text, clean, notes):
    dropped = as_trajectory(written(text), "lines")
    assert [(step.action, step.thought) for step in dropped.steps] == [(action, None) for action in clean]
    told = as_trajectory(written(text), "lines", "thought")
    assert [(step.action, step.thought) for step in told.steps] == list(zip(clean, notes, strict=True))


def test_a_thought_about_the_whole_comes_before_the_first_step():
    trajectory = as_trajectory(written("<<1=1>>a\nb", thought="hm"), "lines", "thought")
    assert [step.thought for step in trajectory.steps] == ["hm\n\n1=1", None]


def test_a_solution_without_steps_is_a_problem_if_its_answer_is_known():
    trajectory = as_trajectory(written("It is <<1+1=2>>2.", answer="2"))
    assert (trajectory.steps, trajectory.conclusion) == ((), "It is 2.")
    assert trajectory.metadata["no_steps"] == "no numbered steps"
    with pytest.raises(NotNumbered):
        as_trajectory(written("It is 2."))


RECIPE = "Here is how.\n\n1. **Flour**: take 1/2 cup.\n\n2. **Oven**: 200 degrees, 30 min.\n\n3. **Eat**: enjoy!"


@pytest.mark.parametrize(
    "text",
    [
        RECIPE,
        "1. Visit the museum (10 am - 12).\n2. Have lunch; it costs $15 to $20.\n3. Go home.",
        "1. **Ask**: what do you want?\n2. **Answer honestly**: be kind.\n3. Repeat steps 1/2.",
    ],
)
def test_a_list_in_a_chat_is_no_solution_unless_that_is_asked_for(text):
    assert not is_worked(written(text, is_chat=True))
    assert len(as_trajectory(written(text, is_chat=True)).steps) == 1
    assert len(as_trajectory(written(text, is_chat=True), "numbered").steps) == 3
    assert len(as_trajectory(written(text)).steps) == 3  # of a column of solutions


@pytest.mark.parametrize(
    "text",
    [
        "1. **Pens**: 4 * 3 = 12.\n2. **All**: 22.",
        "1. Let \\(n\\) be odd.\n2. Then so is \\(n^2\\).",
        "1. Take the first.\n2. Take the last.\n\nFinal Answer: B",
        "1. Set $x = 2$.\n2. Done.",
    ],
)
def test_a_list_that_calculates_is_a_solution_in_a_chat_too(text):
    assert len(as_trajectory(written(text, is_chat=True)).steps) == 2


def test_a_chat_with_a_known_answer_is_a_solution():
    assert len(as_trajectory(written("1. Boys.\n2. Girls.", is_chat=True, answer="7")).steps) == 2


# --- as a command -----------------------------------------------------------------------------------


def test_a_scheme_can_be_chosen_and_its_share_is_told(tmp_path):
    rows = [
        {"problem": "a?", "solution": "1. **A**: 1.\n\n2. **B**: 2."},
        {"problem": "b?", "solution": "We add.\n\nSo it is 2."},
        {"problem": "c?", "solution": "We add. It is 2."},
        {"problem": "d?", "solution": "Two"},
    ]
    write_jsonl(tmp_path / "s.jsonl", rows)
    report = prepare(Source(tmp_path / "s.jsonl"), None, ALL)
    assert report.kept == 1
    line = "of 4 written solutions, --cut would find steps in: numbered 25%, lines 50%, paragraphs 50%, sentences 75%"
    assert line in report.lines()
    for scheme, kept in {"lines": 2, "paragraphs": 2, "sentences": 3}.items():
        assert prepare(Source(tmp_path / "s.jsonl", cut=scheme), None, ALL).kept == kept
    prepare(Source(tmp_path / "s.jsonl", cut="sentences"), tmp_path / "out", ALL)
    steps = [row.value["expert_action"] for row in read_rows(tmp_path / "out/train.steps.jsonl")]
    assert steps[-2:] == ["We add.", "It is 2."]


def test_gsm8k_by_lines(tmp_path):
    row = {"question": "2 + 2, doubled?", "answer": "2+2=<<2+2=4>>4\nTwice: 2*4=<<2*4=8>>8\n#### 8"}
    others = [
        {"question": "Half of 3,000?", "answer": "It is <<3000/2=1500>>1,500.\r\n#### 1,500"},
        {"problem": "Minus 5?", "solution": "Zero minus 5 is <<0-5=-5>>-5.\n####-5\n"},
    ]
    write_jsonl(tmp_path / "s.jsonl", [row, *others])
    report = prepare(Source(tmp_path / "s.jsonl", annotations="thought"), tmp_path / "out", ALL)
    assert (report.kept, report.own_answers, report.found.formats) == (3, 3, {"gsm8k": 3})
    problems = [row.value for row in read_rows(tmp_path / "out/train.problems.jsonl")]
    assert [problem["answer"] for problem in problems] == ["8", "1500", "-5"]
    assert problems[0]["solution"] == "2+2=4\n\nTwice: 2*4=8\n\n#### 8"
    steps = [row.value for row in read_rows(tmp_path / "out/train.steps.jsonl")]
    assert [(row["expert_action"], row["thought"]) for row in steps[:3]] == [
        ("2+2=4", "2+2=4"),
        ("Twice: 2*4=8", "2*4=8"),
        ("#### 8", None),
    ]
    by_numbers = prepare(Source(tmp_path / "s.jsonl", cut="numbered"), None, ALL)
    assert by_numbers.without_steps == {"no numbered steps": 3}


def test_the_real_gsm8k_keeps_all_its_steps_and_answers(tmp_path):
    path = Path(__file__).parents[2] / "shared/data/gsm8k/test.jsonl"
    if not path.is_file():
        pytest.skip("the real GSM8K (../shared/data) is not here")
    prepare(Source(path), tmp_path / "out", ALL)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    problems = [row.value for row in read_rows(tmp_path / "out/train.problems.jsonl")]
    assert len(problems) == len(rows) == 1319
    by_row = {}
    for row in read_rows(tmp_path / "out/train.steps.jsonl"):
        by_row.setdefault(row.value["trajectory_id"], []).append(row.value["expert_action"])
    for row, problem, steps in zip(rows, problems, by_row.values(), strict=True):
        *lines, last = row["answer"].strip().split("\n")
        assert last == f"#### {last[5:]}"
        assert problem["answer"] == last[5:].replace(",", "")
        assert len(steps) == len([line for line in lines if line.strip()]) + 1
        assert not any("<<" in step for step in steps)
