"""Benchmarks: small TOML files that say where problems and answers are, and how they are checked when loaded.

srl's own lie in `srl/builtin/benchmarks/`; any other TOML file of the same form can be named by its path, and so can
a file of problems whose fields have the usual names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from srl.chat.prompts import user_text
from srl.data.decontaminate import PROBLEM_FIELDS
from srl.data.folder import rows_file
from srl.errors import UserError
from srl.evaluation.config import BenchmarkFacts
from srl.files import SUFFIXES, Row, read_rows, suffix_of
from srl.rewards.answer_text import known_answer
from srl.rewards.answers import judge
from srl.runs.toml import from_toml, suggest

UNPINNED = "unpinned"


class Benchmark(BaseModel):
    """One benchmark file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    dataset: str | None = Field(None, description="A data set on the Hub; or else `file`.")
    config: str | None = Field(None, description="The data set's configuration.")
    revision: str = Field(UNPINNED, description="The commit of the data set.")
    split: str = "test"
    file: Path | None = Field(None, description="JSONL, JSON or parquet; relative to the benchmark file.")
    problem_fields: list[str] = Field(["problem"], description="The first of these that a row has.")
    answer_fields: list[str] = Field(
        ["answer"],
        description="Likewise. A text may hold the answer after `####` or in its last box; a list, accepted variants.",
    )
    problems: int | None = Field(None, ge=1, description="How many there must be: copies of one name differ.")
    greedy_only: bool = Field(False, description="Never sampled, as Minerva in the paper.")
    scorer: Literal["math-verify"] = "math-verify"

    @model_validator(mode="after")
    def _check(self) -> Benchmark:
        if (self.dataset is None) == (self.file is None):
            raise ValueError("one of `dataset` and `file` is needed")
        return self

    @property
    def source(self) -> str:
        """Where the rows come from."""
        return str(self.file) if self.file else f"{self.dataset}@{self.revision}"


@dataclass(frozen=True, slots=True)
class Question:
    """One problem of a benchmark and its known answer, in all accepted variants."""

    benchmark: str
    id: str
    """Its place in the benchmark, from 0."""
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadedBenchmark:
    """The problems of a benchmark, and those whose own answer does not score 1.0 against itself."""

    name: str
    benchmark: Benchmark
    questions: tuple[Question, ...]
    unscorable: tuple[tuple[Question, str], ...]
    """With the reason. No model can be right on these."""

    @property
    def sha256(self) -> str:
        """Of problems and answers: two runs are on the same problems if these are equal."""
        rows = [[question.text, question.answers] for question in self.questions]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    @property
    def facts(self) -> BenchmarkFacts:
        """What decides the problems of an evaluation, for its record."""
        return BenchmarkFacts(
            title=self.benchmark.title,
            source=self.benchmark.source,
            problems=len(self.questions),
            sha256=self.sha256,
            scorer=self.benchmark.scorer,
            unscorable={question.id: reason for question, reason in self.unscorable},
        )


def load_benchmarks(names: str, files: Sequence[str] = (), limit: int | None = None) -> list[LoadedBenchmark]:
    """Load `aime24,amc23,mine.toml`; `files` (`name=path`) put local copies in place of data sets on the Hub.

    With a `limit`, of each the first so many problems, under another name: `gsm8k[:50]` is no benchmark's score.

    Raises:
        UserError: an unknown name, a broken benchmark file, a field that is not there, another number of problems
            than there must be, no connection to the Hub.
    """
    wanted = list(dict.fromkeys(name for name in names.split(",") if name))
    local = dict(_name_and_path(item) for item in files)
    for name in local:
        if name not in wanted:
            raise UserError(f"--benchmark-file {name}=…: {name} is not among --benchmarks {names}")
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: expected 1 or more")
    return [load_benchmark(name, local.get(name), limit) for name in wanted]


def _name_and_path(item: str) -> tuple[str, Path]:
    name, equals, path = item.partition("=")
    if not equals:
        raise UserError(f"--benchmark-file {item}: expected name=path")
    return name, Path(path)


def load_benchmark(name: str, file: Path | None = None, limit: int | None = None) -> LoadedBenchmark:
    """One benchmark, by name or by the path of its TOML file; its answers are checked against themselves."""
    benchmark = read_benchmark(name)
    if file:
        benchmark = benchmark.model_copy(update={"file": file, "dataset": None, "revision": UNPINNED})
    is_data = benchmark.file is not None and benchmark.file.parent == Path(name)
    name = Path(name).resolve().name if is_data else Path(name).stem
    rows = list(read_rows(benchmark.file) if benchmark.file else _hub_rows(name, benchmark))
    rows = _with_known_answers(rows, benchmark.source) if is_data else rows
    if benchmark.problems not in (None, len(rows)):
        raise UserError(
            f"{benchmark.source}: {name} has {benchmark.problems} problems, found {len(rows)}: another copy; of a "
            "part of it, say --benchmarks FILE, or --limit N"
        )
    if limit is not None and limit < len(rows):
        name, title = f"{name}[:{limit}]", f"{benchmark.title}: first {limit} of {len(rows)}"
        rows, benchmark = rows[:limit], benchmark.model_copy(update={"title": title})
    questions = tuple(_question(name, index, row, benchmark) for index, row in enumerate(rows))
    return LoadedBenchmark(name, benchmark, questions, tuple(_unscorable(questions)))


