"""Folders of `srl evaluate` side by side: scores with their 95% intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from srl.evaluation.results import SCHEMA
from srl.report.plain import plain


class Evaluation(NamedTuple):
    """An evaluation folder as far as it could be read: `results` is empty if nothing could."""

    name: str
    results: dict[str, Any]
    problems: list[str]


def is_evaluation(folder: Path) -> bool:
    """Whether `srl evaluate` wrote this folder."""
    return (folder / "results.json").is_file() or (folder / "evaluation.json").is_file()


def read_evaluation(folder: Path, name: str) -> Evaluation:
    """Read results.json, if it is there and whole."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        problem = None if results["schema"] == SCHEMA else f"schema {results['schema']}, this version reads {SCHEMA}"
        if problem is None:
            results = dict(plain(results))
            results_table([Evaluation(name, results, [])])
    except FileNotFoundError:
        problem = "the evaluation has not finished: no results.json"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        problem = "results.json is damaged"
    return Evaluation(name, {}, [problem]) if problem else Evaluation(name, results, [])


def results_table(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Rows of benchmark columns, a cell per evaluation (None where it has none).

    Only answers to the same problems share a row. The best score is marked only where its interval lies above
    all others': stricter than a paired test, and safe to read off a table.
    """
    rows: dict[tuple[str, str, str], list[dict[str, Any] | None]] = {}
    for place, evaluation in enumerate(evaluations):
        for column in evaluation.results.get("columns", ()):
            problems = evaluation.results["config"]["benchmarks"][column["benchmark"]]["sha256"]
            cells = rows.setdefault((column["benchmark"], column["column"], problems), [None] * len(evaluations))
            cells[place] = {key: column[key] for key in ("score", "interval", "truncated", "problems")}
            if not all(isinstance(number, int | float) for number in (column["score"], *column["interval"])):
                raise TypeError(f"{column['score']}, {column['interval']}")
    return {
        "names": [evaluation.name for evaluation in evaluations],
        "models": [evaluation.results.get("config", {}).get("model") for evaluation in evaluations],
        "rows": [
            {"benchmark": benchmark, "column": column, "cells": cells, "best": _best(cells)}
            for (benchmark, column, _), cells in rows.items()
        ],
        "notes": _notes(list(rows)),
    }


def _best(cells: Sequence[dict[str, Any] | None]) -> int | None:
    """Which cell's whole interval lies above all others'."""
    for place, cell in enumerate(cells):
        others = [other for other in (*cells[:place], *cells[place + 1 :]) if other]
        if cell and others and cell["interval"][0] > max(other["interval"][1] for other in others):
            return place
    return None


def _notes(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    by_name: dict[tuple[str, str], int] = {}
    for benchmark, column, _ in rows:
        by_name[benchmark, column] = by_name.get((benchmark, column), 0) + 1
    return [
        f"{benchmark} {column}: the evaluations had different problems; they stand in separate rows"
        for (benchmark, column), count in by_name.items()
        if count > 1
    ]
