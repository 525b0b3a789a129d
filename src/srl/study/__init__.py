"""`srl experiment`: arms trained under one protocol, compared on problems that none of them saw; the demo is one."""

from __future__ import annotations

from pathlib import Path


def conduct(path: Path, out: Path, *, n_seeds: int, n_jobs: int | None, overwrite: bool = False) -> None:
    """Run, or go on with, an experiment; then write its table, its picture, and a page on the runs of the first seed.

    Raises:
        UserError: a wrong experiment file; `out` is something else, or belongs to another experiment.
    """
    from srl.report.page import write_report
    from srl.study.results import write_experiment_results
    from srl.study.schedule import run_experiment

    plan = run_experiment(path, out, n_seeds=n_seeds, n_jobs=n_jobs, overwrite=overwrite)
    write_experiment_results(plan, out)
    ended = [folder for folder in sorted((out / "seed-0").iterdir()) if (folder / "done.json").is_file()]
    runs = [folder / "run" for folder in ended if (folder / "run").is_dir()]  # RFT may find nothing to train on
    tests = sorted((out / "seed-0").glob("*/test-answer*"))
    write_report([*runs, *tests], out / "report.html")
