"""Numbered solutions: every heading family, every trap, and that nothing is lost."""

import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srl.data.formats.numbered import Cut, NotNumbered, cut_steps

REAL = Path(__file__).parents[2] / "shared" / "data" / "math_trajectories"


def check_invariant(text: str, cut: Cut) -> None:
    """Actions and conclusion are the text in its order, with only blank and separator lines between."""
    assert len(cut.steps) >= 2
    place = 0
    for piece in [step.action for step in cut.steps] + ([cut.conclusion] if cut.conclusion else []):
        assert piece
        assert piece == piece.strip()
        found = text.find(piece, place)
        assert found >= 0
        assert is_blank(text[place:found])
        place = found + len(piece)
    assert is_blank(text[place:])
    for step in cut.steps:
        check_title(step.action, step.title)


def is_blank(between: str) -> bool:
    return all(re.fullmatch(r"-{3,}|\*{3,}|_{3,}", word) for word in between.split())


def check_title(action: str, title: str | None) -> None:
    if title is None:
        return
    assert title == title.rstrip()
    assert "\n" not in title
    start = f"\n{action}".index(f"\n{title}")
    assert re.match(r"[#*\s]*(step\s*)?\d", action[start:], re.IGNORECASE)
    assert action[start + len(title) :].strip()


