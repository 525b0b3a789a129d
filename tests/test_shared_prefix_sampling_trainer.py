"""The trainer samples over shared keys: what it trains on is what was drawn, by the policy that it trains."""

import pytest
import torch
import transformers
from datasets import Dataset

from srl.shared_prefix.trainer import SharedPrefixConfig, SharedPrefixTrainer


class RecordingTrainer(SharedPrefixTrainer):
    """Keeps what it has sampled over shared keys."""

    def _sample(self, prompt_ids):
        self.sampled = prompt_ids, *super()._sample(prompt_ids)
        return self.sampled[1:]


@pytest.fixture
def trainer(tiny_model, tmp_path, request):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    text = "one two three four five"
    return RecordingTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [float(len(text) + i % 3) for i, text in enumerate(completions)],
        train_dataset=Dataset.from_list([{"prompt": text[: 4 * n]} for n in range(1, 6)]),
        processing_class=transformers.AutoTokenizer.from_pretrained(tiny_model),
        args=SharedPrefixConfig(
            **{
                "output_dir": str(tmp_path),
                "per_device_train_batch_size": 8,
                "num_generations": 4,
                "max_completion_length": 9,
                "max_steps": 2,
                "learning_rate": 1e-3,
                "temperature": 0.8,
                "bf16": False,
                "gradient_checkpointing": False,
                "save_strategy": "no",
                "report_to": "none",
                "logging_steps": 1,
                "disable_tqdm": True,
                **getattr(request, "param", {}),
            }
        ),
    )


TRAINERS = [{}, {"gradient_checkpointing": True}, {"bf16": True, "use_cpu": True, "steps_per_generation": 2}]


@pytest.mark.parametrize("trainer", TRAINERS, indirect=True)
def test_the_trainer_trains_on_it(trainer):
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert losses[0]["completions/mean_length"] > 1
    assert len(trainer.sampled[0]) >= 8
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
    assert trainer.model.is_gradient_checkpointing == trainer.args.gradient_checkpointing


def test_its_logprobs_are_the_trainers(trainer):
    trainer._generate(["one two", "one", "three"] * 2)
    pad_id = trainer.processing_class.pad_token_id
    for prompt, completion, logprobs in zip(*trainer.sampled, strict=True):
        # Padded, as the trainer has them.
        ids = torch.tensor([[pad_id, *prompt, *completion, pad_id]])
        mask = (torch.arange(ids.shape[1]) % (ids.shape[1] - 1) > 0).long()[None]
        expected, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, len(completion) + 1)
        torch.testing.assert_close(torch.tensor(logprobs), expected[0, :-1].detach(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("trainer", [{"bf16": True, "use_cpu": True}], indirect=True)
@pytest.mark.parametrize("by_generate", [False, True])
def test_weights_are_converted_for_sampling_only(trainer, by_generate, monkeypatch):
    monkeypatch.setattr(trainer, "_samples_elsewhere", lambda: by_generate)
    down, seen = trainer.model.model.layers[0].mlp.down_proj, []
    down.register_forward_pre_hook(lambda layer, args: seen.append(layer.weight.dtype))
    trainer._generate(["one two", "one"])
    assert set(seen) == {torch.bfloat16}
    assert down.weight.dtype == torch.float32
    assert any(parameter is down.weight for parameter in trainer.model.parameters())
    seen.clear()
    trainer.train()
    assert set(seen) == {torch.float32, torch.bfloat16}


def take_the_most_probable(trainer):
    """No draws."""
    trainer.generation_config.do_sample = False
    trainer.generation_config.temperature = trainer.generation_config.top_p = trainer.generation_config.top_k = None


@pytest.mark.parametrize("trainer", [{"sampling_dtype": "bfloat16"}], indirect=True)
@pytest.mark.parametrize("by_generate", [False, True])
def test_all_weights_may_be_in_bfloat16_for_sampling(trainer, tiny_model, by_generate, monkeypatch):
    """The completions of a copy in bfloat16; afterwards the weights are what they were, and are trained."""
    monkeypatch.setattr(trainer, "_samples_elsewhere", lambda: by_generate)
    prompt = [5, 6, 7, 8, 9, 10]
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    low = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).eval()
    seen = set()
    for module in trainer.model.modules():
        module.register_forward_pre_hook(
            lambda module, _: seen.update(parameter.dtype for parameter in module.parameters(recurse=False))
        )
    trainer.model.eval()
    take_the_most_probable(trainer)
    (completion,), _ = trainer._generate_single_turn([prompt], None, {}, 1)
    assert seen == {torch.bfloat16}
    ids = torch.tensor([prompt])
    expected = low.generate(ids, attention_mask=torch.ones_like(ids), generation_config=trainer.generation_config)
    assert list(completion) == expected[0, len(prompt) :].tolist()
    for name, parameter in trainer.model.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name])
    trainer.model.train()
    trainer.train()
    assert any(not torch.equal(parameter, before[name]) for name, parameter in trainer.model.named_parameters())


@pytest.mark.parametrize("trainer", [{"share_prefix": "off"}, {"cache_implementation": "static"}], indirect=True)
def test_a_static_cache_draws_the_same_tokens(trainer):
    """`[trl] cache_implementation = "static"`: `generate` samples, with today's tokens at a seed."""
    assert trainer._samples_elsewhere()
    trainer.model.eval()
    found = []
    for cache in (None, "static"):
        trainer.generation_config.cache_implementation = cache
        torch.manual_seed(7)
        found.append(trainer._generate_single_turn([[5, 6, 7, 8, 9, 10], [5, 6, 7]] * 2, None, {}, 2)[0])
    assert [list(ids) for ids in found[0]] == [list(ids) for ids in found[1]]
    assert len({tuple(ids) for ids in found[0]}) > 2


@pytest.mark.parametrize("trainer", [{"repetition_penalty": 1.2}], indirect=True)
def test_options_it_does_not_know_are_left_to_generate(trainer):
    _, completion_ids, *_ = trainer._generate(["one two", "one"])
    assert len(completion_ids) == 2
    assert not hasattr(trainer, "sampled")
