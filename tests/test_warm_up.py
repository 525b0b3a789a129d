"""`srl warm-up`, on tiny models: what it writes, that it can be repeated by hand, what it refuses."""

import json
import re

import pytest
from command_line import assert_one_line, same, srl, weights, write_recipe

from srl.chat.own_words import is_in_the_format, spoken_thought, thought_request
from srl.chat.prompts import step_prompt
from srl.files import write_jsonl

FLAGS = ("--examples", 8, "--checked", 6, "--batch-size", 4, "--epochs", 1, "--temperature", 1.5)
FLAGS += ("--learning-rate", "1e-4", "--well-formed", 1, "--rounds", 2)
FLAGS += ("--rollout.max-completion-length", 60, "--rollout.temperature", 5)


@pytest.fixture(scope="module")
def without_thoughts(tiny_data, tmp_path_factory):
    """The same data, whose every other step has no thought."""
    folder = tmp_path_factory.mktemp("without-thoughts")
    for path in tiny_data.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    steps = [json.loads(line) for line in (tiny_data / "train.steps.jsonl").read_text().splitlines()]
    for row in steps[::2]:
        row["thought"] = None
    (folder / "train.steps.jsonl").unlink()
    write_jsonl(folder / "train.steps.jsonl", steps)
    return folder


@pytest.fixture(scope="module")
def warmed_up(tiny_student, without_thoughts, tmp_path_factory):
    """One warm-up of a model that says a thought and a step to whatever it is asked."""
    folder = tmp_path_factory.mktemp("warm-up")
    recipe = write_recipe(folder / "r.toml", model=tiny_student, data=without_thoughts)
    done = srl("warm-up", recipe, *FLAGS, "--thoughts", "own")
    assert done.returncode == 0, done.stderr
    return recipe, folder / "r-warm-up", done.stdout


def rows(folder):
    return [json.loads(line) for line in (folder / "examples/train.steps.jsonl").read_text().splitlines()]


def given(data):
    steps = [json.loads(line) for line in (data / "train.steps.jsonl").read_text().splitlines()]
    return {json.dumps(row["prompt"]): row for row in steps}


def test_examples_are_steps_of_the_data_with_the_models_own_thoughts(warmed_up, without_thoughts):
    _, folder, _ = warmed_up
    of_data = given(without_thoughts)
    made = rows(folder)
    assert len({json.dumps(row["prompt"]) for row in made}) == len(made) == 8
    assert all(of_data[json.dumps(row["prompt"])]["expert_action"] == row["expert_action"] for row in made)
    assert all(is_in_the_format(row["thought"], row["expert_action"]) for row in made)
    options = json.loads((folder / "examples/report.json").read_text())["options"]
    assert options == json.loads((without_thoughts / "report.json").read_text())["options"]


def test_an_experts_thought_is_taken_where_a_row_has_one(tiny_student, without_thoughts, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=without_thoughts)
    assert srl("warm-up", recipe, *FLAGS, "--checked", 0).returncode == 0
    of_data = given(without_thoughts)
    assert all(of_data[json.dumps(row["prompt"])] == row for row in rows(tmp_path / "r-warm-up"))
    # Half of the steps have one; the rest of the examples are asked for.
    more = ["--examples", 120, "--checked", 0, "--overwrite", "--epochs", 0.1, "--batch-size", 32]
    assert srl("warm-up", recipe, *FLAGS, *more).returncode == 0
    made = rows(tmp_path / "r-warm-up")
    assert len(made) == 120
    assert sum(of_data[json.dumps(row["prompt"])] == row for row in made) == 96


def test_the_result_is_a_run_that_says_what_it_gained(warmed_up):
    _, folder, output = warmed_up
    facts = json.loads((folder / "run/run.json").read_text())
    counts = facts["warm_up"]["well_formed"]
    assert (facts["warm_up"]["examples"], facts["warm_up"]["checked"]) == (8, 6)
    assert f"well formed: {counts['before']} of 6 before, {counts['after']} of 6 after the warm-up" in output
    assert f"--model.model-name-or-path {folder}/run" in output
    measured = json.loads((folder / "warm-up.json").read_text())
    assert measured["finished"]
    assert [measured["well_formed"][place] for place in (0, -1)] == [counts["before"], counts["after"]]


