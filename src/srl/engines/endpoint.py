"""Completions from any server that speaks OpenAI's chat API (vLLM, SGLang, llama.cpp, …), for all who ask one."""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srl.engines.protocols import Reply
from srl.errors import UserError
from srl.records import Message
from srl.runs.toml import suggest

TRIES = 6
FIRST_WAIT_SECONDS = 1.0
"""Doubled after each try, so that all tries together outlast a server that is down for half a minute."""
CHECK_SECONDS = 20.0
"""For the list of models, which costs a server nothing."""
REQUEST_SECONDS = 600.0
"""For one completion, waiting in the server's queue included."""
HAND_ON_TEMPLATE_KWARGS = {"vllm", "sglang", "llamacpp"}
"""Owners of models at servers that take `chat_template_kwargs` in a request."""
TRIES_AT_THE_LIMIT = 2
"""A completion that took so long twice will a third time."""
REFUSED_FOR_LENGTH = re.compile(
    r"context.?(length|size|window)|maximum model length|max_model_len|prompt is too long|`inputs` (tokens|must have)",
    re.IGNORECASE,
)
"""In the refusals of OpenAI, vLLM, SGLang, llama.cpp, Anthropic and TGI of a prompt for its length."""


class PromptTooLong(UserError):
    """The server refuses a prompt for its length."""


class NotACompletion(ValueError):
    """A body that is no chat completion."""


class Endpoint:
    """One model behind a server.

    Each completion is a request of its own. What a server may do wrong for a while (no connection, a connection
    cut half way, 429, 5xx, a body that is no completion) is tried again; what will not change is a `UserError`.
    """

    name = "endpoint"

    def __init__(
        self,
        url: str,
        model: str,
        max_tokens: int,
        request_seconds: float = REQUEST_SECONDS,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """`template_kwargs` are arguments of the chat template, for servers that hand them on."""
        from openai import AsyncOpenAI

        self.url, self.model, self.max_tokens, self.request_seconds = url, model, max_tokens, request_seconds
        self.template_kwargs = dict(template_kwargs or {})
        self.extra: dict[str, Any] = {}
        self.failures: Counter[str] = Counter()
        """What went wrong and was tried again, by kind."""
        key = os.environ.get("OPENAI_API_KEY", "none")  # local servers ask for none
        self.client = AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=request_seconds)

    async def check(self) -> None:
        """Ask once what the server offers, before anything is counted on it.

        Raises:
            UserError: no server, one that does not answer or is not trusted, or one that does not offer the model.
        """
        import openai

        try:
            async with asyncio.timeout(CHECK_SECONDS):
                listed = [model async for model in self.client.with_options(timeout=CHECK_SECONDS).models.list()]
            names = [str(model.id) for model in listed]
        except (TimeoutError, openai.APITimeoutError):
            raise UserError(
                f"{self.url}: takes connections but has not listed its models within {CHECK_SECONDS:g} s; is it still "
                "loading, or does it hang?"
            ) from None
        except openai.APIConnectionError as error:
            self._raise_if_not_trusted(error)
            raise UserError(f"{self.url}: no server answers there") from None
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise UserError(f"{self.url}: refused the key: {_one_line(error)}; set OPENAI_API_KEY") from None
            if self.template_kwargs:
                self._raise_no_template_kwargs()
            return  # a server need not list its models
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"{self.url}: answers, but not as OpenAI's API does; is the path right (…/v1)?") from None
        # A folder is no misspelt name: transformers' server lists what its cache holds, and serves any folder.
        if self.model not in names and not Path(self.model).is_dir():
            has = f"{', '.join(names) or 'none'}{suggest(self.model, names)}"
            raise UserError(f"{self.url}: expected the model `{self.model}`, it has {has}")
        self._raise_if_no_room([model for model in listed if model.id == self.model])
        kinds = {str(getattr(model, "owned_by", "")) for model in listed}
        if kinds & {"vllm", "sglang"}:
            # They start from the model's generation_config, which may narrow what it samples from.
            # `<think>` is a special token in some vocabularies, and belongs into the text.
            self.extra = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "skip_special_tokens": False}
        if self.template_kwargs:
            if not kinds & HAND_ON_TEMPLATE_KWARGS:
                self._raise_no_template_kwargs()
            self.extra["chat_template_kwargs"] = self.template_kwargs

    async def complete(self, prompt: tuple[Message, ...], seed: int, temperature: float) -> Reply:
        """Ask the server for one completion, up to `TRIES` times; temperature 0 is greedy.

        Raises:
            PromptTooLong: the server refuses it for the prompt's length.
            UserError: the server refuses the request otherwise, or failed at every try.
        """
        import openai

        at_the_limit = 0
        for attempt in range(TRIES):
            try:
                async with asyncio.timeout(self.request_seconds):  # the client's own limit starts anew at every byte
                    return read_reply(await self._request(prompt, seed, temperature))
            except (TimeoutError, openai.APITimeoutError):
                failure = f"no completion within {self.request_seconds:g} s"
                self.failures["no completion in time"] += 1
                at_the_limit += 1
                if at_the_limit == TRIES_AT_THE_LIMIT:
                    break
            except openai.APIStatusError as error:
                if error.status_code < 500 and error.status_code not in (408, 409, 429):
                    kind = PromptTooLong if REFUSED_FOR_LENGTH.search(str(error)) else UserError
                    raise kind(f"{self.url}: refused the request: {_one_line(error)}") from None
                failure = _one_line(error)
                self.failures[f"HTTP {error.status_code}"] += 1
            except openai.APIConnectionError as error:
                self._raise_if_not_trusted(error)
                failure = _one_line(error)
                self.failures["no connection, or cut off"] += 1
            except (openai.APIError, ValueError, TypeError, AttributeError) as error:  # no JSON, or no completion
                failure = _one_line(error)
                self.failures["not a chat completion"] += 1
            if attempt < TRIES - 1:
                await asyncio.sleep(FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.75, 1.25))
        limit = "; a longer limit: --request-seconds" if at_the_limit == TRIES_AT_THE_LIMIT else ""
        raise UserError(
            f"{self.url}: failed {attempt + 1} times, the last time with: {failure}{limit}; --resume goes on from here"
        )

    def failure_lines(self) -> list[str]:
        """What went wrong and was tried again; nothing if nothing did."""
        if not self.failures:
            return []
        return ["tried again: " + ", ".join(f"{count} × {kind}" for kind, count in self.failures.most_common())]

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

    def _raise_if_no_room(self, listed: list[Any]) -> None:
        """vLLM and SGLang say how long prompt and completion may be together; else every prompt would be too long."""
        for model in listed:
            limit = getattr(model, "max_model_len", None)
            if isinstance(limit, int) and limit <= self.max_tokens:
                raise UserError(
                    f"{self.url}: takes {limit} tokens of prompt and completion together, and a completion may have "
                    f"{self.max_tokens}: lower that limit, or start the server with a longer context"
                )

    def _raise_no_template_kwargs(self) -> None:
        raise UserError(
            f"{self.url}: --chat.template-kwargs reach the template through vLLM, SGLang and llama.cpp only, and this "
            "server does not say that it is one of them; set them where it is started"
        )

    def _raise_if_not_trusted(self, error: BaseException) -> None:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLError) or "CERTIFICATE_VERIFY_FAILED" in str(cause):
                raise UserError(
                    f"{self.url}: its certificate or TLS is not accepted ({_one_line(cause)}); name the file of its "
                    "authority in SSL_CERT_FILE, or use http:// if it speaks no TLS"
                ) from None
            cause = cause.__cause__ or cause.__context__


