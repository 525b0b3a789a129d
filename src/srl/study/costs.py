"""`srl reproduce --dry-run`: every command, where it runs and what it takes there, by the arithmetic of `srl plan`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from srl.evaluation.benchmarks import load_benchmark, read_benchmark
from srl.files import suffix_of
from srl.runs.recipe import Recipe
from srl.study.reproduce import Command, Reproduction, commands, read_reproduction

AT_ONCE = 256
"""Answers that an evaluation is taken to sample at a time."""
PROMPT_TOKENS = 200
"""Of a problem, with the system prompt."""


def print_costs(path: Path, out: Path, *, arms: tuple[str, ...] = ()) -> None:
    """Print the commands as a shell script, each below what it takes.

    Raises:
        UserError: a wrong file, an unknown arm, a recipe that `srl plan` refuses.
    """
    from srl.training.machines import cpu_flops, duration
    from srl.training.plan import gpu_named

    table = read_reproduction(path)
    gpu_named(table.gpu, table.gpus if table.gpu else 1)
    total = of_gpus = 0.0
    flops = 0.0 if table.gpu else cpu_flops()
    for command in commands(table, out, arms):
        said, seconds = _takes(command, table, flops)
        print(f"\n# {'done: ' if command.done else ''}{said}\n{'# ' if command.done else ''}{command.text}")
        if not command.done:
            total += seconds
            of_gpus += seconds * (table.gpus if command.recipe else 1)
    print(f"\n# one after another: {duration(total)}", end="")
    print(f", {of_gpus / 3600:,.3g} hours of a GPU; dropped groups and held-out rows come on top" if table.gpu else "")


def _takes(command: Command, table: Reproduction, flops: float) -> tuple[str, float]:
    """In words, and in seconds."""
    from srl.training.forecast import forecast
    from srl.training.machines import duration
    from srl.training.plan import gpu_named, summary, taken

    if command.recipe:
        recipe, gpu = command.recipe, gpu_named(table.gpu, table.gpus if table.gpu else 1)
        found = forecast(recipe, recipe.plan.completion_tokens, gpu, table.gpus)
        return summary(found, table.gpu, table.gpus), found.steps * sum(taken(found).seconds)
    if not command.answers:
        return "any CPU, seconds", 0.0
    n_answers = answers(table)
    seconds = _seconds_of_answers(table, n_answers, flops)
    where = f"1 × {table.gpu}" if table.gpu else "this machine's CPU"
    return f"{where}: {n_answers:,} answers of {table.answer_tokens} tokens in {duration(seconds)}", seconds


@cache
def _problems(name: str) -> tuple[int, bool]:
    """How many there are, and whether they are read greedily only."""
    if suffix_of(Path(name)) or Path(name).is_dir():
        loaded = load_benchmark(name)
        return len(loaded.questions), loaded.benchmark.greedy_only
    benchmark = read_benchmark(name)
    return benchmark.problems or len(load_benchmark(name).questions), benchmark.greedy_only


def answers(table: Reproduction) -> int:
    """How often a model is asked in one evaluation."""
    found = map(_problems, table.benchmarks.split(","))
    return sum(n * (1 + (0 if greedy_only else table.samples)) for n, greedy_only in found)


def _seconds_of_answers(table: Reproduction, n_answers: int, flops: float) -> float:
    """Of one evaluation."""
    from srl.training.machines import GPUS, seconds_of_sampling
    from srl.training.sizes import model_size

    size, _ = model_size(Recipe.model_validate(_asks(table)))
    if table.gpu is None:
        return 4 * size.matrix_weights * n_answers * (PROMPT_TOKENS + table.answer_tokens) / flops
    waves = -(-n_answers // AT_ONCE)
    rows = min(n_answers, AT_ONCE)
    return waves * seconds_of_sampling(rows, PROMPT_TOKENS, table.answer_tokens, size, GPUS[table.gpu])


def _asks(table: Reproduction) -> dict[str, object]:
    return {"stage": "rlvr", "output_dir": "", "model": {"model_name_or_path": table.base}, "data": {"path": ""}}
