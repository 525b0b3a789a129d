"""`srl profile`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from srl.engines.profile import Bounds, ProfileOptions
from srl.runs.recipe import Reward


@dataclass(frozen=True)
class Profile:
    """Sample each training step with the model that training starts from; keep those it can learn from (PivotRL).

    Or sample whole solutions (--rows problems), or keep the model's own right completions for SFT (--own: RFT)."""

    data: tyro.conf.Positional[Path]
    """A folder that `srl steps` wrote."""
    model: str
    """A run folder, a model folder, a Hub id, or the URL of a server that speaks OpenAI's API."""
    out: Path
    """The data folder to write, for `data.path` of a recipe."""
    served_as: str | None = None
    """The model's name at the server."""
    concurrency: int = 4
    """Number of steps that a server is asked for at the same time, all completions of each."""
    request_seconds: float = 600.0
    """Limit of one request to a server, waiting in its queue included."""
    resume: bool = False
    """Continue a stopped profile, or judge the samples of a finished one by another reward or other bounds."""
    overwrite: bool = False
    """Delete an earlier profile in the same folder."""
    reward: Reward = field(default_factory=Reward)
    """What a completion earns, as in the recipe."""
    bounds: Annotated[Bounds, tyro.conf.arg(name="")] = field(default_factory=Bounds)
    options: Annotated[ProfileOptions, tyro.conf.arg(name="")] = field(default_factory=ProfileOptions)

    def run(self) -> None:
        """Profile."""
        from srl.engines.profile import profile

        profile(
            self.data,
            self.model,
            self.out,
            self.options,
            self.reward,
            self.bounds,
            model=self.served_as,
            concurrency=self.concurrency,
            request_seconds=self.request_seconds,
            resume=self.resume,
            overwrite=self.overwrite,
        )
