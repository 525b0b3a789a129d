"""The report's page, taken apart: everything of a run is in it, and nothing of a run can break it."""

import json
import re
import threading

import pyarrow.parquet as parquet
import pytest
from report_pages import chunks_of, data_of, problems_of, rollouts_of
from run_folders import write_evaluation, write_run

from srl.errors import UserError
from srl.report import page as report_page
from srl.report.evaluations import read_evaluation, results_table
from srl.report.page import MAX_PAGE_BYTES, labels, write_report
from srl.rewards import one_spelling
from srl.rewards.similarity import ratio
from srl.runs.recipe import Reward

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><!--"


def test_every_rollout_of_a_run_is_in_the_page(tmp_path):
    run = write_run(tmp_path / "run")
    write_report([run], tmp_path / "r.html")
    tables = [parquet.read_table(path).to_pylist() for path in sorted((run / "completions").iterdir())]
    logged = [row for table in tables for row in table]
    groups = rollouts_of(tmp_path / "r.html")
    assert [len(texts["rollouts"]) for _, texts in groups] == [8] * 12
    shown = [(group, texts, i) for group, texts in groups for i in range(8)]
    for row, (group, texts, i) in zip(logged, shown, strict=True):
        assert (group["step"], group["trajectory"], group["kept"]) == (row["step"], row["trajectory_id"], row["kept"])
        assert group["reward"][i] == pytest.approx(row["reward"], abs=1e-4)
        assert group["advantage"][i] == pytest.approx(row["advantage"], abs=1e-4)
        assert (texts["prompt"], texts["expert"]) == (row["prompt"], row["expert_action"])
        rollout = texts["rollouts"][i]
        if group["error"][i]:
            assert rollout["completion"] == row["completion"][0]["content"]
        else:
            assert (rollout["thought"], rollout["action"]) == (row["thought"], row["action"])
            assert group["reward"][i] == pytest.approx(ratio(rollout["action"], texts["expert"]), abs=1e-4)
    assert data_of(tmp_path / "r.html")["runs"][0]["n_rollouts"] == len(logged)


def test_curves_facts_and_the_command_to_repeat_a_run(tmp_path):
    runs = [write_run(tmp_path / name / "srl run", seed=seed) for name, seed in (("a", 1), ("b", 2))]
    write_report(runs, tmp_path / "r.html")
    data = data_of(tmp_path / "r.html")
    first = data["runs"][0]
    assert [run["name"] for run in data["runs"]] == ["a/srl run", "b/srl run"]
    assert first["series"]["eval_reward"] == {"step": [0, 3], "value": [0.25, 0.75]}
    assert first["held_out"] == {
        "best_step": 3,
        "means": {"reward": [0.25, 0.75], "steps equal to the expert's": [0.125, 0.5]},
        "n_rows": None,
    }
    assert first["repeat"] == f"srl train '{runs[0]}/config.toml' --output-dir runs/again"
    assert first["started_by"] == "srl train 'a b.toml'"
    assert first["facts"]["git_commit"] == "c0ffee"
    assert "seed = 1\n" in first["config"]
    assert data["problems"] == data["differences"] == []
    assert data["live"] is None


