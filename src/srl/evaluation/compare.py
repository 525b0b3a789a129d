"""`srl compare`: evaluations side by side, what differs between them, and the paper's tables."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from srl.errors import UserError
from srl.evaluation.results import interval, percent, read_results
from srl.evaluation.statistics import mcnemar, mean_of_columns, paired_difference, smallest_significant_change

PLOTS = (".svg", ".png", ".pdf")
Column = tuple[str, str]
"""Benchmark, and `greedy` or `avg@N`."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation to compare: the name of its folder, and its results, also by column."""

    label: str
    results: Mapping[str, Any]
    columns: Mapping[Column, Mapping[str, Any]]


def compare(folders: Sequence[Path], *, plot: Path | None = None, paper: bool = False) -> None:
    """Print scores with intervals, and paired differences from the first folder.

    Raises:
        UserError: a folder without results; evaluations on different problems; an unknown kind of plot.
    """
    if len(folders) < (1 if paper else 2):
        raise UserError("give at least two folders of `srl evaluate`, or one and --paper")
    if plot and plot.suffix not in PLOTS:
        raise UserError(f"--plot {plot}: expected a file that ends in {', '.join(PLOTS)}")
    evaluations = [read_evaluation(folder) for folder in folders]
    check_same_problems(evaluations)
    console = Console(width=None if Console().is_terminal else 160)
    console.print(score_table(evaluations))
    for line in protocol_differences(evaluations):
        print(line)
    for other in evaluations[1:]:
        console.print(difference_table(evaluations[0], other))
    if paper:
        console.print(paper_table(evaluations))
        print(read_paper()["note"])
    if plot:
        draw(evaluations, plot)
        print(f"wrote {plot}")


def read_evaluation(folder: Path) -> Evaluation:
    """Read the results that `srl evaluate` left in a folder."""
    results = read_results(folder)
    columns = {(item["benchmark"], item["column"]): item for item in results["columns"]}
    return Evaluation(folder.resolve().name, results, columns)


def check_same_problems(evaluations: Sequence[Evaluation]) -> None:
    """Raise a `UserError` if a benchmark is not the same problems in all evaluations: pairs would mean nothing."""
    first = evaluations[0]
    for other in evaluations[1:]:
        ours, theirs = (item.results["config"]["benchmarks"] for item in (first, other))
        for name in ours.keys() & theirs.keys():
            if ours[name]["sha256"] != theirs[name]["sha256"]:
                raise UserError(
                    f"{name}: {first.label} has it from {ours[name]['source']} and {other.label} from "
                    f"{theirs[name]['source']}, and the problems or answers differ"
                )
        if not first.columns.keys() & other.columns.keys():
            raise UserError(f"{first.label} and {other.label} have no column in common")


def protocol_differences(evaluations: Sequence[Evaluation]) -> list[str]:
    """What besides the model differs from the first evaluation, for then the scores do not compare models alone."""
    first = evaluations[0]
    lines = []
    for other in evaluations[1:]:
        ours, theirs = first.results["config"], other.results["config"]
        for key in ("protocol", "engine", "max_tokens", "system_prompt", "give_title", "temperature"):
            if ours.get(key) != theirs.get(key):
                asked, otherwise = ours.get(key), theirs.get(key)
                lines.append(f"note: {key} is {asked!r} in {first.label} and {otherwise!r} in {other.label}")
    return lines


def score_table(evaluations: Sequence[Evaluation]) -> Table:
    """Scores and 95% intervals; the average is over the columns that all have."""
    title = "score, 95% interval, share of truncated answers"
    table = Table("", *(item.label for item in evaluations), title=title, title_justify="left")
    for key in _all_columns(evaluations):
        cells = [_cell(item.columns.get(key)) for item in evaluations]
        table.add_row(f"{key[0]} {key[1]}", *cells)
    common = [key for key in _all_columns(evaluations) if all(key in item.columns for item in evaluations)]
    averages = [_average(item, common) for item in evaluations]
    table.add_row(f"average of {len(common)}", *averages)
    return table


def _cell(item: Mapping[str, Any] | None) -> str:
    if item is None:
        return "–"
    return f"{percent(item['score'])} {interval(item['interval'])} {percent(item['truncated'])}"


