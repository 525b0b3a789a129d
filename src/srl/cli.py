"""The command line; `srl --help` lists the commands.

Every command is a thin call into one module. Heavy imports (torch, trl) stand inside the commands that need them,
so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from srl import __version__
from srl.data.folder import rows_file
from srl.data.formats.columns import Columns
from srl.data.formats.cutting import Scheme
from srl.data.formats.written import Annotations
from srl.data.prepare import StepOptions, prepare
from srl.data.show import counting, show_instances
from srl.data.sources import Source
from srl.engines.rewrite import RewriteOptions
from srl.errors import UserError, disk_fault
from srl.evaluation.config import EvaluationOptions
from srl.runs.recipe import Recipe, read_recipe

T = TypeVar("T")


@dataclass(frozen=True)
class Steps:
    """Cut expert trajectories into step instances, and report what was kept and why the rest was not."""

    source: tyro.conf.Positional[str]
    """A file (JSONL, JSON, .traj, parquet, Arrow; also .gz), a folder of them, or the id of a Hub data set."""
    out: Path | None = None
    """The data folder to write, for `data.path` of a recipe."""
    check: bool = False
    """Only read and count; write nothing."""
    format: str = "auto"
    """The format of the rows; by default it is recognised by their fields."""
    problem_field: str | None = None
    """Column of the problem. Guessed for known data sets, as is the solution's."""
    solution_field: str | None = None
    """Column of the written solution."""
    answer_field: str | None = None
    """Column of the known final answer: solutions that miss it are left out. Usual names are found by themselves."""
    correct_field: str | None = None
    """Column that says whether the solution or run is right (true/false, yes/no); usual names likewise."""
    thought_field: str | None = None
    """Column of the thought that came before a written solution; usual names likewise."""
    problems: Path | None = None
    """A file of problems (`id`, problem, maybe answer) to join to the rows by `id`."""
    labels: Path | None = None
    """A file that says which trajectories are right: `resolved_ids`, a list of ids, or ids with true/false."""
    cut: Scheme | None = None
    """How written solutions become steps; default: by their numbers, GSM8K by lines. --check shows what each keeps."""
    annotations: Annotations = "drop"
    """A calculator's notes in a solution (<<48/2=24>>): left out, or the thought of their step."""
    split: str = "train"
    """Of a Hub data set."""
    subset: str | None = None
    """Of a Hub data set: its configuration."""
    revision: str | None = None
    """Of a Hub data set: commit, tag or branch."""
    on_error: Literal["stop", "skip"] = "stop"
    """At a row that cannot be read: stop, or leave it out and count it."""
    overwrite: bool = False
    """Replace a non-empty output folder."""
    show: int = 0
    """Print this many instances as the student sees them."""
    options: Annotated[StepOptions, tyro.conf.arg(name="")] = field(default_factory=StepOptions)

    def run(self) -> None:
        """Write the data folder and print the report."""
        if (self.out is None) != self.check:
            raise UserError("give either --out FOLDER, or --check to write nothing")
        if self.show and self.check:
            raise UserError("--show prints what was written: it needs --out")
        source = Source(
            self.source,
            format=self.format,
            columns=Columns(
                self.problem_field, self.solution_field, self.answer_field, self.correct_field, self.thought_field
            ),
            cut=self.cut,
            annotations=self.annotations,
            problems=self.problems,
            labels=self.labels,
            split=self.split,
            subset=self.subset,
            revision=self.revision,
            on_error=self.on_error,
        )
        options = replace(
            self.options,
            system_prompt=text_or_file(self.options.system_prompt),
            answer_system_prompt=text_or_file(self.options.answer_system_prompt),
        )
        with counting() as watch:
            report = prepare(source, self.out, options, overwrite=self.overwrite, watch=watch)
        print("\n".join(report.lines()))
        if self.out is None:
            return
        if self.show:
            show_instances(rows_file(self.out, "train.steps"), self.show)
        print(f"wrote {self.out}/; next: srl train RECIPE --data.path {self.out}")