def test_no_text_of_a_run_becomes_part_of_the_page(tmp_path):
    run = write_run(tmp_path / "<img src=x>", spice=ATTACK)
    (run / "config.toml").write_text((run / "config.toml").read_text() + f"\n# {ATTACK}\n")
    write_report([run], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<img" not in page
    assert "window.hacked" not in page.replace("\\u003cscript>window.hacked", "").replace("onerror='window.hacked", "")
    assert page.count("</script>") == page.count("<script") == 3 + len(chunks_of(tmp_path / "r.html"))
    assert ATTACK in rollouts_of(tmp_path / "r.html")[0][1]["prompt"][0]["content"]
    assert ATTACK in data_of(tmp_path / "r.html")["runs"][0]["config"]


def test_the_page_names_no_other_place(tmp_path):
    write_report([write_run(tmp_path / "run")], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert set(re.findall(r'\b(?:src|href)="([^#"]*)', page)) == {"", "data:,"}
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert "connect-src" not in page
    assert "'unsafe-inline'; img-src" in page  # of styles, not of scripts: those have hashes


def test_latex_is_shown_as_the_reward_compares_it(tmp_path):
    write_report([write_run(tmp_path / "run", reward=Reward(elements="latex"))], tmp_path / "r.html")
    _, texts = rollouts_of(tmp_path / "r.html")[0]
    assert texts["expert_compared"] == one_spelling(texts["expert"])
    assert texts["rollouts"][0]["action_compared"] == one_spelling(texts["rollouts"][0]["action"])
    assert data_of(tmp_path / "r.html")["runs"][0]["elements"] == "latex"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_advantages(path):
    parquet.write_table(parquet.read_table(path).drop_columns("advantage"), path)


def remove_tables(folder):
    for path in folder.iterdir():
        path.unlink()


DAMAGES = {
    "no run.json": ("run.json", lambda path: path.unlink(), "no run.json", 12),
    "half of run.json": ("run.json", cut, "run.json is damaged", 12),
    "run.json is a list": ("run.json", lambda path: path.write_text("[]"), "run.json holds no object", 12),
    "no config.toml": ("config.toml", lambda path: path.unlink(), "no config.toml", 12),
    "half of config.toml": ("config.toml", lambda path: path.write_text("stage = "), "config.toml is damaged", 12),
    "bytes in config.toml": ("config.toml", lambda path: path.write_bytes(b"\xff"), "config.toml is damaged", 12),
    "another recipe": ("config.toml", lambda path: path.write_text("a = 1"), "no recipe of this version", 12),
    "no metrics": ("metrics.jsonl", lambda path: path.unlink(), "no metrics.jsonl", 12),
    "empty metrics": ("metrics.jsonl", lambda path: path.write_text(""), "no lines yet", 12),
    "noise in metrics": ("metrics.jsonl", lambda path: path.write_text('{"step": 1}\n{"\n7\n'), "2 of 3 lines", 12),
    "half a table": ("completions/completions_00002.parquet", cut, "completions_00002.parquet: damaged", 8),
    "a column less": ("completions/completions_00002.parquet", without_advantages, "no column advantage", 8),
    "no tables": ("completions", remove_tables, "no rollouts were kept", None),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_said_and_the_rest_shown(tmp_path, name):
    path, damage, message, n_groups = DAMAGES[name]
    run = write_run(tmp_path / "run")
    damage(run / path)
    write_report([run], tmp_path / "r.html")
    assert message in problems_of(tmp_path / "r.html")
    if n_groups:
        assert len(rollouts_of(tmp_path / "r.html")) == n_groups
    else:
        assert data_of(tmp_path / "r.html")["runs"][0]["index"] is None


def test_a_run_that_goes_on_may_be_in_the_middle_of_a_line(tmp_path):
    run = write_run(tmp_path / "run", finished=False, n_steps=2)
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 3, "los')
    write_report([run], tmp_path / "r.html")
    assert problems_of(tmp_path / "r.html") == "run: not finished; the last logged step is 2 of 2"


def test_runs_that_do_not_compare_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", reward=Reward(copy_penalty=0.5))]
    write_report(runs, tmp_path / "r.html")
    assert data_of(tmp_path / "r.html")["differences"] == [
        "These runs are paid by different rewards, so their rewards need not compare: a | b"
    ]


def test_only_a_report_is_overwritten_and_only_runs_are_reported(tmp_path):
    run, empty = write_run(tmp_path / "run"), tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "other.html").write_text("<!doctype html>\n<p>mine</p>")
    (tmp_path / "full_files").mkdir()
    (tmp_path / "full_files/notes.txt").write_text("mine")
    for folders, out, message in (
        ([empty], "r.html", "neither a run folder"),
        ([run, tmp_path / "none"], "r.html", "no such folder"),
        ([], "r.html", "give the run folders"),
        ([run], "other.html", "is no report of srl"),
        ([run], "empty", "found a folder"),
        ([run], "full.html", "holds other things"),
    ):
        with pytest.raises(UserError, match=message):
            write_report(folders, tmp_path / out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full_files", "other.html", "run"]
    write_report([run], tmp_path / "r.html")
    write_report([run, run], tmp_path / "r.html")
    assert len(data_of(tmp_path / "r.html")["runs"]) == 1


def test_a_reader_never_meets_half_a_page(tmp_path):
    run, out = write_run(tmp_path / "run", n_steps=1), tmp_path / "r.html"
    write_report([run], out)
    writing = threading.Thread(target=lambda: [write_report([run], out) for _ in range(20)])
    writing.start()
    n_read = 0
    while writing.is_alive():
        assert out.read_text().endswith("</html>\n")
        n_read += 1
    assert n_read > 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "run"]


@pytest.mark.slow
def test_twenty_thousand_rollouts_fit_into_one_file(tmp_path):
    run = write_run(tmp_path / "run", n_steps=10, n_groups=250, n_words=60)
    write_report([run], tmp_path / "r.html")
    data = data_of(tmp_path / "r.html")
    assert data["runs"][0]["n_rollouts"] == 20_000
    assert (tmp_path / "r.html").stat().st_size < MAX_PAGE_BYTES
    assert not (tmp_path / "r_files").exists()


def test_what_does_not_fit_lies_beside_the_page_and_is_cleared_away_later(tmp_path, monkeypatch):
    big, small = write_run(tmp_path / "big", n_words=40), write_run(tmp_path / "small", n_steps=1, n_groups=1)
    out = tmp_path / "r.html"
    write_report([big], out)
    whole = rollouts_of(out)
    monkeypatch.setattr(report_page, "MAX_PAGE_BYTES", out.stat().st_size - 1000)
    write_report([big], out)
    assert rollouts_of(out) == whole
    assert data_of(out)["beside"] == "r_files"
    assert len(list((tmp_path / "r_files").iterdir())) == 3  # a chunk per step
    write_report([small], out)
    assert data_of(out)["beside"] is None
    assert not (tmp_path / "r_files").exists()


def test_a_watched_page_follows_a_run_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "SECONDS_BETWEEN_LOOKS", 0.05)
    run, out = write_run(tmp_path / "run", n_steps=2, finished=False), tmp_path / "r.html"
    watching = threading.Thread(target=write_report, args=([run], out), kwargs={"watch": True})
    watching.start()
    wait_until(lambda: out.exists() and data_of(out)["live"])
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 3, "reward_before_filtering": 0.5}\n')
    wait_until(lambda: data_of(out)["runs"][0]["last_step"] == 3)
    assert watching.is_alive()
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"finished_steps": 3}))
    watching.join(10)
    assert not watching.is_alive()
    assert data_of(out)["live"] is None
    assert data_of(out)["problems"] == []


