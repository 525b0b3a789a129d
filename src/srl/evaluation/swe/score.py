"""`srl swe grade`: run the tests of every prediction, and say how many instances are resolved and how sure that is.

gradings.jsonl   one line per prediction, written when its tests have ended; a run that was stopped goes on here
logs/            what pytest printed, in the form that swebench's own grading code reads
results.json     the numbers, in the form of `srl evaluate`: `srl compare` and `srl report` read them
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter

from srl.engines.asking import append, read_journal
from srl.errors import UserError
from srl.evaluation.config import EvaluationConfig, read_config
from srl.evaluation.results import Results, column_of, interval, percent, power_line, save_results
from srl.evaluation.samples import Mode, Tally
from srl.evaluation.swe.grading import Grading, grade, in_parallel
from srl.evaluation.swe.instances import Instance, load_instances
from srl.evaluation.swe.official import official_verdict
from srl.evaluation.swe.predict import instance_facts, open_predictions, read_done
from srl.evaluation.swe.predictions import Prediction, PredictionKey, empty, gold, read_predictions, trajectory_path
from srl.files import locked, write_text
from srl.rewards.sandbox.walls import Limits, Sandbox
from srl.runs.progress import Progress


@dataclass(frozen=True, slots=True)
class GradedLine:
    """A line of gradings.jsonl, whose keys these are."""

    instance_id: str
    mode: Mode
    index: int
    resolved: bool
    reason: str
    fail_to_pass: tuple[str, ...]
    """The tests that should pass now and do not."""
    pass_to_pass: tuple[str, ...]
    """The tests that should still pass and do not."""

    @classmethod
    def of(cls, grading: Grading) -> GradedLine:
        """What is kept of a grading."""
        one = grading.prediction
        broken = (grading.fail_to_pass, grading.pass_to_pass)
        return cls(one.instance_id, one.mode, one.index, grading.resolved, grading.reason, *broken)


Graded = dict[PredictionKey, GradedLine]


def score(
    source: str,
    instances_path: Path,
    out: Path | None,
    sandbox: Sandbox,
    *,
    limits: Limits = Limits(),  # noqa: B008
    workers: int = 1,
    check_with_swebench: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> Results:
    """Grade a folder of `srl swe predict`, a predictions file, or the patches called `gold` and `empty`.

    Raises:
        UserError: no predictions there, or of other instances; sources or output folder not as they must be.
    """
    instances = load_instances(instances_path)
    known = {instance.id: instance for instance in instances}
    folder, predictions = open_scores(source, instances_path, instances, out, resume=resume, overwrite=overwrite)
    with locked(folder):
        graded = read_gradings(folder) if resume else start_gradings(folder, overwrite=overwrite)
        missing = [prediction for key, prediction in predictions.items() if key not in graded]
        with Progress("predictions", len(predictions), len(graded)) as progress:
            if graded:
                progress.line(f"{len(graded)} of {len(predictions)} predictions are there already")

            def task(prediction: Prediction) -> Grading:
                return grade(sandbox, known[prediction.instance_id], prediction, instances_path, limits)

            for grading in in_parallel(task, missing, workers):
                line = GradedLine.of(grading)
                write_log(folder, grading)
                append(folder / "gradings.jsonl", [asdict(line)])
                graded[grading.prediction.key] = line
                progress.update(len(graded), f"{sum(one.resolved for one in graded.values())} resolved")
        write_verdicts(folder, predictions, graded)
        results = write_scores(folder, instances, predictions, graded)
    if check_with_swebench:
        print_agreement(folder, known, predictions, graded)
    return results


def open_scores(
    source: str, path: Path, instances: Sequence[Instance], out: Path | None, *, resume: bool, overwrite: bool
) -> tuple[Path, dict[PredictionKey, Prediction]]:
    """The folder to write, and the predictions by name."""
    if (folder := Path(source)).is_dir():
        if out:
            raise UserError(f"{source}: the scores of a folder of `srl swe predict` stay in it; leave --out away")
        record = folder / "evaluation.json"
        if not record.is_file():
            raise UserError(f"{record}: no such file; expected a folder of `srl swe predict`, or a predictions file")
        (asked,) = read_config(record).benchmarks.values()
        if asked.sha256 != instance_facts(path, instances[: asked.problems]).sha256:
            raise UserError(f"{source}: its predictions are for {asked.source} as it was, not for {path}")
        return folder, read_done(folder)
    if source in ("gold", "empty"):
        model, predictions = source, (gold if source == "gold" else empty)(instances)
    else:
        model, predictions = read_predictions(Path(source), instances)
    if out is None:
        raise UserError(f"give --out FOLDER for the scores of {source}")
    config = EvaluationConfig(
        model=model,
        weights=None,
        samples=0,
        greedy=True,
        temperature=0.0,
        protocol="predictions",
        max_tokens=0,
        max_steps=0,
        system_prompt="",
        seed=0,
        engine="none",
        batch_size=0,
        benchmarks={path.stem: instance_facts(path, instances)},
    )
    open_predictions(out, config, resume=resume, overwrite=overwrite)
    return out, {prediction.key: prediction for prediction in predictions}


def start_gradings(folder: Path, *, overwrite: bool) -> Graded:
    """No gradings yet.

    Raises:
        UserError: there are some, and `overwrite` is False.
    """
    path = folder / "gradings.jsonl"
    if path.exists() and not overwrite:
        raise UserError(f"{path}: there already; --resume goes on from there, --overwrite grades again")
    path.unlink(missing_ok=True)
    return {}


def read_gradings(folder: Path) -> Graded:
    """What is graded already, without the line that a kill cut short.

    Raises:
        UserError: a damaged line.
    """
    path = folder / "gradings.jsonl"
    read = TypeAdapter(GradedLine).validate_python
    try:
        lines = [read(line) for line in read_journal(path, repair=True)]
    except ValueError:
        raise UserError(f"{path}: damaged; --overwrite grades again") from None
    return {(line.instance_id, line.mode, line.index): line for line in lines}


def log_path(folder: Path, prediction: Prediction) -> Path:
    """Where the log of a prediction's tests is."""
    return folder / "logs" / f"{prediction.instance_id}.{prediction.mode}-{prediction.index}.txt"


