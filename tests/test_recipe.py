"""Recipes: those that come with srl are valid, and what is written is read back."""

import re
from datetime import date
from importlib import resources
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from srl.errors import UserError
from srl.runs.recipe import ChatOptions, Data, Model, Optim, Recipe, Rollout, read_recipe, recipe_toml
from srl.runs.toml import from_toml

FILES = (file for file in (resources.files("srl") / "builtin/recipes").iterdir() if file.is_file())
NAMES = sorted(file.name.removesuffix(".toml") for file in FILES)


@pytest.mark.parametrize("name", NAMES)
def test_srls_own_recipes_are_accepted_by_trl(name, tmp_path, monkeypatch):
    from trl import SFTConfig

    from srl.training.options import trainer_options
    from srl.training.trainer import SRLConfig

    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(Path(name))
    options = trainer_options(recipe, 1, has_validation=recipe.validation.eval_steps > 0)
    config = SFTConfig(**options) if recipe.stage == "sft" else SRLConfig(**options)
    assert config.learning_rate == recipe.optim.learning_rate
    if recipe.stage != "sft":
        assert config.generation_batch_size == recipe.rollout.prompts_per_step * recipe.rollout.num_generations


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_written_and_read_back(name, tmp_path):
    recipe = read_recipe(Path(name))
    (tmp_path / "config.toml").write_text(recipe_toml(recipe))
    assert read_recipe(tmp_path / "config.toml") == recipe


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("[validation]\neval_steps = 4\n[checkpoints]\nsave_steps = 6", "multiple of validation.eval_steps"),
        ("[validation]\nnum_generations = 3", "multiple of validation.num_generations"),
        ("[optim]\nmax_steps = 0", "would train nothing"),
        ("[rollout]\nnum_generations = 1", "rollout.num_generations"),
        ("[rolout]\nnum_generations = 4", "unknown key `rolout`; did you mean `rollout`?"),
        ("[optim]\nnum_generations = 4", "`optim.num_generations`; did you mean `rollout.num_generations`?"),
        ("[rollout]\nnum_generation = 4", "unknown key `rollout.num_generation`; did you mean `num_generations`?"),
        ("[optim]\nlearning_rate = -1", r"`optim.learning_rate`: Input should be greater than 0, found -1"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, section, message):
    text = 'stage = "srl"\noutput_dir = "r"\n[model]\nmodel_name_or_path = "m"\n[data]\npath = "d"\n'
    (tmp_path / "r.toml").write_text(text + section)
    with pytest.raises(UserError, match=message):
        read_recipe(tmp_path / "r.toml")


def test_a_recipe_extends_another(tmp_path):
    """Its own keys count, table by table; the file beside it comes before one of srl's own of that name."""
    (tmp_path / "parent.toml").write_text(
        'extends = "math-7b-srl"\nseed = 7\n[rollout]\nprompts_per_step = 64\n[trl]\nfsdp_config = {}\n'
    )
    (tmp_path / "child.toml").write_text(
        'extends = "parent.toml"\noutput_dir = "runs/child"\n[rollout]\nnum_generations = 4\n'
    )
    child, own = read_recipe(tmp_path / "child.toml"), read_recipe(Path("math-7b-srl"))
    assert (child.seed, child.output_dir) == (7, Path("runs/child"))
    assert (child.rollout.prompts_per_step, child.rollout.num_generations) == (64, 4)
    assert child.rollout.max_completion_length == own.rollout.max_completion_length
    assert (child.model, child.optim) == (own.model, own.optim)
    assert child.trl == own.trl | {"fsdp_config": {}}
    (tmp_path / "child.toml").write_text(recipe_toml(child))  # as a run folder has it: all in one
    assert read_recipe(tmp_path / "child.toml") == child


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ('"r.toml"', "r.toml: extends more than 5 recipes, one after another, or itself"),
        ('"math-7b-sr"', "r.toml: extends math-7b-sr: no such recipe file; or one of srl's own: "),
        ("3", "`extends`: expected the name of a recipe, found 3"),
        ('"broken.toml"', "broken.toml: not valid TOML"),
        ('"math-7b-srl"\n[rolout]\nnum_generations = 4', "r.toml: unknown key `rolout`; did you mean `rollout`?"),
    ],
)
def test_a_recipe_that_extends_none_is_one_line(tmp_path, extends, message):
    (tmp_path / "broken.toml").write_text("a = ")
    (tmp_path / "r.toml").write_text(f"extends = {extends}\n")
    with pytest.raises(UserError, match=re.escape(message)) as found:
        read_recipe(tmp_path / "r.toml")
    assert "\n" not in str(found.value)


