"""Trajectory -> step instances (paper §4.2): which steps are targets, and what the student sees before each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from srl.chat.prompts import (
    AGENT_SYSTEM_PROMPT,
    ANSWER_SYSTEM_PROMPT,
    SEPARATOR,
    STEP_SYSTEM_PROMPT,
    action_prompt,
    answer_prompt,
    environment_step,
    format_completion,
    left_out_steps,
    parse_completion,
    shortened,
    step_prompt,
)
from srl.errors import UserError
from srl.records import Message, Problem, Step, StepInstance, Trajectory

Targets = Literal["paper", "all", "skip_first", "whole"]

Context = Literal["paper", "full"] | int
"""How many of the latest steps a prompt shows; "paper": all in mathematics, two in an environment (appendix A)."""


def target_indices(n_steps: int, targets: Targets) -> range:
    """The 1-based steps that become targets, one by one.

    The paper makes N−1 instances with k = 1..N−1: the last step is never asked for. "skip_first" is the
    other reading of N−1, where the context always holds a step.

    >>> list(target_indices(4, "paper")), list(target_indices(4, "skip_first"))
    ([1, 2, 3], [2, 3, 4])
    """
    return {
        "paper": range(1, n_steps),
        "all": range(1, n_steps + 1),
        "whole": range(0),
        "skip_first": range(2, n_steps + 1),
    }[targets]


def step_instances(
    trajectory: Trajectory,
    *,
    targets: Targets = "paper",
    give_title: bool = False,
    system_prompt: str | None = None,
    context: Context = "paper",
    max_observation_chars: int = 10_000,
) -> Iterator[StepInstance]:
    """Yield one instance per target step; its prompt shows the steps before it, or the latest of them.

    With `give_title` the prompt ends with the step's own title and only the body is asked for (footnote 1);
    a step without title is then asked for whole. Longer observations lose their middle, with a note. A
    `system_prompt` of None means srl's own, for mathematics or for an environment. The targets "whole" make the
    solution one step (the paper's ablation, table 3).

    Raises:
        UserError: the actions of an agent as a whole, which nobody could take at once.
    """
    if targets == "whole":
        yield _whole(trajectory, system_prompt)
        return
    n_steps = len(trajectory.steps)
    wanted = range(n_steps, n_steps + 1) if trajectory.only_last else target_indices(n_steps, targets)
    in_environment = trajectory.in_environment
    window = {"paper": 2 if in_environment else None, "full": None}[context] if isinstance(context, str) else context
    before: list[str] = []
    for index, step in enumerate(trajectory.steps, 1):
        lead, body = _split_title(step) if give_title and not in_environment else ("", step.action)
        if index in wanted:
            yield StepInstance(
                trajectory_id=trajectory.id,
                step_index=index,
                prompt=_prompt(trajectory, _latest(before, window) + lead, system_prompt),
                expert_action=body,
                next_title=step.title if lead else None,
                thought=step.thought,
            )
        if in_environment:
            observation = step.observation
            shown = None if observation is None else shortened(observation, max_observation_chars)
            before.append(environment_step(step.action, shown))
        else:
            before.append(lead + body + SEPARATOR)


def _whole(trajectory: Trajectory, system_prompt: str | None) -> StepInstance:
    if trajectory.in_environment:
        raise UserError(f"{trajectory.id}: --targets whole is for written solutions, and this is the run of an agent")
    system = ANSWER_SYSTEM_PROMPT if system_prompt is None else system_prompt
    return StepInstance(
        trajectory_id=trajectory.id,
        step_index=1,
        prompt=answer_prompt(trajectory.problem, system),
        expert_action=full_solution(trajectory),
        thought=opening_thought(trajectory),
    )


def opening_thought(trajectory: Trajectory) -> str | None:
    """The thought before the whole solution; None if there are further ones, which belong to their steps.

    None also for a thought that no well-formed completion can hold, as it writes `</think>` itself.
    """
    thoughts = [step.thought for step in trajectory.steps if step.thought]
    if len(thoughts) != 1 or not trajectory.steps[0].thought:
        return None
    completion = format_completion(thoughts[0], full_solution(trajectory))
    return None if parse_completion(completion).format_error else thoughts[0]


def _prompt(trajectory: Trajectory, context: str, system_prompt: str | None) -> tuple[Message, ...]:
    if trajectory.in_environment:
        system = AGENT_SYSTEM_PROMPT if system_prompt is None else system_prompt
        return action_prompt(trajectory.problem, context, system, trajectory.instructions)
    return step_prompt(trajectory.problem, context, STEP_SYSTEM_PROMPT if system_prompt is None else system_prompt)


def _latest(steps: list[str], window: int | None) -> str:
    if window is None or len(steps) <= window:
        return "".join(steps)
    return left_out_steps(len(steps) - window) + "".join(steps[len(steps) - window :])


def _split_title(step: Step) -> tuple[str, str]:
    """A step as (all up to its title, with a line break; the body). `lead + body` is what later contexts hold."""
    if step.title is None:
        return "", step.action
    start = 0 if step.action.startswith(step.title) else step.action.index("\n" + step.title) + 1
    end = start + len(step.title)
    return step.action[:end] + "\n", step.action[end:].strip()


def full_solution(trajectory: Trajectory) -> str:
    """The expert's whole text: all steps and the conclusion (the target of SFT on full solutions)."""
    parts = [step.action for step in trajectory.steps]
    return SEPARATOR.join(parts + ([trajectory.conclusion] if trajectory.conclusion else []))


def whole_problem(trajectory: Trajectory, system_prompt: str = ANSWER_SYSTEM_PROMPT) -> Problem:
    """The problem to solve at once, with the expert's whole solution."""
    return Problem(
        trajectory_id=trajectory.id,
        prompt=answer_prompt(trajectory.problem, system_prompt),
        answer=trajectory.answer,
        solution=full_solution(trajectory) or None,
        thought=opening_thought(trajectory),
    )


def continuations(trajectory: Trajectory, system_prompt: str = ANSWER_SYSTEM_PROMPT) -> Iterator[Problem]:
    """The problem to be solved from each number of the expert's steps on, from one to all but the last.

    What R3 (arXiv 2402.05808) trains on beside the problem itself: `solution` is the rest of the expert's. The steps
    stand in the user turn, where SRL shows them too, so any chat template can ask for what comes after them.
    """
    actions = [step.action for step in trajectory.steps]
    for number in range(1, len(actions)):
        context = "".join(action + SEPARATOR for action in actions[:number])
        prompt = step_prompt(trajectory.problem, context, system_prompt)
        rest = replace(trajectory, steps=trajectory.steps[number:])
        yield Problem(trajectory.id, prompt, answer=trajectory.answer, solution=full_solution(rest))


def is_held_out(problem: str, fraction: float, seed: int = 0) -> bool:
    """Whether a problem belongs to the validation part: by its text, so that all its copies and steps agree.

    A hash decides, so the answer needs no memory of other problems and stays when a data set grows.
    """
    digest = hashlib.sha256(f"{seed}\n{' '.join(problem.split())}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
