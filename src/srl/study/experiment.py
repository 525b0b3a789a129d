"""An experiment file: which runs there are, and what is compared. TOML; srl's own lie in `srl/builtin/experiments/`.

Stages are recipes of `srl train` with changes. A chain is one stage after another, each starting from the model of
the one before, the first from the base. An arm is a chain and how its last model is asked.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from srl.runs.recipe import from_toml, own_or_given, suggest

Chain = tuple[str, ...]
"""The names of stages; none: the base itself."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Domain(_Table):
    """How much of the tiny domain (`srl.study.tiny`) there is."""

    operations: int = Field(5, ge=2, description="In every problem.")
    expert_problems: int = Field(ge=1, description="That all arms train on.")
    validation_problems: int = Field(ge=1, description="They choose learning rate and checkpoint.")
    test_problems: int = Field(ge=1, description="Asked once.")


class Stage(_Table):
    """One training run."""

    recipe: Path = Field(description="A recipe file, or one of srl's own.")
    data: str = Field(description="The data folder: expert, own-thoughts or holistic (`study/data.py`).")
    learning_rates: tuple[float, ...] = Field(min_length=1, description="To choose from on validation problems.")
    changes: dict[str, Any] = Field({}, description="Tables of the recipe to overwrite, as they stand there.")


class Arm(_Table):
    """A row of the table."""

    title: str
    stages: Chain = ()
    temperature: float = Field(1.0, gt=0, description="Of the sampled test answers.")
    seeds: int | None = Field(None, ge=1, description="At most so many.")


class Experiment(_Table):
    """An experiment file."""

    title: str
    domain: Domain
    base: str = Field(description="The model that all arms start from, as in a recipe.")
    samples: int = Field(0, ge=0, description="Sampled test answers per problem, besides the greedy one.")
    max_tokens: int = Field(ge=1, description="Of a whole answer; a step may have 40.")
    stages: dict[str, Stage]
    arms: dict[str, Arm] = Field(min_length=1)
    comparisons: tuple[tuple[str, str], ...] = Field((), description="Pairs of arms: is the first better?")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, arm in self.arms.items():
            for stage in arm.stages:
                if stage not in self.stages:
                    raise ValueError(f"arm {name}: no stage `{stage}`{suggest(stage, list(self.stages))}")
        for name in (name for pair in self.comparisons for name in pair):
            if name not in self.arms:
                raise ValueError(f"comparisons: no arm `{name}`{suggest(name, list(self.arms))}")
        return self

    def is_arm(self, chain: Chain) -> bool:
        """Whether its last model takes the test, or only goes on to a longer chain."""
        return any(arm.stages == chain for arm in self.arms.values())


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file; a bare name such as `paper-tiny` means one that comes with srl.

    Raises:
        UserError: no such file or name, broken TOML, an unknown key or a wrong value.
    """
    text = own_or_given(path, resources.files("srl") / "builtin" / "experiments", "experiment")
    return from_toml(Experiment, text, str(path), _explain)


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"])) or "experiment"
    return f"`{where}`: {problem['msg']}"
