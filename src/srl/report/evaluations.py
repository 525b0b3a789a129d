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


class Row(NamedTuple):
    """What scores in one row have in common."""

    benchmark: str
    column: str
    problems: str
    """Their digest."""
    asked: str


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

    Only answers to the same problems, asked by the same protocol and token limit, share a row. The best score is marked
    only where its interval lies above all others': stricter than a paired test, and safe to read off a table.
    """
    rows: dict[Row, list[dict[str, Any] | None]] = {}
    for place, evaluation in enumerate(evaluations):
        for column in evaluation.results.get("columns", ()):
            config = evaluation.results["config"]
            problems = config["benchmarks"][column["benchmark"]]["sha256"]
            row = Row(column["benchmark"], column["column"], problems, _asked(config))
            cells = rows.setdefault(row, [None] * len(evaluations))
            cells[place] = {key: column[key] for key in ("score", "interval", "truncated", "problems")}
            if not all(isinstance(number, int | float) for number in (column["score"], *column["interval"])):
                raise TypeError(f"{column['score']}, {column['interval']}")
    return {
        "names": [evaluation.name for evaluation in evaluations],
        "models": [evaluation.results.get("config", {}).get("model") for evaluation in evaluations],
        "rows": [
            {"benchmark": row.benchmark, "column": row.column, "asked": row.asked, "cells": cells, "best": _best(cells)}
            for row, cells in rows.items()
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


def _asked(config: dict[str, Any]) -> str:
    """How answers were asked for; scores under another protocol or limit are no comparison."""
    unit = " a step" if config.get("protocol") == "stepwise" else ""
    asked = [config.get("protocol"), f"{config['max_tokens']} tokens{unit}" if "max_tokens" in config else None]
    return ", ".join(text for text in asked if text)


def _notes(rows: Sequence[Row]) -> list[str]:
    """Why scores of one benchmark and column are not in one row."""
    ways: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        ways.setdefault((row.benchmark, row.column), []).append(row)
    return [
        f"{benchmark} {column}: the evaluations had different "
        + " and ".join(
            what
            for what, values in {
                "problems": {row.problems for row in several},
                "protocols or token limits": {row.asked for row in several},
            }.items()
            if len(values) > 1
        )
        + "; they are in separate rows"
        for (benchmark, column), several in ways.items()
        if len(several) > 1
    ]
