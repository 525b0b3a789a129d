"""The map: every method from every base, at equal tokens, against how often the base is right.

    python experiments/2026-11-26-when-srl-pays/run.py runs/when-srl-pays --seeds 3 --jobs 2

Makes the bases (make_bases.py), asks each for eight samples of 300 problems (its pass@8), and runs the arms of map.toml
from each: one seed of all bases after another, and within a seed arm after arm, so that what there is when it is
interrupted is a map already. After it seconds.toml, cheap arms with as much time as the others, and lower.toml, SFT
at a lower rate. The same command goes on. Writes results.json, table.md and map.svg from what has ended.

OUT/bases/NAME/        run folders of the bases
OUT/pass-at-8/NAME/    `srl evaluate` of each
OUT/NAME/              an experiment folder each, as `srl experiment` leaves it
OUT/NAME-seconds/      the same of seconds.toml, OUT/NAME-lower/ of lower.toml
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from make_bases import BASES, OFF_THE_LINE, OPERATIONS, SOLVE, make_base

from srl.engines.protocols import Manner
from srl.evaluation.config import EvaluationOptions
from srl.evaluation.evaluate import evaluate
from srl.evaluation.results import interval, percent, read_results
from srl.evaluation.statistics import difference_over_seeds, mean_score
from srl.files import write_jsonl, write_text
from srl.study.domain import distinct_problems
from srl.study.experiment import Experiment, read_experiment
from srl.study.jobs import Job, SeedGroup
from srl.study.material import asked_as_trained
from srl.study.results import laid_out, write_experiment_results
from srl.study.schedule import open_experiment, run_jobs
from srl.study.tiny import solve

HERE = Path(__file__).parent
FURTHER = {"-seconds": "seconds.toml", "-lower": "lower.toml"}
"""Experiments beside the map: what the names of their folders and arms end with."""

FURTHER_COMPARISONS = (
    ("srl-seconds", "rlvr"),
    ("srl-seconds", "srl-rlvr"),
    ("srl-seconds", "step-rft"),
    ("rft-seconds", "rlvr"),
    ("srl", "step-rft-lower"),
    ("srl-rlvr", "step-rft-lower"),
    ("rlvr", "step-rft-lower"),
    ("rlvr", "rft-lower"),
    ("srl-seconds", "step-rft-lower"),
)
"""Better or not? With the others as they are in the map."""
SAMPLES, PROFILED = 8, 300
"""Of the domain's first 1,000 problems, which nothing else asks or trains on."""


def prepare_base(name: str, out: Path) -> None:
    """Make a base and find its pass@8, unless that is done."""
    if not (model := out / "bases" / name / "model").is_dir():
        make_base(name, out / "bases")
    folder = out / "pass-at-8" / name
    if not (folder / "results.json").is_file():
        options = EvaluationOptions(samples=SAMPLES, max_tokens=140, engine="transformers", batch_size=240)
        problems = str(out / "pass-at-8/problems.toml")
        evaluate(str(model), folder, problems, options, manner=Manner("", SOLVE), overwrite=folder.exists())


def write_profiled_problems(folder: Path) -> None:
    """The problems by which bases are told apart."""
    if not (file := folder / "problems.toml").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        problems = islice(distinct_problems(random.Random("problems"), OPERATIONS), PROFILED)
        write_jsonl(folder / "problems.jsonl", [{"problem": p, "answer": solve(p).answer} for p in problems])
        write_text(file, 'title = "problems by which bases are told apart"\nfile = "problems.jsonl"\n')


def experiments_of(names: list[str], out: Path, map_file: str, suffix: str = "") -> dict[str, Experiment]:
    """An experiment from each base, by its folder's name."""
    found = {}
    for name in names:
        model = out / "bases" / name / "model"
        text = (HERE / map_file).read_text(encoding="utf-8").replace('"BASE"', json.dumps(str(model)))
        write_text(file := out / f"{name}{suffix}.toml", text)
        found[name + suffix] = asked_as_trained(read_experiment(file))
    return found


