"""What a recipe leaves open, chosen from the model's size, the rows and the machine; every choice with its reason.

`srl start` writes the choices into a recipe, where they can be read and changed. The defaults of a recipe stay the
paper's: a value that silently depended on the machine would make two runs of one recipe differ.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import tomli_w

from srl.training.machines import duration

PAPER_RATE, PAPER_WEIGHTS = 5e-7, 7.6e9
"""The paper's learning rate, for Qwen2.5-7B."""

PASSES = 3
"""Over the data, at most."""

BYTES_PER_WEIGHT = 16
"""In training: a weight, its gradient and AdamW's two moments, in float32."""

TINY = 10_000_000
"""Weights of a model that a CPU trains as fast as a GPU would."""


@dataclass(frozen=True)
class Facts:
    """What the choices depend on."""

    weights: int
    positions: int | None
    """How many tokens the model takes; None: not known."""
    rows: int
    """To train on."""
    held_out: int
    """Rows held out."""
    longest_prompt: int
    """In tokens, as the next one."""
    step_tokens: int
    """Of the expert's steps, 95% have so many or fewer."""
    gpu_bytes: float | None = None
    """Of the GPU's memory; None: a CPU trains."""


class Choice(NamedTuple):
    """A key of a recipe, its value, and why."""

    key: str
    value: Any
    reason: str


def fitting(facts: Facts) -> list[Choice]:
    """All but the length of training, in the order of a recipe."""
    on_gpu, tiny = facts.gpu_bytes is not None, facts.weights < TINY
    most, generations = (64, 8) if on_gpu else (16, 8) if tiny else (4, 4)
    prompts = max(1, min(most, facts.rows // 4))
    small = f"a quarter of {facts.rows} rows" if prompts < most else None
    machine = "a GPU samples so many at once" if on_gpu else "a tiny model" if tiny else "a CPU samples slowly"
    limit, why_limit = _completion_limit(facts)
    room = facts.positions - limit if facts.positions else math.inf
    prompt_limit = min(64 * math.ceil(facts.longest_prompt / 64), room)
    rate = float(f"{PAPER_RATE * math.sqrt(PAPER_WEIGHTS / facts.weights):.2g}")
    rows = f"{facts.held_out} rows are held out"
    choices = [
        *_adapters(facts),
        Choice("data.max_prompt_length", int(prompt_limit), f"the longest prompt has {facts.longest_prompt} tokens"),
        Choice("optim.learning_rate", rate, "the paper's 5e-7 for 7.6 B weights, by the root of the size"),
        Choice(
            "optim.per_device_train_batch_size",
            8 if on_gpu else prompts * generations,
            "rows in one pass; more need more memory" if on_gpu else "the whole batch in one pass",
        ),
        Choice("rollout.prompts_per_step", prompts, small or machine),
        Choice("rollout.num_generations", generations, "the paper's G" if generations == 8 else machine),
        Choice("rollout.max_completion_length", limit, why_limit),
        Choice("rollout.step_order", "trajectory", "prompts of one problem are computed once where they agree"),
    ]
    if prompt_limit < facts.longest_prompt:
        reason = f"the model takes {facts.positions} tokens, completion included"
        choices.append(Choice("data.drop_long_prompts", True, reason))
    if facts.held_out:
        n_rows = min(facts.held_out, 128 if on_gpu else 64 if tiny else 16)
        choices.append(Choice("validation.max_rows", n_rows, rows))
        reason = "all at once" if n_rows <= 64 else "at once"
        choices.append(Choice("validation.per_device_eval_batch_size", min(n_rows, 64), reason))
    return choices


def length(facts: Facts, prompts: int, minutes: float, seconds_per_step: float | None) -> list[Choice]:
    """How long to train, and how often to evaluate; `seconds_per_step` None: not known of this machine."""
    steps = max(1, PASSES * facts.rows // prompts)
    reason = f"{PASSES} passes over {facts.rows} rows"
    if seconds_per_step and (in_time := max(4, int(60 * minutes / seconds_per_step))) < steps:
        steps = in_time
        reason = f"{minutes:g} min at about {duration(seconds_per_step, 2)} each, fewer than {reason}"
    every = max(1, steps // 4)
    choices = [Choice("optim.max_steps", steps, reason)]
    if facts.held_out:
        choices.append(Choice("validation.eval_steps", every, "four times in all"))
    else:
        choices.append(Choice("validation.eval_steps", 0, "nothing is held out"))
        choices.append(Choice("checkpoints.save_steps", every, "four times in all, to go on from"))
    choices.append(Choice("checkpoints.save_total_limit", 1, "each is three times the model; the best one stays too"))
    choices.append(Choice("checkpoints.keep_when_finished", False, "true if you may want to extend the run"))
    return choices


def _completion_limit(facts: Facts) -> tuple[int, str]:
    """Room for a thought and a step."""
    said = f"95% of the expert's steps have up to {facts.step_tokens} tokens"
    if facts.gpu_bytes is not None:
        limit, why = max(512, 64 * math.ceil(8 * facts.step_tokens / 64)), f"{said}; the rest is for the thought"
    else:
        limit, why = 16 * math.ceil((2 * facts.step_tokens + 32) / 16), f"{said}; a CPU has time for short thoughts"
    if facts.positions and limit > facts.positions // 2:
        return facts.positions // 2, f"half of the model's {facts.positions} positions"
    return limit, why


def _adapters(facts: Facts) -> list[Choice]:
    needed = BYTES_PER_WEIGHT * facts.weights
    if facts.gpu_bytes is None or needed < 0.8 * facts.gpu_bytes:
        return []
    return [Choice("model.use_peft", True, f"all weights need {needed / 1e9:.0f} GB of {facts.gpu_bytes / 1e9:.0f} GB")]


def recipe_text(heading: str, given: list[Choice], chosen: list[Choice]) -> str:
    """A recipe of what was given and what was chosen, as TOML; each reason is a comment behind its line."""
    tables: defaultdict[str, list[str]] = defaultdict(list)
    for key, value, reason in [*given, *chosen]:
        table, _, name = key.rpartition(".")
        line = tomli_w.dumps({name: value}).strip()
        tables[table].append(f"{line:<40} # {reason}" if reason else line)
    parts = ["\n".join([f"# {heading}", *tables.pop("", [])])]
    parts += ["\n".join([f"[{table}]", *lines]) for table, lines in tables.items()]
    return "\n\n".join(parts) + "\n"
