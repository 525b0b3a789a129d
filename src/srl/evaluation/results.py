"""From judged samples to numbers: results.json, the table, and the form that a model card takes.

results.json (schema 1; shares are between 0 and 1):

    schema, config, started, finished, command, git_commit, python, platform, versions
    columns   per benchmark and mode: score, interval, truncation, pass@k, and `scores`, one per problem
    average   the plain mean of the columns, as in the paper
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from srl.errors import UserError
from srl.evaluation.config import EvaluationConfig, read_config
from srl.evaluation.samples import Mode, Tallies, Tally
from srl.evaluation.statistics import (
    LEVEL,
    detectable_difference,
    mean_of_columns,
    mean_score,
    pass_at_k,
    smallest_significant_change,
)
from srl.files import write_text

SCHEMA = 1

Interval = tuple[float, float]

ColumnName = tuple[str, str]
"""Benchmark, and `greedy` or `avg@N`."""


@dataclass(frozen=True)
class Column:
    """One column of the table: a benchmark, read greedily or by N samples per problem."""

    benchmark: str
    column: str
    """`greedy` or `avg@N`."""
    problems: int
    samples_per_problem: int
    score: float
    standard_error: float | None
    interval: Interval
    truncated: float
    unboxed: float
    not_compared: int
    mean_tokens: float | None
    pass_at: Mapping[str, float]
    """By k."""
    detectable_difference: float | None
    scores: tuple[float, ...]
    """One per problem."""

    @property
    def name(self) -> ColumnName:
        """What it has in common with the same column of another evaluation."""
        return (self.benchmark, self.column)


@dataclass(frozen=True)
class Average:
    """The plain mean of the columns, as in the paper."""

    columns: int
    score: float
    interval: Interval


@dataclass(frozen=True)
class Results:
    """What results.json holds."""

    schema: int
    config: EvaluationConfig
    started: str
    command: tuple[str, ...]
    git_commit: str | None
    python: str
    platform: str
    versions: Mapping[str, str]
    finished: str
    columns: tuple[Column, ...]
    average: Average

    @cached_property
    def by_name(self) -> dict[ColumnName, Column]:
        """The columns by benchmark and `greedy` or `avg@N`."""
        return {column.name: column for column in self.columns}


def write_results(folder: Path, tallies: Tallies) -> Results:
    """Compute and write the results of a finished evaluation, and print them."""
    config = read_config(folder / "evaluation.json")
    columns = []
    for name, benchmark in config.benchmarks.items():
        for mode in get_args(Mode):
            by_problem: list[list[Tally]] = [[] for _ in range(benchmark.problems)]
            for (of_benchmark, problem_id, of_mode, _), tally in tallies.items():
                if (of_benchmark, of_mode) == (name, mode):
                    by_problem[int(problem_id)].append(tally)
            if by_problem[0]:
                columns.append(column_of(name, mode, by_problem))
    results = save_results(folder, columns)
    write_text(folder / "model-card.yaml", model_card(results))
    print_results(results)
    print(f"wrote {folder}/; next: srl compare {folder} OTHER-EVALUATION …")
    return results


def save_results(folder: Path, columns: Sequence[Column]) -> Results:
    """Write results.json from what evaluation.json records and the columns, which lie together by benchmark."""
    record = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    average = mean_of_columns([[c.scores for c in group] for _, group in groupby(columns, key=lambda c: c.benchmark)])
    results = TypeAdapter(Results).validate_python(
        record
        | {
            "schema": SCHEMA,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "columns": tuple(columns),
            "average": Average(len(columns), average.value, (average.low, average.high)),
        }
    )
    write_text(folder / "results.json", json.dumps(asdict(results), indent=1) + "\n")
    return results


def column_of(benchmark: str, mode: Mode, by_problem: Sequence[Sequence[Tally]]) -> Column:
    """The column of a benchmark's samples, listed by problem."""
    tallies = [tally for samples in by_problem for tally in samples]
    n_samples = len(by_problem[0])
    right = [sum(tally.correct for tally in samples) for samples in by_problem]
    scores = [n_right / n_samples for n_right in right]
    estimate = mean_score(scores)
    tokens = [tally.tokens for tally in tallies if tally.tokens is not None]
    powers_of_two = [2**power for power in range(1, 11)] if mode == "sampled" else []
    return Column(
        benchmark=benchmark,
        column="greedy" if mode == "greedy" else f"avg@{n_samples}",
        problems=len(by_problem),
        samples_per_problem=n_samples,
        score=estimate.value,
        standard_error=estimate.standard_error,
        interval=(estimate.low, estimate.high),
        truncated=sum(tally.truncated for tally in tallies) / len(tallies),
        unboxed=sum(not tally.boxed for tally in tallies) / len(tallies),
        not_compared=sum(tally.failed for tally in tallies),
        mean_tokens=sum(tokens) / len(tokens) if tokens else None,
        pass_at={
            str(k): sum(pass_at_k(n_samples, n_right, k) or 0.0 for n_right in right) / len(right)
            for k in powers_of_two
            if k <= n_samples
        },
        detectable_difference=detectable_difference(scores, greedy=mode == "greedy"),
        scores=tuple(scores),
    )