def test_it_goes_on_until_enough_is_well_formed_and_says_how_sure_that_is(tiny_student, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data)
    flags = [*FLAGS, "--overwrite", "--checked", 16]
    # At this temperature nothing is well formed, whatever it learns: two rounds, the second with twice the epochs.
    done = srl("warm-up", recipe, *flags, "--rollout.max-completion-length", 12, "--rollout.temperature", 100)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "r-warm-up"
    assert len(json.loads((folder / "warm-up.json").read_text())["well_formed"]) == 3
    assert "num_train_epochs = 2.0" in (folder / "warm-up.toml").read_text()
    said = r"well formed after round 2: 0 of 16, 0% \(95% interval 0% to 19%\); .+ in \d+ of 16, such as "
    assert re.search(said, done.stdout)
    assert re.search(r"--well-formed 1 was not reached: .+ in \d+ of 16, such as ", done.stdout)
    # One round is enough for a bar that it has reached by then, and none for a model that is above it.
    low = srl("warm-up", recipe, *flags, "--well-formed", 0.2, "--rollout.temperature", 1)
    assert low.returncode == 0
    assert "it needs no warm-up" in low.stdout
    assert [path.name for path in folder.iterdir()] == ["warm-up.json"]


def test_the_recipe_it_leaves_repeats_the_sft_by_hand(warmed_up, tmp_path):
    _, folder, _ = warmed_up
    assert srl("train", folder / "warm-up.toml", "--output-dir", tmp_path / "again").returncode == 0
    assert same(weights(tmp_path / "again/model"), weights(folder / "run/model"))


@pytest.mark.slow
def test_the_same_seed_makes_the_same_examples(warmed_up, tmp_path):
    recipe, folder, _ = warmed_up
    flags = [*FLAGS, "--thoughts", "own", "--out", tmp_path / "again"]
    assert srl("warm-up", recipe, *flags).returncode == 0
    assert rows(tmp_path / "again") == rows(folder)
    assert_one_line(srl("warm-up", recipe, *flags), "not empty, and nothing is overwritten silently")


def test_a_model_that_cannot_speak_is_one_line_and_writes_nothing(tiny_model, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data)
    done = srl("warm-up", recipe, *FLAGS, "--thoughts", "own", "--rollout.max-completion-length", 12)
    assert_one_line(done, "fits 9 tokens, expected 8; raise rollout.max_completion_length (12)")
    assert not (tmp_path / "r-warm-up").exists()
    assert_one_line(
        srl("warm-up", recipe, "--examples", "0"), "--examples, --batch-size and --rounds must be 1 or more"
    )
    assert_one_line(srl("warm-up", recipe, "--checked", "192"), "192 rows, expected more than the 192 for the check")
    assert_one_line(srl("warm-up", recipe, "--well-formed", "90"), "--well-formed a share from 0 to 1")


def test_requests_keep_the_prompt_and_answers_are_cut_to_what_was_asked_for():
    prompt = step_prompt("How much is 2 + 2?", "1. Look.\n\n")
    request = thought_request(prompt, "2. Add them.")
    assert request[0] == prompt[0]
    assert request[1]["content"].startswith(prompt[1]["content"].rstrip())
    assert "2. Add them." in request[1]["content"]
    assert spoken_thought("<think>Hm.</think>\nFirst 2.5 is added", False) == "First 2.5 is added"
    assert spoken_thought("It is 2.5 then. So we a", True) == "It is 2.5 then."
    assert spoken_thought("no end", True) == ""
    assert is_in_the_format("so", "4")
    assert is_in_the_format("so", "4\n")
    assert not is_in_the_format("", "4")
    assert not is_in_the_format("It is 4.", "It is 4.")
    assert not is_in_the_format("so", "<think>4")
