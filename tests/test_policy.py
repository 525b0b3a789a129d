"""The model to train: LoRA that can be merged, lengths that it takes, no dropout."""

import json

import pytest
from transformers import AutoModelForCausalLM

from srl.chat.tokenizer import load_chat
from srl.errors import UserError
from srl.runs.folder import resolve_model
from srl.runs.model import max_positions
from srl.runs.recipe import Data, Model, Recipe, Rollout
from srl.training.first_step import first_step
from srl.training.policy import load_policy, lora
from srl.training.rows import load_rows


def recipe(folder, rollout=None, stage="srl", **model):
    model = {"model_name_or_path": "unused", **model}
    return Recipe(
        stage=stage,
        output_dir=folder / "run",
        model=Model(**model),
        data=Data(path=folder),
        rollout=Rollout(**(rollout or {})),
    )


@pytest.fixture(scope="module")
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model)


def test_a_misspelt_module_is_suggested(model, tmp_path):
    with pytest.raises(UserError, match="no module `q_prj`; did you mean `q_proj`"):
        lora(recipe(tmp_path, use_peft=True, lora_target_modules="v_proj,q_prj"), model)
    assert lora(recipe(tmp_path, use_peft=True, lora_target_modules="v_proj, q_proj"), model).target_modules == {
        "q_proj",
        "v_proj",
    }
    assert lora(recipe(tmp_path), model) is None


@pytest.mark.parametrize("modules", ["q_proj,embed_tokens", "lm_head", "model.embed_tokens"])
def test_an_adapter_of_tied_embeddings_is_refused(model, tmp_path, modules):
    assert model.config.tie_word_embeddings
    with pytest.raises(UserError, match="one matrix for embed_tokens and lm_head"):
        lora(recipe(tmp_path, use_peft=True, lora_target_modules=modules), model)


def test_an_adapter_of_untied_embeddings_is_not(model, tmp_path):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model.name_or_path)
    config.tie_word_embeddings = False
    untied = AutoModelForCausalLM.from_config(config)
    assert lora(recipe(tmp_path, use_peft=True, lora_target_modules="embed_tokens"), untied) is not None
    with pytest.raises(UserError, match="TRL trains no adapter of lm_head"):
        lora(recipe(tmp_path, use_peft=True, lora_target_modules="lm_head,q_proj"), untied)


def test_an_adapter_folder_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="a LoRA adapter, not a model"):
        resolve_model(str(tmp_path))


def test_prompt_and_completion_must_fit_the_models_positions(tiny_model, tmp_path):
    chat, positions = load_chat(str(tiny_model)), max_positions(str(tiny_model))
    row = {"trajectory_id": "t", "expert_action": "this", "next_title": None, "thought": None}
    prompts = [[{"role": "user", "content": text}] for text in ("1", "12345", "12")]
    lines = [json.dumps({**row, "step_index": i, "prompt": prompt}) + "\n" for i, prompt in enumerate(prompts)]
    (tmp_path / "train.steps.jsonl").write_text("".join(lines))
    longest = max(map(len, chat.prompt_ids(prompts)))
    fits = {"max_completion_length": positions - longest}
    assert len(load_rows(recipe(tmp_path, fits), "train", chat, positions)) == 3
    too_long = {"max_completion_length": positions - longest + 1}
    with pytest.raises(UserError, match=rf"train\.steps\.jsonl:2: a prompt of {longest} tokens and a completion of up"):
        load_rows(recipe(tmp_path, too_long), "train", chat, positions)
    planned = recipe(tmp_path, too_long, model_name_or_path=str(tiny_model))
    with pytest.raises(UserError, match=rf"train\.steps\.jsonl:2: a prompt of {longest} tokens and a completion of up"):
        first_step(planned)
    assert len(load_rows(recipe(tmp_path, too_long, stage="sft"), "train", chat, positions)) == 3
    row["expert_action"] = "1 " * positions
    (tmp_path / "train.steps.jsonl").write_text("".join([*lines[:2], json.dumps(json.loads(lines[2]) | row) + "\n"]))
    with pytest.raises(UserError, match=rf"jsonl:3: \d+ tokens with its target, the model has {positions} positions"):
        load_rows(recipe(tmp_path, too_long, stage="sft"), "train", chat, positions)


def test_dropout_is_off_unless_the_recipe_wants_it(model, tmp_path):
    model.config.attention_dropout = 0.1
    model.save_pretrained(tmp_path / "m")
    model.config.attention_dropout = 0.0
    chat = load_chat(model.name_or_path)

    def attention_dropout(**options):
        policy = load_policy(recipe(tmp_path, **options), str(tmp_path / "m"), chat)
        return policy.model.layers[0].self_attn.attention_dropout

    assert attention_dropout(disable_dropout=False) == 0.1
    assert attention_dropout() == 0.0
