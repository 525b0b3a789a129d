"""Prompts and completions of a trainer as `srl.chat.tokenizer` takes them, whatever TRL would make of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig
from trl import GRPOTrainer

from srl.chat.tokenizer import Chat, read_chat


class ChatTrainer(GRPOTrainer):
    """`GRPOTrainer` for any chat template that `read_chat` takes: what is trained on is what evaluation sees.

    `chat` says how; by default it is found out from the tokenizer and `args.chat_template_kwargs`. Prompts that are
    plain texts are left to TRL, and so are the completions of a `rollout_func`, which may hold several turns.
    """

    chat: Chat | None = None  # TRL may ask for it before `__init__` ends

    def __init__(self, *args: Any, chat: Chat | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chat = chat or self._read_chat()
        if self.chat:
            self.eos_token_ids = list(self.chat.end_ids)
            if self.use_vllm:  # which stops at the ends that it knows from the model's folder, and hands ids back
                given = self.vllm_generation.generation_kwargs
                stops = dict.fromkeys([*self.eos_token_ids, *given.get("stop_token_ids", [])])
                self.vllm_generation.generation_kwargs = given | {"stop_token_ids": [*stops]}
            else:
                self.generation_config.eos_token_id = self.generation_kwargs["eos_token_id"] = self.eos_token_ids

    def _read_chat(self) -> Chat | None:
        if isinstance(next(iter(self.train_dataset))["prompt"], str):
            return None
        name = getattr(self.model, "name_or_path", "") or type(self.model).__name__
        return read_chat(
            self._tokenizer, name, stop_ids=self.eos_token_ids, template_kwargs=self.args.chat_template_kwargs
        )

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, Any]:
        """TRL's hook: prompt ids, images, and what else a processor gives for images."""
        return (self.chat.prompt_ids(prompts), None, {}) if self.chat else super()._tokenize_prompts(prompts)

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL's hook: a completion per prompt, as ids and as a message."""
        with self._raw_policy():
            prompt_ids, completion_ids, tool_mask, messages, *others = super()._generate(prompts)
        if self.chat and self.rollout_func is None:
            messages = [[{"role": "assistant", "content": self.chat.text(ids)}] for ids in completion_ids]
        return prompt_ids, completion_ids, tool_mask, messages, *others

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate with the same random numbers at every step, and leave those of training as they were.

        Evaluations then differ by the weights alone, and that of a saved model can be repeated.
        """
        on_gpu = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(on_gpu):
            torch.manual_seed(self.args.seed + self.accelerator.process_index)
            return super().evaluate(*args, **kwargs)

    @contextmanager
    def _raw_policy(self) -> Iterator[None]:
        """Meanwhile, the model recommends no way of sampling: `generate` takes from there what TRL leaves unset."""
        model = self.accelerator.unwrap_model(self.model)
        model = model.get_base_model() if hasattr(model, "peft_config") else model
        recommended, model.generation_config = model.generation_config, GenerationConfig()
        try:
            yield
        finally:
            model.generation_config = recommended
