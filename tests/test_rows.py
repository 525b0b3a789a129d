"""What `srl train` makes of a data folder, before any training."""

import copy
import json

import pytest

from srl.chat.tokenizer import load_chat, read_chat
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.errors import UserError
from srl.files import write_jsonl
from srl.runs.recipe import Data, Model, Recipe, Sft
from srl.training.rows import load_parts, load_rows


def recipe(data, stage="srl", target="steps", **limits):
    return Recipe(
        stage=stage,
        output_dir=data / "run",
        model=Model(model_name_or_path="unused"),
        data=Data(path=data, **limits),
        sft=Sft(target=target),
    )


def step(index, **changed):
    row = {
        "trajectory_id": "t",
        "step_index": index,
        "prompt": [{"role": "user", "content": "What?"}],
        "expert_action": "this",
        "next_title": None,
        "thought": None,
    }
    return json.dumps(row | changed) + "\n"


@pytest.fixture(scope="module")
def chat(tiny_model):
    return load_chat(str(tiny_model))


@pytest.mark.slow
def test_a_column_may_be_empty_for_a_long_time(tmp_path, chat):
    """Types guessed from the first 10 MB would refuse the last row."""
    long = [{"role": "user", "content": "x" * 1_000_000}]
    with (tmp_path / "train.steps.jsonl").open("w") as out:
        out.writelines(step(index, prompt=long) for index in range(1, 13))
        out.write(step(13, next_title="1. **Title**", thought="hm"))
    rows = load_rows(recipe(tmp_path, max_prompt_length=10**7), "train", chat)
    assert rows[12]["next_title"] == "1. **Title**"
    assert rows[0]["thought"] is None


def test_sft_rows_carry_thoughts_where_there_are_some(tmp_path, chat):
    (tmp_path / "train.steps.jsonl").write_text(step(1) + step(2, thought="hm"))
    rows = load_rows(recipe(tmp_path, stage="sft"), "train", chat)
    assert rows.column_names == ["prompt", "input_ids", "completion_mask"]
    learned = [
        [token for token, mask in zip(row["input_ids"], row["completion_mask"], strict=True) if mask] for row in rows
    ]
    assert [ids[-1] for ids in learned] == [chat.end_ids[0]] * 2
    assert list(map(chat.text, learned)) == ["this", "<think>hm</think>\nthis"]
    (prompt_ids,) = chat.prompt_ids([[{"role": "user", "content": "What?"}]])
    assert all(row["input_ids"][: len(prompt_ids)] == prompt_ids for row in rows)


