"""What decides the samples of an evaluation: what the user asks for, and that with all that it stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pydantic import TypeAdapter

from srl.engines.engines import EngineName
from srl.engines.protocols import ProtocolName
from srl.errors import UserError


@dataclass(frozen=True)
class EvaluationOptions:
    """What is asked of the model."""

    samples: int = 0
    """Samples per problem at --temperature; their mean is the column avg@N. Skipped for greedy-only benchmarks."""
    greedy: bool = False
    """Also one answer per problem at temperature 0. Without --samples this is what is done."""
    temperature: float = 1.0
    """Of the samples."""
    protocol: ProtocolName = "answer"
    """answer: the whole solution at once, as in the paper; stepwise: a thought and a step at a time."""
    max_tokens: int = 2048
    """Limit of one completion (stepwise: of one step); an answer that is cut off is wrong."""
    max_steps: int = 30
    """Stepwise: give up after so many steps."""
    system_prompt: str | None = None
    """In place of the protocol's own; "" leaves the system turn out."""
    seed: int = 0
    """The same seed gives the same samples on the same engine."""
    engine: EngineName = "auto"
    """In this process: vLLM if it is installed and there is a GPU, or else transformers."""
    batch_size: int = 32
    """Completions at a time in transformers; part of what decides the samples."""

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
    protocol: ProtocolName
    max_tokens: int
    max_steps: int
    system_prompt: str
    seed: int
    engine: str
    batch_size: int
    benchmarks: Mapping[str, BenchmarkFacts]

    @classmethod
    def of(
        cls,
        options: EvaluationOptions,
        *,
        model: str,
        weights: str | None,
        engine: str,
        system_prompt: str,
        benchmarks: Mapping[str, BenchmarkFacts],
    ) -> EvaluationConfig:
        """The options, with what their defaults come to."""
        chosen = asdict(options) | {"engine": engine, "system_prompt": system_prompt}
        return cls(model=model, weights=weights, benchmarks=benchmarks, **chosen)

    def differences(self, other: EvaluationConfig) -> list[str]:
        """The names of what differs."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]


def read_config(path: Path) -> EvaluationConfig:
    """The configuration in an evaluation.json.

    Raises:
        UserError: it holds none.
    """
    try:
        return TypeAdapter(EvaluationConfig).validate_python(json.loads(path.read_text(encoding="utf-8"))["config"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not the record of an evaluation, or damaged") from None
