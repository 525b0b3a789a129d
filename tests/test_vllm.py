"""What srl hands to vLLM, which is not installed here: stand-ins with its interface sample by transformers."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from chat_templates import TEMPLATES, tokenizer_with
from trainers import options, rows
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from srl.chat.prompts import answer_prompt
from srl.engines.engines import load_engine
from srl.training.trainer import SRLConfig, SRLTrainer

PROMPTS = [answer_prompt("Add 2 and 5."), answer_prompt("What is nine?")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Its turns end with another token than its sequences, and its generation_config narrows what is sampled from."""
    folder = tmp_path_factory.mktemp("vllm") / "model"
    tokenizer = tokenizer_with(TEMPLATES["qwen2_5"], special=("<think>", "</think>"))
    torch.manual_seed(2)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": None}
    written = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **sizes, **ends))
    with torch.no_grad():  # a turn ends often
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        written.lm_head.weight[end] = written.lm_head.weight.abs().sum(0) / 8
    written.generation_config = GenerationConfig(do_sample=True, top_k=3, min_p=0.5, **ends)
    written.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def completed(model, prompt_ids, stops, n_tokens, **sampling):
    """A completion as vLLM returns it: ids up to the stop, that included."""
    config = GenerationConfig(max_new_tokens=n_tokens, eos_token_id=stops, pad_token_id=stops[0], **sampling)
    ids = model.generate(torch.tensor([prompt_ids]), generation_config=config)[0, len(prompt_ids) :].tolist()
    return ids, "stop" if ids[-1] in stops else "length"


class LLM:
    """vLLM's offline engine, greedy."""

    def __init__(self, path, **options):
        LLM.options = options
        self.model = AutoModelForCausalLM.from_pretrained(path)
        self.model.generation_config = GenerationConfig()  # as generation_config="vllm" has it

    def generate(self, prompts, sampling_params, use_tqdm):
        LLM.asked = sampling_params
        outputs = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            found = completed(self.model, prompt["prompt_token_ids"], params["stop_token_ids"], params["max_tokens"])
            outputs.append(SimpleNamespace(token_ids=found[0], finish_reason=found[1]))
        return [SimpleNamespace(outputs=[output]) for output in outputs]


def test_the_engine_hands_over_the_end_of_the_turn_and_nothing_that_narrows(model, monkeypatch):
    vllm = ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams = LLM, dict
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    engine = load_engine("vllm", str(model), 24)
    replies = engine.generate(PROMPTS, [1, 2], 0.0)
    plain = load_engine("transformers", str(model), 24)
    assert replies == plain.generate(PROMPTS, [1, 2], 0.0)
    assert {reply.truncated for reply in replies} != {True}
    assert LLM.options == {"generation_config": "vllm"}
    ends = [plain.chat.tokenizer.convert_tokens_to_ids(end) for end in ("<|im_end|>", "<|endoftext|>")]
    common = {"temperature": 0.0, "max_tokens": 24, "stop_token_ids": ends, "detokenize": False}
    assert LLM.asked == [{**common, "seed": seed} for seed in (1, 2)]


class VLLMGeneration:
    """TRL's, which owns an engine or asks a server; the arguments are those that TRL 1.16 gives it."""

    def __init__(self, model, generation_kwargs, max_completion_length, **_):
        self.model, self.generation_kwargs, self.n_tokens = model, generation_kwargs or {}, max_completion_length

    def sync_weights(self):
        pass

    def generate(self, prompts, **_):
        known = [self.model.config.eos_token_id, *self.generation_kwargs.get("stop_token_ids", [])]
        with torch.no_grad():
            ids = [completed(self.model, prompt, known, self.n_tokens, do_sample=True)[0] for prompt in prompts]
        return prompts, ids, [[[-1.0]] * len(one) for one in ids], None


@pytest.mark.parametrize("given", [None, {"stop_token_ids": [7], "seed": 5}])
def test_in_training_vllm_stops_where_the_template_ends_a_turn(model, tmp_path, monkeypatch, given):
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", VLLMGeneration)
    seen = []

    def reward(completions, completion_ids, **_):
        seen.extend(zip([one[0]["content"] for one in completions], completion_ids, strict=True))
        return [float(len(ids)) for ids in completion_ids]

    config = SRLConfig(
        **options(tmp_path, max_steps=1, use_vllm=True, max_completion_length=12, generation_kwargs=given)
    )
    trainer = SRLTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        processing_class=tokenizer_with(TEMPLATES["qwen2_5"], special=("<think>", "</think>")),
        reward_funcs=reward,
        args=config,
        train_dataset=rows(),
    )
    trainer.train()
    end, end_of_text = trainer.chat.end_ids
    expected = [end, end_of_text] if given is None else [end, end_of_text, 7]
    assert trainer.vllm_generation.generation_kwargs == {**(given or {}), "stop_token_ids": expected}
    ended = [(text, ids) for text, ids in seen if ids[-1] == end]
    assert ended
    assert not any("<|im_end|>" in text for text, _ in seen)
    assert trainer.state.log_history[0]["completions/clipped_ratio"] < 1