# name, text, family, actions, titles, conclusion
CUT = [
    (
        "bold titles, with colon inside, outside, without, and running into prose",
        "1. **Add:** 2 + 2 = 4.\n\n2. **Double**:\n   It is 8.\n3. **Halve.** 4\n4. **Check** it: fine.",
        "1. **Title**",
        [
            "1. **Add:** 2 + 2 = 4.",
            "2. **Double**:\n   It is 8.",
            "3. **Halve.** 4",
            "4. **Check** it: fine.",
        ],
        ["1. **Add:**", "2. **Double**:", "3. **Halve.**", "4. **Check**"],
        None,
    ),
    (
        "the number inside the bold",
        "**1. Add**\nWe add.\n\n**2. Double:** We double.",
        "**1. Title**",
        ["**1. Add**\nWe add.", "**2. Double:** We double."],
        ["**1. Add**", "**2. Double:**"],
        None,
    ),
    (
        "step headings with preamble, inner lists and conclusion",
        "Hello.\n\n### Step 1: List\n1. one\n2. two\n\n### Step 2: Sum\n1. three\n\n### Conclusion\n1. 3",
        "### Step 1: Title",
        ["Hello.\n\n### Step 1: List\n1. one\n2. two", "### Step 2: Sum\n1. three"],
        ["### Step 1: List", "### Step 2: Sum"],
        "### Conclusion\n1. 3",
    ),
    (
        "step headings of another rank, bold inside, with sections below them",
        "## **Step 1: Add**\nWe add.\n### Detail\nSo.\n## **Step 2 – Double**\nWe double.\n## Check\nRight.",
        "### Step 1: Title",
        ["## **Step 1: Add**\nWe add.\n### Detail\nSo.", "## **Step 2 – Double**\nWe double."],
        ["## **Step 1: Add**", "## **Step 2 – Double**"],
        "## Check\nRight.",
    ),
    (
        "bold steps, the second with its title outside the bold",
        "**Step 1: Add**\n1. a\n2. b\n\n**Step 2:** Double it\nTo 8.\n\n**Final Answer:** 8",
        "**Step 1: Title**",
        ["**Step 1: Add**\n1. a\n2. b", "**Step 2:** Double it\nTo 8."],
        ["**Step 1: Add**", "**Step 2:** Double it"],
        "**Final Answer:** 8",
    ),
    (
        "Step N: is a title only as a short line of one sentence with text below",
        "Step 1: Add the numbers.\n4\nStep 2: We double. That is 8.\nYes.\nStep 3: " + "So " * 50 + "\nA\nStep 4: Done",
        "Step 1:",
        [
            "Step 1: Add the numbers.\n4",
            "Step 2: We double. That is 8.\nYes.",
            "Step 3: " + "So " * 50 + "\nA",
            "Step 4: Done",
        ],
        ["Step 1: Add the numbers.", None, None, None],
        None,
    ),
    (
        "numbered headings; a number alone is no title",
        "## 1. Add\nWe add.\n\n## 2.\nWe double.\n\n## Final Answer\n8",
        "### 1. Title",
        ["## 1. Add\nWe add.", "## 2.\nWe double."],
        ["## 1. Add", None],
        "## Final Answer\n8",
    ),
    ("plain", "1. Add.\n2. Double.", "1.", ["1. Add.", "2. Double."], [None, None], None),
    ("parenthesis", "1) Add.\n2) Double.", "1.", ["1) Add.", "2) Double."], [None, None], None),
    (
        "a mixed list counts together",
        "1. **Add**: 4\n2. Double: 8\n3. **Halve**: 4",
        "1.",
        ["1. **Add**: 4", "2. Double: 8", "3. **Halve**: 4"],
        ["1. **Add**:", None, "3. **Halve**:"],
        None,
    ),
    (
        "inner lists, indented and not, are no steps",
        "1. **Add**\n1. one\n2. two\n\n2. **Double**\n   1. three\n   2. four\n3. **Halve**\n1. five",
        "1. **Title**",
        ["1. **Add**\n1. one\n2. two", "2. **Double**\n   1. three\n   2. four", "3. **Halve**\n1. five"],
        ["1. **Add**", "2. **Double**", "3. **Halve**"],
        None,
    ),
    (
        "a list of givens before the steps belongs to step 1",
        "Given:\n1. x > 0\n2. y > 0\n\n**Step 1: Add**\nx + y\n\n**Step 2: Square**\nAll.",
        "**Step 1: Title**",
        ["Given:\n1. x > 0\n2. y > 0\n\n**Step 1: Add**\nx + y", "**Step 2: Square**\nAll."],
        ["**Step 1: Add**", "**Step 2: Square**"],
        None,
    ),
    (
        "decimals and code hold no headings",
        "1.5 kg\n1. Add\n2.5 kg\n\n```\n2. no\n\n2. no\n```\n2. Double",
        "1.",
        ["1.5 kg\n1. Add\n2.5 kg\n\n```\n2. no\n\n2. no\n```", "2. Double"],
        [None, None],
        None,
    ),
    (
        "formulas hold no headings",
        "1. Add\n$$\n2. no\n$$\n\\[\n2. no\n\\]\n\\begin{array}{l}\n2. no\n\\end{array}\n2. Double",
        "1.",
        ["1. Add\n$$\n2. no\n$$\n\\[\n2. no\n\\]\n\\begin{array}{l}\n2. no\n\\end{array}", "2. Double"],
        [None, None],
        None,
    ),
    (
        "a formula left open hides no heading",
        "1. Take \\[ x\n2. Take $$ y\n\n3. Take \\( z",
        "1.",
        ["1. Take \\[ x", "2. Take $$ y", "3. Take \\( z"],
        [None, None, None],
        None,
    ),
    (
        "bold inside a formula ends no title",
        "1. **Take \\(2**3\\)**: 8\n2. **Double**: 16",
        "1. **Title**",
        ["1. **Take \\(2**3\\)**: 8", "2. **Double**: 16"],
        ["1. **Take \\(2**3\\)**:", "2. **Double**:"],
        None,
    ),
    (
        "separator lines belong to nothing",
        "Hello.\n\n---\n\n### Step 1: Add\n4\n\n---\n\n### Step 2: Double\n8\n\n***\n\nSo it is 8.",
        "### Step 1: Title",
        ["Hello.\n\n---\n\n### Step 1: Add\n4", "### Step 2: Double\n8"],
        ["### Step 1: Add", "### Step 2: Double"],
        "So it is 8.",
    ),
    (
        "an unindented paragraph has left a list whose steps are indented",
        "1. Add\n\n   2 + 2 = 4\n2. Double\n   8\n\nTherefore the answer is 8.",
        "1.",
        ["1. Add\n\n   2 + 2 = 4", "2. Double\n   8"],
        [None, None],
        "Therefore the answer is 8.",
    ),
    (
        "but not one whose steps are unindented",
        "1. Add\n\n2 + 2 = 4\n\n2. Double\n\n8\n\nTherefore the answer is 8.",
        "1.",
        ["1. Add\n\n2 + 2 = 4", "2. Double\n\n8\n\nTherefore the answer is 8."],
        [None, None],
        None,
    ),
    (
        "nor where the step announces it",
        "1. Add: 4\n2. **Double:**\n\nIt is 8.",
        "1.",
        ["1. Add: 4", "2. **Double:**\n\nIt is 8."],
        [None, "2. **Double:**"],
        None,
    ),
    (
        "a step that is all heading has no title",
        "1. **Four is even.**\n2. **So is eight.** Yes.",
        "1. **Title**",
        ["1. **Four is even.**", "2. **So is eight.** Yes."],
        [None, "2. **So is eight.**"],
        None,
    ),
    (
        "a copy of the title before the heading: no title",
        "```\n1. **Add**\n```\n1. **Add**\n   4\n2. **Double**\n   8",
        "1. **Title**",
        ["```\n1. **Add**\n```\n1. **Add**\n   4", "2. **Double**\n   8"],
        [None, "2. **Double**"],
        None,
    ),
    (
        "CRLF and Unicode",
        "Voilà.\r\n\r\n1. **Añadir**:\r\n   4\r\n\r\n---\r\n2. **二倍**:\r\n   8\r\n\r\n**Answer**\r\n8\r\n",
        "1. **Title**",
        ["Voilà.\r\n\r\n1. **Añadir**:\r\n   4", "2. **二倍**:\r\n   8"],
        ["1. **Añadir**:", "2. **二倍**:"],
        "**Answer**\r\n8",
    ),
    (
        "labels of a conclusion need no empty line; a separator is not part of it",
        "1. Add\n2. Double\nAnswer: 8",
        "1.",
        ["1. Add", "2. Double"],
        [None, None],
        "Answer: 8",
    ),
]


