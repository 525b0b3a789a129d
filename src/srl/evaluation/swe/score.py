"""`srl swe grade`: run the tests of every prediction, and say how many instances are resolved and how sure that is.

gradings.jsonl   one line per prediction, written when its tests have ended; a run that was stopped goes on here
logs/            what pytest printed, in the form that swebench's own grading code reads
results.json     the numbers, in the form of `srl evaluate`: `srl compare` and `srl report` read them
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srl.errors import UserError
from srl.evaluation.results import SCHEMA, Tally, column, interval, percent, power_line
from srl.evaluation.statistics import mean_of_columns
from srl.evaluation.swe.grading import Grading, grade, in_parallel
from srl.evaluation.swe.instances import Instance, load_instances
from srl.evaluation.swe.official import official_verdict
from srl.evaluation.swe.predict import instance_facts, open_predictions, read_done
from srl.evaluation.swe.predictions import Mode, Prediction, empty, gold, read_predictions
from srl.evaluation.swe.progress import Counting
from srl.evaluation.swe.sandbox import Limits, Sandbox
from srl.files import write_text

Key = tuple[str, Mode, int]
GRADED_FIELDS = ("resolved", "reason", "fail_to_pass", "pass_to_pass")


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
) -> dict[str, Any]:
    """Grade a folder of `srl swe predict`, a predictions file, or the patches called `gold` and `empty`.

    Raises:
        UserError: no predictions there, or of other instances; sources or output folder not as they must be.
    """
    instances = load_instances(instances_path)
    folder, predictions = open_scores(source, instances_path, instances, out, resume=resume, overwrite=overwrite)
    known = {instance.id: instance for instance in instances}
    graded = read_gradings(folder) if resume else start_gradings(folder, overwrite=overwrite)
    missing = [prediction for key, prediction in predictions.items() if key not in graded]
    with Counting("predictions", len(predictions), len(graded)) as counting:

        def task(prediction: Prediction) -> Grading:
            return grade(sandbox, known[prediction.instance_id], prediction, instances_path, limits)

        for grading in in_parallel(task, missing, workers):
            line = grading_line(grading)
            write_log(folder, grading)
            with (folder / "gradings.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")
            graded[grading.prediction.key] = line
            counting.one_more(f"{sum(line['resolved'] for line in graded.values())} resolved")
    results = write_scores(folder, instances, predictions, graded)
    if check_with_swebench:
        print_agreement(folder, known, predictions, graded)
    return results


def open_scores(
    source: str, path: Path, instances: Sequence[Instance], out: Path | None, *, resume: bool, overwrite: bool
) -> tuple[Path, dict[Key, Prediction]]:
    """The folder to write, and the predictions by name."""
    facts = instance_facts(path, instances)
    if (folder := Path(source)).is_dir():
        if out:
            raise UserError(f"{source}: the scores of a folder of `srl swe predict` stay in it; leave --out away")
        record = folder / "evaluation.json"
        if not record.is_file():
            raise UserError(f"{record}: no such file; expected a folder of `srl swe predict`, or a predictions file")
        config = json.loads(record.read_text())["config"]
        asked = next(iter(config["benchmarks"].values()))
        if asked["sha256"] != facts["sha256"] and asked["problems"] > len(instances):
            raise UserError(f"{source}: its predictions are for {asked['source']}, not for {path}")
        done = read_done(folder)
        if unknown := {p.instance_id for p in done.values()} - {instance.id for instance in instances}:
            raise UserError(f"{source}: {min(unknown)} is not among the instances of {path}")
        return folder, done
    if source in ("gold", "empty"):
        model, predictions = source, (gold if source == "gold" else empty)(instances)
    else:
        model, predictions = read_predictions(Path(source), instances)
    if out is None:
        raise UserError(f"give --out FOLDER for the scores of {source}")
    absent = ("engine", "max_tokens", "system_prompt", "temperature", "seed")
    config = {"model": model, "protocol": "predictions", **dict.fromkeys(absent), "benchmarks": {path.stem: facts}}
    open_predictions(out, config, resume=resume, overwrite=overwrite)
    return out, {prediction.key: prediction for prediction in predictions}


def start_gradings(folder: Path, *, overwrite: bool) -> dict[Key, dict[str, Any]]:
    """No gradings yet.

    Raises:
        UserError: there are some, and `overwrite` is False.
    """
    path = folder / "gradings.jsonl"
    if path.exists() and not overwrite:
        raise UserError(f"{path}: there already; --resume goes on from there, --overwrite grades again")
    path.unlink(missing_ok=True)
    return {}


def read_gradings(folder: Path) -> dict[Key, dict[str, Any]]:
    """What is graded already; takes off the line that a kill cut short."""
    path = folder / "gradings.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    write_text(path, whole)
    lines = [json.loads(line) for line in whole.splitlines()]
    return {(line["instance_id"], line["mode"], line["index"]): line for line in lines}


def grading_line(grading: Grading) -> dict[str, Any]:
    """A line of gradings.jsonl; `fail_to_pass` and `pass_to_pass` are the tests that should pass and do not."""
    prediction = grading.prediction
    name = {"instance_id": prediction.instance_id, "mode": prediction.mode, "index": prediction.index}
    return name | {field: getattr(grading, field) for field in GRADED_FIELDS}


def log_path(folder: Path, prediction: Prediction) -> Path:
    """Where the log of a prediction's tests is."""
    return folder / "logs" / f"{prediction.instance_id}.{prediction.mode}-{prediction.index}.txt"


