"""The one home of answer equality: reading, comparing, and not being harmed."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from math_verify import parse, verify

import srl.rewards.answers
from srl.rewards.answer_text import last_box
from srl.rewards.answers import Rules, are_correct, judge

SHARED = Path(__file__).parents[2] / "shared/data/answer_checking/math_verify_cases.jsonl"
HOSTILE = r"\boxed{9^{9^{9^9}}}"
PLAIN = st.text(st.sampled_from("ab1 $.\n"), max_size=20)


@pytest.fixture
def short_limit(monkeypatch):
    monkeypatch.setattr(srl.rewards.answers, "CPU_SECONDS", 2.0)


@given(PLAIN, PLAIN, st.recursive(PLAIN, lambda inner: inner.map(lambda text: f"{{{text}}}")))
def test_the_last_closed_box_is_read(before, after, content):
    assert last_box(rf"\boxed{{x}}{before}\boxed{{{content}}}{after}\boxed{{open") == content.strip()


def test_escaped_braces_are_content():
    assert last_box(r"\boxed{\left\{1, 2\right.}") == r"\left\{1, 2\right."
    assert last_box(r"\boxed {7}") == "7"
    assert last_box(r"\boxed{a \boxed{b}}") == "b"
    assert last_box("no box") is None


def test_reading_takes_time_in_proportion_to_the_length():
    def seconds(text):
        start = time.process_time()
        last_box(text)
        return time.process_time() - start

    assert seconds(r"\boxed{" * 40_000) < 20 * seconds(r"\boxed{" * 4_000) + 0.05


@pytest.mark.parametrize(
    ("known", "written", "right"),
    [
        ("025", r"\boxed{25}", True),
        ("27", r"\boxed{27.0}", True),
        ("-1", r"\boxed{-1}", True),
        ("4.5e33", r"\boxed{4.5 \times 10^{33}}", True),
        ("4.5e33", r"\boxed{4.6 \times 10^{33}}", False),
        ("1e-3", r"\boxed{0.001}", True),
        ("5.47e5", r"\boxed{547000}", True),
        ("-3./2", r"\boxed{-\frac{3}{2}}", True),
        ("np.arcsin(10/13)", r"\boxed{\arcsin(10/13)}", True),
        ("2.88e-19", r"\boxed{0.0}", False),  # equal to six decimals
        ("1e-8", r"\boxed{3 \times 10^{-9}}", False),
        ("7.25e-11", r"\boxed{7.25 \cdot 10^{-11} \mathrm{~m}}", True),
        ("1,2", r"so $\boxed{1}$ and $\boxed{2}$", True),
        ("2", r"first \boxed{1}." + " Then more words." * 9 + r" So \boxed{2}", True),
        ("60", "The answer is 60.", True),
        ("60", "", False),
        ("60", r"\boxed{}", False),
        ("1", "1" * 100_000, False),
        ("1", r"\boxed{" + "1" * 100_000 + "}", False),
    ],
)
def test_what_is_equal(known, written, right):
    assert are_correct([written], [known]) == [right]


def test_pairs_are_compared_as_one_by_one():
    answers = ["1/2", "0.5", r"\frac12", "3", "x+1", "1+x", r"\sqrt{4}", "2", "1,2", r"\{2,1\}"]
    pairs = [(a, b) for a in answers for b in answers]
    one_by_one = [verify(parse(f"${known}$"), parse(rf"$\boxed{{{written}}}$")) for known, written in pairs]
    texts = [rf"\boxed{{{written}}}" for _, written in pairs]
    assert are_correct(texts, [known for known, _ in pairs]) == one_by_one
    assert are_correct(texts * 2, [known for known, _ in pairs] * 2) == one_by_one * 2  # remembered


def test_a_hostile_answer_is_wrong_and_loses_no_other(short_limit):
    texts = [rf"\boxed{{{i}}}" for i in range(20)]
    texts[7] = HOSTILE
    verdicts = judge(texts, [str(i) for i in range(20)])
    assert [i for i, verdict in enumerate(verdicts) if not verdict.correct] == [7]
    assert (verdicts[7].answer, verdicts[7].failure) == (r"9^{9^{9^9}}", "time")


def test_a_dead_worker_loses_nothing(short_limit):
    are_correct([r"\boxed{1}"], ["1"])  # the workers are there
    found = []
    texts = [rf"\boxed{{{i}0}}" for i in range(30)] + [r"\boxed{8^{8^{8^8}}}"]
    judging = threading.Thread(target=lambda: found.extend(judge(texts, [f"{i}0" for i in range(31)])))
    judging.start()
    time.sleep(0.5)
    workers = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
    judging.join(60)
    assert [verdict.correct for verdict in found] == [True] * 30 + [False]


def test_memory_of_verdicts_is_bounded(monkeypatch):
    monkeypatch.setattr(srl.rewards.answers, "PAIRS_REMEMBERED", 10)
    are_correct([rf"\boxed{{{i}}}" for i in range(50)], ["1"] * 50)
    assert len(srl.rewards.answers._known) == 10


@pytest.mark.slow
def test_math_verifys_own_cases():
    if not SHARED.exists():
        pytest.skip("math-verify's cases (../shared/data/answer_checking) are not here")
    by_rules = {}
    for case in map(json.loads, SHARED.read_text().splitlines()):
        config = case["config"]
        rules = Rules(whole_text=True)
        if "match_types" in config:
            rules = Rules(
                whole_text=True,
                latex="latex" in config["match_types"],
                expressions="expr" in config["match_types"],
                precision=config["precision"],
                strict=config["strict"],
                allow_set_relation_comp=config["allow_set_relation_comp"],
            )
        by_rules.setdefault(rules, []).append(case)
    right = 0
    for rules, cases in by_rules.items():
        verdicts = judge([case["pred"] for case in cases], [case["gold"] for case in cases], rules)
        right += sum(v.correct == case["expected"] for v, case in zip(verdicts, cases, strict=True))
    assert right == 268