def write_log(folder: Path, grading: Grading) -> None:
    """Keep what the tests printed."""
    path = log_path(folder, grading.prediction)
    path.parent.mkdir(exist_ok=True)
    path.write_text(grading.log, encoding="utf-8", errors="replace")


def write_verdicts(folder: Path, predictions: Mapping[PredictionKey, Prediction], graded: Graded) -> None:
    """Note in the runs of agents whether they resolved their instance: `srl steps` leaves out those that did not."""
    for key, line in graded.items():
        path = trajectory_path(folder, predictions[key])
        if path.is_file():
            run = json.loads(path.read_text(encoding="utf-8"))
            run["info"]["resolved"] = line.resolved
            write_text(path, json.dumps(run, indent=1) + "\n")


def write_scores(
    folder: Path,
    instances: Sequence[Instance],
    predictions: Mapping[PredictionKey, Prediction],
    graded: Graded,
) -> Results:
    """Compute, write and print the results."""
    ((name, asked),) = read_config(folder / "evaluation.json").benchmarks.items()
    wanted = [instance.id for instance in instances][: asked.problems]
    columns = []
    for mode in get_args(Mode):
        tallies = tallies_of(folder, mode, wanted, predictions, graded)
        if any(tallies):
            columns.append(column_of(name, mode, tallies))
    results = save_results(folder, columns)
    print_scores(results, Counter(line.reason for line in graded.values()))
    print(f"wrote {folder}/; next: srl compare {folder} OTHER-EVALUATION …")
    return results


def tallies_of(
    folder: Path, mode: Mode, wanted: Sequence[str], predictions: Mapping[PredictionKey, Prediction], graded: Graded
) -> list[list[Tally]]:
    """The samples of a mode, by instance; one without any counts as not resolved.

    Raises:
        UserError: instances with different numbers of samples.
    """
    found: dict[str, list[Tally]] = {identity: [] for identity in wanted}
    for key, prediction in predictions.items():
        if prediction.mode == mode:
            found[prediction.instance_id].append(_tally(prediction, graded[key]))
    counts = {len(samples) for samples in found.values()}
    if len(counts - {0}) > 1:
        raise UserError(f"{folder}: instances have different numbers of samples; finish the predictions first")
    if len(counts) == 2:
        absent = [identity for identity, samples in found.items() if not samples]
        print(f"{len(absent)} of {len(wanted)} instances have no prediction and count as not resolved")
        none = Tally(correct=False, truncated=False, boxed=False, failed=False, tokens=None)
        found |= {identity: [none] * max(counts) for identity in absent}
    return list(found.values())


def _tally(prediction: Prediction, line: GradedLine) -> Tally:
    truncated, limited = prediction.end == "truncated", line.reason.startswith("ended")
    return Tally(line.resolved, truncated, bool(prediction.patch), limited, prediction.tokens)


def print_agreement(
    folder: Path,
    instances: Mapping[str, Instance],
    predictions: Mapping[PredictionKey, Prediction],
    graded: Graded,
) -> None:
    """What swebench's own grading code says of the logs."""
    differing = [
        prediction.instance_id
        for key, prediction in predictions.items()
        if official_verdict(instances[prediction.instance_id], prediction, log_path(folder, prediction))
        != graded[key].resolved
    ]
    print(f"swebench's grading code agrees on {len(predictions) - len(differing)} of {len(predictions)} logs")
    for identity in differing:
        print(f"  not on {identity}")


def print_scores(results: Results, reasons: Mapping[str, int]) -> None:
    """The table, why what is not resolved is not, and what cannot be seen."""
    from rich.console import Console
    from rich.table import Table

    config = results.config
    table = Table(title=f"{config.model}: {config.protocol}", title_justify="left")
    for name in ("instances", "column", "resolved", "95% interval", "no patch", "truncated", "tokens", "pass@k"):
        table.add_column(name, justify="left" if name in ("instances", "column", "pass@k") else "right")
    for item in results.columns:
        table.add_row(
            f"{item.benchmark} ({item.problems})",
            item.column,
            percent(item.score),
            interval(item.interval),
            percent(item.unboxed),
            percent(item.truncated),
            "–" if item.mean_tokens is None else f"{item.mean_tokens:.0f}",
            ", ".join(f"@{k} {percent(share)}" for k, share in item.pass_at.items()),
        )
    Console(width=None if Console().is_terminal else 120).print(table)
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
        print(f"{count:6}  {reason}")
    for item in results.columns:
        print(power_line(item))
