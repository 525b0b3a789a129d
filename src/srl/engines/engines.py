"""Where completions come from: a server, vLLM in this process, or transformers in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from packaging.specifiers import SpecifierSet

from srl.engines.protocols import Reply
from srl.errors import UserError
from srl.records import Message

if TYPE_CHECKING:
    from srl.chat.tokenizer import Chat

VLLM = ">=0.27.1,<0.31"
"""The versions of the extra `vllm` (pyproject.toml)."""

EngineName = Literal["auto", "transformers", "vllm"]


class BatchEngine(Protocol):
    """An engine that runs in this process and completes a batch of prompts per call."""

    name: str
    chat: Chat

    def generate(self, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int], temperature: float) -> list[Reply]:
        """Complete each prompt once, with its own seed, in order; temperature 0 is greedy."""
        ...


def engine_name(wanted: EngineName) -> str:
    """Resolve `auto`: vLLM if it is installed and there is a GPU, otherwise transformers."""
    if wanted == "vllm":
        require_vllm("--engine vllm")
    if wanted != "auto":
        return wanted
    import torch

    if not find_spec("vllm") or not torch.cuda.is_available():
        return "transformers"
    require_vllm("--engine auto", "; or choose --engine transformers")
    return "vllm"


def require_vllm(what_for: str, otherwise: str = "") -> None:
    """See that vLLM is installed in a version that works with this transformers and this TRL.

    Raises:
        UserError: it is not.
    """
    found = metadata.version("vllm") if find_spec("vllm") else None
    if found is None or not SpecifierSet(VLLM).contains(found, prereleases=True):
        there = f"found {found}" if found else "it is not installed here"
        raise UserError(
            f"{what_for}: expected vLLM {VLLM}, {there}; pip install 'supervised-rl[vllm]' brings one{otherwise}"
        )


def load_engine(name: str, path: str, max_tokens: int, **chat_options: Any) -> BatchEngine:
    """The engine of that name with the model at `path`; `chat_options` as for `srl.chat.tokenizer.read_chat`."""
    from srl.chat.tokenizer import load_chat
    from srl.engines.transformers import TransformersEngine

    engine = VllmEngine if name == "vllm" else TransformersEngine
    return engine(path, max_tokens, load_chat(path, **chat_options))


class VllmEngine:
    """vLLM's offline engine, which batches by itself; every sample has its own seed."""

    name = "vllm"

    def __init__(self, path: str, max_tokens: int, chat: Chat) -> None:
        from vllm import LLM

        # Its default is the model's own generation_config, which may narrow what it samples from.
        self.model: Any = LLM(path, generation_config="vllm")
        self.chat = chat
        self.max_tokens = max_tokens

    def generate(self, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int], temperature: float) -> list[Reply]:
        """Complete all prompts in one call: vLLM schedules them itself."""
        from vllm import SamplingParams

        common = {"temperature": temperature, "max_tokens": self.max_tokens, "stop_token_ids": [*self.chat.end_ids]}
        ids = self.chat.prompt_ids([list(prompt) for prompt in prompts])
        outputs = self.model.generate(
            [{"prompt_token_ids": prompt_ids} for prompt_ids in ids],
            [SamplingParams(**common, seed=seed, detokenize=False) for seed in seeds],
            use_tqdm=False,
        )
        completions = [output.outputs[0] for output in outputs]
        return [
            Reply(self.chat.text(c.token_ids), len(c.token_ids), truncated=c.finish_reason == "length")
            for c in completions
        ]


def weights_digest(path: str) -> str | None:
    """A digest of the names, sizes and times of the weight files, to notice new weights in an old folder.

    None for a Hub id.
    """
    files = sorted(Path(path).glob("*.safetensors")) + sorted(Path(path).glob("*.bin"))
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest() if stats else None
