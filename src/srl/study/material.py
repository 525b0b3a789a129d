"""What an experiment trains on and what it asks: the user's folders and files, or those that the tiny domain writes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srl.chat.prompts import ANSWER_SYSTEM_PROMPT, STEP_SYSTEM_PROMPT, user_text
from srl.data.decontaminate import normalised
from srl.data.folder import rows_file
from srl.errors import UserError
from srl.evaluation.benchmarks import load_benchmark
from srl.files import Row, read_rows
from srl.runs.folder import resolve_model
from srl.runs.recipe import read_recipe, recipe_toml
from srl.study.experiment import Experiment, Problems
from srl.training.asked import system_prompt


def problems_of(experiment: Experiment, out: Path) -> Problems:
    """Where the problems are that no arm trains on."""
    if experiment.problems:
        return experiment.problems
    folder = out / "problems"
    suffix = "jsonl" if experiment.repairs_code else "toml"
    return Problems(
        validation=str(folder / f"validation.{suffix}"),
        test=str(folder / f"test.{suffix}"),
        steps=folder / "test.steps.jsonl",
    )


def data_folder(experiment: Experiment, name: str, group: Path) -> Path:
    """What a stage trains on: the user's folder, or the one that was written for the seeds of `group`."""
    return experiment.data[name] if experiment.data else group / "data" / name


def asked_as_trained(experiment: Experiment) -> Experiment:
    """The experiment with the system prompts and the titles of its data folders, where the file says nothing of them.

    Raises:
        UserError: data folders that were written with different ones.
    """
    problems, steps = (_first_rows(experiment, f"train.{kind}") for kind in ("problems", "steps"))
    of_data: dict[str, tuple[dict[str, Any], Any]] = {
        "answer_system_prompt": ({name: system_prompt(row) for name, row in problems.items()}, ANSWER_SYSTEM_PROMPT),
        "system_prompt": ({name: system_prompt(row) for name, row in steps.items()}, STEP_SYSTEM_PROMPT),
        "give_title": ({name: bool(row["next_title"]) for name, row in steps.items()}, False),
    }
    found = {}
    for key, (by_folder, default) in of_data.items():
        if getattr(experiment, key) is None:
            if len(set(by_folder.values())) > 1:
                raise UserError(f"[data] {' and '.join(by_folder)} differ in `{key}`; set it for all arms")
            found[key] = next(iter(by_folder.values()), default)
    return experiment.model_copy(update=found)


def _first_rows(experiment: Experiment, name: str) -> dict[str, dict[str, Any]]:
    """The first row of each data folder that has any."""
    first = {folder: next(rows_of(path, name), None) for folder, path in experiment.data.items()}
    return {folder: row.value for folder, row in first.items() if row}


def rows_of(folder: Path, name: str) -> Iterator[Row]:
    """The rows of one file of a data folder; it may be empty."""
    path = rows_file(folder, name)
    if path.suffix == ".parquet":
        import pyarrow.parquet

        is_empty = not pyarrow.parquet.read_metadata(path).num_rows
    else:
        is_empty = not path.stat().st_size
    return iter(()) if is_empty else read_rows(path)


def check_material(experiment: Experiment) -> dict[str, str]:
    """Look at all that an experiment takes from the user; returns digests, by which a change is noticed.

    Raises:
        UserError: a model, folder or file that is not there or not as it must be; a problem or step that is trained on
            and asked, or that both chooses and tests.
    """
    resolve_model(experiment.base)
    digests = {
        str(stage.recipe): _digest_of_recipe(stage.recipe)
        for stage in experiment.stages.values()
        if stage.recipe.is_file()
    }
    if experiment.problems is None:
        return digests
    validation, test = _problems(experiment.problems.validation, digests), _problems(experiment.problems.test, digests)
    if both := validation.keys() & test.keys():
        text = min(both)
        raise UserError(f"{test[text]} is {validation[text]} too: what chooses checkpoints must not test them")
    asked = validation | test
    if steps := experiment.problems.steps:
        digests[str(steps)] = _digest(steps)
        asked |= {normalised(user_text(row.value["prompt"])): row.where for row in read_steps(steps)}
    for folder in experiment.data.values():
        _refuse_leaks(folder, asked)
        for name in ("train.steps", "train.problems", "validation.steps", "validation.problems"):
            path = rows_file(folder, name)
            digests[str(path)] = _digest(path)
    return digests


def _problems(name: str, digests: dict[str, str]) -> dict[str, str]:
    """The texts of a benchmark's problems, each with its place."""
    loaded = load_benchmark(name)
    digests[name] = loaded.sha256
    return {normalised(question.text): f"problem {question.id} of {name}" for question in loaded.questions}


def _refuse_leaks(folder: Path, asked: dict[str, str]) -> None:
    for name in ("train.problems", "train.steps"):
        for row in rows_of(folder, name):
            if place := asked.get(normalised(user_text(row.value["prompt"]))):
                remedy = "`srl steps --exclude FILE` leaves such problems out"
                raise UserError(f"{row.where}: trains on what is asked, {place}; {remedy}")


def read_steps(path: Path) -> Iterator[Row]:
    """Step rows as `srl steps` writes them.

    Raises:
        UserError: an unreadable file, or other rows.
    """
    for row in read_rows(path):
        if not {"prompt", "expert_action"} <= row.value.keys():
            raise UserError(f"{row.where}: expected a step of `srl steps` (`prompt`, `expert_action`)")
        yield row


def _digest_of_recipe(path: Path) -> str:
    """Of all that it says, with the recipes that it extends."""
    return hashlib.sha256(recipe_toml(read_recipe(path)).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
