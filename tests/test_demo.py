"""The README's first command, whole: SRL teaches what SFT and RLVR do not, from the same solutions and tokens."""

import json

import pytest

from srl.cli import main


@pytest.mark.slow
def test_the_demo_learns_and_ends_with_a_table_and_a_page(tmp_path, capsys):
    main(["demo", "--out", str(tmp_path / "demo")])
    arms = json.loads((tmp_path / "demo/results.json").read_text())["arms"]
    assert list(arms) == ["base", "sft", "rlvr", "srl", "srl-rlvr"]
    # The study has seeds and intervals (experiments/2026-11-22-paper-tiny); this is far below what it found.
    assert arms["base"]["greedy"]["mean"] < 0.03
    assert arms["srl"]["exact_steps"][0] > arms["base"]["exact_steps"][0] + 0.15
    assert arms["srl"]["stepwise"]["mean"] > arms["base"]["stepwise"]["mean"] + 0.1
    assert all(arm["tokens"] < 1.5e6 for arm in arms.values())
    assert "rollouts" in (tmp_path / "demo/report.html").read_text()
    assert "SRL → RLVR" in capsys.readouterr().out
