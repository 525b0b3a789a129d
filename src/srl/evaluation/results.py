"""From judged samples to numbers: results.json, the table, and the form that a model card takes.

results.json (schema 1; shares are between 0 and 1):

    schema, config, started, finished, command, git_commit, python, platform, versions
    columns   per benchmark and mode: score, interval, truncation, pass@k, and `scores`, one per problem
    average   the plain mean of the columns, as in the paper
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from srl.errors import UserError
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

Key = tuple[str, str, str, int]
"""The name of a sample within its run: benchmark, problem, mode (greedy or sampled), index."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What the numbers need of one sample; all that is kept in memory of it."""

    correct: bool
    truncated: bool
    boxed: bool
    failed: bool
    """Whether comparing the answer took too much time or memory; it then counts as wrong."""
    tokens: int | None

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Tally:
        """Read from a line of samples.jsonl what the numbers need."""
        truncated, failed = line["end"] == "truncated", line["failure"] is not None
        return cls(line["correct"], truncated, line["boxed"], failed, line["tokens"])


def write_results(folder: Path, tallies: Mapping[Key, Tally]) -> dict[str, Any]:
    """Compute and write the results of a finished evaluation, and print them."""
    record = json.loads((folder / "evaluation.json").read_text())
    columns = []
    for name, benchmark in record["config"]["benchmarks"].items():
        for mode in ("greedy", "sampled"):
            by_problem: list[list[Tally]] = [[] for _ in range(benchmark["problems"])]
            for (of_benchmark, problem_id, of_mode, _), tally in tallies.items():
                if (of_benchmark, of_mode) == (name, mode):
                    by_problem[int(problem_id)].append(tally)
            if by_problem[0]:
                columns.append(column(name, mode, by_problem))
    grouped = [[c["scores"] for c in group] for _, group in groupby(columns, key=lambda c: c["benchmark"])]
    average = mean_of_columns(grouped)
    results = {
        "schema": SCHEMA,
        **record,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "columns": columns,
        "average": {"columns": len(columns), "score": average.value, "interval": [average.low, average.high]},
    }
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_text(folder / "model-card.yaml", model_card(results))
    print_results(results)
    print(f"wrote {folder}/; next: srl compare {folder} OTHER-EVALUATION …")
    return results


def column(benchmark: str, mode: str, by_problem: list[list[Tally]]) -> dict[str, Any]:
    """One column of the table: `greedy`, or `avg@N` of N samples per problem."""
    tallies = [tally for samples in by_problem for tally in samples]
    n_samples = len(by_problem[0])
    right = [sum(tally.correct for tally in samples) for samples in by_problem]
    scores = [n_right / n_samples for n_right in right]
    estimate = mean_score(scores)
    tokens = [tally.tokens for tally in tallies if tally.tokens is not None]
    powers_of_two = [2**power for power in range(1, 11)] if mode == "sampled" else []
    return {
        "benchmark": benchmark,
        "column": "greedy" if mode == "greedy" else f"avg@{n_samples}",
        "problems": len(by_problem),
        "samples_per_problem": n_samples,
        "score": estimate.value,
        "standard_error": estimate.standard_error,
        "interval": [estimate.low, estimate.high],
        "truncated": sum(tally.truncated for tally in tallies) / len(tallies),
        "unboxed": sum(not tally.boxed for tally in tallies) / len(tallies),
        "not_compared": sum(tally.failed for tally in tallies),
        "mean_tokens": sum(tokens) / len(tokens) if tokens else None,
        "pass_at": {
            str(k): sum(pass_at_k(n_samples, n_right, k) or 0.0 for n_right in right) / len(right)
            for k in powers_of_two
            if k <= n_samples
        },
        "detectable_difference": detectable_difference(scores, greedy=mode == "greedy"),
        "scores": scores,
    }


