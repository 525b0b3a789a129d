"""`srl sample`: a model solves one problem the way it was trained to, a thought and a step at a time."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from srl.chat.tokenizer import load_chat
from srl.engines.protocols import Stepwise, chat_of, manner_of
from srl.engines.transformers import TransformersEngine
from srl.runs.folder import resolve_model
from srl.runs.recipe import DEFAULT_CHAT, ChatOptions


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
    chat: ChatOptions = DEFAULT_CHAT,
) -> None:
    """Let a model solve a problem step by step, and print each thought and action as it is written.

    A run is asked as it was trained, unless a `system_prompt`, titles or options of its chat template are given.

    Raises:
        UserError: no such model, a run that has not finished, a tokenizer without chat template.
    """
    path = resolve_model(model)
    engine = TransformersEngine(path, max_completion_length, load_chat(path, **chat_of(model, chat).model_dump()))
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
