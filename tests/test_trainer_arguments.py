"""What `GRPOTrainer` takes, `SRLTrainer` takes: arguments, hooks and logs, with shared prefixes and without."""

import math

import pytest
import torch
from datasets import Dataset
from trainers import noisy_reward, options, rows, trainer_on
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from srl.errors import UserError
from srl.training.trainer import SRLConfig, SRLTrainer

SHARING = pytest.mark.parametrize("share_prefix", ["trajectory", "off"])


def test_it_needs_no_options(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = SRLTrainer(model=str(tiny_model), reward_funcs=noisy_reward, train_dataset=rows())
    assert isinstance(trainer.args, SRLConfig)
    assert trainer.args.output_dir == f"{tiny_model.name}-SRL"
    assert trainer.args.learning_rate == 5e-7


def test_the_options_may_be_plain_ones_and_stay_as_they_are(tiny_model, tmp_path):
    """Ours have their defaults; none of TRL's is replaced by one of the paper's."""
    config = GRPOConfig(**options(tmp_path, max_steps=1, loss_type="dapo", steps_per_generation=4))
    trainer = SRLTrainer(str(tiny_model), noisy_reward, config, rows())
    assert {name: getattr(trainer.args, name) for name in vars(config)} == vars(config)
    assert (trainer.args.share_prefix, trainer.args.dynamic_sampling, trainer.args.max_refills) == (
        "trajectory",
        True,
        10,
    )
    trainer.train()
    assert trainer.state.log_history[0]["kept_fraction"] < 1


def test_plain_options_are_checked_too(tiny_model, tmp_path):
    config = GRPOConfig(
        **options(tmp_path, num_iterations=2, save_strategy="steps", save_steps=3),
    )
    with pytest.raises(UserError, match="multiple of 2"):
        SRLTrainer(str(tiny_model), noisy_reward, config, rows())


class Spells:
    """A rollout function: two tokens of the model around one of an environment, and a field of its own."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.count = 0

    def __call__(self, prompts, trainer):
        prompt_ids = self.tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        numbers = [self.count + i for i in range(len(prompts))]
        self.count += len(prompts)
        completions = [[5 + n % 7, 20, self.tokenizer.eos_token_id] for n in numbers]
        return {
            "prompt_ids": prompt_ids,
            "completion_ids": completions,
            "logprobs": [[-1.0, 0.0, -1.0]] * len(prompts),
            "env_mask": [[1, 0, 1]] * len(prompts),
            "number": numbers,
            "whole": "one for all",
        }


@SHARING
def test_a_rollout_function_keeps_its_mask_and_its_fields(tiny_model, tmp_path, share_prefix):
    """Also in refills: the mask reaches the loss, and rewards see the fields of their own completion."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    seen = []

    def reward(completions, completion_ids, id, number, whole, **_):
        seen.extend(zip(number, [ids[0] for ids in completion_ids], whole, strict=True))
        return [0.25 if row % 2 == 0 else float(n % 3) for row, n in zip(id, number, strict=True)]

    trainer = SRLTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        processing_class=tokenizer,
        reward_funcs=reward,
        args=SRLConfig(**options(tmp_path, max_steps=2, share_prefix=share_prefix)),
        train_dataset=rows(),
        rollout_func=Spells(tokenizer),
    )
    batches = []
    score = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: batches.append(score(inputs)) or batches[-1]
    trainer.train()
    assert all(first == 5 + number % 7 and whole == "one for all" for number, first, whole in seen)
    assert sum(line["refills"] for line in trainer.state.log_history[:2]) > 0
    for batch in batches:
        assert batch["tool_mask"].tolist() == [[1, 0, 1]] * 16
        assert (batch["advantages"].view(-1, 4).abs().max(dim=1).values > 0.1).all()


