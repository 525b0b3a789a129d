"""The trainer: TRL really calls our hooks, batches hold informative groups only, ranks and resuming agree."""

import json
import math
import random
import statistics
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
from trainers import noisy_reward, options, rows, train_log, trainer_on
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from srl.errors import UserError
from srl.training.expert_logprobs import expert_logprob_gains
from srl.training.held_out import RowMeans
from srl.training.trainer import SRLConfig, SRLTrainer


def test_trl_calls_every_hook_that_is_overridden(tiny_model, tmp_path):
    called = set()
    overridden = [
        name
        for name in vars(SRLTrainer)
        if callable(getattr(SRLTrainer, name)) and hasattr(GRPOTrainer, name) and name != "__init__"
    ]

    def note(name):
        method = getattr(SRLTrainer, name)

        def noting(self, *args, **kwargs):
            called.add(name)
            return method(self, *args, **kwargs)

        return noting

    watched = type("Watched", (SRLTrainer,), {name: note(name) for name in overridden})
    trainer_on(tiny_model, tmp_path, watched, save_strategy="steps", save_steps=1, max_steps=1).train()
    again = trainer_on(tiny_model, tmp_path, watched, save_strategy="steps", save_steps=1, max_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert len(overridden) >= 5
    assert called == set(overridden)


@pytest.mark.parametrize(
    "changed",
    [{"loss_type": "grpo"}, {"beta": 0.1}, {"scale_rewards": "batch"}, {"num_iterations": 2}, {"loss_type": "dapo"}],
)
def test_without_dynamic_sampling_it_is_plain_grpo(tiny_model, tmp_path, changed):
    names = ("loss", "grad_norm", "reward", "entropy", "completions/mean_length")
    changed = {"loss_type": "grpo", "max_steps": 2, **changed}
    plain = trainer_on(tiny_model, tmp_path / "plain", GRPOTrainer, GRPOConfig, logging_steps=1, **changed)
    expected = train_log(plain, *names)
    changed |= {"dynamic_sampling": False, "share_prefix": "off"}  # how near sharing is: test_shared_prefix_trainer
    assert train_log(trainer_on(tiny_model, tmp_path / "srl", **changed), *names) == expected


def test_a_batch_holds_informative_groups_only(tiny_model, tmp_path):
    trainer = trainer_on(tiny_model, tmp_path)
    batches = []
    score = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: batches.append(score(inputs)) or batches[-1]
    trainer.train()
    assert len(batches) == 3
    for batch in batches:
        advantages = batch["advantages"].view(-1, 4)
        assert advantages.shape == (4, 4)
        assert (advantages.abs().max(dim=1).values > 0.1).all()  # none without signal
        torch.testing.assert_close(advantages.sum(dim=1), torch.zeros(4), atol=1e-5, rtol=0)
    for line in trainer.state.log_history[:3]:
        assert line["refills"] >= 1
        assert line["short_batch_groups"] == 0
        assert 0 < line["kept_fraction"] < 1
        assert line["frac_reward_zero_std"] == 0


def test_an_evaluation_is_a_mean_over_its_rows(tiny_model, tmp_path):
    """Of rows that are scored, where some are not; TRL's is one of batches, of 8 rows and of 1 here."""

    def half(completions, id, log_metric, **_):
        for number in id:
            log_metric("number", number)
        return [number if number % 2 == 0 else None for number in id]

    def length(completion_ids, **_):
        return [len(ids) for ids in completion_ids]

    seen = []
    batches = {"per_device_eval_batch_size": 8, "num_generations_eval": 1}
    trainer = trainer_on(tiny_model, tmp_path, reward=[half, length], reward_weights=[1.0, 0.5], **batches)
    rewards = trainer._calculate_rewards
    trainer._calculate_rewards = lambda *given: seen.append(rewards(*given)) or seen[-1]
    for _ in range(2):
        seen.clear()
        found = trainer.evaluate(rows(9))
        assert [len(batch) for batch in seen] == [8, 1]
        lengths = torch.cat(seen)[:, 1]
        assert found["eval_number"] == 4
        assert found["eval_rewards/half/mean"] == 4
        assert found["eval_rewards/length/mean"] == pytest.approx(lengths.mean().item())
        assert found["eval_completions/mean_length"] == pytest.approx(lengths.mean().item())
        assert found["eval_reward"] == pytest.approx(sum(range(0, 9, 2)) / 9 + 0.5 * lengths.mean().item())
        assert found["eval_rewards/length/std"] == pytest.approx(lengths.std().item())


def test_what_trl_measures_by_batch_is_weighted_by_rows():
    evaluated = RowMeans(n_rows=9)
    for count in (8, 1):
        evaluated.marked([{}] * count, process=0, n_processes=1)
        evaluated.add(torch.zeros(count, 1), {})
    assert evaluated.means({"entropy": [1.0, 10.0]}, torch.ones(1), ["r"])["entropy"] == 2.0


def test_the_table_holds_every_rollout_and_tells_which_were_kept(tiny_model, tmp_path):
    trainer = trainer_on(tiny_model, tmp_path)
    trainer.train()
    for step, line in enumerate(trainer.state.log_history[:3], 1):
        table = parquet.read_table(tmp_path / f"completions/completions_{step:05d}.parquet").to_pandas()
        kept = table[table.kept]
        assert len(kept) == 16
        assert len(table) > 16
        assert math.isclose(table.reward.mean(), line["reward_before_filtering"], abs_tol=1e-6)
        assert math.isclose(kept.reward.mean(), line["reward"], abs_tol=1e-6)
        assert (table[~table.kept].advantage == 0).all()


def test_no_signal_at_all_ends_in_a_counted_short_batch(tiny_model, tmp_path, caplog):
    def flat(completions, **_):
        return [0.5] * len(completions)

    trainer = trainer_on(tiny_model, tmp_path, reward=flat, max_refills=2, max_steps=1)
    trainer.train()
    line = trainer.state.log_history[0]
    assert (line["refills"], line["short_batch_groups"], line["kept_fraction"]) == (2, 4, 0)
    assert line["grad_norm"] == 0
    assert "training on a short batch" in caplog.text


def test_a_short_batch_keeps_the_groups_that_have_signal(tiny_model, tmp_path):
    trainer = trainer_on(tiny_model, tmp_path, max_refills=0, max_steps=2)
    trainer.train()
    for line in trainer.state.log_history[:2]:
        assert line["short_batch_groups"] + 4 * line["kept_fraction"] == 4
        assert line["frac_reward_zero_std"] == line["short_batch_groups"] / 4


def test_a_reward_function_that_raises_stops_the_run(tiny_model, tmp_path):
    def broken(completions, **_):
        raise ZeroDivisionError("a bug in the reward")

    with pytest.raises(ZeroDivisionError):
        trainer_on(tiny_model, tmp_path, reward=broken).train()


def test_resuming_repeats_the_same_numbers_with_refills(tiny_model, tmp_path):
    names = ("step", "loss", "grad_norm", "reward", "reward_before_filtering", "refills", "entropy", "num_tokens")
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5}
    whole = train_log(trainer_on(tiny_model, tmp_path / "whole", **saving), *names)
    again = trainer_on(tiny_model, tmp_path / "resumed", **saving)
    resumed = train_log(again, *names, resume_from_checkpoint=str(tmp_path / "whole/checkpoint-2"))
    assert sum(line[5] for line in whole) > 0
    assert resumed == whole
    # The cursor matters: without it the refills of steps 3 to 5 draw other rows.
    state = json.loads((tmp_path / "whole/checkpoint-2/refill_state.json").read_text())
    assert state["position"] > 0


