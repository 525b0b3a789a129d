"""What a run's first completions say about it, before hours go into it: `srl train` prints it, or stops.

Looked at are completions that the run samples anyway, of the evaluation at its start and of its first round, so nothing
is sampled for it and no random number changes. A small instruct model does not write `<think>` by itself: all its
rewards are −1, every group is dropped, and training goes on for hours without learning anything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from srl.chat.aloud import parse_aloud
from srl.chat.prompts import completion_text, parse_completion
from srl.chat.tokenizer import Chat
from srl.errors import UserError
from srl.runs.recipe import Recipe
from srl.training.rollouts import weighted_sum

EXAMPLE_CHARACTERS = 100

MIN_FAULTY = 8
"""So many faulty completions at least stop a run: of fewer no share can be told."""


@dataclass(frozen=True)
class Seen:
    """Completions of one batch, over all processes."""

    n: int
    faults: Counter[str]
    """What is wrong with them; nothing of those that are well formed."""
    examples: dict[str, str]
    """Fault -> the beginning of the first completion with it."""
    n_tokens: int
    n_truncated: int

    @property
    def n_well_formed(self) -> int:
        """How many of them are."""
        return self.n - self.faults.total()

    @property
    def well_formed(self) -> float:
        """The share of them that is."""
        return self.n_well_formed / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share lies in 95% of all cases (Wilson)."""
        from scipy.stats import binomtest

        found = binomtest(self.n_well_formed, self.n).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    @property
    def commonest(self) -> str:
        """The commonest fault, how often it was found, and an example."""
        ((fault, count),) = self.faults.most_common(1)
        return f"{fault} in {count} of {self.n}, such as {self.examples[fault]!r}"


def begun(text: str) -> str:
    """The beginning of a completion in one line, as an example."""
    return " ".join(text.split())[:EXAMPLE_CHARACTERS]


def fault_of(text: str, truncated: bool, stage: str, thoughts: str = "first") -> str | None:
    """What is wrong with a completion; None if it is well formed.

    One that was cut off and has no `<think>` lacks that: more room would not help it. Solutions, of RLVR, have no form
    but an end.

    >>> fault_of("Well, we", True, "srl"), fault_of("<think>Well, we", True, "srl"), fault_of("Well, we", True, "rlvr")
    ('no <think>', 'truncated', 'truncated')
    """
    if stage == "rlvr":
        return "truncated" if truncated else None
    if thoughts == "anywhere":
        return parse_aloud(text, truncated=truncated).format_error
    return parse_completion(text, truncated=truncated and "<think>" in text).format_error


