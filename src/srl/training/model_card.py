"""The model card: README.md of a run's `model/`, made of what the run folder knows.

TRL's own card names the trainer's class only, and asks the model about time machines; this one says what the
model was trained on, how to prompt it, and what training changed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from srl.chat.prompts import AGENT_SYSTEM_PROMPT, action_prompt, answer_prompt, step_prompt
from srl.files import write_text
from srl.runs.folder import RunFolder, evaluated, held_out
from srl.runs.recipe import Recipe, recipe_toml

STAGES = {
    "srl": "Supervised Reinforcement Learning (SRL): at each step of an expert's solution it thinks, then acts, and "
    "is rewarded for how much its action resembles the expert's",
    "rlvr": "reinforcement learning with verifiable rewards (RLVR): it is rewarded for right final answers",
    "sft": "supervised fine-tuning (SFT) on an expert's {target}",
}
TARGETS = {
    "steps": "single steps",
    "solution": "whole solutions",
    "reasoning": "reasoning and solution",
    "trajectory": "whole trajectories",
}

CITATION = """\
```bibtex
@article{srl2025,
  title   = {Supervised Reinforcement Learning: From Expert Trajectories to Step-wise Reasoning},
  author  = {{Google Cloud AI Research and UCLA}},
  journal = {arXiv preprint arXiv:2510.25992},
  year    = {2025}
}
@software{srl,
  title  = {srl: Supervised Reinforcement Learning from expert steps},
  author = {{The srl authors}},
  note   = {version VERSION}
}
```"""


def write_model_card(recipe: Recipe, model: Path) -> None:
    """Write README.md into the folder of a trained model, from what its run folder holds."""
    run = RunFolder(recipe.output_dir)
    facts = run.facts
    introduction, results = _introduction(recipe, facts), _results(run)
    sections = [front_matter(recipe), introduction, results, _usage(recipe, facts)]
    sections += [_training(recipe, facts), "## Citation\n\n" + CITATION.replace("VERSION", facts["versions"]["srl"])]
    write_text(model / "README.md", "\n\n".join(sections) + "\n")


def front_matter(recipe: Recipe) -> str:
    """The YAML head. What is a path here has no name that others could look up; the licence is the base's, if known."""
    from huggingface_hub import ModelCardData

    base, source = _first_base(recipe), _source(recipe)
    data = ModelCardData(
        base_model=base if _is_hub_id(base) else None,
        license=_license(base),
        datasets=[source] if source and _is_hub_id(source) else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys(["srl", "trl", recipe.stage])),
    )
    return f"---\n{data.to_yaml()}\n---"


def _first_base(recipe: Recipe) -> str:
    """Where the first of several stages started."""
    earlier = RunFolder(Path(recipe.model.model_name_or_path))
    return _first_base(earlier.recipe) if earlier.exists else str(earlier.path)


def _license(base: str) -> str | None:
    """What the base's own card says, if it lies on this machine: in the model's folder, or in the Hub's cache."""
    from huggingface_hub import metadata_load, try_to_load_from_cache

    card = try_to_load_from_cache(base, "README.md") if _is_hub_id(base) else Path(base, "README.md")
    if not isinstance(card, str | Path) or not Path(card).is_file():
        return None
    found = (metadata_load(card) or {}).get("license")
    return found if isinstance(found, str) else None


def _source(recipe: Recipe) -> str | None:
    """What the data folder was made of, if it says so."""
    path = recipe.data.path / "report.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return report.get("source", {}).get("path")


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()


def _public(name: str) -> str:
    """A Hub id as it is; of a path here the last part, for the others say more of this machine than of the model."""
    return name if _is_hub_id(name) else Path(name).resolve().name


def _introduction(recipe: Recipe, facts: dict[str, Any]) -> str:
    how = STAGES[recipe.stage].format(target=TARGETS[recipe.sft.target])
    start, base, source = recipe.model.model_name_or_path, _first_base(recipe), _source(recipe)
    first = f" (a run that began with `{_public(base)}`)" if base != str(Path(start)) else ""
    return (
        f"# {recipe.output_dir.resolve().name}\n\n"
        f"`{_public(start)}`{first} after {how}.\n\n"
        f"Trained for {facts['finished_steps']} optimizer steps on `{_public(str(recipe.data.path))}`"
        f"{f', made of `{_public(source)}`' if source else ''}"
        f"{', with LoRA (merged into these weights)' if recipe.model.use_peft else ''}."
    )


def _results(run: RunFolder) -> str:
    found = held_out(run.metrics, run.facts)
    if found is None:
        evaluated_at_all = bool(evaluated(run.metrics))
        why = (
            "This model was not evaluated on held-out rows."
            if evaluated_at_all
            else "Nothing was held out in training."
        )
        return f"## Results\n\n{why}"
    rows = f"{found.n_rows} held-out rows" if found.n_rows else "held-out rows"
    which = (
        f"these are the weights of step {found.best_step}, chosen as the best by the first line, so its numbers "
        "flatter them a little"
        if found.best_step
        else "no checkpoint was better than the start, so these are the weights that training began with"
    )
    lines = [f"| {name} | {before:.3f} | {after:.3f} |" for name, (before, after) in found.means.items()]
    return "\n".join([f"## Results\n\nMeans over {rows}; {which}.\n", "| | before | after |", "|---|---|---|", *lines])


def _usage(recipe: Recipe, facts: dict[str, Any]) -> str:
    stepwise = recipe.row_kind == "steps"
    system, question = facts["system_prompt"], "What is 6 times 7, plus 1?"
    if stepwise and system.startswith(AGENT_SYSTEM_PROMPT):
        prompt = action_prompt("…", "", system)
    else:
        prompt = step_prompt(question, "", system) if stepwise else answer_prompt(question, system)
    answer = (
        "The answer is `<think>…</think>` (or a thought as its chat template writes it) and one step. Append the step "
        "and a blank line to the user turn, and ask again for the next one; `srl sample` does that."
        if stepwise
        else "The answer is a whole solution with its result in `\\boxed{}`."
    )
    if stepwise and facts.get("prompts", {}).get("give_title"):
        answer += " In training the user turn ended with the title of the step that was asked for, and a line break."
    code = "\n".join(
        [
            "from transformers import pipeline",
            "",
            'model = pipeline("text-generation", "PATH_OR_ID_OF_THIS_MODEL")',
            f"turns = {json.dumps([*prompt], indent=4, ensure_ascii=False)}",
            f"answer = model(turns, max_new_tokens={recipe.rollout.max_completion_length}, return_full_text=False)",
            'print(answer[0]["generated_text"])',
        ]
    )
    return f"## Use\n\n```python\n{code}\n```\n\n{answer}"


def _training(recipe: Recipe, facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    commit = f" Commit {facts['git_commit']}." if facts["git_commit"] else ""
    return (
        f"## Training\n\nStarted {facts['started']} with Python {facts['python']}, {versions}.{commit} "
        "`srl train config.toml` with this recipe repeats it (paths are cut to their names):\n\n"
        f"```toml\n{recipe_toml(_without_paths(recipe)).strip()}\n```"
    )


def _without_paths(recipe: Recipe) -> Recipe:
    """The recipe for others, who have other folders."""
    start = recipe.model.model_copy(update={"model_name_or_path": _public(recipe.model.model_name_or_path)})
    data = recipe.data.model_copy(update={"path": Path(_public(str(recipe.data.path)))})
    return recipe.model_copy(update={"output_dir": Path(recipe.output_dir.name), "model": start, "data": data})
