"""What `srl train` says of its first completions, and when it stops for them."""

import re

import pytest
from command_line import assert_one_line, metrics, srl, write_recipe

from srl.runs import progress
from srl.training.preflight import fault_of


@pytest.mark.parametrize(
    ("text", "truncated", "fault"),
    [
        ("<think>a</think>b", False, None),
        ("Well, b", True, "no <think>"),
        ("<think>a", True, "truncated"),
        ("<think>a</think>b", True, "truncated"),
        ("<think>a", False, "no </think>"),
    ],
)
def test_a_completion_that_was_cut_off_before_any_thought_lacks_the_thought(text, truncated, fault):
    assert fault_of(text, truncated, "srl") == fault


@pytest.mark.parametrize("eval_steps", [0, 2])
def test_a_model_that_does_not_write_the_format_stops_before_its_first_step(
    tiny_model, tiny_data, tmp_path, eval_steps
):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=tiny_data)
    recipe.write_text(recipe.read_text().replace("min_well_formed = 0\n", ""))
    done = srl("train", recipe, "--validation.eval-steps", eval_steps)
    assert_one_line(done, "0% of the first 16 completions are well formed, fewer than rollout.min_well_formed = 0.1")
    assert re.search(
        r"\(no <think> in \d+ of 16, such as '.+'\); chat.open_thought = true, or srl warm-up ", done.stderr
    )
    assert "preflight, 16 " in done.stdout
    assert not (tmp_path / "r/model").exists()


def test_a_run_that_can_learn_says_what_it_sees_and_goes_on(tiny_student, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data, max_steps=2)
    done = srl("train", recipe, "--rollout.min-well-formed", "0.2")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("preflight")] == [
        "preflight, 16 held-out completions",
        "preflight, 16 rollouts",
    ]
    first = metrics(tmp_path / "r")
    held_out = next(line for line in first if "eval_format_error_rate" in line)
    assert f"completions: {1 - held_out['eval_format_error_rate']:.0%} well formed" in done.stdout
    assert re.search(r"the limit is 12 \(\d+% truncated\); \d of 4 groups have signal", done.stdout)
    # What happens within an evaluation and a step is shown as it happens.
    assert re.search(r"step 0/2  evaluating the start\n(.*\n)*step 0/2  held-out batch 1/1\n", done.stdout)
    assert re.search(r"step 0/2  the first step\n(.*\n)*step 0/2  \d of 4 groups have signal, refill 1\n", done.stdout)
    assert re.search(r"the first step took .* s; 2 steps end at about \d\d:\d\d", done.stdout)


def test_enough_room_is_the_first_remedy_where_thoughts_are_cut_off(tiny_student, tiny_data, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_student, data=tiny_data)
    limits = ["--rollout.min-well-formed", "1", "--rollout.max-completion-length", "4"]
    done = srl("train", recipe, *limits)
    assert_one_line(done, "; raise rollout.max_completion_length (4), or ")
    again = srl("train", recipe, *limits, "--overwrite", "--chat.open-thought")
    assert_one_line(again, "well formed")
    assert "chat.open_thought" not in again.stderr


def test_sft_on_steps_without_thoughts_says_what_it_teaches(tiny_model, tiny_data, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rows = (tiny_data / "train.steps.jsonl").read_text()
    (data / "train.steps.jsonl").write_text(rows.replace('"thought":"so"', '"thought":null', 100))
    recipe = write_recipe(tmp_path / "r.toml", model=tiny_model, data=data, stage="sft", max_steps=1)
    flags = ["--validation.eval-steps", "0"]
    assert "100 of 192 steps have no thought; SFT on them teaches" in srl("train", recipe, *flags).stdout
    with_thoughts = srl("train", recipe, *flags, "--overwrite", "--data.path", tiny_data)
    assert "no thought" not in with_thoughts.stdout