def plan(experiments: dict[str, Experiment], out: Path, n_seeds: int) -> dict[Path, Job]:
    """All jobs of one kind of experiment in the order in which they make a map."""
    jobs: dict[Path, Job] = {}

    def add(job: Job) -> None:
        for needed in job.needs:
            add(needed)
        jobs.setdefault(job.folder, job)

    arms = next(iter(experiments.values())).arms
    for seed in range(n_seeds):
        for arm in arms:
            for name, experiment in experiments.items():
                for job in SeedGroup(experiment, out / name, seed).jobs(experiment.arms[arm].stages):
                    add(job)
    return jobs


def collect(names: list[str], experiments: dict[str, Experiment], out: Path) -> dict[str, Any]:
    """What every base can do and what every arm made of it; of whatever has ended."""
    bases = {}
    for name in names:
        (column,) = read_results(out / "pass-at-8" / name).columns
        solved = mean_score([float(share > 0) for share in column.scores])  # with as many samples as k it is that
        bases[name] = {
            "plan": BASES[name]._asdict(),
            "sha256": hashlib.sha256((out / "bases" / name / "model/model.safetensors").read_bytes()).hexdigest(),
            "pass_at_1": {"mean": column.score, "interval": column.interval},
            "pass_at_8": {"mean": solved.value, "interval": [solved.low, solved.high]},
            **{key: write_experiment_results(experiments[name], out / name)[key] for key in ("arms", "comparisons")},
        }
        for suffix in FURTHER:
            arms = write_experiment_results(experiments[name + suffix], out / (name + suffix))["arms"]
            bases[name]["arms"] |= {key: arm for key, arm in arms.items() if key.endswith(suffix)}
    return bases


def table(bases: dict[str, Any]) -> str:
    """A row per arm, a column per base: test problems solved, in percent with intervals and number of seeds; CPU s."""
    order = sorted(bases, key=lambda name: (name in OFF_THE_LINE, bases[name]["pass_at_8"]["mean"]))
    heads = [f"{name}, pass@8 {percent(bases[name]['pass_at_8']['mean'])}" for name in order]
    titles = {key: arm["title"] for name in order for key, arm in bases[name]["arms"].items()}
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for column in ("greedy", "stepwise"):
        for key, title in titles.items():
            cells = (_cell(bases[name]["arms"].get(key), column) for name in order)
            lines.append(f"| {title}, {column} | " + " | ".join(cells) + " |")
    for key, title in titles.items():
        there = (bases[name]["arms"].get(key) for name in order)
        seconds = (f"{arm['cpu_seconds']:.0f}" if arm else "not run" for arm in there)
        lines.append(f"| {title}, CPU s | " + " | ".join(seconds) + " |")
    return "\n".join(lines) + "\n"


def differences(bases: dict[str, Any]) -> list[dict[str, Any]]:
    """Each comparison from each base, and over those on the line: a problem's score is then the mean over them.

    As many seeds as all bases with both arms have. A seed has the same training problems on all bases, so that a
    resample over bases draws seeds and problems for all at once.
    """
    planned = [(one["better"], one["than"]) for one in next(iter(bases.values()))["comparisons"]]
    found = []
    for better, than in (*planned, *FURTHER_COMPARISONS):
        arms = {name: base["arms"] for name, base in bases.items() if {better, than} <= base["arms"].keys()}
        for column in ("greedy", "stepwise") if arms else ():
            scores = {name: [of[than]["scores"][column], of[better]["scores"][column]] for name, of in arms.items()}
            n_seeds = min(len(seeds) for pair in scores.values() for seeds in pair)
            pairs = {name: [seeds[:n_seeds] for seeds in pair] for name, pair in scores.items()}
            if on_line := [pair for name, pair in pairs.items() if name not in OFF_THE_LINE]:
                pairs["mean"] = [mean_of([pair[side] for pair in on_line]) for side in (0, 1)]
            estimates = {name: difference_over_seeds(*pair) for name, pair in pairs.items()}
            cells = {
                name: {"difference": one.value, "interval": [one.low, one.high]} for name, one in estimates.items()
            }
            found.append({"better": better, "than": than, "column": column, "seeds": n_seeds, "from": cells})
    return found