def test_a_completion_that_is_masked_counts_for_nothing(tiny_model, tmp_path):
    """Out of the loss is out of the group: not in mean, std and filter. In evaluation it stays malformed."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def rollout(prompts, trainer):
        ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
        ends = [21 if i % 4 == 0 else tokenizer.eos_token_id for i in range(len(ids))]  # each fourth is cut off
        completions = [[5 + i % 3, 20, end] for i, end in enumerate(ends)]
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": [[-1.0] * 3] * len(ids)}

    def reward(completion_ids, truncated, id, **_):
        """Without the malformed ones, the completions of every other prompt are all alike."""
        draws = [0.5 if row % 2 else ids[0] / 10 for ids, row in zip(completion_ids, id, strict=True)]
        return [-1.0 if cut_off else draw for cut_off, draw in zip(truncated, draws, strict=True)]

    trainer = SRLTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        processing_class=tokenizer,
        reward_funcs=reward,
        args=SRLConfig(
            **options(tmp_path, max_steps=1, num_generations=8, num_generations_eval=4, mask_truncated_completions=True)
        ),
        train_dataset=rows(),
        rollout_func=rollout,
    )
    batches = []
    score = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: batches.append(score(inputs)) or batches[-1]
    trainer.train()
    masked = batches[0]["completion_mask"].sum(dim=1) == 0
    advantages = batches[0]["advantages"]
    assert masked.sum() == 4
    assert (advantages[masked] == 0).all()
    assert advantages[~masked].view(2, 6).sum(dim=1).abs().max() < 1e-3
    assert (advantages.view(2, 8).abs().max(dim=1).values > 0.5).all()  # a group that only −1 told apart was dropped
    line = trainer.state.log_history[0]
    assert line["refills"] > 0
    assert line["reward_before_filtering"] > 0.4
    assert trainer.evaluate(rows(8))["eval_reward"] < 0.2


def scripted_similarity(completions, **_):
    """Narrow rewards; every fourth completion is malformed."""
    draws = [random.Random(completion[0]["content"]).random() for completion in completions]
    return [None if draw < 0.25 else 0.4 + 0.05 * draw for draw in draws]


def scripted_penalty(completions, **_):
    return [0.0 if r else -1.0 for r in scripted_similarity(completions)]


def test_a_separate_format_term_keeps_the_differences_between_well_formed_completions(tiny_model, tmp_path):
    """Also TRL's handling of None under normalize_then_sum, which this rests on."""

    def advantages_of(reward, **changed):
        small = {"num_generations": 8, "per_device_train_batch_size": 16, "max_steps": 1}
        trainer = trainer_on(tiny_model, tmp_path, reward=reward, **small, **changed)
        batches = []
        score = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = lambda inputs: batches.append(score(inputs)) or batches[-1]
        trainer.train()
        texts = trainer.processing_class.batch_decode(batches[0]["completion_ids"], skip_special_tokens=True)
        rewards = scripted_similarity([[{"content": text}] for text in texts])
        pairs = list(zip(rewards, batches[0]["advantages"].tolist(), strict=True))
        return [pairs[start : start + 8] for start in range(0, len(pairs), 8)]

    def in_one(completions, **_):
        return [-1.0 if r is None else r for r in scripted_similarity(completions)]

    def spread(group):
        well_formed = [advantage for reward, advantage in group if reward]
        return max(well_formed) - min(well_formed)

    separate = {"multi_objective_aggregation": "normalize_then_sum"}
    groups = advantages_of([scripted_similarity, scripted_penalty], **separate)
    mixed = [group for group in groups if None in [reward for reward, _ in group]]
    assert mixed
    for group in mixed:
        well_formed = sorted((reward, advantage) for reward, advantage in group if reward)
        assert [a for _, a in well_formed] == sorted(a for _, a in well_formed)
        assert max(a for reward, a in group if reward is None) < well_formed[0][1]
        assert spread(group) > 1
    for group in advantages_of(in_one):
        if None in [reward for reward, _ in group]:
            assert spread(group) < 0.2  # drowned: why the option exists


