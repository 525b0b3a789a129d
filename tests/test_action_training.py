"""Training on agents' steps with each reward for actions, on the tiny model."""

import random

import pyarrow.parquet as parquet
import pytest
from command_line import srl, write_recipe

from srl.data.formats.native import native_row
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.files import write_jsonl
from srl.records import Step, Trajectory
from srl.rewards.actions import action_score, why_no_action
from srl.runs.recipe import Data, Model, Optim, Recipe, Sft, Validation


def call(command):
    return f"<function=bash>\n<parameter=command>{command}</parameter>\n</function>"


@pytest.fixture(scope="module")
def agent_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agents")
    rng = random.Random(1)
    trajectories = []
    for index in range(40):
        name = rng.choice("123")
        steps = (Step(call(f"cat {name}"), None, name, "see"), Step(call(f"rm -f {name}"), None, "", "go"))
        trajectories.append(Trajectory(f"t{index}", f"Delete {name} of {index}.", steps, environment=True))
    write_jsonl(folder / "in.jsonl", map(native_row, trajectories))
    prepare(
        Source(str(folder / "in.jsonl")), folder / "data", StepOptions(targets="all", hold_out=0.0, system_prompt="")
    )
    return folder / "data"


@pytest.fixture(scope="module")
def agent(tiny_model, agent_data, tmp_path_factory):
    """The tiny model after SFT on these steps: it calls functions, now and then in a way that no harness takes."""
    from srl.training.train import train

    folder = tmp_path_factory.mktemp("agent") / "run"
    train(
        Recipe(
            stage="sft",
            output_dir=folder,
            model=Model(model_name_or_path=str(tiny_model)),
            data=Data(path=agent_data),
            optim=Optim(learning_rate=1e-2, max_steps=20, per_device_train_batch_size=16),
            sft=Sft(rows_per_step=16),
            validation=Validation(eval_steps=0),
        )
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("similarity", ["actions", "pivotrl", "pivotrl_continuous"])
def test_a_run_pays_by_actions(agent, agent_data, tmp_path, similarity):
    recipe = write_recipe(tmp_path / "r.toml", model=agent, data=agent_data, max_steps=1)
    flags = ["--validation.eval-steps", "0", "--rollout.max-completion-length", "80", "--reward.similarity", similarity]
    done = srl("train", recipe, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f'similarity = "{similarity}"' in (tmp_path / "r/config.toml").read_text()
    rows = parquet.read_table(tmp_path / "r/completions/completions_00001.parquet").to_pylist()
    well_formed = [row for row in rows if row["format_error"] is None]
    assert well_formed
    for row in well_formed:
        assert why_no_action(row["action"], row["expert_action"]) is None
        assert row["reward"] == pytest.approx(action_score(row["action"], row["expert_action"], similarity))
    assert all(row["reward"] == -1 for row in rows if row["format_error"])


def test_steps_of_written_solutions_are_not_compared_as_actions(tiny_model, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data)
    done = srl("train", recipe, "--reward.similarity", "actions")
    assert done.returncode == 2
    assert 'train.steps.jsonl:1: reward.similarity = "actions" compares actions in an environment' in done.stderr
    assert not (tmp_path / "r").exists()
