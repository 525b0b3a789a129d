"""`srl sample`: a model solves one problem the way it was trained to, a thought and a step at a time."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from srl.chat.prompts import STEP_SYSTEM_PROMPT
from srl.engines.protocols import Stepwise
from srl.engines.transformers import TransformersEngine
from srl.runs.folder import RunFolder, resolve_model


def sample(
    model: str, problem: str, *, max_steps: int, max_completion_length: int, temperature: float, seed: int
) -> None:
    """Let a model solve a problem step by step, and print each thought and action as it is written.

    Raises:
        UserError: no such model, a run that has not finished, a tokenizer without chat template.
    """
    engine = TransformersEngine(resolve_model(model), max_completion_length)
    run = RunFolder(Path(model))
    trained = run.step_prompt if run.exists else None
    attempt = Stepwise(problem, STEP_SYSTEM_PROMPT if trained is None else trained, max_steps)
    console = Console()
    console.print(Text("Question: ", "bold") + Text(problem))
    while attempt.end is None:
        (reply,) = engine.generate([attempt.prompt], [seed + len(attempt.replies)], temperature)
        completion = attempt.take(reply)
        if completion.format_error:
            console.print(Text(f"malformed: {completion.format_error}", "red"), Text(reply.text), sep="\n")
        else:
            console.print(Text(completion.thought, "dim"), Text(completion.action), sep="\n")
