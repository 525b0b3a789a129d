"""Completions from a model in this process: over shared keys where prompts are few, else by `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import GenerationConfig

from srl.chat.tokenizer import Chat, load_chat
from srl.engines.protocols import Reply
from srl.records import Message
from srl.runs.model import load_model
from srl.shared_prefix.sampler import SamplingOptions, sample_completions
from srl.shared_prefix.support import why_no_sampling
from srl.shared_prefix.trial import problem_with_sampling


class TransformersEngine:
    """transformers, on the accelerator (in bfloat16) if there is one, otherwise on the CPU (in float32).

    Raises:
        UserError: no such model, or a tokenizer without chat template.
    """

    name = "transformers"

    def __init__(self, path: str, max_tokens: int, chat: Chat | None = None) -> None:
        transformers.utils.logging.disable_progress_bar()
        self.chat = chat or load_chat(path)
        self.max_tokens = max_tokens
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self.model: Any = load_model(path, dtype, self.chat.tokenizer).to(device)
        self.model.eval()
        # What a model recommends (top_p, min_p, beams, penalties, …) would be added to what is asked for here.
        self.model.generation_config = GenerationConfig()
        self.shares_keys = not (why_no_sampling(self.model) or problem_with_sampling(self.model))

    def generate(self, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int], temperature: float) -> list[Reply]:
        """One completion per prompt; the same batch with the same seeds is completed the same way."""
        ids = self.chat.prompt_ids([list(prompt) for prompt in prompts])
        # Every prompt of its own is a small product per layer and token: few of them, or many samples of each.
        few_prompts = 2 * len(set(map(str, prompts))) <= max(2, len(prompts))
        if few_prompts and self.shares_keys:
            options = SamplingOptions(self.max_tokens, temperature, eos_token_ids=self.chat.end_ids)
            completions, _ = sample_completions(self.model, ids, options, seed=seeds)
            return [self._reply(completion) for completion in completions]
        batch = self.chat.tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        batch = batch.to(self.model.device)
        torch.manual_seed(seeds[0])  # one generator serves the batch; which samples are in it never changes
        completions_BT = self.model.generate(**batch, generation_config=self._generation_config(temperature))
        completions_BT = completions_BT[:, batch["input_ids"].shape[1] :]
        return [self._reply(row.tolist()) for row in completions_BT]

    def _generation_config(self, temperature: float) -> GenerationConfig:
        """The raw policy: all that is not set here is neutral, as `self.model.generation_config` is."""
        sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
        return GenerationConfig(
            max_new_tokens=self.max_tokens,
            do_sample=temperature > 0,
            eos_token_id=list(self.chat.end_ids),
            pad_token_id=self.chat.tokenizer.pad_token_id,
            **sampling,
        )

    def _reply(self, tokens: list[int]) -> Reply:
        length = next((place for place, token in enumerate(tokens, 1) if token in self.chat.end_ids), None)
        return Reply(self.chat.text(tokens), length or len(tokens), truncated=length is None)
