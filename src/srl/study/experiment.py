"""An experiment file: which runs there are, and what is compared. TOML; srl's own lie in `srl/builtin/experiments/`.

Stages are recipes of `srl train` with changes. A chain is one stage after another, each starting from the model of
the one before, the first from the base. An arm is a chain and how its last model is asked. Data and problems are the
user's folders and files ([data] and [problems]), or the tiny domain writes them ([domain]).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from srl.engines.protocols import Manner
from srl.errors import UserError
from srl.runs.recipe import Recipe, read_recipe
from srl.runs.toml import changed, from_toml, from_values, own_or_given, suggest

Chain = tuple[str, ...]
"""The names of stages; none: the base itself."""

DomainKind = Literal["arithmetic", "code-repair"]

DOMAIN_DATA: dict[DomainKind, tuple[str, ...]] = {
    "arithmetic": ("expert", "paper-targets", "own-thoughts", "holistic", "prefixes"),
    "code-repair": ("expert", "own-thoughts", "edits"),
}
"""The data folders that a tiny domain writes for each seed (`study/domain.py`, `study/repair_data.py`)."""

AGENT_STEPS = 8
"""The most that an agent may take for a repair; the expert takes five."""

DECIDED_BY_THE_EXPERIMENT = ("seed", "output_dir", "model.model_name_or_path", "data.path", "optim.learning_rate")
"""Keys of a recipe that a stage's `changes` may not set."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Domain(_Table):
    """Which of srl's tiny domains (`srl.study.tiny`, `srl.study.repair`), and how much of it there is."""

    kind: DomainKind = Field("arithmetic", description="arithmetic, or code-repair: what its problems are.")
    operations: int = Field(5, ge=2, description="In every problem; of a program, its lines.")
    expert_problems: int = Field(ge=1, description="That all arms train on.")
    validation_problems: int = Field(ge=1, description="They choose learning rate and checkpoint.")
    test_problems: int = Field(ge=1, description="Asked once.")
    wrong_steps: float = Field(
        0.0, ge=0, lt=1, description="arithmetic: share of the expert's operations that are not the right one."
    )
    wording: Literal["student", "other"] = Field(
        "student", description="arithmetic: the expert words its steps as `tiny-base` does, or in other words."
    )
    first_problem: int = Field(
        1000,
        ge=1000,
        description="Where in the domain's stream of problems those that are asked begin. The first 1,000 served to "
        "find budgets and sizes; `tiny-base` was trained on none of the first 2,000.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind != "arithmetic" and (self.wrong_steps or self.wording != "student"):
            raise ValueError('wrong_steps and wording are for kind = "arithmetic"')
        return self


class Problems(_Table):
    """The problems that no arm trains on: benchmarks, as `srl evaluate` takes them."""

    validation: str = Field(description="They choose learning rate and checkpoint.")
    test: str = Field(description="Asked once.")
    steps: Path | None = Field(
        None,
        description="Step rows of `srl steps` that no arm trains on: how every arm takes the expert's single steps.",
    )


class Pivots(_Table):
    """Steps are chosen before training, by samples of the model that the stage starts from (`srl profile`)."""

    samples: int = Field(ge=2, description="Completions per step.")
    max_mean: float = Field(
        1.0, description="The mean of a step's rewards must be below this, and their deviation above 0.01."
    )


class Stage(_Table):
    """One training run."""

    recipe: Path = Field(description="A recipe file, or one of srl's own.")
    data: str = Field(description="A name of the table [data]; with a [domain] one of those that it writes.")
    learning_rates: tuple[float, ...] = Field(min_length=1, description="To choose from on validation problems.")
    own_samples: int = Field(
        0,
        ge=0,
        description="RFT: so many completions per row by the model that the stage starts from; SFT on those that are "
        "right (`srl profile --own`).",
    )
    pivots: Pivots | None = Field(None, description="SRL on chosen steps only.")
    changes: dict[str, Any] = Field({}, description="Tables of the recipe to overwrite, as they stand there.")

    def sets_what_the_experiment_decides(self) -> str | None:
        """The first key among the changes that is not the stage's to set."""
        for key in DECIDED_BY_THE_EXPERIMENT:
            table, _, inner = key.partition(".")
            changed = self.changes.get(table, {})
            if table in self.changes and (not inner or (isinstance(changed, dict) and inner in changed)):
                return key
        return None

    def as_recipe(self, name: str, *, model: str, data: Path, out: Path, seed: int, learning_rate: float) -> Recipe:
        """The recipe of this stage, called `name`, with its changes and the places of an experiment.

        Raises:
            UserError: no such recipe, or changes that it cannot take.
        """
        values = read_recipe(self.recipe).model_dump(mode="json")
        places = {"model": {"model_name_or_path": model}, "data": {"path": str(data)}}
        decided = {"output_dir": str(out), "seed": seed, "optim": {"learning_rate": learning_rate}, **places}
        return from_values(Recipe, changed(changed(values, self.changes), decided), name)


class Arm(_Table):
    """A row of the table."""

    title: str
    stages: Chain = ()
    temperature: float = Field(1.0, gt=0, description="Of the sampled test answers.")
    seeds: int | None = Field(None, ge=1, description="At most so many.")


class Experiment(_Table):
    """An experiment file."""

    title: str
    base: str = Field(description="The model that all arms start from, as in a recipe.")
    data: dict[str, Path] = Field({}, description="Data folders of `srl steps`, by the names that stages use.")
    problems: Problems | None = None
    domain: Domain | None = Field(None, description="In place of data and problems: one of srl's tiny domains.")
    samples: int = Field(0, ge=0, description="Sampled test answers per problem, besides the greedy one.")
    max_tokens: int = Field(ge=1, description="Of a whole answer.")
    max_step_tokens: int = Field(ge=1, description="Of one step, thought included.")
    max_steps: int = Field(30, ge=1, description="Of an answer that is written step by step.")
    batch_size: int = Field(32, ge=1, description="Answers at a time; part of what decides samples.")
    answer_system_prompt: str | None = Field(None, description="Of whole answers; by default the data's.")
    system_prompt: str | None = Field(None, description="Of steps; by default the data's.")
    give_title: bool | None = Field(None, description="Whether steps are asked for with titles; by default the data's.")
    stages: dict[str, Stage]
    arms: dict[str, Arm] = Field(min_length=1)
    comparisons: tuple[tuple[str, str], ...] = Field((), description="Pairs of arms: is the first better?")

    @model_validator(mode="before")
    @classmethod
    def _as_the_tiny_model_needs(cls, values: Any) -> Any:
        """What the tiny domain's size decides, and its model, which knows one task only and needs no instructions."""
        if not isinstance(values, dict) or not isinstance(domain := values.get("domain"), dict):
            return values
        operations = domain.get("operations", Domain.model_fields["operations"].default)
        sizes = {"max_step_tokens": 40, "batch_size": 250}
        if domain.get("kind") == "code-repair":
            sizes["max_steps"] = AGENT_STEPS
        elif isinstance(operations, int):  # else the table is refused
            sizes["max_steps"] = operations + 2
        return sizes | {"answer_system_prompt": "", "system_prompt": "", "give_title": False} | values

    @field_validator("arms", mode="after")
    @classmethod
    def _with_the_base(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        """A gain is a gain over the base, so that takes the test too, whether the file says so or not."""
        if all(arm.stages for arm in arms.values()):
            name = "base" if "base" not in arms else "the base itself"
            return {name: Arm(title="base, as it was"), **arms}
        return arms

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = (self.problems is not None, bool(self.data))
        if (self.domain is None and not all(given)) or (self.domain and any(given)):
            raise ValueError("expected the tables [data] and [problems], or [domain] in place of both")
        names = list(self.data or DOMAIN_DATA[self.domain.kind if self.domain else "arithmetic"])
        for name, stage in self.stages.items():
            if stage.own_samples == 1:
                raise ValueError(f"stage {name}: expected own_samples of 2 or more, or none")
            if stage.data not in names:
                raise ValueError(f"stage {name}: no data `{stage.data}`{suggest(stage.data, names)}")
            if key := stage.sets_what_the_experiment_decides():
                raise ValueError(f"stage {name}: the experiment decides `{key}`; take it out of the changes")
        for name, arm in self.arms.items():
            for stage_name in arm.stages:
                if stage_name not in self.stages:
                    raise ValueError(f"arm {name}: no stage `{stage_name}`{suggest(stage_name, list(self.stages))}")
        for name in (name for pair in self.comparisons for name in pair):
            if name not in self.arms:
                raise ValueError(f"comparisons: no arm `{name}`{suggest(name, list(self.arms))}")
        return self

    @property
    def manner(self) -> Manner:
        """How all arms are asked; what the file leaves open must have been looked up (`material.asked_as_trained`)."""
        assert self.system_prompt is not None
        assert self.answer_system_prompt is not None
        return Manner(self.system_prompt, self.answer_system_prompt, bool(self.give_title))

    @property
    def repairs_code(self) -> bool:
        """Whether problems are programs, and solved if their tests pass."""
        return self.domain is not None and self.domain.kind == "code-repair"

    def is_arm(self, chain: Chain) -> bool:
        """Whether its last model takes the test, or only goes on to a longer chain."""
        return any(arm.stages == chain for arm in self.arms.values())


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file; a bare name such as `paper-tiny` means one that comes with srl.

    Raises:
        UserError: no such file or name, broken TOML, an unknown key or a wrong value, here or in a stage's changes.
    """
    text = own_or_given(path, resources.files("srl") / "builtin" / "experiments", "experiment")
    experiment = from_toml(Experiment, text, str(path))
    for name, stage in experiment.stages.items():
        recipe = stage.as_recipe(f"{path}: stage {name}", model="", data=Path(), out=Path(), seed=0, learning_rate=1.0)
        if stage.own_samples and (recipe.stage != "sft" or recipe.sft.target not in ("steps", "solution")):
            raise UserError(f"{path}: stage {name}: own_samples is for SFT on steps or solutions")
        if stage.pivots and recipe.stage != "srl":
            raise UserError(f"{path}: stage {name}: pivots are for SRL")
        if stage.pivots or stage.own_samples:
            from srl.engines.profile import check_reward

            check_reward(recipe.reward)
    return experiment
