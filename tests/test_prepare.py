"""`srl steps`: files in, a data folder out; nothing guessed, nothing lost, nothing half-written."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from srl.data.formats.columns import Columns
from srl.data.formats.native import native_row
from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.errors import UserError
from srl.files import new_folder, read_rows, write_jsonl, write_text
from srl.study.tiny import solve

ALL = StepOptions(hold_out=0.0)


def solution(answer, n=2):
    return "\n\n".join(f"{k}. **Part {k}**\nwork {k}" for k in range(1, n + 1)) + f"\n\nAnswer: {answer}"


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_data_folder(tmp_path):
    source = tmp_path / "s.jsonl"
    write_jsonl(
        source,
        [
            {"id": "a", "problem": "1+1?", "solution": solution(2, n=3), "gold": "2"},
            {"id": "b", "problem": "1+2?", "solution": solution(4), "gold": "3"},
            {"id": "c", "problem": "1+3?", "solution": "It is five.", "gold": "4"},
        ],
    )
    report = prepare(Source(source, columns=Columns(answer="gold")), tmp_path / "out", ALL)
    assert (report.read, report.kept) == (3, 2)
    assert report.dropped == {"wrong final answer": 1}
    assert (report.without_steps, report.wrong_solutions) == ({"no numbered steps": 1}, 1)
    steps = rows_of(tmp_path / "out/train.steps.jsonl")
    assert [(row["trajectory_id"], row["step_index"]) for row in steps] == [("a", 1), ("a", 2)]
    assert steps[1]["expert_action"] == "2. **Part 2**\nwork 2"
    problems = rows_of(tmp_path / "out/train.problems.jsonl")
    assert [(row["answer"], row["solution"]) for row in problems] == [("2", solution(2, n=3)), ("4", None)]
    dropped = rows_of(tmp_path / "out/dropped.jsonl")
    assert [Path(row["where"]).name for row in dropped] == ["s.jsonl:2"]
    assert json.loads((tmp_path / "out/report.json").read_text())["kept"] == 2


def test_solutions_are_asked_for_from_every_prefix_where_that_is_wanted(tmp_path):
    rows = [{"problem": f"1+{i}?", "solution": solution(1 + i, n=3), "gold": str(1 + i)} for i in range(20)]
    rows.append({"problem": "2+2?", "solution": "Four.", "gold": "4"})  # no steps: to be solved whole only
    write_jsonl(tmp_path / "s.jsonl", rows)
    source = Source(tmp_path / "s.jsonl", columns=Columns(answer="gold"))
    plain = StepOptions(hold_out=0.3, system_prompt="", answer_system_prompt="")
    prepare(source, tmp_path / "plain", plain)
    report = prepare(source, tmp_path / "out", replace(plain, solve_from="prefixes"))
    n = report.problems["train"] - 1
    assert 0 < n < 20
    assert report.continuations == 2 * n
    assert f"{2 * n} more rows ask for the rest of a solution" in report.lines()[-1]
    assert len(rows_of(tmp_path / "out/train.problems.jsonl")) == 3 * n + 1
    for name in ("validation.problems.jsonl", "validation.steps.jsonl", "train.steps.jsonl"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "plain" / name).read_text()


def test_prefixes_of_solutions_without_steps_are_refused(tmp_path):
    write_jsonl(tmp_path / "s.jsonl", [{"problem": "2+2?", "answer": "4"}])
    with pytest.raises(UserError, match="needs solutions of two steps or more"):
        prepare(Source(tmp_path / "s.jsonl"), tmp_path / "out", StepOptions(hold_out=0, solve_from="prefixes"))
    assert not (tmp_path / "out").exists()


def test_an_answer_that_takes_too_long_to_compare_is_not_called_wrong(tmp_path):
    rows = [{"problem": "1+2?", "solution": solution(r"\boxed{9^{9^{9^{9}}}}"), "gold": "3"}]
    rows += [{"problem": "1+1?", "solution": solution(2), "gold": "2"}]
    write_jsonl(tmp_path / "s.jsonl", rows)
    report = prepare(Source(tmp_path / "s.jsonl", columns=Columns(answer="gold")), tmp_path / "out", ALL)
    assert report.dropped == {"final answer not compared": 1}


def test_wrong_answers_are_kept_when_asked(tmp_path):
    write_jsonl(tmp_path / "s.jsonl", [{"problem": "1+2?", "solution": solution(4), "gold": "3"}])
    options = StepOptions(hold_out=0.0, keep_wrong=True)
    assert prepare(Source(tmp_path / "s.jsonl", columns=Columns(answer="gold")), tmp_path / "out", options).kept == 1


def test_a_correctness_column_decides_where_given(tmp_path):
    rows = [{"problem": str(v), "solution": solution(1), "ok": v} for v in (True, False, "Yes", "no", 1, 0)]
    write_jsonl(tmp_path / "s.jsonl", rows)
    report = prepare(Source(tmp_path / "s.jsonl", columns=Columns(correct="ok")), tmp_path / "out", ALL)
    assert (report.kept, report.dropped) == (3, {"wrong final answer": 3})


def test_null_means_not_known(tmp_path):
    rows = [
        {"problem": "1?", "solution": None, "gold": "1", "ok": True},
        {"problem": "2?", "solution": solution(2), "gold": None, "ok": None},
    ]
    write_jsonl(tmp_path / "s.jsonl", rows)
    report = prepare(Source(tmp_path / "s.jsonl", columns=Columns(answer="gold", correct="ok")), tmp_path / "out", ALL)
    assert (report.kept, report.answers_checked, report.dropped) == (2, 1, {})
    assert report.without_steps == {"no solution": 1}


def test_problems_are_joined_by_id(tmp_path):
    write_jsonl(tmp_path / "s.jsonl", [{"id": 7, "answer": solution(2)}])
    write_jsonl(tmp_path / "p.jsonl", [{"id": 7, "problem": "1+1?", "target": "2"}])
    columns = Columns("problem", "answer", "target")
    report = prepare(
        Source(tmp_path / "s.jsonl", columns=columns, problems=tmp_path / "p.jsonl"), tmp_path / "out", ALL
    )
    assert (report.kept, report.answers_checked) == (1, 1)


def test_an_id_means_one_problem(tmp_path):
    write_jsonl(tmp_path / "s.jsonl", [{"id": 7.0, "answer": solution(2)}])  # as pandas writes 7
    rows = [{"id": 7, "problem": "1+1?"}, {"id": 7, "problem": "1+1?"}, {"id": 7, "problem": "3-1?"}]
    source = Source(tmp_path / "s.jsonl", columns=Columns("problem", "answer"), problems=tmp_path / "p.jsonl")
    write_jsonl(tmp_path / "p.jsonl", rows[:2])
    assert prepare(source, None, ALL).kept == 1
    write_jsonl(tmp_path / "p.jsonl", rows)
    with pytest.raises(UserError, match=r"p\.jsonl:3: id '7' stands at \S+p\.jsonl:1 too, with other fields"):
        prepare(source, None, ALL)


def test_known_answers_of_prompts_are_counted(tmp_path):
    prompt = {"prompt": [{"role": "user", "content": "2+2?"}]}
    verl = [{**prompt, "data_source": "d", "reward_model": {"ground_truth": answer}} for answer in ("4", None)]
    write_jsonl(tmp_path / "p.jsonl", [{**prompt, "answer": "4"}, *verl])
    report = prepare(Source(tmp_path / "p.jsonl"), tmp_path / "out", ALL)
    written = [row["answer"] for row in rows_of(tmp_path / "out/train.problems.jsonl")]
    assert report.answers_checked == sum(answer is not None for answer in written) > 0


def test_validation_and_train_share_no_problem(tmp_path):
    rows = [{"problem": f"problem {i % 50}", "solution": solution(1, n=2 + i // 50)} for i in range(100)]
    write_jsonl(tmp_path / "s.jsonl", rows)
    report = prepare(Source(tmp_path / "s.jsonl"), tmp_path / "out", StepOptions(hold_out=0.3))
    problems = [
        {row["prompt"][-1]["content"] for row in rows_of(tmp_path / f"out/{split}.problems.jsonl")}
        for split in ("train", "validation")
    ]
    assert report.problems["train"] + report.problems["validation"] == 100
    assert len(problems[0]) + len(problems[1]) == 50
    assert not problems[0] & problems[1]


def test_json_parquet_and_srls_own_rows_read_alike(tmp_path):
    rows = [{"id": "a", "problem": "1+1?", "solution": solution(2)}]
    (tmp_path / "s.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "s.parquet")
    write_jsonl(tmp_path / "s.jsonl", rows)
    outputs = []
    for suffix in ("json", "parquet", "jsonl"):
        prepare(Source(tmp_path / f"s.{suffix}"), tmp_path / suffix, ALL)
        outputs.append((tmp_path / suffix / "train.steps.jsonl").read_text())
    assert outputs[0] == outputs[1] == outputs[2]

    trajectory = solve("2+3*4")
    write_jsonl(tmp_path / "native.jsonl", [native_row(trajectory)])
    prepare(Source(tmp_path / "native.jsonl"), tmp_path / "native", StepOptions(hold_out=0.0, targets="all"))
    actions = [row["expert_action"] for row in rows_of(tmp_path / "native/train.steps.jsonl")]
    assert actions == [step.action for step in trajectory.steps]


STEPS = '"solution": "1. **a** b\\n2. **c** d"'
BAD = {
    "missing": (None, "no such file"),
    "empty.jsonl": ("", "no rows"),
    "blank.jsonl": ("\n\n", "no rows"),
    "broken.jsonl": ('{"problem": "x", "solution": "y"}\n{"problem": ', "broken.jsonl:2: broken JSON"),
    "list.jsonl": ("[1, 2]\n", "list.jsonl:1: expected a JSON object, found list"),
    "object.json": ('{"a": 1}', "object.json: no known format"),
    "latin1.jsonl": (b'{"problem": "\xe9"}\n', "latin1.jsonl:1: not UTF-8"),
    "deep.jsonl": ("[" * 100_000 + "\n", "deep.jsonl:1"),
    "bad.parquet": ("no parquet", "not a readable parquet file"),
    "table.csv": ("a,b\n", "cannot read .csv"),
    "columns.jsonl": ('{"foo": 1}\n', "found the fields `foo`"),
    "field.jsonl": ('{"problem": "x", "solution": "y"}\n{"problem": "x"}\n', "field.jsonl:2: no known format"),
    "type.jsonl": ('{"problem": "x", "solution": ["y"]}\n', "type.jsonl:1: expected text in `solution`, found a list"),
    "nosteps.jsonl": ('{"problem": "x", "steps": []}\n', "nosteps.jsonl:1: expected a non-empty list in `steps`"),
    "notext.jsonl": ('{"problem": "x", "steps": [{"action": " "}]}\n', "notext.jsonl:1, step 1: expected an object"),
    "key.jsonl": ('{"problem": "x", "steps": [{"action": "y", "acton": "z"}]}\n', "unknown key `acton`"),
    "title.jsonl": ('{"problem": "x", "steps": [{"action": "y", "title": "z"}]}\n', "must start a line of `action`"),
    "half.jsonl": (f'{{"problem": "\\ud800", {STEPS}}}\n', "half.jsonl:1: '\\ud800' is half a character"),
    "noproblem.jsonl": (f'{{"problem": null, {STEPS}}}\n', "expected text in `problem`, found None"),
    "nothing.jsonl": ('{"problem": "x", "solution": "y"}\n', "none of 1 trajectories can be used (1 × no"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, name):
    content, message = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as error:
        prepare(Source(tmp_path / name), tmp_path / "out", ALL)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_without_solutions_is_refused(tmp_path):
    write_jsonl(tmp_path / "p.jsonl", [{"id": 1, "target": "2"}])
    write_jsonl(tmp_path / "q.jsonl", [{"id": 1, "target": "2"}])
    with pytest.raises(UserError, match=r"2 of 2 rows are in no known format \(p.jsonl: 1"):
        prepare(Source(tmp_path), tmp_path.parent / "out", ALL)


def test_the_real_solutions_keep_their_rate_and_every_loss_has_a_reason(tmp_path):
    file = Path(__file__).parents[2] / "shared/data/math_trajectories/deepseek_v3_math/solutions.jsonl"
    if not file.exists():
        pytest.skip("the real solutions (../shared/data) are not here")
    report = prepare(Source(file), tmp_path / "out", StepOptions(keep_wrong=True))
    assert report.kept / report.read >= 0.81
    dropped = rows_of(tmp_path / "out/dropped.jsonl")
    assert report.kept + len(dropped) == report.read == 198
    assert all(row["where"] and row["reason"] for row in dropped)


def agent_row(index, n=4, **more):
    turns = [{"role": "user", "content": f"Fix {index}."}]
    for k in range(1, n + 1):
        turns += [{"role": "assistant", "content": f"act {k}"}, {"role": "user", "content": "saw " * 40}]
    return {"id": f"a{index}", "messages": turns, **more}


def test_agents_runs_become_steps_and_no_problems_to_solve_at_once(tmp_path):
    rows = [agent_row(0), agent_row(1, reward=0.0), agent_row(2, reward=1.0), agent_row(3, n=1)]
    write_jsonl(tmp_path / "runs.jsonl", rows)
    options = StepOptions(hold_out=0.0, context=1, max_observation_chars=20)
    report = prepare(Source(tmp_path / "runs.jsonl"), tmp_path / "out", options)
    assert (report.kept, report.dropped) == (3, {"failed run": 1})
    assert (report.without_steps_to_ask, report.shortened_observations) == (1, 9)
    steps = rows_of(tmp_path / "out/train.steps.jsonl")
    assert [(row["trajectory_id"], row["step_index"]) for row in steps] == [
        *(("a0", k) for k in (1, 2, 3)),
        *(("a2", k) for k in (1, 2, 3)),
    ]
    assert "characters left out" in steps[1]["prompt"][-1]["content"]
    assert (tmp_path / "out/train.problems.jsonl").read_text() == ""
    kept = prepare(Source(tmp_path / "runs.jsonl"), None, StepOptions(hold_out=0.0, keep_wrong=True))
    assert (kept.kept, kept.dropped) == (4, {})


def test_exact_copies_are_dropped_and_other_ways_to_solve_a_problem_counted(tmp_path):
    rows = [{"problem": "1+1?", "solution": solution(2, n=n)} for n in (2, 3, 2)]
    write_jsonl(tmp_path / "s.jsonl", rows)
    report = prepare(Source(tmp_path / "s.jsonl"), None, ALL)
    assert (report.kept, report.repeated_problems, report.dropped) == (2, 1, {"copy of an earlier one": 1})


def test_checking_counts_the_same_and_writes_nothing(tmp_path):
    write_jsonl(tmp_path / "s.jsonl", [{"problem": f"{i}?", "solution": solution(2)} for i in range(30)])
    before = sorted(tmp_path.iterdir())
    checked = prepare(Source(tmp_path / "s.jsonl"), None, StepOptions())
    assert sorted(tmp_path.iterdir()) == before
    assert checked.summary() == prepare(Source(tmp_path / "s.jsonl"), tmp_path / "out", StepOptions()).summary()


def test_parquet_holds_the_same_rows_and_trains(tmp_path, tiny_model):
    from srl.chat.tokenizer import load_chat
    from srl.runs.recipe import Data, Model, Recipe
    from srl.training.rows import load_rows

    write_jsonl(tmp_path / "s.jsonl", [{"problem": f"{i}?", "solution": solution(2, n=3)} for i in range(300)])
    tables = {}
    for parquet in (False, True):
        data = tmp_path / f"out-{parquet}"
        prepare(Source(tmp_path / "s.jsonl"), data, StepOptions(parquet=parquet))
        recipe = Recipe(stage="srl", output_dir=data, model=Model(model_name_or_path="x"), data=Data(path=data))
        chat = load_chat(str(tiny_model))
        tables[parquet] = [load_rows(recipe, split, chat).to_list() for split in ("train", "validation")]
    assert tables[True] == tables[False]
    assert sum(map(len, tables[True])) == 600


def test_as_given_rows_keep_their_prompts(tmp_path):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": asked, "completion": "<think>easy</think>4"}])
    write_jsonl(
        tmp_path / "b.jsonl",
        [{"prompt": asked, "reward_model": {"ground_truth": "4", "style": "rule"}, "data_source": "x"}],
    )
    prepare(Source(tmp_path), tmp_path.parent / "as-given", StepOptions(hold_out=0.0))
    (step,) = rows_of(tmp_path.parent / "as-given/train.steps.jsonl")
    assert (step["prompt"], step["expert_action"], step["thought"]) == (asked, "4", "easy")
    (problem,) = rows_of(tmp_path.parent / "as-given/train.problems.jsonl")
    assert (problem["prompt"], problem["answer"], problem["solution"]) == (asked, "4", None)


def test_the_report_says_how_long_things_are(tmp_path, tiny_model):
    write_jsonl(tmp_path / "s.jsonl", [{"problem": "p", "steps": [{"action": "1" * n} for n in (1, 2, 3)]}])
    options = StepOptions(hold_out=0.0, targets="all", system_prompt="", tokenizer=str(tiny_model))
    report = prepare(Source(tmp_path / "s.jsonl"), None, options)
    sizes = report.summary()["sizes"]
    assert sizes["steps per trajectory"] == {"median": 3, "p95": 3, "max": 3}
    assert sizes["characters per action"] == {"median": 2, "p95": 3, "max": 3}
    assert sizes["tokens per action"] == {"median": 2, "p95": 3, "max": 3}  # one character is one token
    assert sizes["characters per prompt"]["max"] == len("Question: p\n\nSolution:\n1\n\n11\n\n")


def test_special_tokens_in_the_data_are_counted_with_a_tokenizer(tmp_path, tiny_model):
    steps = [
        {"action": "It ends <|im_end|> a turn."},
        {"action": "It pads.", "thought": "<|endoftext|>?"},
        {"action": "x"},
    ]
    write_jsonl(tmp_path / "s.jsonl", [{"problem": "p", "steps": steps}])
    options = StepOptions(hold_out=0.0, targets="all", tokenizer=str(tiny_model))
    report = prepare(Source(tmp_path / "s.jsonl"), None, options)
    # The first two by themselves, the last by its context.
    assert report.special_tokens == {"steps with <|im_end|> in their text": 3}
    assert any("3  steps with <|im_end|> in their text: training leaves them out" in line for line in report.lines())


def test_wrong_options_are_one_line(tmp_path):
    with pytest.raises(UserError, match="--context -1: expected full, paper or a number"):
        prepare(Source(tmp_path), None, StepOptions(context=-1))


# --- writing --------------------------------------------------------------------------------------


def test_a_failed_block_leaves_the_old_folder(tmp_path):
    target = tmp_path / "out"
    with new_folder(target) as folder:
        write_text(folder / "a", "old")

    def fail():
        with new_folder(target, overwrite=True, marker="a") as folder:
            write_text(folder / "a", "new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (target / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_is_overwritten_silently(tmp_path):
    (tmp_path / "out").mkdir()
    write_text(tmp_path / "out/mine", "precious")
    with pytest.raises(UserError, match="not empty"), new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out/mine").read_text() == "precious"


def test_only_what_srl_wrote_is_ever_deleted(tmp_path):
    (tmp_path / "home").mkdir()
    write_text(tmp_path / "home/mine", "precious")
    with (
        pytest.raises(UserError, match=r"has no report\.json"),
        new_folder(tmp_path / "home", overwrite=True, marker="report.json"),
    ):
        pass
    assert (tmp_path / "home/mine").read_text() == "precious"


def test_rows_know_where_they_stand(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [row.where for row in read_rows(tmp_path / "a.jsonl")] == [f"{tmp_path}/a.jsonl:1", f"{tmp_path}/a.jsonl:3"]