def write_log(folder: Path, grading: Grading) -> None:
    """Keep what the tests printed."""
    path = log_path(folder, grading.prediction)
    path.parent.mkdir(exist_ok=True)
    path.write_text(grading.log, encoding="utf-8", errors="replace")


def write_scores(
    folder: Path,
    instances: Sequence[Instance],
    predictions: Mapping[Key, Prediction],
    graded: Mapping[Key, dict[str, Any]],
) -> dict[str, Any]:
    """Compute, write and print the results. An instance without a prediction is not resolved.

    Raises:
        UserError: instances with different numbers of samples.
    """
    record = json.loads((folder / "evaluation.json").read_text())
    asked = record["config"]["benchmarks"]
    (name,) = asked
    columns = []
    for mode in ("greedy", "sampled"):
        tallies: dict[str, list[Tally]] = {}
        for key, prediction in predictions.items():
            if prediction.mode == mode:
                tallies.setdefault(prediction.instance_id, []).append(_tally(prediction, graded[key]))
        if not tallies:
            continue
        longest = max(map(len, tallies.values()))
        wanted = [instance.id for instance in instances][: asked[name]["problems"]]
        absent = [identity for identity in wanted if identity not in tallies]
        if absent:
            print(f"{len(absent)} of {len(wanted)} instances have no prediction and count as not resolved")
        if any(len(samples) != longest for samples in tallies.values()):
            raise UserError(f"{folder}: instances have different numbers of samples; finish the predictions first")
        none = [Tally(correct=False, truncated=False, boxed=False, failed=False, tokens=None)] * longest
        columns.append(column(name, mode, [tallies.get(identity, none) for identity in wanted]))
    average = mean_of_columns([[item["scores"] for item in columns]])
    results = {
        "schema": SCHEMA,
        **record,
        "columns": columns,
        "average": {"columns": len(columns), "score": average.value, "interval": [average.low, average.high]},
        "reasons": dict(Counter(line["reason"] for line in graded.values()).most_common()),
    }
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    print_scores(results)
    print(f"wrote {folder}/; next: srl compare {folder} OTHER-EVALUATION …")
    return results


def _tally(prediction: Prediction, line: Mapping[str, Any]) -> Tally:
    truncated, limited = prediction.end == "truncated", line["reason"].startswith("ended")
    return Tally(line["resolved"], truncated, bool(prediction.patch), limited, prediction.tokens)


def print_agreement(
    folder: Path,
    instances: Mapping[str, Instance],
    predictions: Mapping[Key, Prediction],
    graded: Mapping[Key, dict[str, Any]],
) -> None:
    """What swebench's own grading code says of the logs."""
    differing = [
        prediction.instance_id
        for key, prediction in predictions.items()
        if official_verdict(instances[prediction.instance_id], prediction, log_path(folder, prediction))
        != graded[key]["resolved"]
    ]
    print(f"swebench's grading code agrees on {len(predictions) - len(differing)} of {len(predictions)} logs")
    for identity in differing:
        print(f"  not on {identity}")


def print_scores(results: Mapping[str, Any]) -> None:
    """The table, why what is not resolved is not, and what cannot be seen."""
    from rich.console import Console
    from rich.table import Table

    config = results["config"]
    table = Table(title=f"{config['model']}: {config['protocol']}", title_justify="left")
    for name in ("instances", "column", "resolved", "95% interval", "no patch", "truncated", "tokens", "pass@k"):
        table.add_column(name, justify="left" if name in ("instances", "column", "pass@k") else "right")
    for item in results["columns"]:
        table.add_row(
            f"{item['benchmark']} ({item['problems']})",
            item["column"],
            percent(item["score"]),
            interval(item["interval"]),
            percent(item["unboxed"]),
            percent(item["truncated"]),
            "–" if item["mean_tokens"] is None else f"{item['mean_tokens']:.0f}",
            ", ".join(f"@{k} {percent(share)}" for k, share in item["pass_at"].items()),
        )
    Console(width=None if Console().is_terminal else 120).print(table)
    for reason, count in results["reasons"].items():
        print(f"{count:6}  {reason}")
    for item in results["columns"]:
        print(power_line(item))
