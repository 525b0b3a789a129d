"""The official `swebench` package (5.0.2): its harness where there is a container engine, its grading of our logs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from srl.errors import UserError
from srl.evaluation.swe.instances import Instance
from srl.evaluation.swe.predictions import Prediction

LOG_PARSER = "parse_log_pytest_v2"


def run_harness(source: str, dataset: str, workers: int) -> None:
    """`swebench eval` on a predictions file, or on each of a folder; it prints and writes its own reports.

    Args:
        source: A folder of `srl swe predict`, a predictions file, or `gold`.
        dataset: As `swebench` names it: verified, lite, a data set of the Hub, a local file.
        workers: Containers at a time.

    Raises:
        UserError: swebench or a container engine is not there, or the harness fails.
    """
    if not shutil.which("swebench"):
        raise UserError("--harness swebench: the official harness is not installed here (pip install swebench==5.0.2)")
    if not _engine_answers():
        raise UserError(
            "--harness swebench: no container engine answers (docker info fails); start one, or grade local instances "
            "with --harness local"
        )
    folder = Path(source)
    files = sorted(folder.glob("predictions*.jsonl")) if folder.is_dir() else [folder]
    if not files:
        raise UserError(
            f"{source}: no predictions in it; expected a folder of `srl swe predict`, or a predictions file"
        )
    for file in files:
        patches = ["--gold"] if source == "gold" else ["--predictions", str(file)]
        run_id = "gold" if source == "gold" else f"{file.resolve().parent.name}-{file.stem}"
        command = ["swebench", "eval", dataset, *patches, "--run-id", run_id, "--workers", str(workers)]
        ended = subprocess.run(command, check=False)
        if ended.returncode:
            raise UserError(f"{' '.join(command)} ended with {ended.returncode}")


def _engine_answers() -> bool:
    docker = shutil.which("docker")
    return bool(docker) and subprocess.run([str(docker), "info"], capture_output=True, check=False).returncode == 0


def official_verdict(instance: Instance, prediction: Prediction, log: Path) -> bool:
    """Whether swebench's own grading code calls an instance resolved by a log of ours.

    Raises:
        UserError: swebench is not installed.
    """
    try:
        from swebench.harness.grading import get_eval_report
    except ImportError:
        raise UserError(f"swebench is not installed for {sys.executable} (pip install swebench==5.0.2)") from None
    spec = SimpleNamespace(
        instance_id=instance.id,
        repo=instance.repo,
        log_parser=LOG_PARSER,
        eval_type="pass_and_fail",
        FAIL_TO_PASS=list(instance.fail_to_pass),
        PASS_TO_PASS=list(instance.pass_to_pass),
    )
    row = {"instance_id": instance.id, "model_name_or_path": "", "model_patch": prediction.patch}
    return bool(get_eval_report(spec, row, str(log), include_tests_status=False)[instance.id]["resolved"])
