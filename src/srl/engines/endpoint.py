"""Completions from any server that speaks OpenAI's chat API (vLLM, SGLang, llama.cpp, …)."""

from __future__ import annotations

import asyncio
import os
import random
from typing import Any

from srl.engines.protocols import Reply
from srl.errors import UserError
from srl.records import Message
from srl.runs.recipe import suggest

TRIES = 6
FIRST_WAIT_SECONDS = 1.0
"""Doubled after each try, so that all tries together outlast a server that is down for half a minute."""
TIMEOUT_SECONDS = 3600.0
"""For one completion: one that waits an hour in a server's queue is no error."""


class Endpoint:
    """One model behind a server.

    Each completion is a request of its own. What a server may do wrong for a while (no connection, a connection
    cut half way, 429, 5xx, a body that is no completion) is tried again; what will not change is a `UserError`.
    """

    name = "endpoint"

    def __init__(self, url: str, model: str, max_tokens: int) -> None:
        from openai import AsyncOpenAI

        self.url, self.model, self.max_tokens = url, model, max_tokens
        self.extra: dict[str, Any] = {}
        key = os.environ.get("OPENAI_API_KEY", "none")  # local servers ask for none
        self.client = AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=TIMEOUT_SECONDS)

    async def check(self) -> None:
        """Ask once what the server offers, before anything is counted on it.

        Raises:
            UserError: no server, or one that does not offer the model.
        """
        import openai

        try:
            listed = [model async for model in self.client.models.list()]
            names = [model.id for model in listed]
        except openai.APIConnectionError:
            raise UserError(f"{self.url}: no server answers there") from None
        except openai.APIStatusError:
            return  # a server need not list its models
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"{self.url}: answers, but not as OpenAI's API does; is the path right (…/v1)?") from None
        if self.model not in names:
            has = f"{', '.join(names)}{suggest(self.model, names)}"
            raise UserError(f"{self.url}: expected the model `{self.model}`, it has {has}")
        if any(getattr(model, "owned_by", None) in ("vllm", "sglang") for model in listed):
            # They start from the model's generation_config, which may narrow what it samples from.
            self.extra = {"top_k": -1, "repetition_penalty": 1.0}

    async def complete(self, prompt: tuple[Message, ...], seed: int, temperature: float) -> Reply:
        """Ask the server for one completion, up to `TRIES` times; temperature 0 is greedy.

        Raises:
            UserError: the server refuses the request, or failed at every try.
        """
        import openai

        for attempt in range(TRIES):
            try:
                return self._reply(await self._request(prompt, seed, temperature))
            except openai.APIStatusError as error:
                if error.status_code < 500 and error.status_code not in (408, 409, 429):
                    raise UserError(f"{self.url}: refused the request: {_one_line(error)}") from None
                failure = _one_line(error)
            except (openai.APIError, ValueError) as error:  # ValueError: a body that is no JSON, or no completion
                failure = _one_line(error)
            if attempt < TRIES - 1:
                await asyncio.sleep(FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.75, 1.25))
        raise UserError(f"{self.url}: failed {TRIES} times, the last time with: {failure}; --resume goes on from here")

    async def _request(self, prompt: tuple[Message, ...], seed: int, temperature: float) -> Any:
        return await self.client.chat.completions.create(
            model=self.model,
            messages=list(prompt),  # type: ignore[arg-type]
            max_tokens=self.max_tokens,
            temperature=temperature,
            top_p=1.0,
            seed=seed,
            extra_body=self.extra,
        )

    def _reply(self, answer: Any) -> Reply:
        try:
            choice, usage = answer.choices[0], answer.usage
            text, reason = choice.message.content, choice.finish_reason
        except (AttributeError, IndexError, TypeError):
            raise ValueError(f"not a chat completion: {str(answer)[:80]!r}") from None
        if reason is None:
            raise ValueError("a completion that has not ended")
        return Reply(text or "", usage.completion_tokens if usage else None, truncated=reason == "length")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
