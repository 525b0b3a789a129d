"""verl's log of metrics as lines of metrics.jsonl, under TRL's and our names. Knows no verl."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srl.files import write_text

NAMES = {
    "actor/pg_loss": "loss",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "actor/entropy": "entropy",
    "actor/kl_loss": "kl",
    "critic/score/mean": "reward",
    "response_length/mean": "completions/mean_length",
    "response_length/max": "completions/max_length",
    "response_length/min": "completions/min_length",
    "timing_s/step": "step_time",
    "training/rollout_probs_diff_max": "sampling/rollout_probs_diff/max",
}
"""verl's names -> TRL's; what our filter logs comes as srl/NAME, and verl's other metrics stay in its own log."""

HELD_OUT = re.compile(r"val-(?:core|aux)/srl/(\w+)/mean@\d+")


def log_files(folder: Path) -> list[Path]:
    """verl's logs in the folder of an export, one for each time it was started, oldest first."""
    return sorted(folder.glob("metrics*.jsonl"), key=lambda path: (len(path.name), path.name))


def metrics_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a step that was logged before and after a restart counts once, as logged last.

    A run that goes on evaluates its checkpoint again, and logs that as the checkpoint's step.
    """
    by_step: dict[int, dict[str, Any]] = {}
    for path in log_files(folder):
        for entry in _entries(path):
            by_step[entry["step"]] = by_step.get(entry["step"], {}) | entry["data"]
    lines = []
    n_tokens = 0.0
    for step, data in sorted(by_step.items()):
        n_tokens += data.get("srl/num_tokens", 0)
        if trained := _trained(data):
            lines.append({"step": step, **trained, "num_tokens": n_tokens})
        if held_out := _held_out(data):
            lines.append({"step": step, **held_out})
    return lines


def forget_after(folder: Path, step: int) -> None:
    """Take from verl's logs what came after a step: the run that goes on from there logs it again."""
    for path in log_files(folder):
        write_text(path, "".join(json.dumps(entry) + "\n" for entry in _entries(path) if entry["step"] <= step))


def held_out_rewards(folder: Path) -> dict[int, float]:
    """The mean reward on held-out problems after each step at which it was measured."""
    return {line["step"]: line["eval_reward"] for line in metrics_lines(folder) if "eval_reward" in line}


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_bytes().splitlines(keepends=True):
        if text.endswith(b"\n"):  # else verl is writing it
            yield json.loads(text)


def _trained(data: dict[str, Any]) -> dict[str, Any]:
    named = {NAMES[name]: value for name, value in data.items() if name in NAMES}
    ours = {name.removeprefix("srl/"): value for name, value in data.items() if name.startswith("srl/")}
    return named | ours


def _held_out(data: dict[str, Any]) -> dict[str, float]:
    found = {f"eval_{match[1]}": value for name, value in data.items() if (match := HELD_OUT.fullmatch(name))}
    if "eval_step_similarity" in found:  # verl's mean counts a malformed step as 0; ours is over well-formed ones
        well_formed = 1 - found["eval_format_error_rate"]
        similarity = found.pop("eval_step_similarity")
        if well_formed > 0:
            found["eval_step_similarity"] = similarity / well_formed
    return found
