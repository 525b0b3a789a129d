"""`srl steps`: expert trajectories in, a data folder out, with a report of what was left out and why.

Everything streams: memory holds a few trajectories, and a fingerprint of every one seen.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from srl.chat.conversation import conversation
from srl.chat.prompts import ANSWER_SYSTEM_PROMPT, format_completion, parse_completion, user_text
from srl.data.decontaminate import BenchmarkProblems
from srl.data.folder import COLUMNS, as_row
from srl.data.report import Report
from srl.data.sources import Dropped, Item, Source, read_trajectories
from srl.data.steps import (
    Context,
    Targets,
    continuations,
    full_solution,
    is_held_out,
    step_instances,
    whole_problem,
)
from srl.errors import UserError
from srl.files import RowWriter, new_folder, write_text
from srl.records import Problem, StepInstance, Trajectory
from srl.rewards.answer_text import known_answer
from srl.rewards.answers import judge

CHUNK = 256
"""Written solutions whose answers are checked together: enough to keep all cores busy, few enough to hold."""


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What `srl steps` makes of a trajectory."""

    targets: Targets = "paper"
    """Which steps are asked for: "paper" all but the last, "skip_first" all but the first, "all"; or the "whole"
    solution as one step."""
    context: Context = "paper"
    """How many earlier steps a prompt shows: "full", a number, or "paper" (all in mathematics, 2 for agents)."""
    max_observation_chars: int = 10_000
    """Longer observations are cut in the middle, with a note of how much is missing."""
    give_title: bool = False
    """Show the title of the step that is asked for (paper, footnote 1)."""
    solve_from: Literal["problem", "prefixes"] = "problem"
    """Where whole solutions begin: at the problem, or also after each number of the expert's steps (R3)."""
    hold_out: float = 0.06
    """Share of the problems that are held out for validation."""
    seed: int = 0
    keep_wrong: bool = False
    """Keep solutions with a wrong answer, and failed runs."""
    exclude: tuple[Path, ...] = ()
    """Files with benchmark problems; trajectories on the same problems are dropped."""
    tokenizer: str | None = None
    """Also report lengths in tokens of this model (slower)."""
    parquet: bool = False
    """Write parquet instead of JSONL. Smaller if prompts are long."""
    system_prompt: str | None = None
    """System prompt for steps. Default: srl's own for mathematics or for agents. `@FILE` reads a file."""
    answer_system_prompt: str = ANSWER_SYSTEM_PROMPT
    """System prompt for whole solutions. `@FILE` reads a file."""


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
        source = replace(source, set_aside=(*source.set_aside, *options.exclude))
        items = _checked(read_trajectories(source, report.found), keep_wrong=options.keep_wrong)
        for item in _screened(items, report, options.exclude):
            report.read += 1
            writer.write(item)
            watch(report)
        if not report.kept:
            reasons = ", ".join(f"{count} × {reason}" for reason, count in report.dropped.most_common())
            raise UserError(f"{source.path}: none of {report.read} trajectories can be used ({reasons})")
        if options.solve_from == "prefixes" and not report.continuations:
            raise UserError(f"{source.path}: --solve-from prefixes needs solutions of two steps or more, found none")
        if folder:
            facts = {**report.summary(), "source": asdict(source), "options": asdict(options)}
            write_text(folder / "report.json", json.dumps(facts, indent=2, default=str) + "\n")
    return report


class _Writer:
    """Turns kept trajectories into rows, and rows into files (or, without a folder, only counts them)."""

    def __init__(self, folder: Path | None, options: StepOptions, report: Report, files: ExitStack) -> None:
        self.options, self.report = options, report
        self.tokens = _Tokens(options.tokenizer) if options.tokenizer else None
        self.folder, self.files = folder, files
        self.writers: dict[str, RowWriter] = {}
        if folder:
            for name in ("train.steps", "train.problems", "validation.steps", "validation.problems"):
                self._open(name)
            self.writers["dropped"] = files.enter_context(RowWriter(folder / "dropped.jsonl", {}))

    def _open(self, name: str) -> None:
        assert self.folder is not None
        path = self.folder / f"{name}.{'parquet' if self.options.parquet else 'jsonl'}"
        self.writers[name] = self.files.enter_context(RowWriter(path, COLUMNS[name.partition(".")[2]]))

    def write(self, item: Item) -> None:
        """Write one item and count it."""
        where = item.where if isinstance(item, Dropped) else item.metadata["where"]
        self.report.outcome(where, "left out" if isinstance(item, Dropped) else "kept")
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
                self.report.answers_checked += item.answer is not None
                self._row(f"{split}.problems", as_row(item))
        self.report.kept += not isinstance(item, Dropped)

    def _trajectory(self, trajectory: Trajectory) -> None:
        options, report = self.options, self.report
        split = self._split(trajectory.problem)
        report.problems[split] += 1
        report.answers_checked += trajectory.answer is not None
        report.own_answers += "own_answer" in trajectory.metadata
        if trajectory.steps:
            self._steps(split, trajectory)
        else:
            report.without_steps[trajectory.metadata["no_steps"]] += 1
            report.wrong_solutions += "wrong_solution" in trajectory.metadata
        if not trajectory.in_environment:  # there only the environment knows whether a whole attempt was right
            self._row(f"{split}.problems", as_row(whole_problem(trajectory, options.answer_system_prompt)))
            if options.solve_from == "prefixes" and split == "train":
                for continuation in continuations(trajectory, options.answer_system_prompt):
                    self._row("train.problems", as_row(continuation))
                    report.continuations += 1

    def _steps(self, split: str, trajectory: Trajectory) -> None:
        options, report = self.options, self.report
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
        if trajectory.in_environment and self.folder:
            self._whole_run(split, trajectory)

    def _whole_run(self, split: str, trajectory: Trajectory) -> None:
        run = conversation(trajectory, self.options.system_prompt, self.options.max_observation_chars)
        if run is None:
            self.report.malformed["whole runs with a turn that no completion can say"] += 1
            return
        if (name := f"{split}.trajectories") not in self.writers:
            self._open(name)  # only now: mathematics has no such file
        self._row(name, {"trajectory_id": trajectory.id, **run._asdict()})

    def _instance(self, split: str, instance: StepInstance) -> None:
        if error := _format_error(instance.thought or "thought", instance.expert_action):
            if _format_error("thought", instance.expert_action):
                self.report.malformed[f"steps with {error}"] += 1
                return
            self.report.malformed[f"thoughts with {error}"] += 1
            instance = replace(instance, thought=None)
        contents = [message["content"] for message in instance.prompt]
        self.report.size("characters per prompt", sum(map(len, contents)) + len(contents) - 1)  # a line end between two
        self.report.size("characters per action", len(instance.expert_action))
        if self.tokens:
            self._tokens_of("\n".join(contents), instance)
        self.report.instances[split] += 1
        self._row(f"{split}.steps", as_row(instance))

    def _tokens_of(self, prompt: str, instance: StepInstance) -> None:
        assert self.tokens is not None
        self.report.size("tokens per prompt", self.tokens.count(prompt))
        self.report.size("tokens per action", self.tokens.count(instance.expert_action))
        if token := self.tokens.special("\n".join((prompt, instance.expert_action, instance.thought or ""))):
            self.report.special_tokens[f"steps with {token} in their text"] += 1

    def _split(self, problem: str) -> str:
        return "validation" if is_held_out(problem, self.options.hold_out, self.options.seed) else "train"

    def _row(self, name: str, row: dict[str, Any]) -> None:
        if name in self.writers:
            self.writers[name].write(row)


