"""`srl sample`: a model solves one problem the way it was trained to, a thought and a step at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.text import Text
from transformers import AutoModelForCausalLM

from srl.prompts import SEPARATOR, STEP_SYSTEM_PROMPT, Completion, parse_completion, step_prompt
from srl.rows import load_tokenizer
from srl.run_folder import resolve_model


def sample(
    model: str, problem: str, *, max_steps: int, max_completion_length: int, temperature: float, seed: int
) -> None:
    """Print thought and action of each step as they come.

    Raises:
        UserError: no such model, a run that has not finished, a tokenizer without chat template.
    """
    transformers.utils.logging.disable_progress_bar()
    path = resolve_model(model)
    tokenizer = load_tokenizer(path)
    policy = AutoModelForCausalLM.from_pretrained(path)
    torch.manual_seed(seed)
    console = Console()
    console.print(Text("Question: ", "bold") + Text(problem))
    steps = sample_steps(policy, tokenizer, problem, _system_prompt(model), max_completion_length, temperature)
    for _, (text, completion) in zip(range(max_steps), steps, strict=False):
        if completion.format_error:
            console.print(Text(f"malformed: {completion.format_error}", "red"), Text(text), sep="\n")
        else:
            console.print(Text(completion.thought, "dim"), Text(completion.action), sep="\n")


def sample_steps(
    policy: Any,
    tokenizer: Any,
    problem: str,
    system_prompt: str,
    max_completion_length: int,
    temperature: float,
) -> Iterator[tuple[str, Completion]]:
    """Yield (text, its parts) per step; each action joins the context of the next, as in training.

    Ends after a malformed completion, a repeated action, or one with a `\\boxed` answer.
    """
    context, actions = "", set()
    while True:
        prompt = tokenizer.apply_chat_template(
            list(step_prompt(problem, context, system_prompt)),
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        ).to(policy.device)
        generated = policy.generate(
            **prompt,
            max_new_tokens=max_completion_length,
            do_sample=temperature > 0,
            # The raw policy: a model's own generation_config may narrow what it samples from.
            **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
            pad_token_id=tokenizer.pad_token_id,
        )[0, prompt["input_ids"].shape[1] :]
        text = tokenizer.decode(generated, skip_special_tokens=True)
        completion = parse_completion(text, truncated=len(generated) >= max_completion_length)
        yield text, completion
        if completion.format_error or completion.action in actions or "\\boxed" in completion.action:
            return
        actions.add(completion.action)
        context += completion.action + SEPARATOR


def _system_prompt(model: str) -> str:
    """The one the run was trained with; ours where the model is not from an srl run."""
    facts = Path(model) / "run.json"
    return str(json.loads(facts.read_text())["system_prompt"]) if facts.is_file() else STEP_SYSTEM_PROMPT
