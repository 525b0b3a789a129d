"""`srl evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from srl.cli.text_or_file import text_or_file
from srl.evaluation.config import EvaluationOptions


@dataclass(frozen=True)
class Evaluate:
    """Score a model on mathematical benchmarks, with intervals; every sample is kept."""

    source: tyro.conf.Positional[str]
    """A run folder, a model folder, a Hub id, or the URL of a server that speaks OpenAI's API."""
    benchmarks: str = "aime24,aime25,amc23,minerva"
    """Names (also math500, gsm8k), .toml files, files of problems (.jsonl, …) or folders of srl steps, whose held-out
    problems are asked; separated by commas."""
    limit: int | None = None
    """Only the first so many problems of each, as `gsm8k[:50]` in every table; no score to compare with others'."""
    out: Path | None = None
    """The folder to write. Default: runs/NAME-eval."""
    model: str | None = None
    """The model's name at the server."""
    benchmark_file: tuple[str, ...] = ()
    """name=path: use a local file instead of the data set on the Hub."""
    concurrency: int = 16
    """Number of concurrent requests to a server."""
    request_seconds: float = 600.0
    """Limit of one request to a server, waiting in its queue included."""
    resume: bool = False
    """Continue a stopped evaluation; only missing samples are asked for."""
    overwrite: bool = False
    """Delete an earlier evaluation in the same folder."""
    options: Annotated[EvaluationOptions, tyro.conf.arg(name="")] = field(default_factory=EvaluationOptions)

    def run(self) -> None:
        """Evaluate."""
        from srl.evaluation.evaluate import evaluate

        evaluate(
            self.source,
            self.out,
            self.benchmarks,
            replace(self.options, system_prompt=text_or_file(self.options.system_prompt)),
            model=self.model,
            benchmark_files=self.benchmark_file,
            limit=self.limit,
            concurrency=self.concurrency,
            request_seconds=self.request_seconds,
            resume=self.resume,
            overwrite=self.overwrite,
        )