def _format_error(thought: str, action: str) -> str | None:
    """Why a completion of this thought and action is malformed; None if it is well formed."""
    return parse_completion(format_completion(thought, action)).format_error


class _Tokens:
    """What a tokenizer makes of texts."""

    def __init__(self, model: str) -> None:
        from srl.chat.tokenizer import load_chat, special_tokens

        self._tokenizer = load_chat(model).tokenizer
        self._special = special_tokens(self._tokenizer)

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def special(self, text: str) -> str | None:
        """The first special token that a text holds."""
        found = self._special.search(text)
        return found[0] if found else None


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
    """Whether an answer is known that a solution must be compared with."""
    return (
        isinstance(item, Trajectory)
        and item.verified is None
        and item.answer is not None
        and "own_answer" not in item.metadata
        and bool(item.steps or item.conclusion)
    )


def _settled(items: list[Item], keep_wrong: bool) -> Iterator[Item]:
    open_cases = [item for item in items if isinstance(item, Trajectory) and _is_unsettled(item)]
    verdicts = iter(judge([full_solution(t) for t in open_cases], [str(t.answer) for t in open_cases]))
    for item in items:
        failure = None
        if isinstance(item, Trajectory) and _is_unsettled(item):
            correct, _, failure = next(verdicts)
            item = replace(item, verified=None if failure else correct)
        if isinstance(item, Trajectory | StepInstance) and (failure or item.verified is False) and not keep_wrong:
            item = _without_wrong(item, failure)
        yield item


def _without_wrong(item: Trajectory | StepInstance, failure: str | None) -> Item:
    """What is left of a wrong solution or a failed run: a problem without steps is as good as before.

    `failure`: why the answer could not be compared, if that is what is wrong with it.
    """
    where = item.metadata["where"]
    if isinstance(item, StepInstance):
        return Dropped(where, "marked as wrong", "")
    if not item.steps:
        return replace(item, conclusion=None, metadata={**item.metadata, "wrong_solution": True})
    if failure:
        return Dropped(where, "final answer not compared", failure)
    reason = "failed run" if item.in_environment else "wrong final answer"
    return Dropped(where, reason, f"expected {item.answer}" if item.answer else "")


def _screened(items: Iterable[Item], report: Report, exclude: tuple[Path, ...]) -> Iterator[Item]:
    """Drop exact copies, and problems of benchmarks."""
    benchmarks = BenchmarkProblems(exclude) if exclude else None
    seen: set[bytes] = set()
    seen_problems: set[bytes] = set()
    seen_ids: Counter[bytes] = Counter()
    for item in items:
        if isinstance(item, Dropped):
            yield item
            continue
        problem = item.problem if isinstance(item, Trajectory) else user_text(item.prompt)
        where = item.metadata["where"]
        if (copy := _fingerprint(*_contents(item))) in seen:
            yield Dropped(where, "copy of an earlier one", "")
        elif benchmarks and (found := benchmarks.match(problem)):
            yield Dropped(where, "benchmark problem", found)
        else:
            seen.add(copy)
            report.repeated_problems += (of_problem := _fingerprint(problem)) in seen_problems
            seen_problems.add(of_problem)
            yield _with_own_id(item, seen_ids, report)


def _with_own_id(item: Trajectory | StepInstance | Problem, seen: Counter[bytes], report: Report) -> Item:
    """The item with a number behind its id where an earlier one had it."""
    name = item.id if isinstance(item, Trajectory) else item.trajectory_id
    key = _fingerprint(name)
    seen[key] += 1
    if seen[key] == 1:
        return item
    report.repeated_ids += 1
    name = f"{name}#{seen[key]}"
    return replace(item, id=name) if isinstance(item, Trajectory) else replace(item, trajectory_id=name)


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
        yield (item.solution if isinstance(item, Problem) else "") or ""


def _fingerprint(*texts: str) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.digest()