def _average(evaluation: Evaluation, columns: Sequence[Column]) -> str:
    by_benchmark: dict[str, list[Sequence[float]]] = {}
    for benchmark, column in columns:
        by_benchmark.setdefault(benchmark, []).append(evaluation.columns[benchmark, column]["scores"])
    estimate = mean_of_columns(list(by_benchmark.values()))
    return f"{percent(estimate.value)} {interval([estimate.low, estimate.high])}"


def _all_columns(evaluations: Sequence[Evaluation]) -> list[Column]:
    return list(dict.fromkeys(key for item in evaluations for key in item.columns))


def difference_table(before: Evaluation, after: Evaluation) -> Table:
    """Paired over problems: the difference with its bootstrap interval; McNemar's exact test for greedy columns."""
    table = Table(
        "",
        "difference in points",
        "95% interval",
        "won / lost",
        "McNemar p",
        "no p < 0.05 below",
        title=f"{after.label} − {before.label}, paired by problem",
        title_justify="left",
    )
    for key in before.columns:
        if key not in after.columns:
            continue
        a, b = before.columns[key]["scores"], after.columns[key]["scores"]
        difference = paired_difference(a, b)
        won, lost = (sum(y > x for x, y in zip(a, b, strict=True)), sum(y < x for x, y in zip(a, b, strict=True)))
        table.add_row(
            f"{key[0]} {key[1]} ({len(a)})",
            f"{100 * difference.value:+.1f}",
            interval([difference.low, difference.high]),
            f"{won} / {lost}",
            f"{mcnemar(a, b):.2f}" if key[1] == "greedy" else "",
            _floor(len(a), key[1]),
        )
    return table


def _floor(n_problems: int, column: str) -> str:
    if column != "greedy":
        return ""
    floor = smallest_significant_change(n_problems)
    return "any" if floor is None else percent(floor)


def read_paper() -> dict[str, Any]:
    """Read paper.toml: the scores of the paper's tables, in percent."""
    return tomllib.loads((resources.files("srl") / "evaluation" / "paper.toml").read_text(encoding="utf-8"))


def paper_table(evaluations: Sequence[Evaluation]) -> Table:
    """The paper's tables, one section each, and our evaluations below."""
    paper = read_paper()
    columns = [(item["benchmark"], item["column"]) for item in paper["columns"]]
    table = Table("in percent", *("\n".join(column) for column in columns), "average")
    for title, rows in paper["tables"].items():
        table.add_row(title, style="bold")
        for name, *numbers, average in rows:
            # The paper rounds its columns to 0.1, so their mean may be off by as much.
            marked = "" if math.isclose(sum(numbers) / len(numbers), average, abs_tol=0.11) else "*"
            table.add_row(name, *(f"{number:.1f}" for number in numbers), f"{average:.1f}{marked}")
        table.add_section()
    table.add_row("here", style="bold")
    for evaluation in evaluations:
        ours = evaluation.columns
        scores = [ours[column]["score"] for column in columns if column in ours]
        average = percent(sum(scores) / len(scores)) if len(scores) == len(columns) else "–"
        cells = [percent(ours[column]["score"]) if column in ours else "–" for column in columns]
        table.add_row(evaluation.label, *cells, average)
    return table


def draw(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Plot scores with their 95% intervals to a file, grouped by column."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "srl"  # the same results give the same file
    from matplotlib import pyplot

    columns = _all_columns(evaluations)
    figure, axes = pyplot.subplots(figsize=(2 + 1.3 * len(columns), 4), layout="constrained")
    for place, evaluation in enumerate(evaluations):
        items = [(x, evaluation.columns[key]) for x, key in enumerate(columns) if key in evaluation.columns]
        offset = 0.6 * ((place + 0.5) / len(evaluations) - 0.5)
        scores = [100 * item["score"] for _, item in items]
        errors = [
            [score - 100 * item["interval"][0] for score, (_, item) in zip(scores, items, strict=True)],
            [100 * item["interval"][1] - score for score, (_, item) in zip(scores, items, strict=True)],
        ]
        axes.errorbar([x + offset for x, _ in items], scores, errors, fmt="o", capsize=3, label=evaluation.label)
    axes.set_xticks(range(len(columns)), [f"{benchmark}\n{column}" for benchmark, column in columns])
    axes.set_ylabel("score (%), 95% interval")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
