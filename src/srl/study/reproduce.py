"""`srl reproduce`: a table of the paper as a list of commands, run one after another, and its numbers beside ours.

Each command is one that a person could type, and what it leaves behind says that it is done: a data folder, a run's
model/, an evaluation's results.json. So the same command goes on after an interruption.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from rich.console import Console
from rich.table import Table

from srl.errors import UserError
from srl.evaluation.compare import read_paper
from srl.evaluation.results import interval, percent, read_results
from srl.runs.folder import RunFolder
from srl.runs.recipe import Recipe, read_recipe
from srl.runs.toml import from_toml, own_or_given


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Table):
    """A row of the table."""

    paper: str = Field("", description="The row of the paper's tables that it stands beside.")
    recipes: tuple[str, ...] = Field((), description="Trained one after another; none: the base itself.")


class Reproduction(_Table):
    """A file of `srl reproduce`."""

    base: str = Field(description="The model that all arms start from.")
    benchmarks: str = Field(description="As `srl evaluate` takes them.")
    benchmark_files: tuple[str, ...] = Field((), description="name=path: local files in place of data sets on the Hub.")
    samples: int = Field(0, ge=0, description="Sampled answers per problem, besides the greedy one.")
    max_tokens: int = Field(ge=1, description="Of an answer.")
    answer_tokens: int = Field(500, ge=1, description="Assumed length of an answer, for --dry-run.")
    gpu: str | None = Field(None, description="The type of GPU that --dry-run counts with; none: this machine's CPU.")
    gpus: int = Field(1, ge=1, description="How many train; one evaluates.")
    data: dict[str, str] = Field({}, description="Data folder -> source and options of `srl steps`.")
    arms: dict[str, Arm] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        rows = [row[0] for rows in read_paper()["tables"].values() for row in rows]
        for name, arm in self.arms.items():
            if arm.paper and arm.paper not in rows:
                raise ValueError(f"arm {name}: the paper has no row {arm.paper!r}; it has {', '.join(rows)}")
        return self


def read_reproduction(path: Path) -> Reproduction:
    """Read a file of `srl reproduce`; a bare name such as `table1` means one that comes with srl.

    Raises:
        UserError: no such file or name, an unknown key or a wrong value; an arm whose recipes are no chain.
    """
    text = own_or_given(path, resources.files("srl") / "builtin" / "tables", "table")
    table = from_toml(Reproduction, text, str(path))
    for name, arm in table.arms.items():
        start = table.base
        for recipe_name in arm.recipes:
            recipe = read_recipe(Path(recipe_name))
            if (found := recipe.model.model_name_or_path) != start:
                raise UserError(f"{path}: arm {name}: {recipe_name} starts from {found}, expected {start}")
            if not recipe.data.path.is_dir() and str(recipe.data.path) not in table.data:
                raise UserError(f"{path}: arm {name}: {recipe_name} trains on {recipe.data.path}, which [data] lacks")
            start = str(recipe.output_dir)
    return table


@dataclass(frozen=True)
class Command:
    """One command of a reproduction."""

    words: tuple[str, ...]
    """From `srl` or `torchrun` on."""
    done: bool
    begun: bool
    """Whether it takes `--resume`."""
    recipe: Recipe | None = None
    """What is trained."""
    answers: bool = False
    """Whether it asks the benchmarks."""

    @property
    def text(self) -> str:
        """As a person types it."""
        return shlex.join((*self.words, *(["--resume"] if self.begun and not self.done else [])))


def commands(table: Reproduction, out: Path, arms: tuple[str, ...] = ()) -> list[Command]:
    """All that there is to do for some arms, or all, in order; each once.

    Raises:
        UserError: no such arm.
    """
    if unknown := [name for name in arms if name not in table.arms]:
        raise UserError(f"no arm {unknown[0]}; there are {', '.join(table.arms)}")
    found: dict[str, Command] = {}
    for name in arms or table.arms:
        recipes = [read_recipe(Path(recipe)) for recipe in table.arms[name].recipes]
        for recipe_name, recipe in zip(table.arms[name].recipes, recipes, strict=True):
            folder = str(recipe.data.path)
            if folder in table.data:
                made = (recipe.data.path / "report.json").is_file()
                words = ("srl", "steps", *shlex.split(table.data[folder]), "--out", folder)
                found.setdefault(folder, Command(words, made, begun=False))
            run = RunFolder(recipe.output_dir)
            launch = ("torchrun", "--nproc_per_node", str(table.gpus), "-m", "srl.cli") if table.gpus > 1 else ("srl",)
            begun = (run.path / "config.toml").is_file()
            found.setdefault(
                str(run.path), Command((*launch, "train", recipe_name), run.model is not None, begun, recipe)
            )
        asked = str(recipes[-1].output_dir) if recipes else table.base
        found[f"evaluate {name}"] = _evaluation(table, asked, out / name)
    return list(found.values())


def _evaluation(table: Reproduction, asked: str, folder: Path) -> Command:
    words = ["srl", "evaluate", asked, "--benchmarks", table.benchmarks, "--greedy"]
    words += ["--samples", str(table.samples)] if table.samples else []
    words += ["--benchmark-file", *table.benchmark_files] if table.benchmark_files else []
    words += ["--max-tokens", str(table.max_tokens), "--out", str(folder)]
    done, begun = (folder / "results.json").is_file(), (folder / "evaluation.json").is_file()
    return Command(tuple(words), done, begun, answers=True)


def run_command(command: Command) -> None:
    """Run one command, in a process of its own.

    Raises:
        UserError: it failed.
    """
    python = (sys.executable, "-m")
    module = (*python, "srl.cli") if command.words[0] == "srl" else (*python, "torch.distributed.run")
    print(f"\n$ {command.text}", flush=True)
    code = subprocess.run([*module, *shlex.split(command.text)[1:]], env=os.environ).returncode
    if code:
        raise UserError(f"`{command.text}` ended with exit code {code}; mend it, then the same srl reproduce goes on")


def results_table(table: Reproduction, out: Path) -> Table:
    """The paper's rows, and below each ours with its intervals, as far as it has been evaluated."""
    paper = read_paper()
    columns = [(item["benchmark"], item["column"]) for item in paper["columns"]]
    rows = {row[0]: row[1:] for rows in paper["tables"].values() for row in rows}
    evaluated = {name: read_results(out / name) for name in table.arms if (out / name / "results.json").is_file()}
    ours = list(dict.fromkeys(column for results in evaluated.values() for column in results.by_name))
    shown = [column for column in columns if column in ours] or ours
    shown += [column for column in ours if column not in shown]
    heads = ("in percent", *("\n".join(column) for column in shown), "average")
    printed = Table(*heads, title="the paper's numbers, and ours with 95% intervals", title_justify="left")
    for name, arm in table.arms.items():
        if arm.paper:
            *numbers, average = rows[arm.paper]
            of_paper = dict(zip(columns, numbers, strict=True))
            cells = [f"{of_paper[column]:.1f}" if column in of_paper else "–" for column in shown]
            printed.add_row(f"{arm.paper} (paper)", *cells, f"{average:.1f}", style="dim")
        if name in evaluated:
            found = evaluated[name].by_name
            cells = [f"{percent(found[c].score)} {interval(found[c].interval)}" if c in found else "–" for c in shown]
            average = evaluated[name].average
            printed.add_row(name, *cells, f"{percent(average.score)} {interval(average.interval)}")
        else:
            printed.add_row(name, *("–" for _ in shown), "–")
        printed.add_section()
    return printed


def reproduce(path: Path, out: Path, *, arms: tuple[str, ...] = ()) -> None:
    """Run what is not done yet, and print the table.

    Raises:
        UserError: a wrong file, an unknown arm, a command that failed.
    """
    table = read_reproduction(path)
    todo = commands(table, out, arms)
    for command in todo:
        if not command.done:
            run_command(command)
    Console(width=None if Console().is_terminal else 200).print(results_table(table, out))
    print(read_paper()["note"])
    base, *others = [str(out / name) for name in table.arms if (out / name / "results.json").is_file()]
    if others:
        print(f"differences, paired by problem: srl compare {base} {' '.join(others)}")
