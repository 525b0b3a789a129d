"""What decides the samples of an evaluation: what the user asks for, and that with all that it stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from srl.chat.prompts import ANSWER_SYSTEM_PROMPT
from srl.engines.engines import EngineName
from srl.engines.protocols import Manner, ProtocolName
from srl.errors import UserError
from srl.evaluation.swe.protocols import SweProtocolName
from srl.runs.recipe import DEFAULT_CHAT, ChatOptions


@dataclass(frozen=True)
class EvaluationOptions:
    """How a model is asked: how often, under which protocol, and with which limits."""

    samples: int = 0
    """Samples per problem at --temperature; their mean is the column avg@N. Skipped for greedy-only benchmarks."""
    greedy: bool = False
    """Also ask for one answer per problem at temperature 0. The default if --samples is not given."""
    temperature: float = 1.0
    """Temperature of the samples."""
    protocol: ProtocolName = "answer"
    """answer: the whole solution at once, as in the paper; stepwise: a thought and a step at a time."""
    max_tokens: int = 2048
    """Tokens of one completion (stepwise: of one step); an answer that is cut off is wrong."""
    max_steps: int = 30
    """Stepwise: steps after which an attempt is given up."""
    system_prompt: str | None = None
    """In place of what the run was trained with, or srl's own; "" leaves the system turn out; `@FILE` reads a file."""
    give_title: bool | None = None
    """Stepwise: let the model write each step's title first. By default if its run was trained with titles given."""
    chat: ChatOptions = DEFAULT_CHAT
    """As in a recipe, for a model that no run of srl trained; a run's own are used by themselves."""
    seed: int = 0
    """The same seed gives the same samples on the same engine."""
    engine: EngineName = "auto"
    """What runs the model in this process; auto: vLLM if it is installed and there is a GPU, otherwise transformers."""
    batch_size: int = 32
    """Completions per batch in transformers. Another batch size draws other samples."""

    def check(self) -> None:
        """Raises UserError for options that make no sense."""
        if self.samples < 0 or self.batch_size < 1 or self.max_tokens < 1 or self.temperature <= 0:
            raise UserError("--samples must be 0 or more; --batch-size, --max-tokens and --temperature above 0")


@dataclass(frozen=True)
class BenchmarkFacts:
    """Which problems an evaluation asks."""

    title: str
    source: str
    problems: int
    sha256: str
    """Of problems and answers."""
    scorer: str
    unscorable: Mapping[str, str]
    """Problems whose known answer does not score 1.0 against itself, with the reason."""


@dataclass(frozen=True)
class EvaluationConfig:
    """All that decides the samples; an evaluation is resumed only with an equal one.

    The keys of `config` in evaluation.json and results.json.
    """

    model: str
    weights: str | None
    """Digest; None for a server and a Hub id."""
    samples: int
    greedy: bool
    temperature: float
    protocol: ProtocolName | SweProtocolName
    max_tokens: int
    max_steps: int
    system_prompt: str
    seed: int
    engine: str
    batch_size: int
    benchmarks: Mapping[str, BenchmarkFacts]
    give_title: bool | None = None
    """Stepwise only, as the next one; versions before 0.2 did not have them."""
    answer_system_prompt: str | None = None
    """Asks for the answer where the steps gave none."""
    today: str | None = None
    """The date in the prompts of chat templates that print one."""
    max_input_tokens: int | None = None
    """Software engineering only, as the next ones, which are for agents."""
    max_agent_tokens: int | None = None
    command_seconds: float | None = None
    context: str | int | None = None
    asked_in: str | None = None
    agent: str | None = None
    """Package and version."""
    template_kwargs: Mapping[str, Any] | None = None
    """Of the chat template, as the next one; None if nothing was given."""
    open_thought: bool | None = None

    @property
    def manner(self) -> Manner:
        """How the model is asked."""
        if self.protocol == "answer":
            return Manner(answer=self.system_prompt)
        answer = ANSWER_SYSTEM_PROMPT if self.answer_system_prompt is None else self.answer_system_prompt
        return Manner(self.system_prompt, answer, bool(self.give_title))

    @classmethod
    def of(
        cls,
        options: EvaluationOptions,
        *,
        model: str,
        weights: str | None,
        engine: str,
        manner: Manner,
        benchmarks: Mapping[str, BenchmarkFacts],
        chat: ChatOptions,
    ) -> EvaluationConfig:
        """The options, with what their defaults come to."""
        asked: dict[str, Any] = {"system_prompt": manner.answer, "give_title": None}
        if options.protocol == "stepwise":
            asked = {
                "system_prompt": manner.step,
                "give_title": manner.give_title,
                "answer_system_prompt": manner.answer,
            }
        chosen = asdict(options) | {"engine": engine} | chat_record(chat) | asked
        del chosen["chat"]
        return cls(model=model, weights=weights, benchmarks=benchmarks, **chosen)

    def differences(self, other: EvaluationConfig) -> list[str]:
        """The names of what differs."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]


def chat_record(chat: ChatOptions) -> dict[str, Any]:
    """Chat options as the fields of a configuration; a resumed evaluation may be older than some of them."""
    today = chat.today.isoformat() if chat.today else None
    return {"template_kwargs": chat.template_kwargs or None, "open_thought": chat.open_thought or None, "today": today}


def read_config(path: Path) -> EvaluationConfig:
    """The configuration in an evaluation.json.

    Raises:
        UserError: it holds none.
    """
    try:
        return TypeAdapter(EvaluationConfig).validate_python(json.loads(path.read_text(encoding="utf-8"))["config"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not the record of an evaluation, or damaged") from None