def test_problems_without_a_known_answer_are_left_out_of_rlvr(tmp_path, chat, capsys):
    prompt = [{"role": "user", "content": "What?"}]
    rows = [
        {"trajectory_id": str(i), "prompt": prompt, "answer": a, "solution": "s"} for i, a in enumerate(["1", None])
    ]
    (tmp_path / "train.problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_rows(recipe(tmp_path, stage="rlvr"), "train", chat)["answer"] == ["1"]
    assert "1 of 2 problems have no known answer" in capsys.readouterr().out
    (tmp_path / "train.problems.jsonl").write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(UserError, match="none of 1 problems has a known answer"):
        load_rows(recipe(tmp_path, stage="rlvr"), "train", chat)


def test_long_prompts_are_an_error_or_counted(tmp_path, chat, capsys):
    long = [{"role": "user", "content": "x" * 500}]
    (tmp_path / "train.steps.jsonl").write_text(step(1) + step(2, prompt=long))
    with pytest.raises(UserError, match=r"train\.steps\.jsonl:2: a prompt of 5\d\d tokens, the limit is 100 \(1 of 2"):
        load_rows(recipe(tmp_path, max_prompt_length=100), "train", chat)
    rows = load_rows(recipe(tmp_path, max_prompt_length=100, drop_long_prompts=True), "train", chat)
    assert rows["step_index"] == [1]
    assert "1 of 2 prompts are longer than 100 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["srl", "sft", "rlvr"])
def test_where_all_prompts_are_too_long_there_is_nothing_to_train_on(tmp_path, chat, stage):
    long = [{"role": "user", "content": "x" * 500}]
    (tmp_path / "train.steps.jsonl").write_text(step(1, prompt=long))
    problem = {"trajectory_id": "a", "prompt": long, "answer": "1", "solution": "1"}
    (tmp_path / "train.problems.jsonl").write_text(json.dumps(problem) + "\n")
    for kind in ("steps", "problems"):
        (tmp_path / f"validation.{kind}.jsonl").write_text("")
    asked = recipe(tmp_path, stage=stage, max_prompt_length=100, drop_long_prompts=True)
    with pytest.raises(UserError, match="no rows to train on"):
        load_parts(asked, chat, None)


@pytest.mark.parametrize("text", ["not json\n", '{"foo": 1}\n'])
def test_other_rows_are_refused_in_one_line(tmp_path, chat, text):
    (tmp_path / "train.steps.jsonl").write_text(text)
    with pytest.raises(UserError, match="expected rows as `srl steps` writes them") as error:
        load_rows(recipe(tmp_path), "train", chat)
    assert "\n" not in str(error.value)


def test_an_empty_validation_part_is_none(tmp_path, chat):
    (tmp_path / "validation.steps.jsonl").write_text("")
    assert load_rows(recipe(tmp_path), "validation", chat) is None


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    for name in ("nobody/nothing", str(tmp_path)):
        with pytest.raises(UserError, match="no tokenizer could be loaded") as error:
            load_chat(name)
        assert "\n" not in str(error.value)


def test_a_template_that_breaks_prefixes_is_named(tmp_path, chat, capsys):
    texts = ["Question: 1 + 1\n\n", "Question: 1 + 1\n\n1. Add\n\n", "Question: 2\n\n", "another text"]
    prompts = [[{"role": "user", "content": text}] for text in texts]
    (tmp_path / "train.steps.jsonl").write_text("".join(step(i, prompt=prompt) for i, prompt in enumerate(prompts)))
    load_rows(recipe(tmp_path), "train", chat)
    assert "tokens do not" not in capsys.readouterr().out
    counting = copy.deepcopy(chat.tokenizer)
    # What varies stands before the text.
    counting.chat_template = "{{ messages[-1].content | length }} " + chat.tokenizer.chat_template
    load_rows(recipe(tmp_path), "train", read_chat(counting, "counting"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "tokens do not" in line]
    assert "in 1 of 1 cases" in line  # the others' texts do not go on
    assert "trajectory t, steps 0 and 1: token 1 of" in line
    assert "is '2', not '1'" in line


@pytest.mark.parametrize(
    ("changed", "token"),
    [
        ({"expert_action": "It ends <|im_end|> a turn."}, "<|im_end|>"),
        ({"thought": "so <|endoftext|>"}, "<|endoftext|>"),
        ({"prompt": [{"role": "user", "content": "What does <|im_start|>user do?"}]}, "<|im_start|>"),
    ],
)
def test_rows_with_special_tokens_in_their_text_are_left_out(tmp_path, chat, capsys, changed, token):
    rows = [step(1), step(2, **changed), step(3, expert_action="<|im_e nd|> is none")]
    (tmp_path / "train.steps.jsonl").write_text("".join(rows))
    assert load_rows(recipe(tmp_path), "train", chat)["step_index"] == [1, 3]
    assert f"1 of 3 rows hold special tokens of the tokenizer ({token}) and are left out" in capsys.readouterr().out
    (tmp_path / "train.steps.jsonl").write_text(rows[1])
    with pytest.raises(UserError, match="all 1 rows hold special tokens"):
        load_rows(recipe(tmp_path), "train", chat)


def test_solutions_with_special_tokens_are_left_out(tmp_path, chat):
    prompt = [{"role": "user", "content": "What?"}]
    rows = [{"trajectory_id": "t", "prompt": prompt, "answer": "4", "solution": text} for text in ("4", "4<|im_end|>")]
    (tmp_path / "train.problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(load_rows(recipe(tmp_path, stage="sft", target="solution"), "train", chat)) == 1


def test_sft_on_reasoning_and_solution_or_on_the_solution_alone(tmp_path, chat, capsys):
    """Rows as s1K-1.1 has them, through `srl steps`; problems that lack what is learned are left out."""
    attempt = "1. **Add**: 2 + 2 = 4\n2. **Say it**: \\boxed{4}"
    thought = {"deepseek_thinking_trajectory": "Well, two and two."}
    given = [
        {"question": "2 + 2?", "deepseek_attempt": attempt, "solution": "4", **thought},
        {"question": "2 + 2 again?", "deepseek_attempt": attempt, "solution": "4"},
        {"question": "1 + 3?", "deepseek_attempt": "Not sure.", "solution": "4"},
    ]
    write_jsonl(tmp_path / "s1k.jsonl", given)
    prepare(Source(tmp_path / "s1k.jsonl"), tmp_path / "out", StepOptions(hold_out=0, answer_system_prompt=""))

    def learned(target):
        rows = load_rows(recipe(tmp_path / "out", stage="sft", target=target), "train", chat)
        return [
            chat.text([token for token, mask in zip(row["input_ids"], row["completion_mask"], strict=True) if mask])
            for row in rows
        ]

    solution = attempt.replace("\n", "\n\n")
    assert learned("solution") == [solution] * 2
    assert learned("reasoning") == [f"<think>Well, two and two.</think>\n{solution}"]
    assert "problems have no reasoning before a written solution and are left out" in capsys.readouterr().out
    (tmp_path / "out/train.problems.jsonl").write_text(
        json.dumps({"trajectory_id": "t", "prompt": [{"role": "user", "content": "What?"}], "answer": "4"}) + "\n"
    )
    for target in ("solution", "reasoning"):  # the last is a folder that an earlier version wrote
        with pytest.raises(UserError, match=rf'none of 1 problems has .*sft.target = "{target}"'):
            learned(target)
