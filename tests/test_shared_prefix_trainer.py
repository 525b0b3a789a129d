"""Training with shared prefixes: the same losses as TRL's padded rows, and fewer tokens."""

import pytest
import torch
import transformers
from trainers import options, steps, train_log, trainer_on_steps
from trl import GRPOTrainer

from srl.errors import UserError
from srl.shared_prefix.batches import in_order, like_after_like
from srl.shared_prefix.support import why_no_training
from srl.shared_prefix.trainer import TrajectorySampler
from srl.training.trainer import SRLConfig

NAMES = ("loss", "grad_norm", "reward", "completions/mean_length")


@pytest.mark.parametrize(
    "changed",
    [
        {"max_steps": 10, "num_train_epochs": 9, "step_order": "trajectory"},
        {"loss_type": "dapo", "beta": 0.1, "num_iterations": 2},
        {"steps_per_generation": 4, "share_prefix": "prompt"},
        {"gradient_checkpointing": True, "importance_sampling_level": "sequence", "top_entropy_quantile": 0.8},
        {"lora": True, "beta": 0.1, "step_order": "trajectory"},
        {"mask_truncated_completions": True, "max_completion_length": 32, "loss_type": "bnpo", "entropy_coef": 0.01},
        {"loss_type": "cispo", "dynamic_sampling": True},
    ],
)
def test_losses_are_those_of_padded_rows(tiny_model, tmp_path, changed):
    sharing = trainer_on_steps(tiny_model, tmp_path / "on", **changed)
    ours = train_log(sharing, *NAMES)
    assert sharing.state.log_history[0]["sharing_ratio"] > 1
    theirs = train_log(trainer_on_steps(tiny_model, tmp_path / "off", **changed | {"share_prefix": "off"}), *NAMES)
    assert len(ours) == changed.get("max_steps", 3)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


def batch_of(trainer):
    """A micro-batch of a trainer, as TRL's loss gets it: ids, mask, columns to score."""
    batches = []
    loss = trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: batches.append(inputs) or loss(model, inputs)
    trainer.train()
    (first, *_) = batches
    ids = torch.cat([first["prompt_ids"], first["completion_ids"]], 1)
    mask = torch.cat([first["prompt_mask"], first["completion_mask"]], 1)
    return ids, mask, first["completion_ids"].shape[1]


def test_logprobs_entropies_and_gradients_are_trls(tiny_model, tmp_path):
    trainer = trainer_on_steps(tiny_model, tmp_path, step_order="trajectory", max_steps=1, temperature=0.7)
    ids, mask, n_columns = batch_of(trainer)
    mask[3, -n_columns:] = 0  # an empty completion
    mask[5, -n_columns + 2 :] = 0
    model = trainer.model

    def gradient(logps):
        model.zero_grad()
        (logps * torch.linspace(-1, 1, logps.numel()).view_as(logps)).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    plain, plain_entropies, _ = GRPOTrainer._get_per_token_logps_and_entropies(
        trainer, model, ids, mask, n_columns, compute_entropy=True
    )
    expected = gradient(plain)
    for batch_size in (None, 3):
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
            model, ids, mask, n_columns, batch_size, compute_entropy=True
        )
        torch.testing.assert_close(logps, plain, atol=2e-5, rtol=0)
        torch.testing.assert_close(entropies, plain_entropies, atol=2e-5, rtol=0)
        for name, found in gradient(logps).items():
            assert (found - expected[name]).norm() <= 1e-4 * expected[name].norm(), name


def test_no_completion_to_score_still_has_a_gradient(tiny_model, tmp_path):
    trainer = trainer_on_steps(tiny_model, tmp_path, max_steps=1)
    ids, mask, n_columns = batch_of(trainer)
    mask[:, -n_columns:] = 0
    logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, n_columns, compute_entropy=True
    )
    logps.sum().backward()
    assert not logps.any()
    assert not entropies.any()