@pytest.mark.parametrize(
    ("text", "family", "actions", "titles", "conclusion"), [c[1:] for c in CUT], ids=[c[0] for c in CUT]
)
def test_cuts(text, family, actions, titles, conclusion):
    cut = cut_steps(text)
    assert [step.action for step in cut.steps] == actions
    assert [step.title for step in cut.steps] == titles
    assert cut.conclusion == conclusion
    assert cut.family == family
    check_invariant(text, cut)


REFUSED = [
    ("", "empty solution"),
    (" \r\n\t", "empty solution"),
    ("It is 8, as 1. and 2. show.", "no numbered steps"),
    ("```\n1. Add\n2. Double\n```", "no numbered steps"),
    ("Case 1: one\nCase 2: two", "no numbered steps"),
    ("1. **Add**: 4", "only one step"),
    ("### Step 1: Add\n1. one\n2. two", "only one step"),
    ("### Part a\n1. Add\n2. Double\n### Part b\n1. Halve\n2. Stop", "numbering restarts"),
    ("Step 1: Add\nStep 2: Double\n\nAgain:\nStep 1: Halve\nStep 2: Stop", "numbering restarts"),
    ("1. Add\n3. Double", "numbers not 1..k"),
    ("0. Start\n1. Add\n2. Double", "numbers not 1..k"),
    ("2. Add\n3. Double", "numbers not 1..k"),
    ("1. Add\n1. **one**\n2. **two**\n2. Double", "numbers not 1..k"),  # the bold ones are an inner list
    ("1. Add\n2. Double:\nStep 1: one\nStep 2: two\n3. Halve", "numbers not 1..k"),
    ("1. Add\n2.\n3. Halve", "step without text"),
    ("### Step 1\n\n### Step 2\nDouble", "step without text"),
    ("1. Add\n### Part b\n2. Double", "section between steps"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_refuses(text, reason):
    with pytest.raises(NotNumbered) as refused:
        cut_steps(text)
    assert refused.value.reason == reason
    assert str(refused.value).startswith(reason)


def test_a_refusal_crosses_processes():
    refused = pickle.loads(pickle.dumps(NotNumbered("only one step", "here")))
    assert isinstance(refused, ValueError)
    assert (refused.reason, str(refused)) == ("only one step", "only one step: here")


HEADINGS = {
    "### Step 1: Title": "### Step {}: {}",
    "**Step 1: Title**": "**Step {}: {}**",
    "Step 1:": "Step {}: {}",
    "### 1. Title": "## {}. {}",
    "**1. Title**": "**{}. {}**",
    "1. **Title**": "{}. **{}**:",
}
words = st.lists(st.sampled_from(["sum", "é", "x²", "\\(2.5\\)", "is"]), min_size=1, max_size=4).map(" ".join)
bodies = st.lists(words.map("So 1. {}".format), min_size=1, max_size=3)


@settings(deadline=None)
@given(
    family=st.sampled_from([*HEADINGS, "1."]),
    steps=st.lists(st.tuples(words, bodies), min_size=2, max_size=8),
    preamble=st.none() | words,
    conclusion=st.none() | words.map("Answer: {}".format) | words.map("### Conclusion\n\n{}".format),
    between=st.sampled_from(["\n", "\n\n", "\r\n \r\n", "\n\n---\n\n"]),
)
def test_gives_back_what_a_solution_was_built_from(family, steps, preamble, conclusion, between):
    if family == "1.":  # a plain list: the number, then indented paragraphs
        titles = [None for _ in steps]
        actions = [f"{k}. " + "\n\n   ".join(body) for k, (_, body) in enumerate(steps, 1)]
    else:
        titles = [HEADINGS[family].format(k, title) for k, (title, _) in enumerate(steps, 1)]
        actions = ["\n\n".join([title, *body]) for title, (_, body) in zip(titles, steps, strict=True)]
    if preamble:
        actions[0] = f"{preamble}\n\n{actions[0]}"
    cut = cut_steps(between.join(actions + ([conclusion] if conclusion else [])))
    assert [step.action for step in cut.steps] == actions
    assert [step.title for step in cut.steps] == titles
    assert (cut.conclusion, cut.family) == (conclusion, family)


# fmt: off
LINES = [
    "1. ", "2. ", "3) ", "1. **a** ", "2. **b**: ", "**1. a**", "**2.** ", "Step 1: ", "Step 2: ",
    "### Step 1: a", "## Step 2", "# 1. ", "# 2. b", "# c", "**Step 1:** ", "**Step 2: a** ", "Answer: 1",
    "---", "***", "```", "$$", "\\[", "\\]", "\\begin{a}", "\\end{a}", "", "   ", "\r", "x", "   y:",
]
DEGENERATE = [
    "1. ", "1.\n", "1. **a\n", "###### 1. a\n", "**Step 1", "Step 1: ", "step ", "answer ", "answer\n",
    "**", "#", "# \n", "---\n", "\n---", "$$", "\\(", "\\[\n", "\\begin{a}", "`", "```a\n",
    "\n", "\r\n", " ", "\n\na:", "\n\n- a",
]
# fmt: on
lines = st.sampled_from(LINES) | st.text(max_size=5)


@settings(deadline=None)
@given(st.lists(lines, max_size=14).map("\n".join) | st.text())
def test_any_text_is_cut_without_loss_or_refused(text):
    try:
        cut = cut_steps(text)
    except NotNumbered:
        return
    check_invariant(text, cut)


@pytest.mark.parametrize("piece", DEGENERATE)
@pytest.mark.parametrize("start", ["", "1. **a** b\n2. **c** d\n"])
def test_a_degenerate_text_ends(piece, start):
    text = start + piece * (1_000_000 // len(piece)) + "x"
    try:
        cut = cut_steps(text)
    except NotNumbered:
        return
    check_invariant(text, cut)


def kept(name, field):
    path = REAL / name
    if not path.exists():
        pytest.skip(f"no real data: {path} is absent")
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.strip().split("\n")]
    cuts = 0
    for row in rows:
        try:
            cut = cut_steps(row[field])
        except NotNumbered:
            continue
        check_invariant(row[field], cut)
        cuts += 1
    return cuts, len(rows)


def test_keeps_the_numbered_ones_of_deepseek_v3():
    # Counting alone keeps 166; in 5 of them the list holds under half of the text, and is not the solution.
    assert kept("deepseek_v3_math/solutions.jsonl", "answer") == (161, 198)


def test_keeps_the_numbered_ones_of_s1k():
    # Its references, few of them in steps; 20 more restart their numbering in parts (a), (b), 2 only list conditions.
    assert kept("s1k.json", "solution") == (253, 1000)
