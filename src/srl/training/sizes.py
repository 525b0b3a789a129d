"""The size of a recipe's model, also where the model is not on this machine: a plan needs no more of it."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from srl.runs.folder import resolve_model
from srl.runs.model import loading
from srl.runs.recipe import Recipe
from srl.shared_prefix.cost import ModelSize

KNOWN = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": ModelSize(30, 576, 9, 3, 64, 1536, 49152, tied=True),
    "Qwen/Qwen2.5-0.5B-Instruct": ModelSize(24, 896, 14, 2, 64, 4864, 151936, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": ModelSize(28, 1536, 12, 2, 128, 8960, 151936, tied=True),
    "Qwen/Qwen2.5-3B-Instruct": ModelSize(36, 2048, 16, 2, 128, 11008, 151936, tied=True),
    "Qwen/Qwen2.5-7B-Instruct": ModelSize(28, 3584, 28, 4, 128, 18944, 152064),
    "Qwen/Qwen2.5-Coder-7B-Instruct": ModelSize(28, 3584, 28, 4, 128, 18944, 152064),
}
"""The models of srl's own recipes, from their config.json; `tests/test_plan.py` counts their published parameters."""


def model_size(recipe: Recipe) -> tuple[ModelSize, str]:
    """The size of the recipe's model, or else of the one that its [plan] names; and which of them it was.

    Raises:
        UserError: neither is there, nor known.
    """
    name = recipe.model.model_name_or_path
    if not Path(name).exists():
        name = name if name in KNOWN else recipe.plan.model or name
        if name in KNOWN:
            return KNOWN[name], name
    path = resolve_model(name)
    with loading(path, "configuration"):
        return ModelSize.of(AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config()), name