def test_tokens_are_logged_by_step(tiny_model, tmp_path):
    def logged(**changed):
        trainer = trainer_on_steps(tiny_model, tmp_path, **changed)
        (first, *_) = train_log(trainer, "tokens/unique", "tokens/raw", "sharing_ratio", "num_tokens")
        return first

    unique, raw, ratio, n_tokens = logged(step_order="trajectory")
    assert raw == n_tokens  # TRL's count of prompts and completions
    assert ratio == raw / unique
    by_prompt, same_raw, _, _ = logged(step_order="trajectory", share_prefix="prompt")
    assert same_raw == raw
    assert unique < by_prompt < raw
    off = trainer_on_steps(tiny_model, tmp_path, share_prefix="off")
    off.train()
    assert "tokens/unique" not in off.state.log_history[0]


def test_whole_trajectories_come_together(tiny_model, tmp_path):
    ids = [f"t{i // 4}" for i in range(24)]
    sampler = TrajectorySampler(ids, mini_repeat_count=2, batch_size=8, repeat_count=3, seed=0)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 24 * 2 * 3
    batches = [drawn[start : start + 16] for start in range(0, len(drawn), 16)]
    assert batches[0] == batches[1] == batches[2] != batches[3]
    for batch in batches:
        rows = batch[::2]
        assert [index % 4 for index in rows] == [0, 1, 2, 3] * 2
        assert len({ids[index] for index in rows}) == 2
    assert sorted({index for batch in batches for index in batch}) == list(range(24))
    assert list(sampler) != drawn  # the next epoch has another order
    with pytest.raises(UserError, match="trajectory_id"):
        trainer_on_steps(
            tiny_model, tmp_path, rows=steps().remove_columns("trajectory_id"), step_order="trajectory"
        ).get_train_dataloader()


def test_rows_that_begin_alike_go_into_one_micro_batch():
    """… and take all their columns along."""
    prompts = [[1, 2, 3], [7, 8], [1, 2], [7, 8, 9], [1, 2, 3], [7, 8]]
    padded = torch.tensor([[0] * (3 - len(prompt)) + prompt for prompt in prompts])
    batch = {
        "prompt_ids": padded,
        "prompt_mask": padded > 0,
        "advantages": padded.sum(1).float(),
        "old_per_token_logps": None,
        "num_items_in_batch": torch.tensor(5),
    }
    parts = [{name: v[i : i + 3] if v is not None and v.ndim else v for name, v in batch.items()} for i in (0, 3)]
    first, second = in_order(parts)
    assert first["prompt_ids"].tolist() == [[0, 1, 2], [1, 2, 3], [1, 2, 3]]
    assert second["prompt_ids"].tolist() == [[0, 7, 8], [0, 7, 8], [7, 8, 9]]
    for part in (first, second):
        assert part["advantages"].tolist() == part["prompt_ids"].sum(1).tolist()
        assert part["num_items_in_batch"] == 5
        assert part["old_per_token_logps"] is None


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("layer_types", ["chunked_attention", "full_attention"], "chunked_attention"),
        ("layer_types", ["full_attention", "linear_attention"], "linear_attention"),
        ("attention_dropout", 0.1, "dropout"),
        ("_attn_implementation", "eager", "eager"),
    ],
)
def test_where_packs_cannot_be_right_it_says_so_once_and_computes_rows(
    tiny_model, tmp_path, caplog, option, value, named
):
    trainer = trainer_on_steps(tiny_model, tmp_path, change=lambda model: setattr(model.config, option, value))
    assert not trainer._shares
    assert [named in record.message for record in caplog.records if "share_prefix" in record.message] == [True]


@pytest.mark.parametrize(
    ("kind", "changed", "named"),
    [
        ("Mamba", {}, "linear_attention"),
        ("Qwen3Next", {"num_experts": 0}, "linear_attention"),
        ("Mistral", {}, None),
        ("Bloom", {}, "attention of its own"),
        ("GPT2", {}, "dropout"),
        ("Gemma2", {}, "capped"),
        ("Gemma3Text", {}, None),
        ("Llama", {}, None),
    ],
)
def test_other_architectures_are_known_beforehand(kind, changed, named):
    size = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 40}
    config = getattr(transformers, f"{kind}Config")(**size, bos_token_id=1, eos_token_id=2, **changed)
    problem = why_no_training(transformers.AutoModelForCausalLM.from_config(config))
    assert named in problem if named else problem is None