@pytest.mark.parametrize(("aggregation", "kept"), [("sum_then_normalize", 0), ("normalize_then_sum", 1)])
def test_a_group_is_informative_if_what_trl_normalizes_spreads(tiny_model, tmp_path, aggregation, kept):
    def first(completions, **_):
        return [float(i % 2) for i in range(len(completions))]

    def second(completions, **_):
        return [1 - reward for reward in first(completions)]

    trainer = trainer_on(
        tiny_model,
        tmp_path,
        reward=[first, second],
        max_refills=0,
        max_steps=1,
        multi_objective_aggregation=aggregation,
    )
    trainer.train()
    assert trainer.state.log_history[0]["kept_fraction"] == kept


def test_the_gain_of_a_thought_is_the_models_own(tiny_model, tmp_path):
    """Against one plain forward pass per sequence, without padding or batches."""
    trainer = trainer_on(tiny_model, tmp_path, temperature=0.7, num_generations=2)
    tokenizer, model = trainer.processing_class, trainer.model
    thoughts, expert = ["six", "six and seven, seven", "", "2"], ["add 2", "add 2", "take 12 away", "take 12 away"]
    prompts = [rows()[i]["prompt"] for i in (0, 0, 17, 17)]
    given = [{"expert_action": action, "truncated": False} for action in expert]
    completions = [[{"role": "assistant", "content": f"<think>{thought}</think> it"}] for thought in thoughts]

    def logprob(prompt, thought, action):
        head = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        head_ids = tokenizer.encode(f"{head}<think>{thought}</think>\n", add_special_tokens=False)
        action_ids = tokenizer.encode(action, add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([head_ids + action_ids])).logits[0, len(head_ids) - 1 : -1]
        return (logits / 0.7).log_softmax(-1)[range(len(action_ids)), action_ids].mean().item()

    gains = expert_logprob_gains(trainer, trainer.chat, given, prompts, completions)
    model.eval()  # each row by itself
    assert expert_logprob_gains(trainer, trainer.chat, given, prompts, completions) == pytest.approx(gains, abs=1e-5)
    direct = [
        logprob(prompt, thought, action) - logprob(prompt, "", action)
        for prompt, thought, action in zip(prompts, thoughts, expert, strict=True)
    ]
    assert gains == pytest.approx(direct, abs=1e-4)
    assert gains[2] == pytest.approx(0, abs=1e-5)  # malformed: as an empty thought
    assert min(abs(gain) for gain in (gains[0], gains[1], gains[3])) > 1e-3