@dataclass(frozen=True)
class Rewrite:
    """Let a model behind a server rewrite solutions into numbered, titled steps, as the paper does; see `srl steps`."""

    source: tyro.conf.Positional[Path]
    """A file of problems and solutions (JSONL, JSON, parquet, Arrow)."""
    endpoint: str
    """The URL of a server that speaks OpenAI's API: https://host/v1. Its key is taken from OPENAI_API_KEY."""
    model: str
    """The model's name at the server."""
    out: Path = Path("rewritten")
    """The folder to write; its solutions.jsonl is for `srl steps`."""
    check: bool = False
    """Only say what it would cost; ask nothing, write nothing."""
    price: tuple[float, float] | None = None
    """What a million tokens cost, in and out, in any currency: to be told what the work costs."""
    concurrency: int = 16
    """Requests at a time."""
    request_seconds: float = 600.0
    """Limit of one request, waiting in the server's queue included."""
    resume: bool = False
    """Go on with a rewriting that was stopped: only what is missing is asked."""
    overwrite: bool = False
    """Delete an earlier rewriting in the same folder."""
    options: Annotated[RewriteOptions, tyro.conf.arg(name="")] = field(default_factory=RewriteOptions)

    def run(self) -> None:
        """Rewrite."""
        from srl.engines.rewrite import rewrite

        rewrite(
            self.source,
            self.out,
            self.endpoint,
            self.model,
            self.options,
            price=self.price,
            check=self.check,
            concurrency=self.concurrency,
            request_seconds=self.request_seconds,
            resume=self.resume,
            overwrite=self.overwrite,
        )


@dataclass(frozen=True)
class Train:
    """Train from a recipe: `srl train RECIPE.toml [--section.key value …]`; flags override the file."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    resume: bool = False
    """Go on from the last checkpoint of a run that was stopped."""
    overwrite: bool = False
    """Delete an earlier run in the same folder."""

    def run(self) -> None:
        """Train."""
        from accelerate import PartialState

        from srl.training.train import train

        train(self.recipe, resume=self.resume, overwrite=self.overwrite)
        # Python may end before gloo's threads do, which aborts a process that has done all its work. They end with
        # their group, and that is held by the trainer's model.
        gc.collect()
        PartialState().destroy_process_group()


@dataclass(frozen=True)
class Plan:
    """Say what one step of a recipe will compute, with and without shared prefixes: `srl plan RECIPE.toml`."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    completion_tokens: int = 256
    """Length of a completion, thought included; a guess until there are some."""

    def run(self) -> None:
        """Print the table."""
        from srl.training.forecast import print_forecast

        print_forecast(self.recipe, self.completion_tokens)


@dataclass(frozen=True)
class Sample:
    """Watch a model think and act, step by step, on a problem."""

    model: tyro.conf.Positional[str]
    """A run folder, a model folder or a Hub id."""
    problem: str
    """The problem to solve."""
    max_steps: int = 12
    """Stop after so many steps."""
    max_completion_length: int = 512
    """Tokens per step, thought included."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    seed: int = 0
    system_prompt: str | None = None
    """In place of what the run was trained with, or srl's own; "" leaves the system turn out; `@FILE` reads a file."""
    give_title: bool | None = None
    """Let the model write each step's title first. By default if its run was trained with titles given."""

    def run(self) -> None:
        """Print the steps as they come."""
        from srl.engines.sample import sample

        sample(
            self.model,
            self.problem,
            max_steps=self.max_steps,
            max_completion_length=self.max_completion_length,
            temperature=self.temperature,
            seed=self.seed,
            system_prompt=text_or_file(self.system_prompt),
            give_title=self.give_title,
        )


@dataclass(frozen=True)
class Evaluate:
    """Score a model on mathematical benchmarks, with intervals; every sample is kept."""

    source: tyro.conf.Positional[str]
    """A run folder, a model folder, a Hub id, or the URL of a server that speaks OpenAI's API."""
    benchmarks: str = "aime24,aime25,amc23,minerva"
    """Names (also math500, gsm8k), .toml files or files of problems (.jsonl, …), separated by commas."""
    out: Path | None = None
    """The folder to write; runs/NAME-eval if it is not given."""
    model: str | None = None
    """The model's name at the server."""
    benchmark_file: tuple[str, ...] = ()
    """name=path: local files in place of data sets on the Hub."""
    concurrency: int = 16
    """Requests to a server at a time."""
    request_seconds: float = 600.0
    """Limit of one request to a server, waiting in its queue included."""
    resume: bool = False
    """Go on with an evaluation that was stopped: only what is missing is asked."""
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
            concurrency=self.concurrency,
            request_seconds=self.request_seconds,
            resume=self.resume,
            overwrite=self.overwrite,
        )


@dataclass(frozen=True)
class Compare:
    """Compare evaluations on the same problems: table, paired differences from the first, plot."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of `srl evaluate`; the first is what the others are compared with."""
    plot: Path | None = None
    """Draw the scores with their intervals to this .svg or .png file."""
    paper: bool = False
    """Print the paper's tables beside ours."""

    def run(self) -> None:
        """Print the comparison."""
        from srl.evaluation.compare import compare

        compare(self.folders, plot=self.plot, paper=self.paper)


