"""Collect the held-out evaluations of several demo runs and draw them.

pip install matplotlib
for seed in 0 1 2; do srl demo --seed $seed --out runs/demo-$seed; done
python experiments/2026-11-22-demo/collect.py runs/demo-*        # writes results.json and curve.svg beside it
"""

import json
import math
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

METRICS = {"eval_reward": "held-out step reward", "eval_exact_step_rate": "held-out steps equal to the expert's"}
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""Student's t for a two-sided 95% interval, by degrees of freedom."""


def evaluations(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "tiny-srl/metrics.jsonl").read_text().splitlines()]
    return [{"step": line["step"], **{m: line[m] for m in METRICS}} for line in lines if "eval_reward" in line]


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of its 95% interval over seeds."""
    n = len(values)
    return statistics.fmean(values), T_975[n - 1] * statistics.stdev(values) / math.sqrt(n)


here = Path(__file__).parent
runs = {Path(path).name: evaluations(Path(path)) for path in sys.argv[1:]}
(here / "results.json").write_text(json.dumps(runs, indent=1) + "\n")

figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for axis, (metric, title) in zip(axes, METRICS.items(), strict=True):
    for name, points in runs.items():
        axis.plot([p["step"] for p in points], [p[metric] for p in points], marker="o", markersize=3, label=name)
    axis.set(title=title, xlabel="SRL step")
    axis.spines[["top", "right"]].set_visible(False)
axes[1].legend(frameon=False)
figure.savefig(here / "curve.svg", metadata={"Date": None})

for metric, title in METRICS.items():
    firsts = [points[0][metric] for points in runs.values()]
    # The checkpoint kept is the best by held-out reward; these are its numbers, on the same held-out problems.
    bests = [max(points, key=lambda p: p["eval_reward"])[metric] for points in runs.values()]
    rises = [best - first for best, first in zip(bests, firsts, strict=True)]
    cells = ["{:.3f} ± {:.3f}".format(*mean_and_interval(values)) for values in (firsts, bests, rises)]
    print(f"| {title} | " + " | ".join(cells) + " |")