def read_reply(answer: Any) -> Reply:
    """The text of a chat completion, of which servers send more kinds than one.

    Raises:
        NotACompletion: it is none, or it has not ended.
    """
    try:
        choice, usage = answer.choices[0], answer.usage
        message, reason = choice.message, choice.finish_reason
        content = message.content
    except (AttributeError, IndexError, KeyError, TypeError):
        raise NotACompletion(f"not a chat completion: {_one_line(answer)[:80]!r}") from None
    if reason is None:
        raise NotACompletion("not a chat completion: it has not ended")
    text = _joined(content)
    if text is not None:
        text = _with_thought(_thought(message, content), text, ended=content is not None)
    if text is None or not isinstance(reason, str):
        found = type(content).__name__ if text is None else f"the end {reason!r:.40}"
        raise NotACompletion(f"not a chat completion: expected text, found {found}")
    return Reply(
        text,
        _count(usage, "completion_tokens"),
        truncated=reason == "length",
        prompt_tokens=_count(usage, "prompt_tokens"),
    )


def _count(usage: Any, name: str) -> int | None:
    count = getattr(usage, name, None)
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Of a message: where servers put the thought that a reasoning parser has taken off."""


def _thought(message: Any, content: Any) -> str:
    """The thought that a server has split off, as a field of the message or as parts of its content."""
    for name in THOUGHT_FIELDS:
        if isinstance(thought := getattr(message, name, None), str) and thought:
            return thought
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or part.get("thinking") or "") for part in parts if _is_thought(part))


def _is_thought(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in ("reasoning", "thinking")


def _with_thought(thought: str, text: str, *, ended: bool) -> str:
    """A reply as one completion: `<think>…</think>` and the answer, whoever has taken it apart.

    Without a server's help the reply to a prompt that ends with `<think>` only closes it.
    """
    if thought:
        return f"<think>{thought}</think>\n{text}" if ended else f"<think>{thought}"
    return f"<think>{text}" if "</think>" in text and "<think>" not in text else text


def _joined(content: Any) -> str | None:
    """Text as it stands, or in parts (`[{"type": "text", "text": …}]`) without thoughts; None if it is neither."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif _is_thought(part):
            continue
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif not isinstance(part, Mapping) or part.get("type") in ("text", None):
            return None
    return "".join(texts)


def _one_line(error: Any) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