@SHARING
def test_tokens_of_an_environment_are_out_of_the_loss(tiny_model, tmp_path, share_prefix):
    """The same numbers as TRL's own trainer, which has no dynamic sampling."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def reward(completions, number, **_):
        return [float(n % 3) for n in number]

    def logged(cls, args):
        trainer = cls(
            model=AutoModelForCausalLM.from_pretrained(tiny_model),
            processing_class=tokenizer,
            reward_funcs=reward,
            args=args,
            train_dataset=rows(),
            rollout_func=Spells(tokenizer),
        )
        trainer.train()
        return [line["grad_norm"] for line in trainer.state.log_history[:2]]

    changed = {"max_steps": 2, "loss_type": "grpo", "shuffle_dataset": False}
    plain = logged(GRPOTrainer, GRPOConfig(**options(tmp_path, logging_steps=1, **changed)))
    ours = logged(SRLTrainer, SRLConfig(**options(tmp_path, share_prefix=share_prefix, **changed)))
    assert ours == pytest.approx(plain, rel=1e-4)


@SHARING
def test_what_is_logged_stays_readable(tiny_model, tmp_path, share_prefix):
    def reward(completions, log_extra=None, **columns):
        log_extra("length", [len(completion[0]["content"]) for completion in completions])
        return noisy_reward(completions, **columns)

    trainer = trainer_on(tiny_model, tmp_path, reward=reward, max_steps=2, share_prefix=share_prefix)
    trainer.train()
    assert trainer.log_completions
    n_rollouts = len(trainer._logs["prompt"])
    assert n_rollouts > 16  # of the last step alone, dropped ones too
    assert [len(trainer._logs["extra"][name]) for name in ("length", "kept")] == [n_rollouts] * 2
    assert sum(trainer._logs["extra"]["kept"]) == 16
    assert len(list((tmp_path / "completions").iterdir())) == 2


def test_a_hook_may_be_called_before_the_trainer_is_ready(tiny_model, tmp_path):
    """As subclasses and tools do that take a trainer without building one."""
    trainer = object.__new__(SRLTrainer)
    assert trainer._replayed is None
    assert trainer._shares is False
    assert trainer._samples_elsewhere() is True


def test_rewards_may_be_async_or_a_model(tiny_model, tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    async def later(completions, **columns):
        return noisy_reward(completions, **columns)

    config = AutoConfig.from_pretrained(tiny_model, num_labels=1)
    config.pad_token_id = AutoTokenizer.from_pretrained(tiny_model).pad_token_id
    judge = AutoModelForSequenceClassification.from_config(config)
    trainer = trainer_on(tiny_model, tmp_path, reward=[later, judge], max_steps=1, reward_weights=[1.0, 0.1])
    trainer.train()
    line = trainer.state.log_history[0]
    assert math.isfinite(line["rewards/later/mean"])
    assert line["grad_norm"] > 0


def test_prompts_may_be_plain_text(tiny_model, tmp_path):
    texts = Dataset.from_dict({"prompt": [f"Question: {i}" for i in range(24)], "id": list(range(24))})

    def reward(prompts, completions, **_):
        assert all(isinstance(text, str) for text in [*prompts, *completions])
        return [float(len(text) % 3) for text in completions]

    trainer = SRLTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        reward_funcs=reward,
        args=SRLConfig(**options(tmp_path, max_steps=1)),
        train_dataset=texts,
    )
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["grad_norm"]))


@pytest.mark.parametrize("split", ["train_dataset", "eval_dataset"])
def test_streams_are_refused_by_name(tiny_model, tmp_path, split):
    data = {"train_dataset": rows(), "eval_dataset": rows(), split: rows().to_iterable_dataset()}
    with pytest.raises(UserError, match="found a stream"):
        SRLTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model),
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
            reward_funcs=noisy_reward,
            args=SRLConfig(**options(tmp_path)),
            **data,
        )


def test_tools_are_refused_by_name(tiny_model, tmp_path):
    with pytest.raises((UserError, ValueError), match="tool"):
        SRLTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model),
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
            reward_funcs=noisy_reward,
            args=SRLConfig(**options(tmp_path)),
            train_dataset=rows(),
            tools=[len],
        )
