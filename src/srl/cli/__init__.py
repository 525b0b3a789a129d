"""The command line: a file per command, each a thin call into one module; `srl --help` lists them.

Heavy imports (torch, trl) stand inside the commands that need them, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path
from typing import Annotated, TextIO

import tyro
from pydantic import ValidationError

from srl import __version__
from srl.cli.compare import Compare
from srl.cli.doctor import Doctor
from srl.cli.evaluate import Evaluate
from srl.cli.experiment import Demo, ExperimentCommand, Tiny
from srl.cli.export import ExportVerl
from srl.cli.plan import Plan
from srl.cli.profile import Profile
from srl.cli.report import ReportCommand
from srl.cli.reproduce import Reproduce
from srl.cli.rewrite import Rewrite
from srl.cli.sample import Sample
from srl.cli.start import Start
from srl.cli.steps import Steps
from srl.cli.swe import Swe
from srl.cli.train import Train
from srl.cli.warm_up import WarmUp
from srl.errors import UserError, disk_fault
from srl.runs.recipe import Recipe, read_recipe
from srl.runs.toml import explain

Command = (
    Annotated[Start, tyro.conf.subcommand("start")]
    | Annotated[Steps, tyro.conf.subcommand("steps")]
    | Annotated[Rewrite, tyro.conf.subcommand("rewrite")]
    | Annotated[Profile, tyro.conf.subcommand("profile")]
    | Annotated[WarmUp, tyro.conf.subcommand("warm-up")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[ExportVerl, tyro.conf.subcommand("export")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Swe, tyro.conf.subcommand("swe")]
    | Annotated[ReportCommand, tyro.conf.subcommand("report")]
    | Annotated[ExperimentCommand, tyro.conf.subcommand("experiment")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Tiny, tyro.conf.subcommand("tiny")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


WITH_RECIPE: dict[tuple[str, ...], type] = {
    ("train",): Train,
    ("warm-up",): WarmUp,
    ("plan",): Plan,
    ("export", "verl"): ExportVerl,
}
"""Commands whose flags override the values of the recipe that follows them."""


READER_GONE = 141
"""The exit code where nobody reads on (`srl steps … | head`), as shells give it after SIGPIPE."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `srl`. A `UserError` is one line on standard error and exit code 2."""
    try:
        _main(sys.argv[1:] if arguments is None else arguments)
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if stream and _reader_is_gone(stream)]
        if not closed:  # another pipe
            raise
        for stream in closed:  # what is still in its buffer goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(READER_GONE)


def _reader_is_gone(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))


def _main(arguments: list[str]) -> None:
    try:
        try:
            if arguments == ["--version"]:
                print(f"srl {__version__}")
            else:
                run_command(arguments)
        finally:
            if sys.stdout:
                sys.stdout.flush()  # here rather than when Python ends, which would complain
    except UserError as error:
        print(f"srl: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if (fault := disk_fault(error)) is None:
            raise
        print(f"srl: {fault}{_remedy(arguments)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"srl: stopped{_remedy(arguments)}", file=sys.stderr)
        sys.exit(130)


def run_command(arguments: list[str]) -> None:
    """Run one command, given what follows `srl`.

    Raises:
        UserError: as the command.
    """
    _parsed(arguments).run()


def _parsed(arguments: list[str]) -> Command:
    """The command that is meant. Where a recipe comes first, flags override its keys.

    Raises:
        UserError: no such recipe; a value that does not fit the others.
    """
    words = next((words for words in WITH_RECIPE if tuple(arguments[: len(words)]) == words), ())
    name, further = f"srl {' '.join(words)}", arguments[len(words) :]
    if words and further and not further[0].startswith("-"):
        default = WITH_RECIPE[words](recipe=read_recipe(Path(further[0])))
        try:
            return tyro.cli(WITH_RECIPE[words], args=further[1:], default=default, prog=f"{name} RECIPE")
        except ValidationError as error:
            raise UserError(f"{further[0]} with these flags: {explain(Recipe, error)}") from None
    if len(words) > 1:  # to tyro a subcommand is one word
        return tyro.cli(WITH_RECIPE[words], args=further, prog=name)
    about = f"Supervised Reinforcement Learning: teach a small model to reason from expert steps (srl {__version__})."
    return tyro.cli(Command, args=arguments, prog="srl", description=about)


def _remedy(arguments: list[str]) -> str:
    """How to go on with a command that was cut short, for those that can."""
    if arguments[:1] in (["start"], ["experiment"], ["demo"], ["reproduce"]):
        return "; the same command goes on"
    goes_on = arguments[:1] in (["train"], ["evaluate"], ["swe"], ["profile"])
    return "; the same command with --resume goes on" if goes_on else ""
