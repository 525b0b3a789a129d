"""`srl compare`: evaluations side by side, what differs between them, and the paper's tables."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from srl.errors import UserError
from srl.evaluation.results import Column, ColumnName, Results, interval, percent, read_results
from srl.evaluation.statistics import mcnemar, mean_of_columns, paired_difference, smallest_significant_change

PLOTS = (".svg", ".png", ".pdf")
PROTOCOL = (
    *("protocol", "engine", "max_tokens", "system_prompt", "give_title", "temperature"),
    *("max_input_tokens", "max_steps", "max_agent_tokens", "command_seconds", "context", "asked_in", "agent"),
)
"""How a model is asked, as the keys of a configuration."""


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: the results in a folder, under its name."""

    label: str
    results: Results


def compare(folders: Sequence[Path], *, plot: Path | None = None, paper: bool = False) -> None:
    """Print scores with intervals, and paired differences from the first folder.

    Raises:
        UserError: a folder without results; evaluations on different problems; an unknown kind of plot.
    """
    if len(folders) < (1 if paper else 2):
        raise UserError("give at least two folders of `srl evaluate`, or one and --paper")
    if plot and plot.suffix not in PLOTS:
        raise UserError(f"--plot {plot}: expected a file that ends in {', '.join(PLOTS)}")
    evaluations = [read_contender(folder) for folder in folders]
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


def read_contender(folder: Path) -> Contender:
    """The results in a folder of `srl evaluate`."""
    return Contender(folder.resolve().name, read_results(folder))


def check_same_problems(evaluations: Sequence[Contender]) -> None:
    """Refuse to pair answers to different questions."""
    first = evaluations[0]
    for other in evaluations[1:]:
        ours, theirs = (item.results.config.benchmarks for item in (first, other))
        for name in ours.keys() & theirs.keys():
            if ours[name].sha256 != theirs[name].sha256:
                raise UserError(
                    f"{name}: {first.label} has it from {ours[name].source} and {other.label} from "
                    f"{theirs[name].source}, and the problems or answers differ"
                )
        if not first.results.by_name.keys() & other.results.by_name.keys():
            raise UserError(f"{first.label} and {other.label} have no column in common")


def protocol_differences(evaluations: Sequence[Contender]) -> list[str]:
    """What besides the model differs from the first evaluation, for then the scores do not compare models alone."""
    first = evaluations[0]
    lines = []
    for other in evaluations[1:]:
        ours, theirs = first.results.config, other.results.config
        for key in ours.differences(theirs):
            if key in PROTOCOL:
                one, another = getattr(ours, key), getattr(theirs, key)
                lines.append(f"note: {key} is {one!r} in {first.label} and {another!r} in {other.label}")
    return lines


def score_table(evaluations: Sequence[Contender]) -> Table:
    """Scores and 95% intervals; the average is over the columns that all have."""
    title = "score, 95% interval, share of truncated answers"
    table = Table("", *(item.label for item in evaluations), title=title, title_justify="left")
    names = _all_columns(evaluations)
    for name in names:
        table.add_row(" ".join(name), *(_cell(item.results.by_name.get(name)) for item in evaluations))
    common = [name for name in names if all(name in item.results.by_name for item in evaluations)]
    averages = [_average(item, common) for item in evaluations]
    table.add_row(f"average of {len(common)}", *averages)
    return table


def _cell(column: Column | None) -> str:
    if column is None:
        return "–"
    return f"{percent(column.score)} {interval(column.interval)} {percent(column.truncated)}"


def _average(contender: Contender, names: Sequence[ColumnName]) -> str:
    by_benchmark: dict[str, list[Sequence[float]]] = {}
    for name in names:
        by_benchmark.setdefault(name[0], []).append(contender.results.by_name[name].scores)
    estimate = mean_of_columns(list(by_benchmark.values()))
    return f"{percent(estimate.value)} {interval((estimate.low, estimate.high))}"


def _all_columns(evaluations: Sequence[Contender]) -> list[ColumnName]:
    return list(dict.fromkeys(name for item in evaluations for name in item.results.by_name))


def difference_table(before: Contender, after: Contender) -> Table:
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
    for name, column in before.results.by_name.items():
        if name not in after.results.by_name:
            continue
        a, b = column.scores, after.results.by_name[name].scores
        difference = paired_difference(a, b)
        won, lost = (sum(y > x for x, y in zip(a, b, strict=True)), sum(y < x for x, y in zip(a, b, strict=True)))
        table.add_row(
            f"{' '.join(name)} ({len(a)})",
            f"{100 * difference.value:+.1f}",
            interval((difference.low, difference.high)),
            f"{won} / {lost}",
            f"{mcnemar(a, b):.2f}" if column.column == "greedy" else "",
            _floor(len(a), column.column),
        )
    return table


def _floor(n_problems: int, column: str) -> str:
    if column != "greedy":
        return ""
    floor = smallest_significant_change(n_problems)
    return "any" if floor is None else percent(floor)


def read_paper() -> dict[str, Any]:
    """The paper's tables, in percent."""
    return tomllib.loads((resources.files("srl") / "evaluation" / "paper.toml").read_text(encoding="utf-8"))


def paper_table(evaluations: Sequence[Contender]) -> Table:
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
        ours = evaluation.results.by_name
        scores = [ours[column].score for column in columns if column in ours]
        average = percent(sum(scores) / len(scores)) if len(scores) == len(columns) else "–"
        cells = [percent(ours[column].score) if column in ours else "–" for column in columns]
        table.add_row(evaluation.label, *cells, average)
    return table


def draw(evaluations: Sequence[Contender], path: Path) -> None:
    """Scores with their intervals, a group per column."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "srl"  # the same results give the same file
    from matplotlib import pyplot

    columns = _all_columns(evaluations)
    figure, axes = pyplot.subplots(figsize=(2 + 1.3 * len(columns), 4), layout="constrained")
    for place, evaluation in enumerate(evaluations):
        ours = evaluation.results.by_name
        items = [(x, ours[name]) for x, name in enumerate(columns) if name in ours]
        offset = 0.6 * ((place + 0.5) / len(evaluations) - 0.5)
        scores = [100 * item.score for _, item in items]
        errors = [
            [score - 100 * item.interval[0] for score, (_, item) in zip(scores, items, strict=True)],
            [100 * item.interval[1] - score for score, (_, item) in zip(scores, items, strict=True)],
        ]
        axes.errorbar([x + offset for x, _ in items], scores, errors, fmt="o", capsize=3, label=evaluation.label)
    axes.set_xticks(range(len(columns)), [f"{benchmark}\n{column}" for benchmark, column in columns])
    axes.set_ylabel("score (%), 95% interval")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
