"""`srl swe instances`, `srl swe predict`, `srl swe grade`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from srl.cli.text_or_file import text_or_file
from srl.errors import UserError
from srl.evaluation.swe.options import PredictOptions


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class MakeInstances:
    """Make local instances: small packages of PyPI with one bug each, verified by their own tests."""

    out: tyro.conf.Positional[Path]
    """The folder to write: instances.jsonl, and the packages in sources/."""
    count: int = 60
    """How many, spread over the packages."""
    seed: int = 0
    """The same seed gives the same instances."""
    sdists: Path | None = None
    """A folder with the source distributions, where there is no network."""
    workers: int = field(default_factory=_cores)
    """Packages at a time."""
    allow_unsandboxed: bool = False
    """Run code without a sandbox where this machine offers none."""
    resume: bool = False
    """Go on with a folder that was not finished."""
    overwrite: bool = False
    """Delete earlier instances in the same folder."""

    def run(self) -> None:
        """Make them."""
        from srl.evaluation.swe.local import make_instances
        from srl.rewards.sandbox.walls import open_sandbox

        if self.count < 1 or self.workers < 1:
            raise UserError("--count and --workers must be 1 or more")
        rows = make_instances(
            self.out,
            open_sandbox(allow_unsandboxed=self.allow_unsandboxed),
            count=self.count,
            seed=self.seed,
            sdists=self.sdists,
            workers=self.workers,
            resume=self.resume,
            overwrite=self.overwrite,
        )
        print(f"wrote {self.out}/ with {len(rows)} instances; next: srl swe predict MODEL --instances {self.out}")


@dataclass(frozen=True)
class Predict:
    """Ask a model for patches, and write them as the official harness reads them."""

    source: tyro.conf.Positional[str]
    """A run folder, a model folder, a Hub id, or the URL of a server that speaks OpenAI's API."""
    instances: Path
    """A folder of `srl swe instances`, or a parquet, JSONL or JSON file of SWE-bench, SWE-bench Pro or SWE-smith."""
    out: Path | None = None
    """The folder to write; runs/NAME-swe if it is not given."""
    clones: Path | None = None
    """Local clones of the repositories, as owner__name, owner/name or name. Local instances need none."""
    limit: int | None = None
    """Only the first so many instances."""
    model: str | None = None
    """The model's name at the server."""
    concurrency: int = 16
    """Requests to a server at a time."""
    request_seconds: float = 600.0
    """Limit of one request to a server, waiting in its queue included."""
    allow_unsandboxed: bool = False
    """Run an agent's commands without a sandbox where this machine offers none."""
    resume: bool = False
    """Go on with a run that was stopped: only what is missing is asked."""
    overwrite: bool = False
    """Delete an earlier run in the same folder."""
    options: Annotated[PredictOptions, tyro.conf.arg(name="")] = field(default_factory=PredictOptions)

    def run(self) -> None:
        """Ask."""
        from srl.evaluation.swe.predict import predict

        predict(
            self.source,
            self.instances,
            self.out,
            replace(self.options, system_prompt=text_or_file(self.options.system_prompt)),
            model=self.model,
            clones=self.clones,
            limit=self.limit,
            concurrency=self.concurrency,
            request_seconds=self.request_seconds,
            allow_unsandboxed=self.allow_unsandboxed,
            resume=self.resume,
            overwrite=self.overwrite,
        )


@dataclass(frozen=True)
class Grade:
    """Run the tests of predictions in a sandbox: resolve rate with its interval. Or call the official harness."""

    source: tyro.conf.Positional[str]
    """A folder of `srl swe predict`, a predictions file, or the word gold (the known fixes) or empty (no change)."""
    instances: Path
    """What was predicted for; with --harness swebench the name that swebench has for it: verified, lite, a file."""
    harness: Literal["local", "swebench"] = "local"
    """local: the sandbox of this machine; swebench: the official harness and its containers."""
    out: Path | None = None
    """The folder to write; a folder of `srl swe predict` keeps its own."""
    seconds: float = 180
    """Limit of the tests of one prediction."""
    workers: int = field(default_factory=_cores)
    """Predictions at a time."""
    check_with_swebench: bool = False
    """Also let the grading code of the installed swebench read the logs, and say where it disagrees."""
    allow_unsandboxed: bool = False
    """Run patches without a sandbox where this machine offers none."""
    resume: bool = False
    """Go on with grading that was stopped."""
    overwrite: bool = False
    """Grade again, or delete earlier scores in the same folder."""

    def run(self) -> None:
        """Grade."""
        if self.workers < 1 or self.seconds <= 0:
            raise UserError("--workers must be 1 or more, --seconds above 0")
        if self.harness == "swebench":
            from srl.evaluation.swe.official import run_harness

            run_harness(self.source, str(self.instances), self.workers)
            return
        from srl.evaluation.swe.score import score
        from srl.rewards.sandbox.walls import Limits, open_sandbox

        score(
            self.source,
            self.instances,
            self.out,
            open_sandbox(allow_unsandboxed=self.allow_unsandboxed),
            limits=Limits(seconds=self.seconds),
            workers=self.workers,
            check_with_swebench=self.check_with_swebench,
            resume=self.resume,
            overwrite=self.overwrite,
        )


SweCommand = (
    Annotated[MakeInstances, tyro.conf.subcommand("instances")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Grade, tyro.conf.subcommand("grade")]
)


@dataclass(frozen=True)
class Swe:
    """Software engineering: instances with tests, patches of a model, and how many issues they resolve."""

    command: Annotated[SweCommand, tyro.conf.arg(name="")]

    def run(self) -> None:
        """Run the command below it."""
        self.command.run()