def read_benchmark(name: str) -> Benchmark:
    """The benchmark of that name among srl's own, the benchmark file at that path, or a file of problems as it is."""
    folder = resources.files("srl") / "builtin" / "benchmarks"
    path = Path(name)
    if suffix_of(path) in SUFFIXES:
        if not path.is_file():
            raise UserError(f"{path}: no such file of problems")
        return Benchmark(title=path.stem, file=path, problem_fields=list(PROBLEM_FIELDS))
    if path.suffix == ".toml":
        if not path.is_file():
            raise UserError(f"{path}: no such benchmark file")
        text = path.read_text(encoding="utf-8")
    elif (folder / f"{name}.toml").is_file():
        text = (folder / f"{name}.toml").read_text(encoding="utf-8")
    elif path.is_dir():
        file = rows_file(path, "validation.problems")
        return Benchmark(title=f"held-out problems of {path}", file=file, problem_fields=["prompt"])
    else:
        known = sorted(file.name.removesuffix(".toml") for file in folder.iterdir())
        raise UserError(
            f"unknown benchmark `{name}`{suggest(name, known)}; there are {', '.join(known)}, "
            "or give a .toml file, a file of problems such as .jsonl, or a folder of srl steps"
        )
    benchmark = from_toml(Benchmark, text, name)
    return benchmark.model_copy(update={"file": path.parent / benchmark.file}) if benchmark.file else benchmark


def _with_known_answers(rows: list[Row], path: str) -> list[Row]:
    """Rows of `srl steps` whose answer is known: proofs have none."""
    known = [row for row in rows if known_answers(row.value.get("answer"))]
    if not known:
        raise UserError(f"{path}: none of {len(rows)} held-out problems has a known answer (srl steps --hold-out)")
    if len(known) < len(rows):
        print(f"{path}: {len(rows) - len(known)} of {len(rows)} problems have no known answer and are left out")
    return known


def _hub_rows(name: str, benchmark: Benchmark) -> Iterable[Row]:
    import datasets

    from srl.runs.hub import offline_without_network, why_not_loaded

    offline_without_network()
    revision = None if benchmark.revision == UNPINNED else benchmark.revision
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(benchmark.dataset, benchmark.config, split=benchmark.split, revision=revision)
    except (OSError, ValueError) as error:  # no network, no such data set, configuration, split or revision
        raise UserError(
            f"{benchmark.source}: could not be loaded ({why_not_loaded(error)}); a local copy can take its place: "
            f"--benchmark-file {name}=FILE"
        ) from None
    return (Row(f"{benchmark.source}[{index}]", row) for index, row in enumerate(rows))


def _question(name: str, index: int, row: Row, benchmark: Benchmark) -> Question:
    text = _field(row, benchmark.problem_fields, "problem")
    if isinstance(text, list) and text and isinstance(text[-1], dict) and "content" in text[-1]:
        text = user_text(text)  # a prompt, as `srl steps` writes it
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{row.where}: expected the text of a problem, found {text!r}")
    answers = known_answers(_field(row, benchmark.answer_fields, "answer"))
    if not answers or not all(answers):
        raise UserError(f"{row.where}: found no answer in {', '.join(benchmark.answer_fields)}")
    return Question(name, str(index), text, answers)


def _field(row: Row, fields: list[str], what: str) -> Any:
    found = next((row.value[field] for field in fields if row.value.get(field) is not None), None)
    if found is None:
        if there := [field for field in fields if field in row.value]:
            raise UserError(f"{row.where}: expected the {what} in `{there[0]}`, found nothing")
        names = ", ".join(row.value) + suggest(fields[0], list(row.value))
        raise UserError(f"{row.where}: no {what} field: expected {' or '.join(fields)}, found {names}")
    return found


def known_answers(value: Any) -> tuple[str, ...]:
    r"""The accepted variants of an answer as public files hold it.

    >>> known_answers(27.0), known_answers("so 2+2=4.\n#### 1,004"), known_answers(r"thus $\boxed{1.6}$ cm")
    (('27',), ('1004',), ('1.6',))
    """
    if isinstance(value, list):
        return tuple(answer for variant in value for answer in known_answers(variant))
    return () if (answer := known_answer(value)) is None else (answer,)


def _unscorable(questions: Sequence[Question]) -> Iterable[tuple[Question, str]]:
    answers = [question.answers[0] for question in questions]
    for question, verdict in zip(questions, judge([rf"\boxed{{{a}}}" for a in answers], answers), strict=True):
        if not verdict.correct:
            yield question, verdict.failure or "math-verify does not find it equal to itself"


def self_check_lines(benchmarks: Sequence[LoadedBenchmark]) -> list[str]:
    """What the check at loading found, a line per benchmark and per answer that fails it."""
    lines = []
    for loaded in benchmarks:
        n = len(loaded.questions)
        lines.append(f"{loaded.name}: {n - len(loaded.unscorable)} of {n} known answers score 1.0 against themselves")
        lines += [f"  problem {q.id}: {reason}: {q.answers[0]}" for q, reason in loaded.unscorable]
    return lines