def read_results(folder: Path) -> Results:
    """The results of a finished evaluation.

    Raises:
        UserError: no results there, or of another schema, or damaged.
    """
    path = folder / "results.json"
    if not path.is_file():
        unfinished = (folder / "evaluation.json").is_file()
        remedy = "it has not finished: srl evaluate … --resume" if unfinished else "expected the folder of srl evaluate"
        raise UserError(f"{path}: no such file; {remedy}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        schema = values["schema"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not the results of srl evaluate, or damaged") from None
    if schema != SCHEMA:
        raise UserError(f"{path}: schema {schema}, this version of srl reads {SCHEMA}")
    try:
        return TypeAdapter(Results).validate_python(values)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{path}: damaged: `{key}`: {error.errors()[0]['msg']}") from None


def print_results(results: Results) -> None:
    """The table, and what it cannot show."""
    from rich.console import Console
    from rich.table import Table

    config = results.config
    asked = f"{config.protocol} protocol, {config.max_tokens} tokens, seed {config.seed}, {config.engine}"
    table = Table(title=f"{config.model}: {asked}", title_justify="left")
    for name in ("benchmark", "column", "score", "95% interval", "truncated", "no box", "tokens", "pass@k"):
        table.add_column(name, justify="left" if name in ("benchmark", "column", "pass@k") else "right")
    for item in results.columns:
        ks = list(item.pass_at)[-1:]  # the largest; all are in results.json
        table.add_row(
            f"{item.benchmark} ({item.problems})",
            item.column,
            percent(item.score),
            interval(item.interval),
            percent(item.truncated),
            percent(item.unboxed),
            "–" if item.mean_tokens is None else f"{item.mean_tokens:.0f}",
            ", ".join(f"@{k} {percent(item.pass_at[k])}" for k in ks),
        )
    average = results.average
    table.add_row("average", f"of {average.columns}", percent(average.score), interval(average.interval))
    Console(width=None if Console().is_terminal else 120).print(table)
    for item in results.columns:
        print(power_line(item))


def power_line(item: Column) -> str:
    """What a difference must be to be seen in a column."""
    name = f"{item.benchmark} {item.column}"
    seen, floor = item.detectable_difference, smallest_significant_change(item.problems)
    if item.column == "greedy" and floor is None:
        return f"{name}: with {item.problems} problems no difference can be significant"
    if seen is None:
        return f"{name}: all scores are equal; how large a difference would be seen is not known"
    line = f"{name}: with {item.problems} problems a difference below {percent(seen)} points is mostly not seen"
    if item.column == "greedy" and floor is not None:
        line += f", one below {percent(floor)} never (p < {LEVEL})"
    return line


def percent(share: float) -> str:
    """As the paper's tables print it."""
    return f"{100 * share:.1f}"


def interval(ends: Interval) -> str:
    """Both ends in percent."""
    return f"[{percent(ends[0])}, {percent(ends[1])}]"


def model_card(results: Results) -> str:
    """The scores as the YAML head of a Hugging Face model card (`model-index`)."""
    from huggingface_hub import EvalResult, ModelCardData

    config = results.config
    model_name = str(config.model).rstrip("/").split("/")[-1]
    entries = [
        EvalResult(
            task_type="text-generation",
            dataset_type=config.benchmarks[item.benchmark].source.partition("@")[0],
            dataset_name=config.benchmarks[item.benchmark].title,
            dataset_revision=config.benchmarks[item.benchmark].source.partition("@")[2] or None,
            metric_type="accuracy",
            metric_name=f"{item.column} ({config.protocol} protocol, {config.max_tokens} tokens)",
            metric_value=round(100 * item.score, 2),
        )
        for item in results.columns
    ]
    return ModelCardData(model_name=model_name, eval_results=entries).to_yaml() + "\n"
