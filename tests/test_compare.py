"""Comparing evaluations, and the paper's tables."""

import json
import math

import pytest

from srl.errors import UserError
from srl.evaluation.compare import compare, read_paper
from srl.evaluation.results import write_results
from srl.evaluation.samples import Tally
from srl.runs.environment import environment

BENCHMARKS = {"amc23": 40, "aime24": 30, "aime25": 30, "minerva": 272}


def evaluation(folder, right, samples=32, **config):
    """A finished evaluation in which the first `right[benchmark]` problems are solved, greedily and sampled."""
    facts = {"scorer": "math-verify", "unscorable": {}}
    config = {
        "model": folder.name,
        "weights": None,
        "samples": samples,
        "greedy": True,
        "max_steps": 30,
        "batch_size": 32,
        "protocol": "answer",
        "engine": "vllm",
        "max_tokens": 2048,
        "system_prompt": "s",
        "temperature": 1.0,
        "seed": 0,
        "benchmarks": {n: facts | {"title": n, "source": n, "problems": BENCHMARKS[n], "sha256": n} for n in right},
    } | config
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps({"config": config, **environment()}))
    tallies = {}
    for name, n_right in right.items():
        for problem in range(BENCHMARKS[name]):
            tally = Tally(problem < n_right, truncated=False, boxed=True, failed=False, tokens=7)
            tallies[name, str(problem), "greedy", 0] = tally
            for index in range(samples if name != "minerva" else 0):
                tallies[name, str(problem), "sampled", index] = tally
    write_results(folder, tallies)
    return folder


@pytest.fixture
def two(tmp_path, capsys):
    base = evaluation(tmp_path / "base", {"amc23": 20, "aime24": 3, "aime25": 3, "minerva": 92})
    srl = evaluation(tmp_path / "srl", {"amc23": 28, "aime24": 5, "aime25": 3, "minerva": 99})
    capsys.readouterr()
    return base, srl


def rows(text, start):
    """The cells of the table rows that begin with `start`."""
    return [
        [cell.strip() for cell in line.strip("│ ").split("│")]
        for line in text.splitlines()
        if line.startswith(f"│ {start}")
    ]


def test_differences_are_paired_and_small_ones_not_significant(two, capsys):
    compare(two)
    shown = capsys.readouterr().out
    (aime,) = rows(shown, "aime24 greedy (30)")
    assert (aime[1], aime[3], aime[4], aime[5]) == ("+6.7", "2 / 0", "0.50", "20.0")
    (amc,) = rows(shown, "amc23 greedy (40)")
    assert (amc[1], amc[3], amc[4]) == ("+20.0", "8 / 0", "0.01")
    (same,) = rows(shown, "aime25 greedy (30)")
    assert (same[1], same[2], same[3]) == ("+0.0", "[-11.6, 11.6]", "0 / 0")
    average = rows(shown, "average of 7")[0]
    assert average[1].startswith(f"{100 * (20 / 40 * 2 + 3 / 30 * 4 + 92 / 272) / 7:.1f} [")


def test_other_problems_are_not_compared(two, tmp_path):
    other = evaluation(tmp_path / "other", {"aime24": 3})
    results = json.loads((other / "results.json").read_text())
    results["config"]["benchmarks"]["aime24"]["sha256"] = "another copy"
    (other / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match="aime24: base has it from aime24 and other from aime24, and the problems"):
        compare([two[0], other])


def test_another_protocol_is_said(two, tmp_path, capsys):
    other = evaluation(tmp_path / "other", {"aime24": 3}, protocol="stepwise")
    compare([two[0], other])
    shown = capsys.readouterr().out
    assert "note: protocol is 'answer' in base and 'stepwise' in other" in shown
    assert rows(shown, "amc23 greedy")[0][2] == "–"
    assert "average of 2" in shown  # of the columns that both have


def test_what_agents_were_given_otherwise_is_said(tmp_path, capsys):
    one, other = (
        evaluation(tmp_path / context, {"aime24": 3}, protocol="agent", context=context)
        for context in ("paper", "full")
    )
    compare([one, other])
    assert "note: context is 'paper' in paper and 'full' in full" in capsys.readouterr().out


def test_folders_without_results(two, tmp_path):
    (tmp_path / "results.json").write_text('{"schema": 0}')
    for folders, message in [
        ([two[0]], "at least two folders"),
        ([two[0], tmp_path / "none"], "expected the folder of srl evaluate"),
        ([two[0], tmp_path], "schema 0, this version of srl reads 1"),
    ]:
        with pytest.raises(UserError, match=message):
            compare(folders)
    (two[1] / "results.json").unlink()
    with pytest.raises(UserError, match="has not finished"):
        compare(two)


def test_the_papers_averages_follow_from_its_rows_but_for_one():
    table = [row for rows in read_paper()["tables"].values() for row in rows]
    off = {
        n: round(sum(cells) / 7, 1) for n, *cells, mean in table if not math.isclose(sum(cells) / 7, mean, abs_tol=0.11)
    }
    assert len(table) == 14
    assert off == {"SRL": 26.9}


def test_ours_beside_the_papers(two, capsys):
    compare([two[0]], paper=True)
    shown = capsys.readouterr().out
    assert rows(shown, "SRL  ")[0][-1] == "27.6*"
    assert "its own seven numbers give 26.9" in shown
    assert rows(shown, "base  ")[-1][1:] == ["50.0", "50.0", "10.0", "10.0", "10.0", "10.0", "33.8", "24.8"]


@pytest.mark.slow
def test_plots(two, tmp_path):
    for name in ("p.svg", "p.png"):
        compare(two, plot=tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5_000
    svg = (tmp_path / "p.svg").read_bytes()
    compare(two, plot=tmp_path / "p.svg")
    assert (tmp_path / "p.svg").read_bytes() == svg
    with pytest.raises(UserError, match=r"expected a file that ends in \.svg"):
        compare(two, plot=tmp_path / "p.gif")