def wait_until(condition):
    for _ in range(400):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("waited for 8 seconds")


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(0.5, (0.4, 0.6)), (0.8, (0.7, 0.9))], 1),
        ([(0.5, (0.4, 0.6)), (0.65, (0.55, 0.75))], None),
        ([(0.5, (0.4, 0.6))], None),
        ([(0.9, (0.85, 0.95)), (0.5, (0.4, 0.6)), (0.8, (0.7, 0.85))], None),
    ],
)
def test_the_best_is_marked_only_where_intervals_are_apart(tmp_path, scores, best):
    folders = [write_evaluation(tmp_path / str(i), *score) for i, score in enumerate(scores)]
    table = results_table([read_evaluation(folder, folder.name) for folder in folders])
    assert [row["best"] for row in table["rows"]] == [best]
    assert [cell["score"] for cell in table["rows"][0]["cells"]] == [score for score, _ in scores]


def test_evaluations_on_other_problems_stand_apart(tmp_path):
    folders = [write_evaluation(tmp_path / name, sha=name * 64) for name in "ab"]
    (tmp_path / "c").mkdir()
    (tmp_path / "c/evaluation.json").write_text("{}")
    write_report([*folders, tmp_path / "c", write_run(tmp_path / "run")], tmp_path / "r.html")
    data = data_of(tmp_path / "r.html")
    assert [[cell is None for cell in row["cells"]] for row in data["results"]["rows"]] == [
        [False, True, True],
        [True, False, True],
    ]
    assert "different problems" in data["results"]["notes"][0]
    assert "c: the evaluation has not finished" in problems_of(tmp_path / "r.html")


