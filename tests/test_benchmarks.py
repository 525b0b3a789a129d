"""Benchmark files: what is read, what is refused, and that known answers score against themselves."""

import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from srl.errors import UserError
from srl.evaluation.benchmarks import UNPINNED, known_answers, load_benchmark, load_benchmarks, read_benchmark
from srl.files import write_jsonl
from srl.rewards.answers import are_correct

SHARED = Path(__file__).parents[2] / "shared/data/math_eval"
NAMES = sorted(file.name.removesuffix(".toml") for file in (resources.files("srl") / "builtin/benchmarks").iterdir())


def shared(name):
    path = SHARED / name / "test.jsonl"
    if not path.exists():
        pytest.skip("the benchmark files (../shared/data/math_eval) are not here")
    return path


def write(folder, rows, **options):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{key} = {json.dumps(value)}" for key, value in ({"title": "T", "file": "rows.jsonl"} | options).items()]
    (folder / "own.toml").write_text("\n".join(lines))
    return str(folder / "own.toml")


def test_the_first_problems_are_named_as_such(tmp_path):
    rows = [{"problem": f"{i} + 1?", "answer": i + 1} for i in range(5)]
    path = write(tmp_path, rows, problems=5)
    whole, first = load_benchmark(path), load_benchmark(path, limit=2)
    assert first.questions == tuple(replace(question, benchmark="own[:2]") for question in whole.questions[:2])
    assert (first.name, first.facts.title, first.facts.problems) == ("own[:2]", "T: first 2 of 5", 2)
    assert first.sha256 != whole.sha256
    assert load_benchmark(path, limit=5) == whole
    with pytest.raises(UserError, match="--limit 0: expected 1 or more"):
        load_benchmarks(path, limit=0)


def test_a_folder_of_srl_steps_asks_its_held_out_problems(tmp_path, capsys):
    def problem(text, answer):
        prompt = [{"role": "system", "content": "Solve it."}, {"role": "user", "content": text}]
        return {"trajectory_id": text, "prompt": prompt, "answer": answer, "solution": "1. so"}

    folder = tmp_path / "sums"
    folder.mkdir()
    write_jsonl(folder / "train.problems.jsonl", [problem("1 + 1?", "2")])
    with pytest.raises(UserError, match=r"validation.problems.jsonl: no such file"):
        load_benchmark(str(folder))
    held_out = [problem("2 + 2?", "4"), problem("Prove it.", "proof"), problem("3 + 3?", "6")]
    write_jsonl(folder / "validation.problems.jsonl", held_out)
    loaded = load_benchmark(str(folder))
    assert [(q.text, q.answers) for q in loaded.questions] == [("2 + 2?", ("4",)), ("3 + 3?", ("6",))]
    assert (loaded.name, loaded.benchmark.title) == ("sums", f"held-out problems of {folder}")
    assert "1 of 3 problems have no known answer" in capsys.readouterr().out
    write_jsonl(folder / "validation.problems.jsonl", held_out[1:2])
    with pytest.raises(UserError, match="none of 1 held-out problems has a known answer"):
        load_benchmark(str(folder))


def test_srls_own_benchmarks():
    sizes = {name: read_benchmark(name).problems for name in NAMES}
    assert sizes == {"aime24": 30, "aime25": 30, "amc23": 40, "gsm8k": 1319, "math500": 500, "minerva": 272}
    for name in NAMES:
        revision = read_benchmark(name).revision
        assert revision == UNPINNED or re.fullmatch("[0-9a-f]{40}", revision)
    assert [name for name in NAMES if read_benchmark(name).greedy_only] == ["minerva"]


@pytest.mark.parametrize(("name", "file", "n"), [("aime24", "aime24", 30), ("amc23", "amc23", 40)])
def test_known_answers_score_against_themselves(name, file, n):
    loaded = load_benchmark(name, shared(file))
    assert (len(loaded.questions), loaded.unscorable) == (n, ())


@pytest.mark.slow
def test_minervas_known_answers():
    loaded = load_benchmark("minerva", shared("minerva_math"))
    assert len(loaded.questions) == 272
    assert loaded.unscorable == ()  # also of the one whose box holds two formulas with `$ $` between them


