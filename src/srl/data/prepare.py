"""`srl steps`: expert trajectories in, a data folder out, with a report of what was left out and why.

Everything streams: memory holds a few trajectories, and a fingerprint of every one seen.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from srl.chat.prompts import ANSWER_SYSTEM_PROMPT, answer_prompt, format_completion, parse_completion, user_text
from srl.data.decontaminate import BenchmarkProblems
from srl.data.folder import COLUMNS, as_row
from srl.data.sources import Dropped, Found, Item, Source, read_trajectories
from srl.data.steps import Context, Targets, full_solution, is_held_out, step_instances
from srl.errors import UserError
from srl.files import RowWriter, new_folder, write_text
from srl.records import Problem, StepInstance, Trajectory
from srl.rewards.answer_text import known_answer
from srl.rewards.answers import are_correct

CHUNK = 256
"""Written solutions whose answers are checked together: enough to keep all cores busy, few enough to hold."""


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What `srl steps` makes of a trajectory."""

    targets: Targets = "paper"
    """Which steps are asked for: "paper" all but the last, "skip_first" all but the first, "all"."""
    context: Context = "paper"
    """Steps that a prompt shows: "full", or the latest so many; "paper": all in mathematics, 2 for agents."""
    max_observation_chars: int = 10_000
    """Longer observations lose their middle, with a note of how much."""
    give_title: bool = False
    """Show the title of the step that is asked for (footnote 1)."""
    hold_out: float = 0.06
    """Share of the problems that go to validation."""
    seed: int = 0
    keep_wrong: bool = False
    """Keep solutions with a wrong answer, and failed runs."""
    exclude: tuple[Path, ...] = ()
    """Files of benchmark problems: trajectories of the same problems are dropped."""
    tokenizer: str | None = None
    """Report lengths in this model's tokens too (slower)."""
    parquet: bool = False
    """Write parquet instead of JSONL: smaller where prompts are long."""
    system_prompt: str | None = None
    """For step prompts; default: srl's own for mathematics, and for agents. `@FILE` reads a file."""
    answer_system_prompt: str = ANSWER_SYSTEM_PROMPT
    """For whole solutions. `@FILE` reads a file."""


@dataclass
class Report:
    """The counts of one `srl steps`."""

    read: int = 0
    kept: int = 0
    answers_checked: int = 0
    shortened_observations: int = 0
    repeated_problems: int = 0
    without_steps_to_ask: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    """Step instances left out, and thoughts left out of others: no completion can say them and be well formed."""
    instances: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    found: Found = field(default_factory=Found)
    sizes: dict[str, array[int]] = field(default_factory=dict)
    """Of every kept trajectory and step instance: steps, characters, tokens."""

    def size(self, name: str, value: int) -> None:
        """Note one size."""
        self.sizes.setdefault(name, array("q")).append(value)

    def summary(self) -> dict[str, Any]:
        """The report as JSON takes it, sizes by their quantiles."""
        counts = {name: value for name, value in vars(self).items() if name not in ("found", "sizes")}
        return {**counts, **vars(self.found), "sizes": {name: quantiles(values) for name, values in self.sizes.items()}}

    def lines(self) -> list[str]:
        """The report for a person."""
        share = f"{self.kept / self.read:.1%}" if self.read else "none"
        lines = [
            f"read {self.read} trajectories, kept {self.kept} ({share}), {self.answers_checked} with a known answer"
        ]
        for name, count in self.found.formats.most_common():
            lines.append(f"  {count:8d}  as {name} ({self.found.recognised_by[name]})")
        lines += [f"  {count:8d}  left out: {reason}" for reason, count in self.dropped.most_common()]
        if self.repeated_problems:
            lines.append(f"  {self.repeated_problems:8d}  are further trajectories of a problem seen before")
        if self.without_steps_to_ask:
            lines.append(f"  {self.without_steps_to_ask:8d}  have no step that is asked for (--targets)")
        lines += [
            f"  {count:8d}  {what}, which no well-formed completion says" for what, count in self.malformed.items()
        ]
        lines += [f"  no trajectories in {path}: skipped" for path in self.found.skipped_files]
        for name, values in self.sizes.items():
            sizes = quantiles(values)
            lines.append(f"{name}: median {sizes['median']}, 95% up to {sizes['p95']}, longest {sizes['max']}")
        if self.shortened_observations:
            lines.append(f"{self.shortened_observations} observations shortened (--max-observation-chars)")
        for split in ("train", "validation"):
            lines.append(f"{split}: {self.problems[split]} problems, {self.instances[split]} step instances")
        return lines


