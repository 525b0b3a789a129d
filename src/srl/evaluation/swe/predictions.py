"""Patches by instance, and the predictions file of the official `swebench` harness.

A predictions file holds one patch per instance: `instance_id`, `model_name_or_path`, `model_patch`. Several samples of
an instance are several files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srl.errors import UserError
from srl.evaluation.samples import Mode
from srl.evaluation.swe.instances import Instance
from srl.files import Row, read_values, split_array, write_jsonl

PredictionKey = tuple[str, Mode, int]
"""The name of a prediction within its run: instance, mode, index."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model made of an instance."""

    instance_id: str
    patch: str
    """Empty where it made none."""
    end: str = "patch"
    """How it ended, in a few words to count by; "patch" if there is one."""
    mode: Mode = "greedy"
    index: int = 0
    """Which of the samples of the same instance and mode."""
    tokens: int | None = None

    @property
    def key(self) -> PredictionKey:
        """Its name within a run."""
        return (self.instance_id, self.mode, self.index)


def predictions_file(mode: Mode, index: int) -> str:
    """The name of the file for one sample of each instance."""
    return "predictions.jsonl" if mode == "greedy" else f"predictions-sampled-{index}.jsonl"


def trajectory_path(folder: Path, prediction: Prediction) -> Path:
    """Where the run of an agent is that made a prediction."""
    return folder / "trajectories" / f"{prediction.instance_id}.{prediction.mode}-{prediction.index}.traj.json"


def write_predictions(folder: Path, model: str, predictions: Iterable[Prediction]) -> list[Path]:
    """One file for the greedy patches and one for each sample; returns their paths."""
    files: dict[str, list[dict[str, str]]] = {}
    for prediction in sorted(predictions, key=lambda p: p.key):
        row = {"instance_id": prediction.instance_id, "model_name_or_path": model, "model_patch": prediction.patch}
        files.setdefault(predictions_file(prediction.mode, prediction.index), []).append(row)
    for name, rows in files.items():
        write_jsonl(folder / f".{name}", rows)
        (folder / f".{name}").replace(folder / name)
    return [folder / name for name in sorted(files)]


def read_predictions(path: Path, instances: Sequence[Instance]) -> tuple[str, list[Prediction]]:
    """The model's name and its patches from a predictions file: JSONL, a JSON list, or a JSON object by instance.

    Raises:
        UserError: a row without a needed field, an unknown instance, one that stands twice.
    """
    known = {instance.id for instance in instances}
    found: dict[str, Prediction] = {}
    model = ""
    for row in _rows(path):
        identity, patch = row.value.get("instance_id"), row.value.get("model_patch")
        if not isinstance(identity, str) or not isinstance(patch, str | None) or "model_patch" not in row.value:
            raise UserError(f"{row.where}: expected `instance_id` and `model_patch`, found {', '.join(row.value):.200}")
        if identity not in known:
            raise UserError(f"{row.where}: {identity} is not among the instances")
        if identity in found:
            raise UserError(f"{row.where}: {identity} stands twice; give one file per sample")
        model = str(row.value.get("model_name_or_path", model))
        found[identity] = Prediction(identity, patch or "", "patch" if patch else "no patch")
    return model or path.stem, list(found.values())


def _rows(path: Path) -> Iterable[Row]:
    for value in read_values(path):
        if isinstance(value, UserError):
            raise value
        for row in split_array(value):
            yield from (_by_instance(row) if isinstance(row.value, dict) and "instance_id" not in row.value else [row])


def _by_instance(row: Row) -> Iterable[Row]:
    for identity, inner in row.value.items():
        fields: Any = inner if isinstance(inner, dict) else {"model_patch": inner}
        yield Row(f"{row.where}[{identity}]", {"instance_id": identity, **fields})


def gold(instances: Sequence[Instance]) -> list[Prediction]:
    """The known fixes."""
    return [Prediction(instance.id, instance.patch) for instance in instances]


def empty(instances: Sequence[Instance]) -> list[Prediction]:
    """No change at all."""
    return [Prediction(instance.id, "", "no patch") for instance in instances]