LISTS_AND_TABLES = """
reward_weights = [1.0]
report_to = ["tensorboard"]
gradient_checkpointing_kwargs = { use_reentrant = false }
generation_kwargs = { min_p = 0.1, stop_strings = ["x", "y"] }
[trl.model_init_kwargs]
attn_implementation = "sdpa"
"""


def test_further_options_may_be_lists_and_tables(tmp_path):
    from srl.training.options import trainer_config, trainer_options

    text = recipe_toml(open_recipe(prompts=4)).replace("[trl]\n", "[trl]" + LISTS_AND_TABLES)
    (tmp_path / "r.toml").write_text(text)
    recipe = read_recipe(tmp_path / "r.toml")
    (tmp_path / "again.toml").write_text(recipe_toml(recipe))
    assert read_recipe(tmp_path / "again.toml") == recipe
    config = trainer_config(recipe, trainer_options(recipe, 1, has_validation=False))
    assert config.reward_weights == [1.0]
    assert config.report_to == ["tensorboard"]
    assert config.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert config.generation_kwargs == {"min_p": 0.1, "stop_strings": ["x", "y"]}
    assert recipe.model_init_kwargs == {"attn_implementation": "sdpa"}


def test_arguments_of_a_template_are_a_table_in_a_recipe_and_as_a_flag(capsys):
    import tyro

    from srl.cli import Train

    def read(text):
        return tyro.cli(Train, args=["--chat.template-kwargs", text], default=Train(open_recipe())).recipe.chat

    assert read("{enable_thinking = false, effort = 'low'}").template_kwargs == {
        "enable_thinking": False,
        "effort": "low",
    }
    for wrong in ('{"enable_thinking": false}', "false", "{a = "):
        with pytest.raises(SystemExit):
            read(wrong)
        assert "expected a TOML table" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected texts"):
        ChatOptions(template_kwargs={"day": date(2026, 1, 1)})


@pytest.mark.parametrize(
    ("trl", "message"),
    [
        ({"model_init_kwargs": {"load_in_4bit": True}}, "`load_in_4bit`: quantized weights (QLoRA) are not supported"),
        ({"push_to_hub": True}, "nowhere: `hf upload USER/NAME RUN/model` sends what a run has made"),
    ],
)
def test_what_srl_leaves_to_others_is_named_with_the_way(trl, message):
    from srl.training.options import trainer_options

    with pytest.raises(UserError, match=re.escape(message)):
        trainer_options(open_recipe(prompts=4).model_copy(update={"trl": trl}), 1, has_validation=False)


@pytest.mark.parametrize(
    ("trl", "message"),
    [
        ({"loss_type": "nope"}, "loss_type = 'nope': expected one of 'grpo', "),
        ({"scale_rewards": "nope"}, "scale_rewards = 'nope'"),
        ({"importance_sampling_level": "nope"}, "importance_sampling_level = 'nope'"),
        ({"multi_objective_aggregation": "nope"}, "multi_objective_aggregation = 'nope'"),
        ({"top_k": -5}, "top_k = -5: expected a number from 0 on"),
        ({"reward_weights": [1.0, 0.5]}, "[trl] reward_weights: expected 1, one for each reward function, found 2"),
    ],
)
def test_what_trl_refuses_late_is_refused_before_anything_is_written(trl, message, tmp_path):
    from srl.training.options import trainer_config, trainer_options

    recipe = open_recipe(prompts=4).model_copy(update={"trl": trl, "output_dir": tmp_path / "run"})
    with pytest.raises(UserError, match=re.escape(message)):
        trainer_config(recipe, trainer_options(recipe, 1, has_validation=False))