def quantiles(values: array[int]) -> dict[str, int]:
    """Median, 95th percentile and maximum."""
    ordered = sorted(values)
    return {"median": ordered[len(ordered) // 2], "p95": ordered[len(ordered) * 95 // 100], "max": ordered[-1]}


def prepare(
    source: Source,
    out: Path | None,
    options: StepOptions,
    *,
    overwrite: bool = False,
    watch: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Read trajectories and write the data folder `out`, whole or not at all; with None only read and count.

    `watch` is told the counts after every trajectory.

    Raises:
        UserError: unreadable input, unknown columns, `out` not empty, or nothing left to train on.
    """
    if isinstance(options.context, int) and options.context < 0:
        raise UserError(f"--context {options.context}: expected full, paper or a number of steps from 0")
    report = Report()
    target = new_folder(out, overwrite=overwrite, marker="report.json") if out else nullcontext()
    with target as folder, ExitStack() as files:
        writer = _Writer(folder, options, report, files)
        items = _checked(read_trajectories(source, report.found), keep_wrong=options.keep_wrong)
        for item in _screened(items, report, options.exclude):
            report.read += 1
            writer.write(item)
            watch(report)
        if not report.kept:
            reasons = ", ".join(f"{count} × {reason}" for reason, count in report.dropped.most_common())
            raise UserError(f"{source.path}: none of {report.read} trajectories can be used ({reasons})")
        if folder:
            facts = {**report.summary(), "source": asdict(source), "options": asdict(options)}
            write_text(folder / "report.json", json.dumps(facts, indent=2, default=str) + "\n")
    return report


class _Writer:
    """Turns kept trajectories into rows, and rows into files (or, without a folder, only counts them)."""

    def __init__(self, folder: Path | None, options: StepOptions, report: Report, files: ExitStack) -> None:
        self.options, self.report = options, report
        self.count_tokens = _token_counter(options.tokenizer) if options.tokenizer else None
        suffix = "parquet" if options.parquet else "jsonl"
        self.writers: dict[str, RowWriter] = {}
        if folder:
            for split in ("train", "validation"):
                for kind, columns in COLUMNS.items():
                    path = folder / f"{split}.{kind}.{suffix}"
                    self.writers[f"{split}.{kind}"] = files.enter_context(RowWriter(path, columns))
            self.writers["dropped"] = files.enter_context(RowWriter(folder / "dropped.jsonl", {}))

    def write(self, item: Item) -> None:
        """Write one item and count it."""
        if isinstance(item, Dropped):
            self.report.dropped[item.reason] += 1
            self._row("dropped", item._asdict())
        elif isinstance(item, Trajectory):
            self._trajectory(item)
        else:
            split = self._split(user_text(item.prompt))
            self.report.problems[split] += 1
            if isinstance(item, StepInstance):
                self._instance(split, item)
            else:
                self._row(f"{split}.problems", as_row(item))
        self.report.kept += not isinstance(item, Dropped)

    def _trajectory(self, trajectory: Trajectory) -> None:
        options, report = self.options, self.report
        split = self._split(trajectory.problem)
        report.problems[split] += 1
        report.answers_checked += trajectory.answer is not None
        report.size("steps per trajectory", len(trajectory.steps))
        report.shortened_observations += sum(
            len(step.observation or "") > options.max_observation_chars for step in trajectory.steps
        )
        if "family" in trajectory.metadata:
            report.families[trajectory.metadata["family"]] += 1
        instances = step_instances(
            trajectory,
            targets=options.targets,
            give_title=options.give_title,
            system_prompt=options.system_prompt,
            context=options.context,
            max_observation_chars=options.max_observation_chars,
        )
        n_before = report.instances[split]
        for instance in instances:
            self._instance(split, instance)
        report.without_steps_to_ask += report.instances[split] == n_before
        if not trajectory.in_environment:  # there only the environment knows whether a whole attempt was right
            self._row(f"{split}.problems", as_row(whole_problem(trajectory, options.answer_system_prompt)))

    def _instance(self, split: str, instance: StepInstance) -> None:
        if error := _format_error(instance.thought or "thought", instance.expert_action):
            if _format_error("thought", instance.expert_action):
                self.report.malformed[f"steps with {error}"] += 1
                return
            self.report.malformed[f"thoughts with {error}"] += 1
            instance = replace(instance, thought=None)
        texts = {"prompt": "\n".join(m["content"] for m in instance.prompt), "action": instance.expert_action}
        for name, text in texts.items():
            self.report.size(f"characters per {name}", len(text))
            if self.count_tokens:
                self.report.size(f"tokens per {name}", self.count_tokens(text))
        self.report.instances[split] += 1
        self._row(f"{split}.steps", as_row(instance))

    def _split(self, problem: str) -> str:
        return "validation" if is_held_out(problem, self.options.hold_out, self.options.seed) else "train"

    def _row(self, name: str, row: dict[str, Any]) -> None:
        if name in self.writers:
            self.writers[name].write(row)


def _format_error(thought: str, action: str) -> str | None:
    """Why a completion of this thought and action is malformed; None if it is well formed."""
    return parse_completion(format_completion(thought, action)).format_error


def whole_problem(trajectory: Trajectory, system_prompt: str = ANSWER_SYSTEM_PROMPT) -> Problem:
    """The problem to solve at once, with the expert's whole solution."""
    return Problem(
        trajectory_id=trajectory.id,
        prompt=answer_prompt(trajectory.problem, system_prompt),
        answer=trajectory.answer,
        solution=full_solution(trajectory),
    )


def _token_counter(model: str) -> Callable[[str], int]:
    from srl.chat.tokenizer import load_chat

    tokenizer = load_chat(model).tokenizer
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def _checked(items: Iterable[Item], *, keep_wrong: bool) -> Iterator[Item]:
    """Settle `verified` where the answer is known; wrong trajectories become `Dropped` (paper §4.2).

    Whatever follows an unsettled solution waits for it, so that the order stays; agents' runs are never held.
    """
    waiting: list[Item] = []
    unsettled = 0
    for item in items:
        if isinstance(item, Trajectory | Problem):
            item = replace(item, answer=known_answer(item.answer))
        waiting.append(item)
        unsettled += _is_unsettled(item)
        if not unsettled or unsettled == CHUNK or len(waiting) == 4 * CHUNK:
            yield from _settled(waiting, keep_wrong)
            waiting, unsettled = [], 0
    yield from _settled(waiting, keep_wrong)


def _is_unsettled(item: Item) -> bool:
    return isinstance(item, Trajectory) and item.verified is None and item.answer is not None


def _settled(items: list[Item], keep_wrong: bool) -> Iterator[Item]:
    open_cases = [item for item in items if isinstance(item, Trajectory) and _is_unsettled(item)]
    verdicts = iter(are_correct([full_solution(t) for t in open_cases], [str(t.answer) for t in open_cases]))
    for item in items:
        if isinstance(item, Trajectory):
            if _is_unsettled(item):
                item = replace(item, verified=next(verdicts))
            if item.verified is False and not keep_wrong:
                reason = "failed run" if item.in_environment else "wrong final answer"
                item = Dropped(item.metadata["where"], reason, f"expected {item.answer}" if item.answer else "")
        yield item


def _screened(items: Iterable[Item], report: Report, exclude: tuple[Path, ...]) -> Iterator[Item]:
    """Drop exact copies, and problems of benchmarks."""
    benchmarks = BenchmarkProblems(exclude) if exclude else None
    seen: set[bytes] = set()
    seen_problems: set[bytes] = set()
    for item in items:
        if isinstance(item, Dropped):
            yield item
            continue
        problem = item.problem if isinstance(item, Trajectory) else user_text(item.prompt)
        where = item.metadata["where"] if isinstance(item, Trajectory) else item.trajectory_id
        if (copy := _fingerprint(*_contents(item))) in seen:
            yield Dropped(where, "copy of an earlier one", "")
        elif benchmarks and (found := benchmarks.match(problem)):
            yield Dropped(where, "benchmark problem", found)
        else:
            seen.add(copy)
            report.repeated_problems += (of_problem := _fingerprint(problem)) in seen_problems
            seen_problems.add(of_problem)
            yield item


def _contents(item: Trajectory | StepInstance | Problem) -> Iterator[str]:
    """The texts that make an item what it is."""
    yield type(item).__name__
    if isinstance(item, Trajectory):
        yield item.problem
        yield from (step.action for step in item.steps)
        yield item.conclusion or ""
    else:
        yield from (message["content"] for message in item.prompt)
        yield (item.expert_action if isinstance(item, StepInstance) else item.answer) or ""


def _fingerprint(*texts: str) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.digest()
