"""The evaluation of a model that repairs programs: all edits in one completion, or as an agent, turn by turn.

An agent is asked as SRL trains it: the task, and what was done and answered so far. It may view the file, edit it, run
its tests and submit. Resolved means, in both, that the tests pass in the sandbox on the file as it is at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path

from srl.chat.prompts import action_prompt, environment_step, parse_completion
from srl.engines.asking import append
from srl.engines.engines import weights_digest
from srl.engines.protocols import Manner, OneAnswer, ProtocolName, Reply
from srl.engines.transformers import TransformersEngine
from srl.evaluation.benchmarks import Benchmark, LoadedBenchmark, Question
from srl.evaluation.config import EvaluationConfig, EvaluationOptions
from srl.evaluation.evaluate import make_plan
from srl.evaluation.recorder import open_evaluation
from srl.evaluation.results import write_results
from srl.evaluation.samples import JudgedSample, Key, PlannedSample, Tally
from srl.files import locked, read_rows
from srl.records import Message
from srl.rewards.actions.calls import Call, NotAnAction, read_calls
from srl.rewards.repairs import XML, NotApplied, Repair, read_repair, repaired
from srl.rewards.sandbox.programs import pass_their_tests
from srl.runs.recipe import DEFAULT_CHAT
from srl.study.repair import EDITED, FAILED, PASSED, TASK, TEST


@dataclass(slots=True)
class Agent:
    """A model at work on a file, an action at a time, until it submits, writes no action, or has no step left."""

    repair: Repair
    max_steps: int
    replies: list[Reply] = field(default_factory=list)
    end: str | None = None
    """"stop" if it submitted, else why what it did does not count."""
    waits_for_tests: bool = False
    """They are run for many agents at a time; then `observe` tells what they gave."""
    context: str = ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """As in training: the task, and all actions with what was answered."""
        return action_prompt(TASK, self.context, system_prompt="")

    def take(self, reply: Reply) -> None:
        """Do what the model says, or end."""
        self.replies.append(reply)
        completion = parse_completion(reply.text, truncated=reply.truncated)
        if completion.format_error:
            self.end = completion.format_error
            return
        try:
            (call,) = read_calls(completion.action, XML)
        except NotAnAction as error:
            self.end = str(error)
            return
        if call.tool == "submit":
            self.end = "stop"
        elif completion.action == TEST:
            self.waits_for_tests = True
        else:
            self.observe(completion.action, self._answer(call))

    def _answer(self, call: Call) -> str:
        """What the editor answers, which may change the file."""
        if call.path == self.repair.path and call.arguments.get("command") == "view":
            return self.repair.source
        try:
            self.repair = self.repair.edited(call)
        except NotApplied as answer:
            return str(answer)
        return EDITED

    def observe(self, action: str, observation: str) -> None:
        """Add an action and its answer to what later prompts show."""
        self.waits_for_tests = False
        self.context += environment_step(action, observation)
        if len(self.replies) == self.max_steps:
            self.end = "not submitted"

    @property
    def result(self) -> Repair | None:
        """What is graded."""
        return self.repair if self.end == "stop" else None


def evaluate_repairs(model: str, out: Path, problems: Path, options: EvaluationOptions) -> None:
    """Ask a model for repairs, grade them, and write what `srl evaluate` writes.

    Protocol "answer" is one completion with the file in its prompt, "stepwise" an agent.

    Raises:
        UserError: no such model, problems that hold no programs, no sandbox.
    """
    rows = list(read_rows(problems))
    name = problems.stem
    repairs = [read_repair(row.value["answer"], row.where) for row in rows]
    questions = tuple(
        Question(name, str(index), row.value["problem"], (row.value["answer"],)) for index, row in enumerate(rows)
    )
    loaded = LoadedBenchmark(name, Benchmark(title=f"{name} programs of the code repair", file=problems), questions, ())
    config = EvaluationConfig.of(
        options,
        model=model,
        weights=weights_digest(model),
        engine=TransformersEngine.name,
        manner=Manner(step="", answer=""),
        benchmarks={name: replace(loaded.facts, scorer="tests in the sandbox")},
        chat=DEFAULT_CHAT,
    )
    tallies: dict[Key, Tally] = {}
    with locked(out):
        open_evaluation(out, config, resume=False, overwrite=False)
        engine = TransformersEngine(model, options.max_tokens)
        for _, same_mode in groupby(make_plan([loaded], options), key=lambda sample: sample.mode):
            plan = list(same_mode)
            for start in range(0, len(plan), options.batch_size):
                samples = plan[start : start + options.batch_size]
                attempts = [_attempt(sample, repairs[int(sample.question.id)], options) for sample in samples]
                _complete(engine, samples, attempts, 0.0 if samples[0].mode == "greedy" else options.temperature)
                judged = list(_judged(samples, attempts, repairs, options.protocol))
                append(out / "samples.jsonl", map(asdict, judged))
                tallies |= {one.key: Tally.of(one) for one in judged}
        write_results(out, tallies)


def _attempt(sample: PlannedSample, repair: Repair, options: EvaluationOptions) -> OneAnswer | Agent:
    if options.protocol == "answer":
        return OneAnswer(sample.question.text, system_prompt="")
    return Agent(repair, options.max_steps)


def _complete(
    engine: TransformersEngine,
    samples: Sequence[PlannedSample],
    attempts: Sequence[OneAnswer | Agent],
    temperature: float,
) -> None:
    """Go on with all until each has ended; the tests that are due are run together."""
    pairs = list(zip(samples, attempts, strict=True))
    while going := [(sample, attempt) for sample, attempt in pairs if attempt.end is None]:
        seeds = [sample.seed + len(attempt.replies) for sample, attempt in going]
        replies = engine.generate([attempt.prompt for _, attempt in going], seeds, temperature)
        for (_, attempt), reply in zip(going, replies, strict=True):
            attempt.take(reply)
        waiting = [attempt for _, attempt in going if isinstance(attempt, Agent) and attempt.waits_for_tests]
        verdicts = pass_their_tests([agent.repair.program for agent in waiting])
        for agent, passed in zip(waiting, verdicts, strict=True):
            agent.observe(TEST, PASSED if passed else FAILED)


def _judged(
    samples: Sequence[PlannedSample],
    attempts: Sequence[OneAnswer | Agent],
    repairs: Sequence[Repair],
    protocol: ProtocolName,
) -> Iterator[JudgedSample]:
    results = [
        attempt.result if isinstance(attempt, Agent) else repaired(attempt.solution, repairs[int(sample.question.id)])
        for sample, attempt in zip(samples, attempts, strict=True)
    ]
    verdicts = iter(pass_their_tests([result.program for result in results if result]))
    for sample, attempt, result in zip(samples, attempts, results, strict=True):
        yield JudgedSample.of_attempt(
            sample,
            attempt,
            protocol,
            boxed=result is not None,
            correct=next(verdicts) if result else False,
            answer=result.source if result else None,
        )
