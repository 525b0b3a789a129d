"""The same base taught by experts of several kinds.

    python experiments/2026-11-26-expert-style/run.py runs/expert-style --seeds 3 --jobs 2

An experiment folder per kind, one after another; the same command goes on. Writes table.md from what has ended.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from srl.evaluation.results import interval, percent
from srl.evaluation.statistics import difference_over_seeds
from srl.files import write_text
from srl.study import conduct
from srl.study.experiment import read_experiment
from srl.study.results import write_experiment_results

EXPERTS = {
    "200 solutions": "expert_problems = 200",
    "20 solutions": "expert_problems = 20",
    "50 solutions": "expert_problems = 50",
    "800 solutions": "expert_problems = 800",
    "10% of steps wrong": "expert_problems = 200\nwrong_steps = 0.1",
    "30% of steps wrong": "expert_problems = 200\nwrong_steps = 0.3",
    "other words": 'expert_problems = 200\nwording = "other"',
}
"""What is taught -> its lines of the table [domain]."""
TAUGHT = ("srl", "step-rft")


def write_file(name: str, out: Path) -> tuple[Path, Path]:
    """The experiment file of one expert, and the folder of its runs."""
    folder = name.replace(" ", "-").replace("%", "")
    template = Path(__file__).with_name("style.toml").read_text(encoding="utf-8")
    write_text(file := out / f"{folder}.toml", template.replace("EXPERT", EXPERTS[name]))
    return file, out / folder


def table(out: Path) -> str:
    """A row per expert, a column per arm: test problems solved greedily (%), and exact steps; then the difference that
    the expert makes, in points: as many seeds as both have, paired by seed and problem.
    """
    rows: list[str] = []
    usual: dict[str, Any] = {}
    for name in EXPERTS:
        file, folder = write_file(name, out)
        if (folder / "experiment.json").is_file():
            arms = write_experiment_results(read_experiment(file), folder)["arms"]
            usual = usual or arms  # of the first expert
            cells = [_cell(arms.get(arm)) for arm in usual] + [_difference(usual, arms, arm) for arm in TAUGHT]
            rows.append(f"| {name} | " + " | ".join(cells) + " |")
    if not rows:
        return ""
    titles = [arm["title"] for arm in usual.values()] + [f"{usual[arm]['title']}, change" for arm in TAUGHT]
    return "\n".join(["| the expert | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|", *rows]) + "\n"


def _cell(arm: dict[str, Any] | None) -> str:
    if arm is None:
        return "not run"
    exact = percent(sum(arm["exact_steps"]) / len(arm["exact_steps"]))
    return f"{percent(arm['greedy']['mean'])} {interval(arm['greedy']['interval'])}; {exact}"


def _difference(usual: dict[str, Any], arms: dict[str, Any], name: str) -> str:
    if arms is usual or name not in arms:
        return ""
    pairs = list(zip(usual[name]["scores"]["greedy"], arms[name]["scores"]["greedy"], strict=False))
    found = difference_over_seeds(*map(list, zip(*pairs, strict=True)))
    return f"{100 * found.value:+.1f} {interval((found.low, found.high))}"


def main() -> None:
    """Run what is missing, and write what there is."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--jobs", type=int, default=2)
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in EXPERTS:
        file, folder = write_file(name, given.out)
        conduct(file, folder, n_seeds=given.seeds, n_jobs=given.jobs)
    write_text(given.out / "table.md", table(given.out))
    print(table(given.out))


if __name__ == "__main__":
    main()
