"""What a run comes to, in a sentence: is the reward rising, is the format kept, has training ended?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from srl.report.runs import Run
from srl.runs.folder import evaluated, held_out

MALFORMED = 0.5
"""From this share on, a run is called broken: most of what it samples earns −1 whatever it says."""

SMALL = 0.005
"""A smaller change of a reward or a loss is none, to the digits that are shown."""


class Verdict(NamedTuple):
    """A sentence about a run, and what is broken in it, if anything is."""

    text: str
    broken: str | None


def verdict(run: Run) -> Verdict:
    """What run.json and metrics.jsonl say of a run."""
    if not run.metrics:
        return Verdict("Nothing was logged.", None)
    parts = [_change(run), _malformed(run), _end(run)]
    return Verdict("; ".join(part for part in parts if part) + ".", _broken(run))


def _change(run: Run) -> str:
    """How the kept weights compare with the start on held-out rows or, without such, how sampled rewards moved."""
    if found := held_out(run.metrics, run.facts):
        name, (before, after) = next(iter(found.means.items()))
        rows = f" ({found.n_rows} rows)" if found.n_rows else ""
        if found.best_step == 0 and not run.is_finished:
            return f"Held-out {name} is not better than at the start so far: {before:.3f}{rows}"
        if found.best_step == 0:
            last = evaluated(run.metrics)[-1]
            value = last["eval_reward"] if last.get("eval_reward") is not None else last.get("eval_loss")
            return f"The start was best on held-out rows: {name} {before:.3f}{rows}, at the end {value:.3f}"
        return f"Held-out {name} {_moved(before, after)}{rows}, at step {found.best_step}"
    for metric, name in (("reward_before_filtering", "Reward before filtering"), ("loss", "Loss")):
        values = _values(run.metrics, metric)
        if len(values) > 1:
            size = max(1, len(values) // 5)
            return f"{name} {_moved(fmean(values[:size]), fmean(values[-size:]))}; nothing was held out"
    return "Too little was logged to see a change"


def _moved(before: float, after: float) -> str:
    if abs(after - before) < SMALL:
        return f"stayed at {after:.3f}"
    return f"{'rose' if after > before else 'fell'} from {before:.3f} to {after:.3f}"


def _malformed(run: Run) -> str:
    rates = _values(run.metrics, "format_error_rate")
    return f"{rates[-1]:.0%} of the last completions are malformed" if rates else ""


def _end(run: Run) -> str:
    last = max(line["step"] for line in run.metrics)
    if run.is_finished:
        return f"finished after {last} steps"
    planned = run.recipe.optim.max_steps if run.recipe else 0
    return f"not finished: the last logged step is {last}" + (f" of {planned}" if planned > 0 else "")


def _broken(run: Run) -> str | None:
    rates, kept = _values(run.metrics, "format_error_rate"), _values(run.metrics, "kept_fraction")
    if rates and rates[-1] >= MALFORMED:
        return (
            f"{rates[-1]:.0%} of the last completions are malformed and earn −1. Look at them under Rollouts; a model "
            "that does not know the format needs `srl warm-up` or `[chat] open_thought = true`."
        )
    if kept and not any(kept[-5:]):
        return "No group of the last steps carried a signal: all rewards of a group are alike, and nothing is learned."
    return None


def _values(metrics: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """A metric of training, by step."""
    values = [line.get(name) for line in metrics]
    return [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