@dataclass(frozen=True)
class Report:
    """Write one HTML page about runs and evaluations: curves, results, every rollout. Opens offline."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, and folders of `srl evaluate`; also unfinished or damaged ones."""
    out: Path = Path("report.html")
    """The page to write; only an earlier report is overwritten."""
    watch: bool = False
    """Rewrite the page while training goes on; an open page refreshes itself."""

    def run(self) -> None:
        """Write the page."""
        from srl.report.page import write_report

        write_report(self.folders, self.out, watch=self.watch)


@dataclass(frozen=True)
class Experiment:
    """Train all arms of an experiment under one protocol, and compare them on problems that none of them saw."""

    experiment: tyro.conf.Positional[Path]
    """An experiment file (docs/experiments.md), or the name of one of srl's own: paper-tiny, demo."""
    out: Path | None = None
    """The folder for everything; runs/NAME if it is not given. What has ended there is not done again."""
    seeds: int = 5
    jobs: int | None = None
    """Runs at a time. By default one per core with a [domain], else one, which may have a whole GPU."""
    overwrite: bool = False
    """Delete an earlier experiment in the same folder."""

    def run(self) -> None:
        """Run the experiment."""
        from srl.study import conduct

        if self.seeds < 1 or (self.jobs is not None and self.jobs < 1):
            raise UserError("--seeds and --jobs must be 1 or more")
        out = self.out or Path("runs") / self.experiment.stem
        conduct(self.experiment, out, n_seeds=self.seeds, n_jobs=self.jobs, overwrite=self.overwrite)


@dataclass(frozen=True)
class Demo:
    """The experiment `demo`: a tiny base model, then SFT, RLVR, SRL, and SRL with RLVR after it, on a CPU."""

    out: Path = Path("runs/demo")
    """The folder for everything. What has ended there is not done again."""
    seeds: int = 1
    jobs: int | None = None
    """Runs at a time, one core each; by default as many as there are cores."""
    overwrite: bool = False
    """Delete an earlier demo in the same folder."""

    def run(self) -> None:
        """Run the whole demo."""
        Experiment(Path("demo"), self.out, self.seeds, self.jobs, self.overwrite).run()


@dataclass(frozen=True)
class Tiny:
    """Write the embedded tiny Qwen2 model, untrained, to try a recipe or a data set with."""

    out: Path
    """The model folder to write."""
    seed: int = 0

    def run(self) -> None:
        """Write the model folder."""
        from srl.files import new_folder
        from srl.study.tiny import write_model

        with new_folder(self.out) as folder:
            write_model(folder, self.seed)
        print(f"wrote {self.out}/")


@dataclass(frozen=True)
class Doctor:
    """Say what is installed here: versions, similarity implementation, device. For bug reports."""

    def run(self) -> None:
        """Print one fact per line."""
        import platform
        from importlib import metadata, util

        import torch

        from srl.rewards.similarity import implementation
        from srl.runs.environment import versions

        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        facts = {
            "python": platform.python_version(),
            **versions(),
            "vllm": metadata.version("vllm") if util.find_spec("vllm") else "not installed",
            "similarity": implementation(),
            "device": f"{device} × {torch.accelerator.device_count()}" if device else "cpu",
        }
        for name, fact in facts.items():
            print(f"{name:<13} {fact}")


Command = (
    Annotated[Steps, tyro.conf.subcommand("steps")]
    | Annotated[Rewrite, tyro.conf.subcommand("rewrite")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Sample, tyro.conf.subcommand("sample")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Experiment, tyro.conf.subcommand("experiment")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Tiny, tyro.conf.subcommand("tiny")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def text_or_file(given: T) -> T | str:
    """The value of a flag for a text; `@FILE` stands for what the file holds.

    Raises:
        UserError: no such file.
    """
    if not isinstance(given, str) or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{given}: expected a text file after @; {error}") from None


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `srl`. A `UserError` is one line on standard error and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"srl {__version__}")
        return
    try:
        with_recipe = {"train": Train, "plan": Plan}.get(arguments[0]) if arguments else None
        if with_recipe and len(arguments) > 1 and not arguments[1].startswith("-"):
            default = with_recipe(read_recipe(Path(arguments[1])))
            prog = f"srl {arguments[0]} RECIPE"
            command: Command = tyro.cli(with_recipe, args=arguments[2:], default=default, prog=prog)
        else:
            command = tyro.cli(
                Command,
                args=arguments,
                prog="srl",
                description=f"Supervised Reinforcement Learning: teach a small model to reason from expert steps "
                f"(srl {__version__}).",
            )
        command.run()
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


def _remedy(arguments: list[str]) -> str:
    """How to go on with a command that was cut short, for those that can."""
    if arguments[:1] in (["experiment"], ["demo"]):
        return "; the same command goes on"
    return "; the same command with --resume goes on" if arguments[:1] in (["train"], ["evaluate"]) else ""


if __name__ == "__main__":
    main()
