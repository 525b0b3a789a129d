"""Completions from a model in this process: over shared keys where prompts are few, else by `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase

from srl.chat.tokenizer import load_tokenizer, prompt_ids
from srl.engines.protocols import Reply
from srl.errors import UserError
from srl.records import Message
from srl.shared_prefix.sampler import SamplingOptions, sample_completions
from srl.shared_prefix.support import why_no_sampling
from srl.shared_prefix.trial import problem_with_sampling


class TransformersEngine:
    """A model and its tokenizer, on the accelerator if there is one.

    Raises:
        UserError: no such model, or a tokenizer without chat template.
    """

    name = "transformers"

    def __init__(self, path: str, max_tokens: int) -> None:
        transformers.utils.logging.disable_progress_bar()
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(path)
        self.max_tokens = max_tokens
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        try:
            self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: no model could be loaded: {str(error).strip().splitlines()[0]}") from None
        self.model.eval()
        self.shares_keys = not (why_no_sampling(self.model) or problem_with_sampling(self.model))

    def generate(self, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int], temperature: float) -> list[Reply]:
        """One completion per prompt; the same batch with the same seeds is completed the same way."""
        ends = self._end_tokens()
        asked = [list(prompt) for prompt in prompts]
        # Every prompt of its own is a small product per layer and token: few of them, or many samples of each.
        few_prompts = 2 * len(set(map(str, prompts))) <= max(2, len(prompts))
        if few_prompts and self.shares_keys:
            ids = prompt_ids(self.tokenizer, asked)
            options = SamplingOptions(self.max_tokens, temperature, eos_token_ids=tuple(ends))
            completions, _ = sample_completions(self.model, ids, options, seed=seeds)
            return [self._reply(completion, ends) for completion in completions]
        batch = self.tokenizer.apply_chat_template(
            asked,
            add_generation_prompt=True,
            padding=True,
            tokenizer_kwargs={"padding_side": "left"},
            return_dict=True,
            return_tensors="pt",
        ).to(self.model.device)
        torch.manual_seed(seeds[0])  # one generator serves the batch; which samples are in it never changes
        completions_BT = self.model.generate(**batch, generation_config=self._generation_config(temperature, ends))
        completions_BT = completions_BT[:, batch["input_ids"].shape[1] :]
        return [self._reply(row.tolist(), ends) for row in completions_BT]

    def _generation_config(self, temperature: float, ends: list[int]) -> GenerationConfig:
        # The raw policy: a model's own generation_config may narrow what it samples from, or punish repetition.
        sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
        return GenerationConfig(
            max_new_tokens=self.max_tokens,
            do_sample=temperature > 0,
            repetition_penalty=1.0,
            eos_token_id=ends,
            pad_token_id=self.tokenizer.pad_token_id,
            **sampling,
        )

    def _end_tokens(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return sorted({end for end in (*ends, self.tokenizer.eos_token_id) if end is not None})

    def _reply(self, tokens: list[int], ends: list[int]) -> Reply:
        length = next((place for place, token in enumerate(tokens, 1) if token in ends), None)
        text = self.tokenizer.decode(tokens[: length or len(tokens)], skip_special_tokens=True)
        return Reply(text, length or len(tokens), truncated=length is None)
