"""From SFT to evaluation on tiny models whose chat templates differ: nothing of the format is lost on the way."""

import json

import pandas
import pytest
import torch
from chat_templates import TEMPLATES, tokenizer_with
from transformers import LlamaConfig, LlamaForCausalLM
from trl.chat_template_utils import add_response_schema

from srl.data.prepare import StepOptions, prepare
from srl.data.sources import Source
from srl.evaluation.config import EvaluationOptions
from srl.evaluation.evaluate import evaluate
from srl.evaluation.results import read_results
from srl.files import write_jsonl
from srl.runs.recipe import Data, Model, Optim, Recipe, Rollout, Sft, Validation
from srl.training.train import train

CHATML = TEMPLATES["qwen2_5"]
QWEN_RESPONSES = add_response_schema(tokenizer_with(TEMPLATES["qwen3"])).response_template
DROPS_THOUGHTS = CHATML.replace("message.content", "message.content.split('</think>')[-1]")
KINDS = {
    "opens": {"template": TEMPLATES["qwen3_5_think"]},
    "closes": {"template": TEMPLATES["qwen3_5_nothink"]},
    "no system turn": {"template": TEMPLATES["gemma"]},
    "special tokens": {"template": CHATML, "special": ("<think>", "</think>")},
    "drops thoughts": {"template": DROPS_THOUGHTS},
    "channels": {"template": TEMPLATES["gptoss"]},
    "marks": {"template": TEMPLATES["gemma4_v5"]},
    "a response template": {"template": CHATML, "response_template": QWEN_RESPONSES},
}

pytestmark = pytest.mark.slow


def write_model(folder, response_template=None, **tokenizer):
    tokenizer = tokenizer_with(**tokenizer)
    tokenizer.response_template = response_template  # with one, TRL takes thoughts out of the text that is rewarded
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_data(folder):
    """Two problems of two steps and an answer each: enough to learn by heart."""
    rows = []
    for name, first, second in (("a", "12", "24"), ("b", "30", "60")):
        steps = [
            {"action": f"1. {first}", "thought": "Add."},
            {"action": f"2. \\boxed{{{second}}}", "thought": "Twice."},
        ]
        rows.append({"id": name, "problem": f"Problem {name}", "steps": steps, "answer": second})
    write_jsonl(folder / "toy.jsonl", rows)
    options = StepOptions(targets="all", hold_out=0.0, system_prompt="Think, then a step.")
    prepare(Source(folder / "toy.jsonl"), folder / "steps", options)
    problems = [{"problem": row["problem"], "answer": row["answer"]} for row in rows]
    write_jsonl(folder / "problems.jsonl", problems)


def recipe(folder, stage, model, steps, **optim):
    return Recipe(
        stage=stage,
        output_dir=folder / stage,
        model=Model(model_name_or_path=str(model)),
        data=Data(path=folder / "steps"),
        optim=Optim(max_steps=steps, num_train_epochs=1000, per_device_train_batch_size=4, **optim),
        rollout=Rollout(
            prompts_per_step=2, num_generations=4, temperature=0.3, max_completion_length=60, max_refills=0
        ),
        sft=Sft(rows_per_step=4),
        validation=Validation(eval_steps=0),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_model_is_rewarded_and_evaluated_as_one(kind, tmp_path):
    write_model(tmp_path / "base", **KINDS[kind])
    write_data(tmp_path)
    train(recipe(tmp_path, "sft", tmp_path / "base", 200, learning_rate=3e-3))
    train(recipe(tmp_path, "srl", tmp_path / "sft", 1, learning_rate=1e-8))
    table = pandas.concat(map(pandas.read_parquet, sorted((tmp_path / "srl/completions").glob("*.parquet"))))
    assert set(table.format_error) == {None}
    assert table.reward.min() == 1.0
    assert set(table.thought) <= {"Add.", "Twice."}
    metrics = [json.loads(line) for line in (tmp_path / "srl/metrics.jsonl").read_text().splitlines()]
    assert metrics[0]["completions/clipped_ratio"] == 0
    options = EvaluationOptions(protocol="stepwise", greedy=True, max_tokens=60, max_steps=4)
    evaluate(str(tmp_path / "srl"), tmp_path / "evaluation", str(tmp_path / "problems.jsonl"), options)
    assert read_results(tmp_path / "evaluation").columns[0].score == 1.0