def read_results(folder: Path) -> dict[str, Any]:
    """Read results.json of a finished evaluation.

    Raises:
        UserError: no results there, or of another schema.
    """
    path = folder / "results.json"
    if not path.is_file():
        unfinished = (folder / "evaluation.json").is_file()
        remedy = "it has not finished: srl evaluate … --resume" if unfinished else "expected the folder of srl evaluate"
        raise UserError(f"{path}: no such file; {remedy}")
    results: dict[str, Any] = json.loads(path.read_text())
    if results.get("schema") != SCHEMA:
        raise UserError(f"{path}: schema {results.get('schema')}, this version of srl reads {SCHEMA}")
    return results


def print_results(results: Mapping[str, Any]) -> None:
    """Print the table of scores, and below it how large a difference must be to show in it."""
    from rich.console import Console
    from rich.table import Table

    config = results["config"]
    asked = f"{config['protocol']} protocol, {config['max_tokens']} tokens, seed {config['seed']}, {config['engine']}"
    table = Table(title=f"{config['model']}: {asked}", title_justify="left")
    for name in ("benchmark", "column", "score", "95% interval", "truncated", "no box", "tokens", "pass@k"):
        table.add_column(name, justify="left" if name in ("benchmark", "column", "pass@k") else "right")
    for item in results["columns"]:
        ks = list(item["pass_at"])[-1:]  # the largest; all are in results.json
        table.add_row(
            f"{item['benchmark']} ({item['problems']})",
            item["column"],
            percent(item["score"]),
            interval(item["interval"]),
            percent(item["truncated"]),
            percent(item["unboxed"]),
            "–" if item["mean_tokens"] is None else f"{item['mean_tokens']:.0f}",
            ", ".join(f"@{k} {percent(item['pass_at'][k])}" for k in ks),
        )
    average = results["average"]
    table.add_row("average", f"of {average['columns']}", percent(average["score"]), interval(average["interval"]))
    Console(width=None if Console().is_terminal else 120).print(table)
    for item in results["columns"]:
        print(power_line(item))


def power_line(item: Mapping[str, Any]) -> str:
    """One sentence: how large a difference from this column must be to be noticed, or to be significant at all."""
    name = f"{item['benchmark']} {item['column']}"
    seen, floor = item["detectable_difference"], smallest_significant_change(item["problems"])
    if item["column"] == "greedy" and floor is None:
        return f"{name}: with {item['problems']} problems no difference can be significant"
    if seen is None:
        return f"{name}: all scores are equal; how large a difference would be seen is not known"
    line = f"{name}: with {item['problems']} problems a difference below {percent(seen)} points is mostly not seen"
    if item["column"] == "greedy" and floor is not None:
        line += f", one below {percent(floor)} never (p < {LEVEL})"
    return line


def percent(share: float) -> str:
    """A share in percent with one digit, as the paper's tables print it."""
    return f"{100 * share:.1f}"


def interval(ends: list[float]) -> str:
    """An interval in percent, in brackets."""
    return f"[{percent(ends[0])}, {percent(ends[1])}]"


def model_card(results: Mapping[str, Any]) -> str:
    """The scores as the YAML head of a Hugging Face model card (`model-index`)."""
    from huggingface_hub import EvalResult, ModelCardData

    config = results["config"]
    model_name = str(config["model"]).rstrip("/").split("/")[-1]
    entries = [
        EvalResult(
            task_type="text-generation",
            dataset_type=config["benchmarks"][item["benchmark"]]["source"].partition("@")[0],
            dataset_name=config["benchmarks"][item["benchmark"]]["title"],
            dataset_revision=config["benchmarks"][item["benchmark"]]["source"].partition("@")[2] or None,
            metric_type="accuracy",
            metric_name=f"{item['column']} ({config['protocol']} protocol, {config['max_tokens']} tokens)",
            metric_value=round(100 * item["score"], 2),
        )
        for item in results["columns"]
    ]
    return ModelCardData(model_name=model_name, eval_results=entries).to_yaml() + "\n"
