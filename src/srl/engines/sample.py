"""`srl sample`: a model solves one problem the way it was trained to, a thought and a step at a time."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from srl.engines.protocols import Stepwise, manner_of
from srl.engines.transformers import TransformersEngine
from srl.runs.folder import resolve_model


def sample(
    model: str,
    problem: str,
    *,
    max_steps: int,
    max_completion_length: int,
    temperature: float,
    seed: int,
    system_prompt: str | None = None,
    give_title: bool | None = None,
) -> None:
    """Let a model solve a problem step by step, and print each thought and action as it is written.

    A run is asked as it was trained, unless a `system_prompt` is given or titles are chosen.

    Raises:
        UserError: no such model, a run that has not finished, a tokenizer without chat template.
    """
    engine = TransformersEngine(resolve_model(model), max_completion_length)
    manner = manner_of(model, "stepwise", system_prompt, give_title)
    attempt = Stepwise(problem, manner, max_steps)
    console = Console()
    console.print(Text(manner.describe("stepwise"), "dim"))
    console.print(Text("Question: ", "bold") + Text(problem))
    while attempt.end is None:
        (reply,) = engine.generate([attempt.prompt], [seed + len(attempt.replies)], temperature)
        completion = attempt.take(reply)
        if completion.format_error:
            console.print(Text(f"malformed: {completion.format_error}", "red"), Text(reply.text), sep="\n")
        else:
            if completion.thought:
                console.print(Text(completion.thought, "dim"))
            console.print(Text(completion.action))
