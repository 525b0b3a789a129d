"""From finished runs to a table, a picture and results.json, which holds every score that they are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from srl.evaluation.results import interval, percent, read_results
from srl.evaluation.statistics import difference_over_seeds, mean_over_seeds
from srl.files import write_text
from srl.study.experiment import Arm, Experiment
from srl.study.jobs import SeedGroup

Scores = list[tuple[float, ...]]
"""(seeds, problems): 0 or 1, or the share of samples that were right."""


def write_experiment_results(experiment: Experiment, out: Path) -> dict[str, Any]:
    """Compute and write results.json, table.md and results.svg from the runs that have ended; print the tables."""
    arms = {name: _arm(experiment, arm, out) for name, arm in experiment.arms.items()}
    arms = {name: arm for name, arm in arms.items() if arm["seeds"]}
    pairs = [(better, than) for better, than in experiment.comparisons if better in arms and than in arms]
    comparisons = [_comparison(arms, better, than) for better, than in pairs]
    record = json.loads((out / "experiment.json").read_text())
    results = {**record, "arms": arms, "comparisons": comparisons}
    write_text(out / "results.json", laid_out(results, depth=2) + "\n")
    tables = [arms_table(arms), *([comparisons_table(arms, comparisons)] if comparisons else [])]
    write_text(out / "table.md", "\n".join(map(_markdown, tables)))
    draw(arms, out / "results.svg")
    console = Console(width=None if Console().is_terminal else 160)
    for table in tables:
        console.print(table)
    return results


def laid_out(value: Any, depth: int) -> str:
    """JSON with a line for each entry of the outermost `depth` objects, and everything within in that line.

    >>> print(laid_out({"a": {"b": [1, 2]}, "c": {}}, depth=1))
    {
    "a":{"b":[1,2]},
    "c":{}
    }
    """
    if not depth or not isinstance(value, dict) or not value:
        return json.dumps(value, separators=(",", ":"))
    return "{\n" + ",\n".join(f"{json.dumps(key)}:{laid_out(one, depth - 1)}" for key, one in value.items()) + "\n}"


def _arm(experiment: Experiment, arm: Arm, out: Path) -> dict[str, Any]:
    """Everything about one arm; its lists have one entry per seed."""
    n_seeds = sum(1 for _ in takewhile(lambda seed: (out / f"seed-{seed}").is_dir(), count()))
    groups = (SeedGroup(experiment, out, seed) for seed in range(min(arm.seeds or n_seeds, n_seeds)))
    folders = (job.folder for group in groups for job in group.jobs(arm.stages))
    folders_of_seeds = list(takewhile(lambda folder: (folder / "done.json").is_file(), folders))
    done = [json.loads((folder / "done.json").read_text()) for folder in folders_of_seeds]
    scores = {"greedy": [], "sampled": [], "stepwise": []}  # type: dict[str, Scores]
    for folder in folders_of_seeds:
        answers = read_results(folder / f"test-answer-T{arm.temperature:g}").columns
        scores["greedy"].append(answers[0].scores)
        scores["sampled"] += [column.scores for column in answers[1:]]
        scores["stepwise"].append(read_results(folder / "test-stepwise").columns[0].scores)
    estimates = {name: mean_over_seeds(of_seeds) for name, of_seeds in scores.items() if of_seeds}
    return {
        "title": arm.title,
        "seeds": len(done),
        "learning_rate": next((one["learning_rate"] for one in done if "learning_rate" in one), None),
        "checkpoints": [Path(one["model"]).name for one in done],
        "tokens": _mean([one["tokens"] for one in done]) if done else 0,
        "cpu_seconds": _mean([one["cpu_seconds"] for one in done]) if done else 0.0,
        "validation": [one.get("validation") for one in done],
        "step_reward": [one["steps"]["reward"] for one in done if "steps" in one],
        "exact_steps": [one["steps"]["exact"] for one in done if "steps" in one],
        "exact_without_rule": [
            one["steps"]["exact_without_rule"] for one in done if "exact_without_rule" in one.get("steps", {})
        ],
        **{name: {"mean": e.value, "interval": [e.low, e.high]} for name, e in estimates.items()},
        "scores": scores,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _comparison(arms: dict[str, Any], better: str, than: str) -> dict[str, Any]:
    """Paired by seed and problem, over the seeds that both arms have."""
    found: dict[str, Any] = {"better": better, "than": than, "seeds": min(arms[better]["seeds"], arms[than]["seeds"])}
    for column in ("greedy", "sampled", "stepwise"):
        pairs = list(zip(arms[better]["scores"][column], arms[than]["scores"][column], strict=False))
        if pairs:
            better_scores, than_scores = zip(*pairs, strict=True)
            estimate = difference_over_seeds(than_scores, better_scores)
            found[column] = {
                "difference": estimate.value,
                "interval": [estimate.low, estimate.high],
                "seeds_won": sum(sum(one) > sum(other) for one, other in pairs),
            }
    return found


def arms_table(arms: dict[str, Any]) -> Table:
    """A row per arm: shares of test problems solved, in percent with 95% intervals; steps; cost."""
    heads = (
        "arm",
        "seeds",
        "greedy",
        "sampled",
        "stepwise",
        "step reward",
        "exact steps",
        "thought or not",
        "tokens",
        "CPU s",
        "rate",
    )
    table = Table(*heads, title="test problems solved (%), 95% intervals over seeds and problems", title_justify="left")
    for arm in arms.values():
        table.add_row(
            arm["title"],
            str(arm["seeds"]),
            *(_cell(arm.get(column)) for column in ("greedy", "sampled", "stepwise")),
            f"{_mean(arm['step_reward']):.3f}" if arm["step_reward"] else "–",
            *(percent(_mean(arm[name])) if arm[name] else "–" for name in ("exact_steps", "exact_without_rule")),
            f"{arm['tokens'] / 1e6:.2f} M",
            f"{arm['cpu_seconds']:.0f}",
            "" if arm["learning_rate"] is None else f"{arm['learning_rate']:g}",
        )
    return table


def _cell(column: dict[str, Any] | None) -> str:
    return "–" if column is None else f"{percent(column['mean'])} {interval(column['interval'])}"


def comparisons_table(arms: dict[str, Any], comparisons: Sequence[dict[str, Any]]) -> Table:
    """Is one arm better than another? Differences in points, paired by seed and problem."""
    table = Table(
        "", "seeds", "greedy", "won in seeds", "sampled", "stepwise", title="differences in points, 95% intervals"
    )
    table.title_justify = "left"
    for item in comparisons:
        table.add_row(
            f"{arms[item['better']]['title']} − {arms[item['than']]['title']}",
            str(item["seeds"]),
            _difference(item["greedy"]),
            f"{item['greedy']['seeds_won']} of {item['seeds']}",
            _difference(item.get("sampled")),
            _difference(item["stepwise"]),
        )
    return table


def _difference(column: dict[str, Any] | None) -> str:
    return "–" if column is None else f"{100 * column['difference']:+.1f} {interval(column['interval'])}"


def _markdown(table: Table) -> str:
    """The same table for a README."""
    heads = [str(column.header) for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
    return f"{table.title}\n\n" + "\n".join(lines) + "\n"


def draw(arms: dict[str, Any], path: Path) -> None:
    """Arms from top to bottom: greedy and sampled answers, with their intervals, and every seed's greedy one."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "srl"  # the same results give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 0.8 + 0.42 * len(arms)), layout="constrained")
    for place, arm in enumerate(arms.values()):
        for column, offset, color in (("greedy", -0.12, "C0"), ("sampled", 0.16, "C1")):
            if column in arm:
                mean, (low, high) = arm[column]["mean"], arm[column]["interval"]
                errors = [[100 * (mean - low)], [100 * (high - mean)]]
                label = column if place == 0 else None
                axes.errorbar(
                    100 * mean, place + offset, xerr=errors, fmt="o", capsize=3, color=color, label=label, zorder=3
                )
        of_seeds = [100 * _mean(scores) for scores in arm["scores"]["greedy"]]
        axes.plot(of_seeds, [place - 0.12] * len(of_seeds), "|", color="C0", alpha=0.5)
    axes.set_yticks(range(len(arms)), [arm["title"] for arm in arms.values()])
    axes.invert_yaxis()
    axes.set_xlabel("test problems solved (%), 95% intervals; ticks: single seeds")
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
