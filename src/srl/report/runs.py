"""A run folder as the report shows it. Nothing in it has to be there: what is missing is said, the rest shown."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srl.errors import UserError
from srl.report.plain import plain
from srl.runs.folder import RunFolder, held_out
from srl.runs.recipe import Recipe, read_recipe
from srl.runs.toml import MAX_TOML_BYTES

MARKERS = ("run.json", "config.toml", "metrics.jsonl")
"""A folder that holds one of these is a run folder."""


@dataclass(frozen=True)
class Run:
    """A run folder as far as it could be read."""

    name: str
    folder: Path
    facts: dict[str, Any]
    """The contents of run.json; empty if it is missing or damaged."""
    config: str
    """The text of config.toml."""
    recipe: Recipe | None
    """None if config.toml is missing or not a recipe."""
    metrics: list[dict[str, Any]]
    problems: list[str]
    """What is missing or damaged, a line each."""

    @property
    def is_finished(self) -> bool:
        """Whether training came to its end."""
        return "finished_steps" in self.facts or RunFolder(self.folder).model is not None

    def page_data(self) -> dict[str, Any]:
        """The run as the page's script takes it, without rollouts."""
        command = self.facts.get("command")
        return {
            "name": self.name,
            "folder": str(self.folder),
            "stage": self.recipe.stage if self.recipe else None,
            "finished": self.is_finished,
            "last_step": max((line["step"] for line in self.metrics), default=None),
            "seconds": next((line["train_runtime"] for line in self.metrics[::-1] if "train_runtime" in line), None),
            "held_out": (found := held_out(self.metrics, self.facts)) and found._asdict(),
            "facts": {key: value for key, value in self.facts.items() if key != "command"},
            "started_by": shlex.join(map(str, command)) if isinstance(command, list) else None,
            "repeat": shlex.join(["srl", "train", str(self.folder / "config.toml"), "--output-dir", "runs/again"]),
            "config": self.config,
            "series": series(self.metrics),
        }


def is_run(folder: Path) -> bool:
    """Whether a folder looks like a run's, however damaged."""
    return any((folder / name).is_file() for name in MARKERS)


def read_run(folder: Path, name: str) -> Run:
    """Read a run folder; what is missing or damaged goes into `problems`, and the rest is shown."""
    problems: list[str] = []
    facts = _read_facts(folder / "run.json", problems)
    config, recipe = _read_config(folder / "config.toml", problems)
    metrics = _read_metrics(RunFolder(folder), problems)
    run = Run(name, folder, facts, config, recipe, metrics, problems)
    if not run.is_finished:
        last = max((line["step"] for line in metrics), default=0)
        wanted = f" of {recipe.optim.max_steps}" if recipe and recipe.optim.max_steps > 0 else ""
        problems.insert(0, f"not finished; the last logged step is {last}{wanted}")
    return run


def _read_facts(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append("no run.json: versions, commit and command are not known")
    except (ValueError, RecursionError):
        problems.append("run.json is damaged: versions, commit and command are not known")
    else:
        if isinstance(facts, dict):
            return dict(plain(facts))
        problems.append("run.json holds no object: versions, commit and command are not known")
    return {}


def _read_config(path: Path, problems: list[str]) -> tuple[str, Recipe | None]:
    if not path.is_file():
        problems.append("no config.toml: the recipe is not known")
        return "", None
    text = path.read_bytes()[:MAX_TOML_BYTES].decode(errors="replace")
    try:
        return text, read_recipe(path)
    except UserError as error:
        what = "damaged" if "not valid TOML" in str(error) else "no recipe of this version of srl"
        problems.append(f"config.toml is {what} ({error})")
    return text, None


def _read_metrics(run: RunFolder, problems: list[str]) -> list[dict[str, Any]]:
    if not (run.path / "metrics.jsonl").is_file():
        problems.append("no metrics.jsonl: no curves")
        return []
    lines, n_damaged = run.read_metrics()
    if n_damaged:
        problems.append(f"metrics.jsonl: {n_damaged} of {n_damaged + len(lines)} lines are damaged and left out")
    if not lines:
        problems.append("metrics.jsonl has no lines yet: no curves")
    return lines


def series(metrics: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Each metric as `{"step": […], "value": […]}`; of a step that was logged twice the last value.

    >>> series([{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 1.0}])
    {'loss': {'step': [1, 3], 'value': [2.0, 1.0]}}
    """
    values: dict[str, dict[int, float]] = {}
    for line in metrics:
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                values.setdefault(name, {})[line["step"]] = value
    return {
        name: {"step": sorted(by_step), "value": [by_step[step] for step in sorted(by_step)]}
        for name, by_step in values.items()
    }


def differences(runs: Sequence[Run]) -> list[str]:
    """Why the curves of some runs cannot be compared, a line each."""
    lines = []
    aspects = {
        "trained on data of different folders": lambda recipe: str(recipe.data.path),
        "of different stages": lambda recipe: recipe.stage,
        "paid by different rewards": lambda recipe: recipe.reward.model_dump_json(),
        "held out on a different number of rows": lambda recipe: recipe.validation.max_rows or "all",
    }
    for what, aspect in aspects.items():
        names: dict[Any, list[str]] = {}
        for run in runs:
            if run.recipe:
                names.setdefault(aspect(run.recipe), []).append(run.name)
        if len(names) > 1:
            sides = " | ".join(", ".join(side) for side in names.values())
            lines.append(f"These runs are {what}, so their rewards need not compare: {sides}")
    return lines
