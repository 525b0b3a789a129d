"""SFT on whole trajectories of agents: which tokens there are, which of them are learned, and what cannot be right."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from command_line import assert_one_line, metrics, srl, write_recipe
from transformers import AutoModelForCausalLM

from srl.chat.conversation import conversation
from srl.chat.tokenizer import load_chat
from srl.data.formats.native import native_row
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.errors import UserError
from srl.files import write_jsonl
from srl.records import Step, Trajectory
from srl.runs.recipe import Data, Model, Recipe, Sft
from srl.training.rows import load_rows
from srl.training.whole_runs import conversation_ids

STEPS = (Step("cat 1", None, "one", "see"), Step("rm 1", None, None, None), Step("ls", None, "", "end"))
RUN = Trajectory("t1", "Delete 1.", STEPS, environment=True, instructions="Tools: cat, rm.")


def prepared(folder, *trajectories, **options):
    write_jsonl(folder / "in.jsonl", map(native_row, trajectories))
    options = {"hold_out": 0.0, "system_prompt": "Act.", **options}
    prepare(Source(str(folder / "in.jsonl")), folder / "data", StepOptions(**options))
    return folder / "data"


def recipe(data, model, **values):
    return Recipe(
        stage="sft",
        output_dir=data.parent / "run",
        model=Model(model_name_or_path=str(model)),
        data=Data(path=data, **values),
        sft=Sft(target="trajectory"),
    )


def test_a_run_turn_by_turn():
    run = conversation(RUN, "Act.")
    assert [turn["role"] for turn in run.prompt] == ["system", "user"]
    assert [turn["content"] for turn in run.prompt] == ["Act.\n\nTools: cat, rm.", "Task: Delete 1."]
    assert [(turn["role"], turn["content"]) for turn in run.turns] == [
        ("assistant", "<think>see</think>\ncat 1"),
        ("user", "Observation:\none"),
        ("assistant", "rm 1"),
        ("user", "Observation:\n"),
        ("assistant", "<think>end</think>\nls"),
    ]


def test_every_turn_is_learned_behind_exactly_the_tokens_of_its_prompt(tiny_model):
    chat = load_chat(str(tiny_model))
    run = conversation(RUN, "Act.")
    ids, said = conversation_ids(chat, run.prompt, run.turns)
    assert len(ids) == len(said)
    stretches, start = [], None
    for index, flag in enumerate([*said, 0]):
        if flag and start is None:
            start = index
        elif not flag and start is not None:
            stretches.append((start, index))
            start = None
    assert len(stretches) == 3
    for number, (start, end) in enumerate(stretches):
        assert ids[start:end] == chat.target_ids(run.turns[2 * number]["content"])
        (asked,) = chat.prompt_ids([[*run.prompt, *run.turns[: 2 * number]]])
        assert ids[:start] == asked
    assert stretches[-1][1] == len(ids)


def test_a_template_that_drops_thoughts_from_earlier_turns_is_refused(tiny_model):
    chat = load_chat(str(tiny_model))
    drops = "{{ message['content'].split('</think>')[-1] }}"
    changed = chat.template.replace("{{ message['content'] }}", drops)
    assert changed != chat.template
    run = conversation(RUN, "Act.")
    with pytest.raises(UserError, match="writes an earlier turn of the assistant otherwise"):
        conversation_ids(replace(chat, template=changed), run.prompt, run.turns)


def test_the_files_of_a_data_folder(tmp_path):
    broken = Trajectory("t2", "Say it.", (Step("</think>", None, "x"), *STEPS), environment=True)
    written = Trajectory("t3", "1 + 1", (Step("1. **Add**: 2"), Step("2. **Say**: 2")), "2")
    data = prepared(tmp_path, RUN, broken, written)
    (row,) = [json.loads(line) for line in (data / "train.trajectories.jsonl").read_text().splitlines()]
    assert row["trajectory_id"] == "t1"
    assert len(row["turns"]) == 5
    report = json.loads((data / "report.json").read_text())
    assert report["malformed"]["whole runs with a turn that no completion can say"] == 1
    (tmp_path / "m").mkdir()
    assert not list(prepared(tmp_path / "m", written).glob("*trajectories*"))


def test_the_loss_is_that_of_the_turns_and_of_nothing_else(tiny_model, tmp_path):
    """TRL's loss of one row, against the log-probs of each turn behind its own prompt."""
    data = prepared(tmp_path, RUN)
    chat, model = load_chat(str(tiny_model)), AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    run, losses = conversation(RUN, "Act."), []
    for number in range(3):
        (asked,) = chat.prompt_ids([[*run.prompt, *run.turns[: 2 * number]]])
        target = chat.target_ids(run.turns[2 * number]["content"])
        logits = model(torch.tensor([asked + target])).logits[0, len(asked) - 1 : -1]
        losses += torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="none").tolist()
    path = write_recipe(tmp_path / "r.toml", stage="sft", model=tiny_model, data=data, max_steps=1, target="trajectory")
    flags = ("--sft.rows-per-step", "1", "--optim.per-device-train-batch-size", "1", "--validation.eval-steps", "0")
    done = srl("train", path, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    logged = next(line for line in metrics(tmp_path / "r") if "loss" in line)
    assert logged["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_long_runs_are_an_error_or_left_out(tiny_model, tmp_path, capsys):
    long = Trajectory("t2", "Long.", (Step("cat 1", None, "1 " * 400, "see"), *STEPS), environment=True)
    data, chat = prepared(tmp_path, RUN, long), load_chat(str(tiny_model))
    with pytest.raises(UserError, match=r"train.trajectories.jsonl:2: a trajectory of \d+ tokens, the limit is 512"):
        load_rows(recipe(data, tiny_model, max_prompt_length=512), "train", chat)
    rows = load_rows(recipe(data, tiny_model, max_prompt_length=512, drop_long_prompts=True), "train", chat)
    assert len(rows) == 1
    assert "1 of 2 trajectories are longer than 512 tokens" in capsys.readouterr().out
    assert len(load_rows(recipe(data, tiny_model, max_prompt_length=4000), "train", chat, 4096)) == 2


def test_data_without_agents_is_one_line(tiny_model, tiny_data, tmp_path):
    path = write_recipe(tmp_path / "r.toml", stage="sft", model=tiny_model, data=tiny_data, target="trajectory")
    assert_one_line(srl("train", path), "train.trajectories.jsonl: no such file")


REAL = Path(__file__).parents[2] / "shared/data/swe_trajectories/swe-smith/ft_xml_example.jsonl"


@pytest.mark.skipif(not REAL.is_file(), reason="the shared trajectories are not here")
def test_real_runs(tiny_model, tmp_path):
    prepare(Source(str(REAL)), tmp_path / "data", StepOptions(hold_out=0.0))
    rows = load_rows(
        recipe(tmp_path / "data", tiny_model, max_prompt_length=10**7), "train", load_chat(str(tiny_model))
    )
    steps = (tmp_path / "data/train.trajectories.jsonl").read_text().count('"assistant"')
    assert (len(rows), steps) == (3, 103)
    starts = sum(one < other for row in rows for one, other in pairwise(row["completion_mask"]))
    assert starts == 103
