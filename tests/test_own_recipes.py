"""The recipes that come with srl: their heads say what they stand beside and what they take, and it is so."""

import re
from importlib import resources
from pathlib import Path

import pytest

from srl.runs.recipe import read_recipe
from srl.training.forecast import forecast
from srl.training.plan import gpu_named, summary

FOLDER = resources.files("srl") / "builtin/recipes"
TEXTS = {file.name.removesuffix(".toml"): file.read_text() for file in FOLDER.iterdir() if file.is_file()}
PLANNED = sorted(name for name in TEXTS if not name.startswith("tiny-"))
HEAD = re.compile(r"^# srl plan (?P<name>\S+)(?: --gpu (?P<gpu>\S+))?(?: --gpus (?P<n>\d+))?\n#   (?P<said>.+)$", re.M)


@pytest.mark.parametrize(
    "name", [name if name == "math-7b-srl" else pytest.param(name, marks=pytest.mark.slow) for name in PLANNED]
)
def test_the_head_of_a_recipe_says_what_srl_plan_prints(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no data there
    head, recipe = HEAD.search(TEXTS[name]), read_recipe(Path(name))
    gpu, n = head["gpu"], int(head["n"] or 1)
    found = summary(forecast(recipe, recipe.plan.completion_tokens, gpu_named(gpu, n), n), gpu, n)
    assert head["name"] == name
    if gpu is None:  # the time is this machine's
        found = found.partition(" in ")[0]
    assert head["said"] == found
    assert gpu is None or f"{n} × {gpu}: " in found
    assert gpu is None or " fits in " in found


@pytest.mark.parametrize("name", PLANNED)
def test_the_head_of_a_recipe_names_its_place(name):
    head = TEXTS[name].partition("\n\n")[0]
    recipe = read_recipe(Path(name))
    assert recipe.output_dir == Path("runs") / name
    assert re.search(
        r"Stands beside:|comparison that the paper lacks|table 4's|Not the paper's|too small to learn", head
    )
    assert re.search(r"hardware", head, re.IGNORECASE)
    assert re.search(r"data", head, re.IGNORECASE)


def keys(table, before=""):
    for key, value in table.items():
        yield from keys(value, f"{before}{key}.") if isinstance(value, dict) else [(before + key, value)]


DIFFER = {  # a recipe and the one that it is compared with -> all in which they differ, where they are and [plan] aside
    ("math-7b-srl-unfiltered", "math-7b-srl"): {"rollout.dynamic_sampling"},
    ("math-7b-holistic", "math-7b-srl"): {
        "data.path",
        "reward.thoughts",
        "rollout.prompts_per_step",
        "rollout.max_completion_length",
    },
    ("math-7b-rlvr", "math-7b-srl"): {"stage", "rollout.prompts_per_step", "rollout.max_completion_length"},
    ("math-7b-r3", "math-7b-rlvr"): {"data.path", "optim.num_train_epochs"},
    ("math-7b-srl-rlvr", "math-7b-rlvr"): {"model.model_name_or_path"},
    ("math-7b-sft-rlvr", "math-7b-rlvr"): {"model.model_name_or_path"},
    ("math-7b-sft-reasoning", "math-7b-sft"): {
        "sft.target",
        "optim.per_device_train_batch_size",
        "validation.per_device_eval_batch_size",
    },
    ("math-7b-srl-server", "math-7b-srl"): {"trl.vllm_mode", "trl.vllm_server_base_url"},
    ("math-3b-srl", "math-7b-srl"): {"model.model_name_or_path"},
    ("math-3b-rlvr", "math-7b-rlvr"): {"model.model_name_or_path"},
    ("math-3b-srl-rlvr", "math-3b-rlvr"): {"model.model_name_or_path"},
    ("swe-7b-srl", "math-7b-srl"): {
        "model.model_name_or_path",
        "data.path",
        "data.max_prompt_length",
        "data.drop_long_prompts",
        "optim.per_device_train_batch_size",
        "rollout.step_order",
    },
    ("swe-7b-sft", "math-7b-sft"): {
        "model.model_name_or_path",
        "data.path",
        "data.max_prompt_length",
        "data.drop_long_prompts",
        "optim.per_device_train_batch_size",
        "sft.target",
        "validation.per_device_eval_batch_size",
    },
}


@pytest.mark.parametrize("names", DIFFER, ids="|".join)
def test_recipes_that_are_compared_differ_only_in_what_they_must(names):
    one, other = (dict(keys(read_recipe(Path(name)).model_dump(exclude={"plan", "output_dir"}))) for name in names)
    differing = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    assert differing == DIFFER[names]


PAPER = [("math-7b-srl", 512, 5e-7, 30), ("math-7b-rlvr", 128, 5e-7, 30), ("math-7b-sft", 64, 5e-6, 3)]


@pytest.mark.parametrize(("name", "batch", "rate", "epochs"), PAPER)
def test_the_papers_settings(name, batch, rate, epochs):
    """Tables 6 to 8."""
    recipe = read_recipe(Path(name))
    assert batch == (recipe.sft.rows_per_step if recipe.stage == "sft" else recipe.rollout.prompts_per_step)
    assert (recipe.optim.learning_rate, recipe.optim.num_train_epochs) == (rate, epochs)
    assert (recipe.rollout.num_generations, recipe.rollout.temperature) == (8, 1.0)
    assert recipe.trl.get("beta", 0.0) == 0.0
    if recipe.stage == "sft":
        assert (recipe.optim.lr_scheduler_type, recipe.optim.warmup_steps) == ("cosine", 0.3)
