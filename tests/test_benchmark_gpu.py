"""benchmarks/gpu.py still runs, on whatever device there is, at tiny shapes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/gpu.py"


@pytest.mark.slow
def test_every_section_prints_its_table(tmp_path):
    raw = tmp_path / "raw.json"
    command = [sys.executable, SCRIPT, "--tiny", "--json", raw]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for section in ("exact", "attention", "passes", "sampling", "step"):
        assert f"\n({section}: " in done.stdout
    found = json.loads(raw.read_text())
    assert {"device", "date", "versions"} <= found.keys()
    assert not [entry for entry in found["measured"] if "problem" in entry]
    exact = [entry for entry in found["measured"] if entry["section"] == "exact" and "logps" in entry]
    assert len(exact) == 6
    for entry in exact:
        assert 0 < entry["logps"] < (1e-5 if entry["what"][1] == "float32" else 1e-2)
        assert entry["gradients"] < (1e-5 if entry["what"][1] == "float32" else 2e-2)
    assert sum("tokens_per_second" in entry for entry in found["measured"]) == 6
    (step,) = [entry for entry in found["measured"] if entry["section"] == "step"]
    assert step["rounds"] < 2


@pytest.mark.slow
def test_sections_are_chosen_by_name(tmp_path):
    wrong = subprocess.run([sys.executable, SCRIPT, "speed"], capture_output=True, text=True, cwd=tmp_path)
    assert wrong.returncode == 2
    assert "invalid choice: 'speed'" in wrong.stderr
