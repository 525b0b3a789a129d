"""Whole solutions with thoughts anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl.chat.aloud import parse_aloud

PLAIN = st.text(st.characters(exclude_characters="<>", exclude_categories=("Cs",)), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(PLAIN, PLAIN), min_size=1))
def test_thoughts_are_taken_out_wherever_they_are(parts):
    text = "\n\n".join(f"<think>{thought}</think>\n{step}" for thought, step in parts)
    parsed = parse_aloud(text)
    assert parsed.format_error is None
    assert parsed.action.split() == "\n\n".join(step for _, step in parts).split()
    assert parsed.thought.split() == "\n\n".join(thought for thought, _ in parts).split()


@given(PLAIN)
def test_a_solution_needs_no_thought(text):
    assert parse_aloud(text).action == text.strip()


@pytest.mark.parametrize(
    "text",
    ["a <think>b", "a </think>", "<think>a<think>b</think>c</think>d", "</think>a<think>", "<think>a</think>", " "],
)
def test_what_does_not_pair_or_says_nothing_is_malformed(text):
    assert parse_aloud(text).format_error
    assert parse_aloud("fine", truncated=True).format_error == "truncated"
