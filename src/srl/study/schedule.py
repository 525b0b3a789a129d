"""All jobs of an experiment, several at a time. What has ended is not done again: the same command goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from threading import Thread

from srl.errors import UserError
from srl.files import LOCK, clear_folder, locked, write_text
from srl.runs.environment import environment
from srl.runs.progress import Progress
from srl.runs.toml import from_values
from srl.study.domain import write_problems
from srl.study.experiment import Experiment, read_experiment
from srl.study.jobs import Job, SeedGroup, TrainingJob, is_done
from srl.study.material import asked_as_trained, check_material


def run_experiment(path: Path, out: Path, *, n_seeds: int, n_jobs: int | None, overwrite: bool = False) -> Experiment:
    """Run an experiment, or go on with it; `n_jobs` of None is one per core for the tiny domain, else one.

    Raises:
        UserError: a wrong experiment file; `out` is something else, or belongs to another experiment.
    """
    experiment = asked_as_trained(read_experiment(path))
    n_cores = os.cpu_count() or 1
    n_jobs = n_jobs or (n_cores if experiment.domain else 1)
    with locked(out):
        open_experiment(experiment, out, overwrite=overwrite)
        if experiment.domain:
            os.environ["OMP_NUM_THREADS"] = "1"  # the tiny model gains nothing from threads; processes lose by them
        else:
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, n_cores // n_jobs)))
        run_jobs(plan_jobs(experiment, out, n_seeds), n_jobs)
    return experiment


def run_jobs(jobs: Mapping[Path, Job], n_jobs: int) -> None:
    """Do what is not yet done of these jobs, by their folders, in this order and `n_jobs` at a time."""
    for group in {job.group.folder: job.group for job in jobs.values() if isinstance(job, TrainingJob)}.values():
        group.prepare()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_jobs, mp_context=spawn, initializer=_end_with_parent) as pool:
        _work(pool, jobs, n_jobs)


def plan_jobs(experiment: Experiment, out: Path, n_seeds: int) -> dict[Path, Job]:
    """All that is to be done, by its folder: arm after arm, and before each job what it needs."""
    jobs: dict[Path, Job] = {}

    def add(job: Job) -> None:
        for needed in job.needs:
            add(needed)
        jobs.setdefault(job.folder, job)

    for arm in experiment.arms.values():
        for seed in range(min(n_seeds, arm.seeds or n_seeds)):
            for job in SeedGroup(experiment, out, seed).jobs(arm.stages):
                add(job)
    return jobs


def open_experiment(experiment: Experiment, out: Path, *, overwrite: bool = False) -> None:
    """Start `out`, or make sure that it belongs to the same experiment."""
    record = out / "experiment.json"
    digests = check_material(experiment)
    if record.is_file() and overwrite:
        clear_folder(out)
    elif record.is_file():
        _refuse_another(experiment, digests, record)
    elif out.exists() and any(path.name != LOCK for path in out.iterdir()):
        raise UserError(f"{out}: expected an empty folder or an experiment, found other files; choose another --out")
    (out / "problems").mkdir(parents=True, exist_ok=True)
    if not record.is_file():
        facts = {"experiment": experiment.model_dump(mode="json"), "digests": digests, **environment()}
        write_text(record, json.dumps(facts, indent=2) + "\n")
    if experiment.domain:
        write_problems(out / "problems", experiment.domain)


def _refuse_another(experiment: Experiment, digests: dict[str, str], record: Path) -> None:
    """What version 0.1 began has neither digests nor the keys whose defaults say what it did."""
    facts = json.loads(record.read_text())
    before = from_values(Experiment, facts["experiment"], f"{record}, perhaps of another version of srl")
    if before != experiment:
        raise UserError(f"{record.parent}: holds another experiment, or another version of it; choose another --out")
    changed = [name for name, digest in facts.get("digests", digests).items() if digests.get(name) != digest]
    if changed:
        raise UserError(f"{', '.join(changed)}: changed since {record.parent} was begun; choose another --out")


def _end_with_parent() -> None:
    """A killed experiment must not leave runs behind that go on writing."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _work(pool: ProcessPoolExecutor, jobs: Mapping[Path, Job], n_jobs: int) -> None:
    """Do what is not yet done, each job when all it needs has ended; a line as each ends."""
    waiting = {folder: job for folder, job in jobs.items() if not is_done(job)}
    running: dict[Future[str], Job] = {}
    n_missing = len(waiting)
    with Progress("run", n_missing) as progress:
        while waiting or running:
            ready = [job for job in waiting.values() if all(map(is_done, job.needs))]
            for job in ready[: n_jobs - len(running)]:
                running[pool.submit(job.work)] = waiting.pop(job.folder)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, said = running.pop(future).name, future.result()
                progress.line(f"{name}: {said}")
            n_done = n_missing - len(waiting) - len(running)
            progress.update(n_done, ", ".join(job.name for job in running.values()))
