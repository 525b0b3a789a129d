"""A recipe: everything that decides a training run, as typed, frozen models read from TOML.

Keys carry TRL's names where TRL has one. The table `[trl]` hands any further option to TRL's own config
(`GRPOConfig` or `SFTConfig`): loss_type, scale_rewards, epsilon, beta, use_vllm, report_to, deepspeed, …
The table `[verl]` does so for the other engine; each engine reads its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from srl.errors import UserError
from srl.runs.table_flag import TABLE_FLAG
from srl.runs.toml import changed, from_values, own_or_given, parsed


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


QUANTIZED = ("load_in_4bit", "load_in_8bit", "quantization_config", "use_qlora")
"""What people ask for QLoRA with."""


def refuse_quantized(options: Mapping[str, Any]) -> None:
    """Raises ValueError for options that would load quantized weights."""
    for name in QUANTIZED:
        if options.get(name):
            raise ValueError(
                f"`{name}`: quantized weights (QLoRA) are not supported; model.use_peft trains LoRA adapters beside "
                'whole weights, with model.dtype = "bfloat16" in two bytes each'
            )


class Model(_Table):
    """Where training starts."""

    model_name_or_path: str = Field(description="A Hub id, a model folder, or the folder of an earlier srl run.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Weight dtype. GPU compute is bfloat16 either way; AdamW at 5e-7 needs float32 weights.",
    )
    disable_dropout: bool = Field(True, description="Train without the model's dropout.")
    use_peft: bool = Field(False, description="Train LoRA adapters. The run's model/ has them merged.")
    lora_r: int = Field(16, ge=1, description="LoRA rank.")
    lora_alpha: int = Field(32, ge=1, description="LoRA scale, divided by the rank.")
    lora_target_modules: str = Field("all-linear", description="Modules that get adapters, separated by commas.")

    @model_validator(mode="before")
    @classmethod
    def _is_not_quantized(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            refuse_quantized(values)
        return values


class ChatOptions(_Table):
    """How conversations become tokens (docs/models.md)."""

    template_kwargs: Annotated[dict[str, Any], TABLE_FLAG] = Field(
        default={}, description="Arguments of the chat template, such as enable_thinking; by default srl finds them."
    )
    open_thought: bool = Field(
        False,
        description="End every prompt with <think>, as the templates of reasoning models do. Helps a model that does "
        "not write it by itself.",
    )
    today: date | None = Field(
        None, description="The date for templates that print one. Default: the day the run starts."
    )

    @field_validator("template_kwargs")
    @classmethod
    def _are_values_of_a_template(cls, values: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(values, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("expected texts, numbers, booleans, lists and tables of them") from None
        return values


DEFAULT_CHAT = ChatOptions()
"""The template as it is, or with what srl finds."""


class Data(_Table):
    """What is trained on."""

    path: Path = Field(description="A folder that `srl steps` wrote.")
    max_prompt_length: int = Field(2048, ge=1, description="In tokens. A longer prompt is an error; it is never cut.")
    drop_long_prompts: bool = Field(False, description="Skip and count prompts that are too long, instead of stopping.")


class Optim(_Table):
    """The optimizer, AdamW, and the length of training."""

    learning_rate: float = Field(5e-7, gt=0)
    lr_scheduler_type: str = Field("constant", description="A schedule of transformers: constant, cosine, linear, …")
    warmup_steps: float = Field(0, ge=0, description="Number of steps; below 1, a share of all steps.")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    num_train_epochs: float = Field(30, gt=0, description="Passes over the data, not counting refills.")
    max_steps: int = Field(-1, ge=-1, description="Number of optimizer steps; -1: as num_train_epochs says.")
    max_num_tokens: int = Field(
        0,
        ge=0,
        description="Stop after this many tokens, prompts and refills included (TRL's num_tokens). 0 means no limit.",
    )
    per_device_train_batch_size: int = Field(8, ge=1, description="Rows in one forward and backward pass.")


class Rollout(_Table):
    """Sampling, for the stages srl and rlvr."""

    prompts_per_step: int = Field(
        0,
        ge=0,
        description="Groups per batch, over all processes. 0: the paper's 512, or a quarter of fewer than 2048 rows.",
    )
    num_generations: int = Field(8, ge=2, description="Rollouts per prompt (the paper's G).")
    temperature: float = Field(1.0, gt=0)
    max_completion_length: int = Field(2048, ge=1, description="In tokens. A longer completion counts as malformed.")
    dynamic_sampling: bool = Field(True, description="Train only on informative groups, and refill the batch.")
    min_reward_std: float = Field(0.01, ge=0, description="A group with a std of rewards above this is informative.")
    max_refills: int = Field(10, ge=0, description="Extra sampling rounds before training on a batch that is not full.")
    min_well_formed: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Stop before the first optimizer step if a smaller share of the first completions is well formed. "
        "0: never.",
    )
    max_oversampling: float | None = Field(
        None,
        ge=1,
        allow_inf_nan=False,
        description="A first round samples what recent steps say is needed to fill the batch, at most this many times "
        "the batch. Default: 1.5 on a GPU, where a round takes about as long whatever its size; 1 on a CPU.",
    )
    step_order: Literal["shuffle", "trajectory"] = Field(
        "shuffle",
        description="Batches of single steps, as in the paper, or of whole trajectories, which share more.",
    )
    share_prefix: Literal["trajectory", "prompt", "off"] = Field(
        "trajectory",
        description="What is computed only once in a pass: any common prefix, the prompt of a group, or nothing.",
    )
    sampling_dtype: Literal["autocast", "bfloat16"] = Field(
        "autocast",
        description="Rollouts are computed like training, or with all weights in bfloat16: faster on a GPU, and a "
        "little less like the policy that is trained.",
    )


class Reward(_Table):
    """What a step earns in the stage srl (docs/rewards.md), and what is right in rlvr; the defaults are the paper's."""

    similarity: Literal["text", "actions", "pivotrl", "pivotrl_continuous"] = Field(
        "text",
        description="text: 2M/T. For agents: actions, by tool, target and parameters; pivotrl, 1 if alike enough.",
    )
    elements: Literal["characters", "latex"] = Field(
        "characters",
        description="What the similarity 2M/T compares. latex: characters, after equivalent spellings are unified.",
    )
    copy_penalty: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the reward that an action loses if it is copied from the prompt and the expert's is not.",
    )
    expert_logprob_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How much of the missing reward a thought can earn by making the expert's action likely.",
    )
    thoughts: Literal["first", "anywhere"] = Field(
        "first",
        description="What is well formed: one thought before the action, or any number, before each of its parts. "
        "anywhere: for whole solutions (srl steps --targets whole).",
    )
    format_term: Literal["in_group", "separate"] = Field(
        "in_group",
        description="separate: similarity is normalized over well-formed completions, the format penalty alone.",
    )
    outcome: Literal["answer", "tests"] = Field(
        "answer",
        description="Right in the stage rlvr: the final answer, or edits after which a program's tests pass.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_what_was_taken_out(cls, values: Any) -> Any:
        """Run folders of version 0.1 hold `calibrated = false`, and perhaps what version 0.2 no longer compares."""
        if not isinstance(values, dict):
            return values
        if values.get("calibrated") or values.get("elements") in ("autojunk", "words", "tokens"):
            raise ValueError(
                "`calibrated` and the elements autojunk, words and tokens were taken out in version 0.2; "
                "version 0.1 has them"
            )
        return {name: value for name, value in values.items() if name != "calibrated"}

    @model_validator(mode="after")
    def _check(self) -> Reward:
        if self.similarity != "text" and self.elements != "characters":
            raise ValueError('`elements` is for similarity = "text"; take one of the two out')
        if self.thoughts == "anywhere" and (self.similarity != "text" or self.expert_logprob_weight):
            raise ValueError('thoughts = "anywhere" is for similarity = "text" without expert_logprob_weight')
        return self


class Sft(_Table):
    """Supervised fine-tuning, for the stage sft."""

    target: Literal["steps", "solution", "reasoning", "trajectory"] = Field(
        "steps",
        description="One row per step; per written solution, without or with the reasoning before it; or per whole "
        "run of an agent, turn by turn.",
    )
    rows_per_step: int = Field(64, ge=1, description="Rows per batch, over all processes.")


class Validation(_Table):
    """Evaluation on the held-out problems; the best checkpoint becomes the run's model."""

    eval_steps: int = Field(10, ge=0, description="Steps between evaluations (and checkpoints). 0 means never.")
    num_generations: int = Field(1, ge=1, description="Rollouts per held-out prompt (srl, rlvr).")
    max_rows: int = Field(0, ge=0, description="Use only this many rows. 0 means all.")
    per_device_eval_batch_size: int = Field(64, ge=1)


class Checkpoints(_Table):
    """What is kept for resuming."""

    save_steps: int = Field(0, ge=0, description="Steps between checkpoints. 0 means as often as validation.")
    save_total_limit: int = Field(2, ge=1, description="Checkpoints to keep: the newest and the best.")
    keep_when_finished: bool = Field(
        True,
        description="Keep them when the run has finished, so that `--resume` can extend it. false: only model/ stays, "
        "a fourth of the disk or less.",
    )


class Plan(_Table):
    """What `srl plan` takes for granted; all but the length of completions only while data or model are not there."""

    model: str = Field("", description="The Hub id of a model of the same size, where the recipe's is still to come.")
    rows: int = Field(0, ge=0, description="To train on.")
    prompt_tokens: int = Field(0, ge=0, description="Tokens of a prompt; of the stage sft, with its target.")
    common_tokens: int = Field(0, ge=0, description="How many of them all steps of a trajectory begin with.")
    completion_tokens: int = Field(256, ge=1, description="Of a completion, thought included.")


MAX_EXTENDED = 5
"""One recipe after another."""


class Recipe(_Table):
    """One training run. The same file with another `stage` and `output_dir` continues where it ended."""

    stage: Literal["sft", "srl", "rlvr"] = Field(description="Which method trains the model.")
    output_dir: Path = Field(description="The run folder.")
    seed: int = 42
    model: Model
    chat: ChatOptions = DEFAULT_CHAT
    data: Data
    optim: Optim = Optim()
    rollout: Rollout = Rollout()
    reward: Reward = Reward()
    sft: Sft = Sft()
    validation: Validation = Validation()
    checkpoints: Checkpoints = Checkpoints()
    trl: dict[str, Any] = Field(default={}, description="Further options of TRL's GRPOConfig or SFTConfig.")
    verl: dict[str, Any] = Field(
        default={}, description="Further options of verl, by its own names (docs/verl.md); for `--engine verl` only."
    )
    plan: Plan = Plan()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        evaluation = self.validation
        if self.optim.max_steps == 0:
            raise ValueError("optim.max_steps = 0 would train nothing; expected 1 or more, or -1 for whole epochs")
        if evaluation.eval_steps and self.save_steps % evaluation.eval_steps:
            raise ValueError("checkpoints.save_steps must be a multiple of validation.eval_steps")
        if evaluation.per_device_eval_batch_size % evaluation.num_generations:
            raise ValueError("validation.per_device_eval_batch_size must be a multiple of validation.num_generations")
        return self

    @property
    def row_kind(self) -> Literal["steps", "problems", "trajectories"]:
        """What a prompt asks for: the next step, the whole solution of a problem, or every turn of an agent."""
        if self.stage == "sft" and self.sft.target != "steps":
            return "trajectories" if self.sft.target == "trajectory" else "problems"
        return "problems" if self.stage == "rlvr" else "steps"

    @property
    def unused_reward(self) -> str | None:
        """What the recipe says of a reward that its stage does not have; None if nothing."""
        if self.stage != "rlvr" and self.reward.outcome != "answer":
            return f"reward.outcome is for the stage rlvr, and the stage is {self.stage}; take it out"
        if self.stage != "srl" and self.reward != Reward(outcome=self.reward.outcome):
            return f"[reward] is for the stage srl, and the stage is {self.stage}; take the table out"
        return None

    @property
    def model_init_kwargs(self) -> dict[str, Any]:
        """How the model is loaded, beside its dtype."""
        return dict(self.trl.get("model_init_kwargs", {}))

    @property
    def save_steps(self) -> int:
        """Steps between checkpoints; 0: only at the end."""
        return self.checkpoints.save_steps or self.validation.eval_steps


def read_recipe(path: Path) -> Recipe:
    """Read a TOML recipe; a bare name such as `math-7b-srl` means a recipe that comes with srl.

    `extends = "NAME"` takes all of another recipe, a file beside this one or one of srl's own, and changes its tables
    key by key.

    Raises:
        UserError: no such file or name, broken TOML, a misspelt key (with a suggestion), a wrong value.
    """
    return from_values(Recipe, _values(path, ()), str(path))


def _values(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """What a recipe says, with what the recipes say that it extends; `extending` led here."""
    if len(extending) > MAX_EXTENDED:
        raise UserError(f"{extending[0]}: extends more than {MAX_EXTENDED} recipes, one after another, or itself")
    try:
        text = own_or_given(path, resources.files("srl") / "builtin" / "recipes", "recipe")
    except UserError as error:
        raise UserError(f"{extending[-1]}: extends {error}" if extending else str(error)) from None
    values = parsed(text, str(path))
    if (other := values.pop("extends", None)) is None:
        return values
    if not isinstance(other, str):
        raise UserError(f"{path}: `extends`: expected the name of a recipe, found {other!r:.100}")
    beside = path.parent / other
    return changed(_values(beside if beside.is_file() else Path(other), (*extending, path)), values)


def recipe_toml(recipe: Recipe) -> str:
    """The recipe as TOML that `read_recipe` reads back to an equal recipe."""
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude_none=True)
    return tomli_w.dumps(values)