class Preflight(TrainerCallback):
    """Looks at a run's first completions, reports them, and stops a run that could learn nothing from them."""

    def __init__(self, recipe: Recipe, chat: Chat) -> None:
        self.recipe, self.chat = recipe, chat
        self.over = self.looked_at_held_out = False
        self.evaluation_seconds = self.step_began = 0.0

    def look(
        self, trainer: Any, rows: Sequence[dict[str, Any]], ids: list[list[int]], texts: list[Any], rewards: Any
    ) -> None:
        """Look at completions that have just been rewarded; every process must call this.

        `rewards` are those of all processes, (B, reward functions).

        Raises:
            UserError: fewer are well formed than `rollout.min_well_formed`.
        """
        training = trainer.model.training
        if self.over or trainer.state.global_step or (self.looked_at_held_out and not training):
            self.over = self.over or trainer.state.global_step > 0
            return
        self.looked_at_held_out, self.over = True, training
        seen = self._seen([completion_text(text) for text in texts], rows, ids)
        if trainer.accelerator.is_main_process:
            print(self._report(seen, trainer, rewards if training else None), flush=True)
        if seen.well_formed < self.recipe.rollout.min_well_formed and seen.faults.total() >= MIN_FAULTY:
            raise UserError(self._refusal(seen))

    def _seen(self, texts: list[str], rows: Sequence[dict[str, Any]], ids: list[list[int]]) -> Seen:
        how = (self.recipe.stage, self.recipe.reward.thoughts)
        faults = [fault_of(text, row["truncated"], *how) for text, row in zip(texts, rows, strict=True)]
        found = gather_object(
            list(zip(faults, map(begun, texts), map(len, ids), [row["truncated"] for row in rows], strict=True))
        )
        faulty = [(fault, text) for fault, text, *_ in found if fault]
        return Seen(
            n=len(found),
            faults=Counter(fault for fault, _ in faulty),
            examples=dict(reversed(faulty)),
            n_tokens=sum(length for *_, length, _ in found),
            n_truncated=sum(truncated for *_, truncated in found),
        )

    def _report(self, seen: Seen, trainer: Any, rewards_BF: torch.Tensor | None) -> str:
        """Two lines."""
        which = "held-out completions" if rewards_BF is None else "rollouts"
        limit = self.recipe.rollout.max_completion_length
        commonest = f"; {seen.commonest}" if seen.faults else ""
        report = f"preflight, {seen.n} {which}: {seen.well_formed:.0%} well formed{commonest}\n"
        truncated = f"{seen.n_truncated / seen.n:.0%} truncated"
        report += f"  {seen.n_tokens / seen.n:.0f} tokens in the mean, the limit is {limit} ({truncated})"
        if rewards_BF is None:
            return report
        groups = rewards_BF.split(trainer.num_generations)
        sums = [weighted_sum(rewards_GF, trainer.reward_weights).tolist() for rewards_GF in groups]
        n_informative = sum(map(trainer._is_informative, sums, groups))
        return f"{report}; {n_informative} of {len(groups)} groups have signal"

    def _refusal(self, seen: Seen) -> str:
        """One line: what was found, and what to do."""
        run, least = self.recipe.output_dir, self.recipe.rollout.min_well_formed
        limit = self.recipe.rollout.max_completion_length
        longer = f"raise rollout.max_completion_length ({limit})"
        remedies = [f"srl warm-up {run / 'config.toml'}", longer]
        if not self.chat.opens_thought:
            remedies.insert(0, "chat.open_thought = true")
        if self.recipe.stage == "rlvr":
            remedies = [longer]
        elif seen.faults.most_common(1)[0][0] == "truncated":
            remedies.insert(0, remedies.pop())
        return (
            f"{seen.well_formed:.0%} of the first {seen.n} completions are well formed, fewer than "
            f"rollout.min_well_formed = {least:g}, so there is next to nothing to learn from ({seen.commonest}); "
            f"{', or '.join(remedies)}; with rollout.min_well_formed = 0 it trains all the same"
        )

    # --- how long a step takes ----------------------------------------------------------------------

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note how long the evaluation at the start took."""
        self.evaluation_seconds = kwargs.get("metrics", {}).get("eval_runtime", 0.0)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock of the first step."""
        self.step_began = perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After the first step: how long it took, and when the run will end by that."""
        if state.global_step != 1 or not state.is_world_process_zero:
            return
        seconds = perf_counter() - self.step_began
        n_steps = state.max_steps
        if (limit := self.recipe.optim.max_num_tokens) and state.num_input_tokens_seen:
            n_steps = min(n_steps, math.ceil(limit / state.num_input_tokens_seen))
        n_evaluations = n_steps // int(args.eval_steps) if args.eval_strategy != "no" and args.eval_steps else 0
        left = seconds * (n_steps - 1) + self.evaluation_seconds * n_evaluations
        end = datetime.now() + timedelta(seconds=left)
        memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory" * torch.cuda.is_available()
        day = f" on {end:%d %B}" * (end.date() != datetime.now().date())
        print(f"the first step took {seconds:.3g} s{memory}; {n_steps} steps end at about {end:%H:%M}{day}", flush=True)


def say_if_thoughts_are_missing(rows: Dataset, path: Any) -> None:
    """Say that SFT on these rows teaches what SRL punishes."""
    without = sum(not thought for thought in rows["thought"])
    if without:
        print(
            f"{path}: {without} of {len(rows)} steps have no thought; SFT on them teaches to answer without <think>, "
            "which SRL rewards with −1. To teach the format, use srl warm-up",
            flush=True,
        )