def test_labels_are_as_short_as_they_can_be(tmp_path):
    assert labels([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert labels([tmp_path / "x/a/run", tmp_path / "y/a/run", tmp_path / "z"]) == ["x/a/run", "y/a/run", "z"]


HOSTILE_METRICS = {
    "an integer of 400 digits": '{"step": 2, "loss": ' + "9" * 400 + "}",
    "a step of 400 digits": '{"step": ' + "9" * 400 + "}",
    "text where a number should be": '{"step": 2, "eval_reward": "high", "train_runtime": [1]}',
    "a lone surrogate": '{"step": 2, "loss": "\\ud800"}',
    "100,000 brackets": '{"step": 2, "loss": ' + "[" * 100_000 + "]" * 100_000 + "}",
}


@pytest.mark.parametrize("name", HOSTILE_METRICS)
def test_a_hostile_line_is_counted_and_the_rest_shown(tmp_path, name):
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(HOSTILE_METRICS[name] + "\n")
    write_report([run], tmp_path / "r.html")
    assert "metrics.jsonl: 1 of " in problems_of(tmp_path / "r.html")
    assert data_of(tmp_path / "r.html")["runs"][0]["series"]


HOSTILE_VALUES = {
    "an integer of 400 digits": "9" * 400,
    "a lone surrogate": '"\\ud800"',
    "NaN": "NaN",
    "nesting": "[" * 300 + "]" * 300,
    "100,000 brackets": "[" * 100_000 + "]" * 100_000,
    "text": '"</script>"',
}


@pytest.mark.parametrize("name", HOSTILE_VALUES)
@pytest.mark.parametrize("key", ["started", "command", "versions"])
def test_hostile_facts_do_not_stop_a_report(tmp_path, name, key):
    run = write_run(tmp_path / "run")
    (run / "run.json").write_text(f'{{"{key}": {HOSTILE_VALUES[name]}}}')
    write_report([run], tmp_path / "r.html")
    assert len(rollouts_of(tmp_path / "r.html")) == 12


@pytest.mark.parametrize("name", HOSTILE_VALUES)
@pytest.mark.parametrize("key", ["score", "interval", "truncated", "benchmark"])
def test_hostile_evaluations_do_not_stop_a_report(tmp_path, name, key):
    folder, good = write_evaluation(tmp_path / "bad"), write_evaluation(tmp_path / "good")
    results = json.loads((folder / "results.json").read_text())
    results["columns"][0][key] = "@"
    (folder / "results.json").write_text(json.dumps(results).replace('"@"', HOSTILE_VALUES[name]))
    write_report([folder, good], tmp_path / "r.html")
    assert any(row["cells"][1] for row in data_of(tmp_path / "r.html")["results"]["rows"])


@pytest.mark.parametrize(
    ("column", "value"), [("advantage", "high"), ("step", "two"), ("completion", 7), ("reward", [1])]
)
def test_a_column_of_another_type_leaves_out_its_file_only(tmp_path, column, value):
    run = write_run(tmp_path / "run")
    path = run / "completions/completions_00002.parquet"
    table = parquet.read_table(path)
    rows = [{**row, column: value} for row in table.to_pylist()]
    parquet.write_table(type(table).from_pylist(rows), path)
    write_report([run], tmp_path / "r.html")
    assert len(rollouts_of(tmp_path / "r.html")) in (8, 12)
    assert data_of(tmp_path / "r.html")
