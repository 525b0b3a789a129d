"""The short form of benchmarks/kills.py: training killed at random moments, resumed, and compared number by number."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_runs_end_as_if_they_had_not_been(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks/kills.py"
    command = [sys.executable, str(script), "--kills", "6", "--seed", "7", "--out", str(tmp_path / "runs")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 equal" in done.stdout