def mean_of(scores: list[list[list[float]]]) -> list[list[float]]:
    """(bases, seeds, problems) -> (seeds, problems)."""
    return [
        [sum(of_bases) / len(of_bases) for of_bases in zip(*seed, strict=True)] for seed in zip(*scores, strict=True)
    ]


def table_of_differences(bases: dict[str, Any], found: list[dict[str, Any]]) -> str:
    """A row per comparison, a column per base and one for the mean over them, in points."""
    titles = {key: arm["title"] for base in bases.values() for key, arm in base["arms"].items()}
    columns = [*bases, "mean"]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for one in found:
        there = (one["from"].get(name) for name in columns)
        cells = (f"{100 * at['difference']:+.1f} {interval(at['interval'])}" if at else "not run" for at in there)
        name = f"{titles[one['better']]} − {titles[one['than']]}, {one['column']}, {one['seeds']} seeds"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(arm: dict[str, Any] | None, column: str) -> str:
    if arm is None:
        return "not run"
    return f"{percent(arm[column]['mean'])} {interval(arm[column]['interval'])}, {arm['seeds']}"


def draw(bases: dict[str, Any], path: Path) -> None:
    """Test problems solved greedily against the base's pass@8, a line per arm with its intervals."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "srl"  # the same results give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    on_line = [base for name, base in bases.items() if name not in OFF_THE_LINE]
    ordered = sorted(on_line, key=lambda base: base["pass_at_8"]["mean"])
    arms = {key: arm["title"] for base in ordered for key, arm in base["arms"].items() if not key.endswith("-seconds")}
    for key in [key for key in arms if f"{key}-lower" in arms]:  # one of two rates, the better
        del arms[key]
    for place, (key, title) in enumerate(arms.items()):
        there = [base for base in ordered if key in base["arms"]]
        # Side by side, so that intervals can be told apart.
        x = [100 * max(base["pass_at_8"]["mean"], 0.002) * 1.03 ** (place - len(arms) / 2) for base in there]
        found = [base["arms"][key]["greedy"] for base in there]
        y = [100 * one["mean"] for one in found]
        errors = [
            [100 * (one["mean"] - one["interval"][0]) for one in found],
            [100 * (one["interval"][1] - one["mean"]) for one in found],
        ]
        color, line = ("black", "--") if key == "base" else (f"C{place}", "-")
        axes.errorbar(x, y, yerr=errors, marker="o", color=color, linestyle=line, capsize=2, markersize=4, label=title)
    axes.set_xscale("log")
    axes.set_xticks([0.2, 0.5, 1, 2, 5, 10, 20, 40], ["≤ 0.2", "0.5", "1", "2", "5", "10", "20", "40"])
    axes.minorticks_off()
    axes.set_xlabel("problems that the base solves in eight samples (%)")
    axes.set_ylabel("test problems solved greedily after training (%)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Run what is missing, and write what there is."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--jobs", type=int, default=2)
    arguments.add_argument("--bases", nargs="+", default=[*BASES], help="only these")
    arguments.add_argument("--collect", action="store_true", help="run nothing")
    given = arguments.parse_args()
    out: Path = given.out
    os.environ["OMP_NUM_THREADS"] = "1"
    if not given.collect:
        write_profiled_problems(out / "pass-at-8")
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(given.jobs, mp_context=spawn) as pool:
            list(pool.map(prepare_base, given.bases, [out] * len(given.bases)))
    experiments: dict[str, Experiment] = {}
    for suffix, file in {"": "map.toml", **FURTHER}.items():
        of_one_kind = experiments_of(given.bases, out, file, suffix)
        for name, experiment in of_one_kind.items():
            open_experiment(experiment, out / name)
        if not given.collect:
            run_jobs(plan(of_one_kind, out, given.seeds), given.jobs)
        experiments |= of_one_kind
    bases = collect(given.bases, experiments, out)
    compared = differences(bases)
    tables = table(bases) + "\n" + table_of_differences(bases, compared)
    write_text(out / "results.json", laid_out({"bases": bases, "differences": compared}, depth=4) + "\n")
    write_text(out / "table.md", tables)
    draw(bases, out / "map.svg")
    print(tables)


if __name__ == "__main__":
    main()