@pytest.mark.slow
def test_minervas_numbers_in_pythons_notation_are_right_in_latex_too():
    answers = [p.answers[0] for p in load_benchmark("minerva", shared("minerva_math")).questions]
    python = [answer for answer in answers if re.fullmatch(r"[\d.]+e-?\d+", answer)]
    as_latex = [re.sub(r"(.+)e(-?)0*(\d+)", r"\\boxed{\1 \\times 10^{\2\3}}", answer) for answer in python]
    ten_times = [re.sub(r"\^{(-?\d+)}", lambda m: f"^{{{int(m[1]) + 1}}}", text) for text in as_latex]
    assert len(python) == 58
    assert are_correct(as_latex, python) == [True] * 58
    assert are_correct(ten_times, python) == [False] * 58


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        (27.0, ("27",)),
        (-1.0, ("-1",)),
        (0.5, ("0.5",)),
        ("025", ("025",)),
        ("He has 5.\n#### 2,280", ("2280",)),
        (r"so \boxed{\frac{1}{2}} cm", (r"\frac{1}{2}",)),
        (["1/2", 0.5], ("1/2", "0.5")),
        (float("nan"), ()),
        (True, ()),
        (None, ()),
    ],
)
def test_answers_as_public_files_hold_them(value, answers):
    assert known_answers(value) == answers


def test_an_answer_that_cannot_be_scored_is_counted_with_its_reason(tmp_path):
    name = write(tmp_path, [{"problem": "p", "answer": "a $ + b"}, {"problem": "q", "answer": 2}])
    loaded = load_benchmark(name)
    assert [(problem.id, bool(reason)) for problem, reason in loaded.unscorable] == [("0", True)]


def test_equal_problems_have_equal_digests_wherever_they_are(tmp_path):
    rows = [{"problem": "p", "answer": 1.0}]
    first = load_benchmark(write(tmp_path, rows))
    moved = load_benchmark(write(tmp_path, [{"question": "p", "answer": "1"}], problem_fields=["problem", "question"]))
    other = load_benchmark(write(tmp_path, [{"problem": "p", "answer": 2}]))
    assert first.sha256 == moved.sha256 != other.sha256


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"problem": "p", "anwser": 1}], {}, r"rows.jsonl:1: no answer field: expected answer, found problem, anwser"),
        ([{"problem": "p", "answer": "1"}], {"answer_fields": ["answers"]}, "did you mean `answer`"),
        ([{"problem": "p", "answer": ""}], {}, "found no answer"),
        ([{"problem": " ", "answer": 1}], {}, "expected the text of a problem"),
        ([{"problem": "p", "answer": 1}], {"problems": 40}, "has 40 problems, found 1: another copy"),
        ([{"problem": "p", "answer": 1}], {"answer_field": ["a"]}, "`answer_field`.*did you mean `answer_fields`"),
        ([{"problem": "p", "answer": 1}], {"dataset": "x/y"}, "one of `dataset` and `file`"),
    ],
)
def test_broken_benchmarks_are_one_line(tmp_path, rows, options, message):
    with pytest.raises(UserError, match=message) as error:
        load_benchmark(write(tmp_path, rows, **options))
    assert "\n" not in str(error.value)


def test_a_file_of_problems_is_a_benchmark(tmp_path):
    prompt = [{"role": "system", "content": "Solve it."}, {"role": "user", "content": "2 + 2?"}]
    rows = [
        {"question": "1 + 1?", "answer": "#### 2"},
        {"problem": "3?", "answer": 3},
        {"prompt": prompt, "answer": "4"},
    ]
    write(tmp_path, rows)
    loaded = load_benchmark(str(tmp_path / "rows.jsonl"))
    assert [(p.benchmark, p.text, p.answers) for p in loaded.questions] == [
        ("rows", "1 + 1?", ("2",)),
        ("rows", "3?", ("3",)),
        ("rows", "2 + 2?", ("4",)),
    ]
    write(tmp_path, [{"prompt": prompt, "answer": None}])
    with pytest.raises(UserError, match=r"rows.jsonl:1: expected the answer in `answer`, found nothing"):
        load_benchmark(str(tmp_path / "rows.jsonl"))


def test_unknown_names_and_files():
    for names, files, message in [
        ("aime2024", (), "unknown benchmark `aime2024`; did you mean `aime2"),
        ("no/such.toml", (), "no such benchmark file"),
        ("aime24", ("amc23=x.jsonl",), "amc23 is not among"),
        ("aime24", ("x.jsonl",), "expected name=path"),
        ("aime24", ("aime24=/no/such.jsonl",), "no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            load_benchmarks(names, files)


def test_without_a_hub_a_local_copy_is_suggested():
    with pytest.raises(
        UserError, match=r"math-ai/aime25@563bb84\S+ could not be loaded .*--benchmark-file aime25=FILE"
    ):
        load_benchmark("aime25")
