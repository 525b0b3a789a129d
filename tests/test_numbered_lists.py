"""Numbered lists that are no steps, and numbered sections with steps inside them."""

import pytest

from srl.data.formats.numbered import NotNumbered, cut_steps

PROSE = "\n\n".join(["So we add the two numbers and take away the one that stands in both of them."] * 3)
GIVENS = [
    f"We know:\n\n1. Cats: 7.\n\n2. Dogs: 5.\n\n3. Both: 2.\n\n{PROSE}\n\nAnswer: 10",
    f"Given:\n1. **Cats**: 7\n2. **Dogs**: 5\n\n---\n\n{PROSE}\n\n**Final Answer**\n\n10",
    f"The cases are:\n\n1) one cat\n2) two cats\n\n## Solution\n\n{PROSE}\n\nThe final answer is 10.",
    f"We are given:\n\n**1.** Cats: 7.\n\n**2.** Dogs: 5.\n\n**3)** Both: 2.\n\n{PROSE}\n\nAnswer: 10",
    f"Conditions:\n\n1. x > 1\n2. y > 2\n\n{PROSE}",
]


@pytest.mark.parametrize("text", GIVENS)
def test_a_list_of_givens_is_no_list_of_steps(text):
    with pytest.raises(NotNumbered, match=r"steps hold too little of the text: \d+%"):
        cut_steps(text)


def test_a_long_conclusion_is_none_of_the_text_between():
    text = f"1. Add: 7 + 5 is 12.\n\n2. Take away: 12 - 2 is 10.\n\nAnswer: 10, for this reason. {PROSE}"
    assert [step.action for step in cut_steps(text).steps] == ["1. Add: 7 + 5 is 12.", "2. Take away: 12 - 2 is 10."]


SECTIONS = [
    "## 1. Facts\n\nOne.\n\n## 2. Proof\n\n**Step 1 – odd.**\nIt is.\n\n**Step 2 – small.**\nSo.\n\n## 3. End\n\nQED",
    "### 1. Facts\nStep 1: look.\nStep 2: see.\n### 2. Proof\nStep 1: add.\nStep 2: halve.",
    "# 1) Facts\n\nOne.\n\n# 2) Proof\n\n**Step 1:** It is odd.\n\n**Step 2:** It is small.",
]


@pytest.mark.parametrize("text", SECTIONS)
def test_numbered_sections_keep_the_steps_inside_them(text):
    cut = cut_steps(text)
    assert "".join("".join(step.action for step in cut.steps).split()) == "".join(text.split())
    assert cut.family == "### 1. Title"
    assert [step.action.lstrip("# ")[0] for step in cut.steps] == [str(k) for k in range(1, len(cut.steps) + 1)]
    assert len(cut.steps) == text.count("# ")
    assert "Step 2" in cut.steps[1].action