def test_a_model_that_does_not_hand_the_plan_on_is_noticed(tiny_model, tmp_path, caplog):
    def lose_plan(model):
        layer = model.model.layers[1].self_attn
        forward = layer.forward
        layer.forward = lambda *args, attention_plan=None, **kwargs: forward(*args, **kwargs)

    found = train_log(trainer_on_steps(tiny_model, tmp_path, change=lose_plan), "loss", "grad_norm")
    assert len([record for record in caplog.records if "share_prefix" in record.message]) == 1
    expected = train_log(trainer_on_steps(tiny_model, tmp_path, share_prefix="off"), "loss", "grad_norm")
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


def test_a_model_that_cannot_sample_over_shared_keys_samples_by_generate(tiny_model, tmp_path, caplog):
    def lose_cache(model):
        layer = model.model.layers[1].self_attn
        forward = layer.forward
        layer.forward = lambda *args, branch_cache=None, **kwargs: forward(*args, **kwargs)

    logs = []
    for change, same in ((lose_cache, False), (lambda model: None, True)):
        trainer = trainer_on_steps(tiny_model, tmp_path, change=change, same_completions=same)
        logs.append(train_log(trainer, *NAMES, "sharing_ratio"))
        assert trainer.state.log_history[0]["sharing_ratio"] > 1  # training shares all the same
    assert logs[0] == logs[1]
    (message,) = [record.message for record in caplog.records if "sampling by `generate`" in record.message]
    assert "does not hand its arguments on" in message


@pytest.mark.parametrize("changed", [{"share_prefix": "some"}, {"step_order": "sorted"}])
def test_unknown_ways_are_refused(tmp_path, changed):
    with pytest.raises(UserError, match=next(iter(changed))):
        SRLConfig(**options(tmp_path, **changed))


def test_sampling_shares_prefixes_too_unless_that_is_off(tiny_model, tmp_path):
    """The same seed draws other completions from the same policy; TRL's own where nothing is shared."""
    logs = {}
    for share_prefix in ("trajectory", "off"):
        for same in (False, True):
            trainer = trainer_on_steps(tiny_model, tmp_path, share_prefix=share_prefix, same_completions=same)
            logs[share_prefix, same] = train_log(trainer, "reward", "completions/mean_length")
    assert logs["trajectory", False] != logs["trajectory", True]
    assert logs["off", False] == logs["off", True]
    assert [line[0] for line in logs["off", True]] == pytest.approx([line[0] for line in logs["trajectory", True]])


@pytest.mark.parametrize("changed", [{}, {"loss_type": "bnpo"}, {"num_iterations": 2}])
def test_the_rows_of_a_micro_batch_are_on_the_cpu_before_it_comes(tiny_model, tmp_path, changed):
    """As many micro-batches as there are, in TRL's order and in ours; packing then waits for no device."""
    trainer, seen = trainer_on_steps(tiny_model, tmp_path, same_completions=False, **changed), []
    logps = trainer._get_per_token_logps_and_entropies

    def look(model, input_ids, attention_mask, *args, **kwargs):
        if torch.is_grad_enabled():
            seen.append(torch.equal(trainer._host, torch.stack((input_ids, attention_mask))))
        return logps(model, input_ids, attention_mask, *args, **kwargs)

    trainer._get_per_token_logps_and_entropies = look
    trainer.train()
    assert seen == [True] * (2 * 3)
    assert trainer._host is None


def test_prompts_go_to_vllm_like_after_like_and_come_back_in_order():
    prompts = [[3, 1], [3, 1], [2], [2], [3], [3]]
    asked = []

    def generate(given):
        asked.extend(given)
        return [[*prompt, i] for i, prompt in enumerate(given)], [[float(i)] for i in range(len(given))]

    completion_ids, logprobs = like_after_like(generate, prompts)
    assert asked == sorted(prompts)
    assert completion_ids == [[3, 1, 4], [3, 1, 5], [2, 0], [2, 1], [3, 2], [3, 3]]
    assert logprobs == [[4.0], [5.0], [0.0], [1.0], [2.0], [3.0]]
    assert like_after_like(lambda given: (given, None), prompts) == (prompts, None)
