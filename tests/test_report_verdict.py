"""The sentence at the head of a report, for runs that went well, badly, and not to their end."""

import json

import pytest
from report_pages import data_of
from run_folders import write_evaluation, write_run

from srl.report.page import write_report


def page_of(tmp_path, metrics, facts):
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (run / "run.json").write_text(json.dumps(facts))
    write_report([run], tmp_path / "r.html")
    return data_of(tmp_path / "r.html")["runs"][0]["verdict"]


def training(step, malformed=0.0, kept=0.5, reward=0.3):
    return {"step": step, "format_error_rate": malformed, "kept_fraction": kept, "reward_before_filtering": reward}


def held_out(step, reward):
    return {"step": step, "eval_reward": reward, "eval_exact_step_rate": 0.1}


def test_a_good_run(tmp_path):
    metrics = [held_out(0, 0.154), training(1), training(2, malformed=0.03), held_out(2, 0.412)]
    found = page_of(tmp_path, metrics, {"finished_steps": 2, "best_step": 2, "held_out_rows": 40})
    assert found == {
        "text": "Held-out reward rose from 0.154 to 0.412 (40 rows), at step 2; 3% of the last completions are "
        "malformed; finished after 2 steps.",
        "broken": None,
    }


def test_a_run_that_only_made_it_worse(tmp_path):
    metrics = [held_out(0, 0.154), training(1), training(2, malformed=0.98), held_out(2, -0.97)]
    found = page_of(tmp_path, metrics, {"finished_steps": 2, "best_step": 0})
    assert found["text"].startswith("The start was best on held-out rows: reward 0.154, at the end -0.970; 98% of")
    assert found["broken"].startswith("98% of the last completions are malformed")


def test_a_run_without_signal(tmp_path):
    found = page_of(tmp_path, [training(step, kept=0.0) for step in range(1, 7)], {"finished_steps": 6})
    assert found["text"].startswith("Reward before filtering stayed at 0.300; nothing was held out")
    assert found["broken"].startswith("No group of the last steps carried a signal")


def test_a_run_that_was_cut_off(tmp_path):
    rewards = [training(step, reward=step / 10) for step in range(1, 11)]
    found = page_of(tmp_path, rewards, {})
    assert found["text"].startswith("Reward before filtering rose from 0.150 to 0.950; nothing was held out")
    assert "not finished: the last logged step is 10" in found["text"]


def test_a_run_that_is_not_yet_better_than_its_start(tmp_path):
    found = page_of(tmp_path, [held_out(0, 0.5), training(1), held_out(1, 0.4)], {})
    assert found["text"].startswith("Held-out reward is not better than at the start so far: 0.500; ")


def test_nothing_logged(tmp_path):
    assert page_of(tmp_path, [], {}) == {"text": "Nothing was logged.", "broken": None}


@pytest.mark.parametrize("changed", [{"protocol": "stepwise", "max_tokens": 60}, {"max_tokens": 512}])
def test_other_protocols_and_limits_are_in_rows_of_their_own(tmp_path, changed):
    folders = [write_evaluation(tmp_path / name) for name in "ab"]
    for folder, config in zip(folders, [{"protocol": "answer", "max_tokens": 2048}, changed], strict=True):
        results = json.loads((folder / "results.json").read_text())
        results["config"] |= config
        (folder / "results.json").write_text(json.dumps(results))
    write_report(folders, tmp_path / "r.html")
    table = data_of(tmp_path / "r.html")["results"]
    assert [row["cells"].count(None) for row in table["rows"]] == [1, 1]
    assert table["rows"][0]["asked"] == "answer, 2048 tokens"
    assert table["notes"] == [
        "max greedy: the evaluations had different protocols or token limits; they are in separate rows"
    ]
