"""What decides the patches that are asked for, and the package that an agent needs."""

from __future__ import annotations

import importlib
import os
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Literal

from packaging.specifiers import SpecifierSet

from srl.chat.prompts import AGENT_SYSTEM_PROMPT
from srl.data.steps import Context
from srl.engines.engines import EngineName
from srl.errors import UserError
from srl.evaluation.swe.protocols import REPAIR_SYSTEM_PROMPT
from srl.runs.recipe import DEFAULT_CHAT, ChatOptions

MINI = ">=2.4,<2.5"
"""The versions of the extra `agent` (pyproject.toml), whose text format is the one that is asked for."""


@dataclass(frozen=True)
class PredictOptions:
    """What is asked of the model."""

    protocol: Literal["oracle", "end-to-end", "agent"] = "oracle"
    """oracle: the files to change are given; end-to-end: the model finds them first; agent: it has a shell."""
    samples: int = 0
    """Samples per instance at --temperature."""
    greedy: bool = False
    """Also one at temperature 0. Without --samples this is what is done."""
    temperature: float = 1.0
    """Of the samples."""
    max_tokens: int = 4096
    """Limit of one completion; one that is cut off makes no patch."""
    max_input_tokens: int = 60_000
    """Limit of one prompt, measured at three characters a token; what does not fit is left out or not asked."""
    system_prompt: str | None = None
    """In place of srl's own for the repair or the agent; "" leaves it out; `@FILE` reads a file."""
    max_steps: int = 50
    """Agent: answers of the model, refused ones included."""
    max_agent_tokens: int = 50_000
    """Agent: tokens that the model may write for an instance in all."""
    command_seconds: float = 60
    """Agent: limit of one command."""
    context: Context = "paper"
    """Agent: how many of its latest steps the model sees, as for `srl steps`; paper: two."""
    asked_in: Literal["steps", "turns"] | None = None
    """Agent: a prompt per action, as in SRL, or turns, as in SFT on whole runs. Default: as trained, else steps."""
    chat: ChatOptions = DEFAULT_CHAT
    """As in a recipe, for a model that no run of srl trained; a run's own are used by themselves."""
    seed: int = 0
    """The same seed gives the same samples on the same engine."""
    engine: EngineName = "auto"
    """In this process: vLLM if it is installed and there is a GPU, or else transformers."""
    batch_size: int = 8
    """Completions per batch in transformers. Another batch size draws other samples."""

    def check(self) -> None:
        """Raises UserError for options that make no sense."""
        if self.samples < 0 or min(self.batch_size, self.max_tokens, self.max_input_tokens) < 1:
            raise UserError("--samples must be 0 or more; --batch-size, --max-tokens and --max-input-tokens 1 or more")
        if self.temperature <= 0:
            raise UserError("--temperature must be above 0; --greedy takes the likeliest token")
        if min(self.max_steps, self.max_agent_tokens) < 1 or self.command_seconds <= 0:
            raise UserError("--max-steps and --max-agent-tokens must be 1 or more, --command-seconds above 0")
        if isinstance(self.context, int) and self.context < 0:
            raise UserError(f"--context {self.context}: expected full, paper or a number of steps from 0")

    @property
    def asked_with(self) -> str:
        """The system prompt, srl's own where none is given."""
        if self.system_prompt is not None:
            return self.system_prompt
        return AGENT_SYSTEM_PROMPT if self.protocol == "agent" else REPAIR_SYSTEM_PROMPT

    def record(self) -> dict[str, Any]:
        """What decides the samples, in the words of `EvaluationConfig`."""
        record = {name: value for name, value in asdict(self).items() if name != "chat"}
        record["system_prompt"] = self.asked_with
        if self.protocol == "agent":
            return record | {"agent": f"mini-swe-agent {metadata.version('mini-swe-agent')}"}
        of_agents = ("max_agent_tokens", "command_seconds", "context", "asked_in")
        return record | dict.fromkeys(of_agents) | {"max_steps": 1 if self.protocol == "oracle" else 2}


def require_mini() -> None:
    """See that mini-swe-agent is installed in a version that has been tested, and let it start quietly.

    Raises:
        UserError: it is not.
    """
    found = metadata.version("mini-swe-agent") if find_spec("minisweagent") else None
    if found is None or not SpecifierSet(MINI).contains(found):
        there = f"found {found}" if found else "it is not installed here"
        raise UserError(
            f"--protocol agent: expected mini-swe-agent {MINI}, {there}; pip install 'supervised-rl[agent]' brings one"
        )
    # It makes the folder of its settings when it is imported, and reads variables from there: it shall find none.
    with tempfile.TemporaryDirectory(prefix="srl-mini-") as empty:
        with_mini = {"MSWEA_SILENT_STARTUP": "1", "MSWEA_GLOBAL_CONFIG_DIR": empty}
        before = {name: os.environ.get(name) for name in with_mini}
        os.environ.update(with_mini)
        try:
            importlib.import_module("minisweagent")
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
