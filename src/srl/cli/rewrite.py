"""`srl rewrite`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from srl.engines.rewrite import RewriteOptions


@dataclass(frozen=True)
class Rewrite:
    """Let a model behind a server rewrite solutions into numbered, titled steps, as the paper does; see `srl steps`."""

    source: tyro.conf.Positional[Path]
    """A file of problems and solutions (JSONL, JSON, parquet, Arrow)."""
    endpoint: str
    """The URL of a server that speaks OpenAI's API: https://host/v1. Its key is taken from OPENAI_API_KEY."""
    model: str
    """The model's name at the server."""
    out: Path = Path("rewritten")
    """The folder to write; its solutions.jsonl is for `srl steps`."""
    check: bool = False
    """Only estimate the cost; ask nothing and write nothing."""
    price: tuple[float, float] | None = None
    """Price of a million tokens, in and out, in any currency; used for the cost estimate."""
    concurrency: int = 16
    """Number of concurrent requests."""
    request_seconds: float = 600.0
    """Limit of one request, waiting in the server's queue included."""
    resume: bool = False
    """Continue a stopped rewriting; only missing solutions are asked for."""
    overwrite: bool = False
    """Delete an earlier rewriting in the same folder."""
    options: Annotated[RewriteOptions, tyro.conf.arg(name="")] = field(default_factory=RewriteOptions)

    def run(self) -> None:
        """Rewrite."""
        from srl.engines.rewrite import rewrite

        rewrite(
            self.source,
            self.out,
            self.endpoint,
            self.model,
            self.options,
            price=self.price,
            check=self.check,
            concurrency=self.concurrency,
            request_seconds=self.request_seconds,
            resume=self.resume,
            overwrite=self.overwrite,
        )
