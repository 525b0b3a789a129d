"""Benchmark problems are found however they are dressed, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srl.data.decontaminate import BenchmarkProblems
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.errors import UserError
from srl.files import write_jsonl

LONG = "Every morning Aya goes for a 9-kilometer-long walk and stops at a coffee shop afterwards. Find her speed."
SHORT = "What is 3 + 4?"


@pytest.fixture
def benchmarks(tmp_path):
    write_jsonl(tmp_path / "bench.jsonl", [{"problem": LONG}, {"question": SHORT, "id": 2}])
    return BenchmarkProblems([tmp_path / "bench.jsonl"])


@pytest.mark.parametrize(
    "problem",
    [
        LONG,
        SHORT,
        f"\n {LONG.upper()} ",
        "What is $3 + 4$?",
        f"Solve this problem step by step.\n\n{LONG}\n\nPut the answer into \\boxed{{}}.",
        LONG.replace("Find her speed.", "How fast does she walk?"),
    ],
)
def test_a_copy_is_found(benchmarks, problem):
    assert "bench.jsonl:" in benchmarks.match(problem)


WRAPPED = "Evaluate $\\lfloor\\sqrt{50}\\rfloor^2$."


@pytest.mark.parametrize(
    ("problem", "found"),
    [
        (f"Solve the problem step by step.\n\n{WRAPPED}\n\nWrite the answer on a line of its own.", True),
        (f"Question: {WRAPPED} Please reason step by step, and put your final answer within \\boxed{{}}.", True),
        (f"<|user|>{WRAPPED.replace('$', '')}", True),
        ("Evaluate $\\lfloor\\sqrt{50}\\rfloor^2 + 1$.", False),
        ("Evaluate $\\lfloor\\sqrt{51}\\rfloor^2$.", False),
        ("Is x = 2? Then say so.", False),  # "x = 2?" is a benchmark problem, too short to be looked for
        ("Compute 12 + 345678.", False),
    ],
)
def test_a_short_problem_is_found_inside_others(tmp_path, problem, found):
    write_jsonl(tmp_path / "b.jsonl", [{"problem": each} for each in (WRAPPED, "x = 2?", "Compute 12 + 345")])
    assert bool(BenchmarkProblems([tmp_path / "b.jsonl"]).match(problem)) is found


NOTATION = r"Base 3: $\frac{1}{2}(x^2)$?"


@pytest.mark.parametrize(
    ("problem", "found"),
    [
        (r"Base 3: \(\frac{1}{2}(x^2)\)?", True),
        (r"Base 3: \[ \dfrac12 \left( x^{2} \right) \] ", True),
        (r"base 3: \tfrac{1}{2}(x^2):", True),
        (r"Base 3: $\frac{1}{2}(x^2)$ in 31?", False),
        (r"Base 3: $\frac{1}{2}(-x^2)$?", False),
        (r"Base 3: $\frac{1}{2}(x^{21})$?", False),
    ],
)
def test_the_notation_of_a_formula_hides_nothing(tmp_path, problem, found):
    write_jsonl(tmp_path / "b.jsonl", [{"problem": NOTATION}])
    assert bool(BenchmarkProblems([tmp_path / "b.jsonl"]).match(problem)) is found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Find $\frac{1}{23}$.", r"Find $\frac{12}{3}$."),
        ("Find 5!", "Find 5"),
        (r"Is $a \leftarrow b$?", r"Is $a arrow b$?"),
        ("Find -3.", "Find 3."),
    ],
)
def test_what_is_normalised_merges_no_two_problems(tmp_path, one, other):
    write_jsonl(tmp_path / "b.jsonl", [{"problem": one}])
    benchmarks = BenchmarkProblems([tmp_path / "b.jsonl"])
    assert benchmarks.match(one) is not None
    assert benchmarks.match(other) is None


@pytest.mark.parametrize("problem", ["What is 3 - 4?", "What is 3 + 5?", "Every morning Aya goes for a run.", "", "?"])
def test_another_problem_is_not(benchmarks, problem):
    assert benchmarks.match(problem) is None


def test_the_share_of_shared_ngrams_decides(tmp_path):
    words = [f"w{i}" for i in range(27)]  # 20 8-grams
    write_jsonl(tmp_path / "bench.jsonl", [{"problem": " ".join(words)}])
    benchmarks = BenchmarkProblems([tmp_path / "bench.jsonl"])
    assert benchmarks.match(" ".join(words[:17])) is not None  # 10 of them
    assert benchmarks.match(" ".join(words[:16])) is None  # 9
    assert "50% of the 8-grams" in benchmarks.match(" ".join(words[:17]))


@given(st.lists(st.text("abc ", max_size=60), min_size=1, max_size=5))
def test_a_benchmark_finds_itself(tmp_path_factory, problems):
    path = tmp_path_factory.mktemp("bench") / "bench.jsonl"
    write_jsonl(path, [{"problem": problem} for problem in problems])
    found = BenchmarkProblems([path])
    assert all(found.match(f" {problem} ") for problem in problems)


def test_excluded_problems_are_counted(tmp_path):
    steps = [{"action": "a"}, {"action": "b"}]
    write_jsonl(tmp_path / "t.jsonl", [{"problem": problem, "steps": steps} for problem in (LONG, "another", SHORT)])
    write_jsonl(tmp_path / "bench.jsonl", [{"problem": LONG}, {"problem": SHORT}])
    options = StepOptions(hold_out=0.0, exclude=(tmp_path / "bench.jsonl",))
    report = prepare(Source(tmp_path / "t.jsonl"), tmp_path / "out", options)
    assert (report.kept, report.dropped) == (1, {"benchmark problem": 2})
    assert "same text as" in (tmp_path / "out/dropped.jsonl").read_text()


def test_a_benchmark_without_problems_is_refused(tmp_path):
    write_jsonl(tmp_path / "bench.jsonl", [{"answer": "4"}])
    with pytest.raises(UserError, match=r"bench\.jsonl:1: expected a benchmark problem in one of problem, question"):
        BenchmarkProblems([tmp_path / "bench.jsonl"])
