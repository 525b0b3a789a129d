"""How a run asks its model: for run.json, so that sampling and evaluation ask the same way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srl.chat.prompts import asks_for_solution_step
from srl.errors import UserError
from srl.files import read_values
from srl.rewards.repairs import read_repair
from srl.rewards.sandbox.programs import sandbox
from srl.runs.folder import RunFolder
from srl.runs.recipe import Recipe


def trained_prompts(recipe: Recipe) -> dict[str, Any]:
    """How a run on this data asks: `step` and `answer`, system prompts, `give_title` and `targets`; for run.json.

    What a stage does not train on stays as the run had it that it starts from.
    """
    folder = recipe.data.path
    report = folder / "report.json"
    options = json.loads(report.read_text(encoding="utf-8")).get("options", {}) if report.is_file() else {}
    step, problem = (_first_row(folder, kind) for kind in ("steps", "problems"))
    of_steps: dict[str, Any] = {}
    if step:
        of_steps = {"step": system_prompt(step), "give_title": options.get("give_title", bool(step["next_title"]))}
        of_steps |= {"targets": options["targets"]} if "targets" in options else {}
    of_answers = {"answer": system_prompt(problem)} if problem else {}
    earlier = RunFolder(Path(recipe.model.model_name_or_path))
    before = earlier.prompts if earlier.exists else {}
    return of_answers | before | of_steps if recipe.row_kind != "problems" else of_steps | before | of_answers


def system_prompt(row: Mapping[str, Any]) -> str:
    """The system turn of a row's prompt; empty if it has none."""
    first = row["prompt"][0]
    return str(first["content"]) if first["role"] == "system" else ""


def check_reward_fits(recipe: Recipe, row: Mapping[str, Any], path: Path) -> None:
    """Refuse to compare the steps of a written solution as if they were calls of tools, or to test what is no program.

    Raises:
        UserError: `row`, the first of `path`, is such a step, and the recipe's reward is for agents; the reward runs
            tests, and there are none in the row, or this machine has no sandbox.
    """
    if recipe.stage == "rlvr" and recipe.reward.outcome == "tests":
        read_repair(row["answer"] or "", f"{path}:1")
        sandbox()
    if recipe.stage == "srl" and recipe.reward.similarity != "text" and asks_for_solution_step(row["prompt"]):
        raise UserError(
            f'{path}:1: reward.similarity = "{recipe.reward.similarity}" compares actions in an environment, found a '
            'step of a written solution; take it out, or set it to "text"'
        )


def _first_row(folder: Path, kind: str) -> dict[str, Any] | None:
    """The first row to train on of one kind; None if there is none."""
    for path in folder.glob(f"train.{kind}.*"):
        for row in read_values(path) if path.stat().st_size else ():
            return None if isinstance(row, UserError) else row.value
    return None