def test_what_trl_refuses_in_a_trainer_is_one_line():
    from srl.training.options import refusals_of_trl

    recipe = open_recipe(prompts=4)
    with (
        pytest.raises(UserError, match="TRL refuses these options: it is not so"),
        refusals_of_trl(recipe.model_copy(update={"trl": {"beta": 0.1}})),
    ):
        raise ValueError("it is\nnot so")
    with pytest.raises(ValueError, match="our own"), refusals_of_trl(recipe.model_copy(update={"trl": {}})):
        raise ValueError("our own")


def test_quantized_weights_are_refused_by_name():
    text = recipe_toml(open_recipe(prompts=4)).replace("[model]\n", "[model]\nload_in_4bit = true\n")
    with pytest.raises(UserError, match=r"`load_in_4bit`: quantized weights \(QLoRA\) are not supported"):
        from_toml(Recipe, text, "r.toml")


@pytest.mark.parametrize(
    ("report_to", "message"),
    [
        ("flyte", "`flyte` is not installed here"),
        (["tensorboard", "wandbb"], "unknown `wandbb`; did you mean `wandb`?"),
    ],
)
def test_a_tracker_that_is_not_there_is_one_line(report_to, message):
    from srl.training.options import trainer_config, trainer_options

    recipe = open_recipe(prompts=4).model_copy(update={"trl": {"report_to": report_to}})
    with pytest.raises(UserError, match=re.escape(message)):
        trainer_config(recipe, trainer_options(recipe, 1, has_validation=False))


def test_a_flag_sets_further_options(tmp_path):
    import tyro

    from srl.cli import Train

    def read(recipe, *flags):
        return tyro.cli(Train, args=flags, default=Train(recipe)).recipe.trl

    listed = open_recipe().model_copy(
        update={"trl": {"reward_weights": [1.0, 2.0], "generation_kwargs": {"min_p": 0.1}}}
    )
    assert read(listed) == listed.trl
    assert read(listed, "--trl.reward-weights", "3", "4")["reward_weights"] == [3.0, 4.0]


def open_recipe(passes=8, group=8, prompts=0):
    return Recipe(
        stage="srl",
        output_dir="r",
        model=Model(model_name_or_path="m"),
        data=Data(path="d"),
        optim=Optim(per_device_train_batch_size=passes),
        rollout=Rollout(prompts_per_step=prompts, num_generations=group),
    )


@pytest.mark.parametrize(("rows", "batch"), [(20, 5), (4, 1), (2000, 500), (2048, 512), (100_000, 512)])
def test_an_open_batch_fits_the_data(rows, batch):
    from srl.training.options import fit_to_data

    assert fit_to_data(open_recipe(), rows, 1).rollout.prompts_per_step == batch
    assert fit_to_data(open_recipe(prompts=3), rows, 1).rollout.prompts_per_step == 3
    usual = 1.5 if torch.accelerator.is_available() else 1
    assert fit_to_data(open_recipe(), rows, 1).rollout.max_oversampling == usual


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(2, 16), st.integers(1, 8))
def test_an_open_batch_is_one_that_the_processes_can_share(rows, passes, group, processes):
    from srl.training.options import fit_to_data, trainer_options

    recipe = open_recipe(passes, group)
    try:
        fitted = fit_to_data(recipe, rows, processes)
    except UserError:
        assume(False)
    batch = fitted.rollout.prompts_per_step
    assert 1 <= batch <= min(512, rows)
    assert batch % processes == 0
    trainer_options(fitted, processes, has_validation=False)


def test_rows_that_fill_no_batch_are_refused_with_what_to_set():
    from srl.training.options import fit_to_data

    with pytest.raises(UserError, match=r"20 rows to train on .* of 32 prompts .*set rollout.prompts_per_step to 20"):
        fit_to_data(open_recipe(prompts=32), 20, 1)
    with pytest.raises(UserError, match=r"3 rows to train on .*8 process.*lower the passes, or use fewer"):
        fit_to_data(open_recipe(), 3, 8)
