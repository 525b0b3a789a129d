"""`srl warm-up`, on tiny models: what it writes, that it can be repeated by hand, what it refuses."""

import json

import pytest
from command_line import assert_one_line, same, srl, weights, write_recipe

from srl.chat.own_words import is_in_the_format, spoken_step, spoken_thought, step_request, thought_request
from srl.chat.prompts import step_prompt

FLAGS = ("--examples", 8, "--checked", 6, "--batch-size", 4, "--epochs", 1, "--temperature", 1.5)


@pytest.fixture(scope="module")
def warmed_up(tiny_student, tiny_data, tmp_path_factory):
    """One warm-up of a model that says a thought and a step to whatever it is asked."""
    folder = tmp_path_factory.mktemp("warm-up")
    recipe = write_recipe(folder / "r.toml", model=tiny_student, data=tiny_data)
    done = srl("warm-up", recipe, *FLAGS, "--rollout.max-completion-length", "60")
    assert done.returncode == 0, done.stderr
    return recipe, folder / "r-warm-up", done.stdout


def rows(folder):
    return [json.loads(line) for line in (folder / "examples/train.steps.jsonl").read_text().splitlines()]


def test_examples_are_prompts_of_the_data_with_the_models_own_words(warmed_up, tiny_data):
    _, folder, _ = warmed_up
    given = [json.loads(line) for line in (tiny_data / "train.steps.jsonl").read_text().splitlines()]
    prompts = {json.dumps(row["prompt"]) for row in given}
    made = rows(folder)
    assert len({json.dumps(row["prompt"]) for row in made}) == len(made) == 8
    assert all(json.dumps(row["prompt"]) in prompts for row in made)
    assert all(is_in_the_format(row["thought"], row["expert_action"]) for row in made)
    options = json.loads((folder / "examples/report.json").read_text())["options"]
    assert options == json.loads((tiny_data / "report.json").read_text())["options"]


def test_the_result_is_a_run_that_says_what_it_gained(warmed_up):
    _, folder, output = warmed_up
    facts = json.loads((folder / "run/run.json").read_text())
    counts = facts["warm_up"]["well_formed"]
    assert (facts["warm_up"]["examples"], facts["warm_up"]["checked"]) == (8, 6)
    assert f"well formed: {counts['before']} of 6 before, {counts['after']} of 6 after the warm-up" in output
    assert f"--model.model-name-or-path {folder}/run" in output


def test_the_recipe_it_leaves_repeats_the_sft_by_hand(warmed_up, tmp_path):
    _, folder, _ = warmed_up
    assert srl("train", folder / "warm-up.toml", "--output-dir", tmp_path / "again").returncode == 0
    assert same(weights(tmp_path / "again/model"), weights(folder / "run/model"))


def test_the_same_seed_makes_the_same_examples(warmed_up, tmp_path):
    recipe, folder, _ = warmed_up
    flags = [*FLAGS, "--checked", "6", "--rollout.max-completion-length", "60", "--out", tmp_path / "again"]
    assert srl("warm-up", recipe, *flags).returncode == 0
    assert rows(tmp_path / "again") == rows(folder)
    assert_one_line(srl("warm-up", recipe, *flags), "not empty, and nothing is overwritten silently")


def test_a_model_that_cannot_speak_is_one_line_and_writes_nothing(tiny_model, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data)
    done = srl("warm-up", recipe, *FLAGS)
    assert_one_line(done, "can be used, expected 8; raise rollout.max_completion_length")
    assert not (tmp_path / "r-warm-up").exists()
    assert_one_line(srl("warm-up", recipe, "--examples", "0"), "--examples and --batch-size must be 1 or more")
    assert_one_line(srl("warm-up", recipe, "--checked", "192"), "192 rows, expected more than the 192 for the check")


def test_requests_keep_the_prompt_and_answers_are_cut_to_what_was_asked_for():
    prompt = step_prompt("How much is 2 + 2?", "1. Look.\n\n")
    for request in (thought_request(prompt), step_request(prompt, "Add them.")):
        assert request[0] == prompt[0]
        assert request[1]["content"].startswith(prompt[1]["content"].rstrip())
    assert "Add them." in step_request(prompt, "Add them.")[1]["content"]
    assert spoken_thought("<think>Hm.</think>\nFirst 2.5 is added", False) == "First 2.5 is added"
    assert spoken_thought("It is 2.5 then. So we a", True) == "It is 2.5 then."
    assert spoken_thought("no end", True) == ""
    assert spoken_step("<solution>Add: 4</solution>", False) == "Add: 4"
    assert spoken_step("Add: 4\n\nThen go on to the", True) == "Add: 4"
    assert is_in_the_format("so", "4")
    assert not is_in_the_format("", "4")
    assert not is_in_the_format("It is 4.", "It is 4.")
    assert not is_in_the_format("so", "<think>4")
