"""Shared small real objects: the tiny model on disk, and a data folder of its domain."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for a hub
os.environ.setdefault("HF_DATASETS_CACHE", "/tmp/srl-tests-datasets")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    from srl.tiny import write_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data folder as `srl steps` writes it: 60 expert solutions of the tiny domain."""
    import random

    from srl.files import write_jsonl
    from srl.formats.solutions import Columns
    from srl.prepare import StepOptions, prepare
    from srl.steps import full_solution
    from srl.tiny import random_problem, solve

    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(7)
    solved = [solve(random_problem(rng)) for _ in range(60)]
    rows = ({"problem": t.problem, "solution": full_solution(t), "answer": t.answer} for t in solved)
    write_jsonl(folder / "solutions.jsonl", rows)
    options = StepOptions(targets="all", hold_out=0.2, system_prompt="", answer_system_prompt="")
    prepare(folder / "solutions.jsonl", folder / "steps", Columns(answer="answer"), options)
    return folder / "steps"