def test_reward_functions_get_the_gain_only_on_request(tiny_model, tmp_path):
    seen = []

    def looks(completions, expert_logprob_gain=None, **columns):
        seen.append(expert_logprob_gain)
        return noisy_reward(completions, **columns)

    plain = train_log(trainer_on(tiny_model, tmp_path, reward=looks, max_steps=1), "reward", "grad_norm")
    assert set(seen) == {None}
    seen.clear()
    asked = trainer_on(tiny_model, tmp_path, reward=looks, max_steps=1, expert_logprob_gain=True)
    assert train_log(asked, "reward", "grad_norm") == plain  # looking changes nothing
    assert all(math.isfinite(gain) for gains in seen for gain in gains)
    assert 0 < asked.state.log_history[0]["reward_time_share"] < 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 1}, "must be divisible by num_generations"),
        ({"num_iterations": 2, "save_strategy": "steps", "save_steps": 3}, "multiple of 2"),
    ],
)
def test_impossible_batches_are_refused(tmp_path, changed, message):
    with pytest.raises((UserError, ValueError), match=message):
        SRLConfig(**options(tmp_path, **changed))


def test_rows_that_fill_no_batch_are_refused(tiny_model, tmp_path):
    """TRL would make no step, and say nothing."""
    trainer = trainer_on(tiny_model, tmp_path, gradient_accumulation_steps=16)
    with pytest.raises(UserError, match="24 rows to train on do not fill one batch of 32 prompts"):
        trainer.train()


def test_a_stream_of_rows_is_refused(tiny_model, tmp_path):
    with pytest.raises(UserError, match="map-style"):
        SRLTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model),
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
            reward_funcs=noisy_reward,
            args=SRLConfig(**options(tmp_path)),
            train_dataset=rows().to_iterable_dataset(),
        )


@pytest.mark.slow
def test_two_processes_stay_in_lockstep(tmp_path, tiny_model):
    import subprocess
    import sys

    script = Path(__file__).parent / "two_processes.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29517", str(script)]
    done = subprocess.run([*command, str(tiny_model), str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["weights"] == second["weights"]
    assert first["rounds"] == second["rounds"]
    assert max(first["rounds"]) > 1  # there were refills
    assert not set(first["ids"]) & set(second["ids"])  # no row twice in a round
    for shared, padded in zip(first["losses"]["trajectory"], first["losses"]["off"], strict=True):
        assert shared == pytest.approx(padded, rel=1e-5, abs=1e-6)

    # One process finds groups for both.
    one, other = first["pooled"], second["pooled"]
    assert one["weights"] == other["weights"]
    assert [line["short_batch_groups"] for line in one["log"]] == [0, 0, 0]
    assert min(map(min, one["advantages"] + other["advantages"])) > 0.1
    for step, line in enumerate(one["log"], 1):
        table = parquet.read_table(tmp_path / f"pooled/completions/completions_{step:05d}.parquet").to_pandas()
        assert table.kept.sum() == 32
        assert len(table) > 32 if step == 1 else len(table) >= 64  # oversampled once the share is known
        assert (table[table.kept].groupby(table.prompt.map(str)).reward.nunique() > 1).all()
        assert math.isclose(table.reward.mean(), line["reward_before_filtering"], abs_tol=1e-6)
        assert line["refills"] <= 4

    # Rows 0 to 4, each counted once.
    assert first["evaluated"] == second["evaluated"] == pytest.approx([2, 2, 2, statistics.stdev(range(5))])
