"""The loop of `examples/srl_loop.py` is honest: it computes what `SRLTrainer` computes, and it learns."""

import ast
import importlib.util
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from srl.rewards import step_similarity
from srl.runs.folder import resolve_model
from srl.training.trainer import SRLConfig, SRLTrainer

SCRIPT = Path(__file__).parents[1] / "examples/srl_loop.py"
spec = importlib.util.spec_from_file_location("srl_loop", SCRIPT)
srl_loop = importlib.util.module_from_spec(spec)
spec.loader.exec_module(srl_loop)

PROBLEMS = ["2+3*4-1*0+2", "1*2-3+4*1-0", "4-1+2*3*2+1", "3+3-1*4+0*2"]


class Recorder(TrainerCallback):
    """What an optimizer step starts from, and its gradient."""

    def __init__(self):
        self.weights, self.gradients = [], []

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        self.weights.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
        self.gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})


class RecordingTrainer(SRLTrainer):
    """Keeps the micro-batches that it trains on, and their losses."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self.micro_batches.append((inputs, loss.item()))
        return loss


class Float64Head:
    """In place of TRL's, which computes log-probs in float32 from any model."""

    @staticmethod
    def apply(hidden_NH, weight_VH, bias, labels_N, temperature, *_):
        log_probs_NV = (hidden_NH @ weight_VH.T / temperature).log_softmax(-1)
        entropy_N = -(log_probs_NV.exp() * log_probs_NV).sum(-1)
        return log_probs_NV.gather(1, labels_N[:, None])[:, 0], entropy_N, None, None, None


def float64_angles(self, x, position_ids):
    """In place of transformers', which rounds rotary angles to float32: a row then depends on its padding."""
    angles_BTD = (position_ids[..., None].to(x.dtype) * self.inv_freq.to(x.dtype)).repeat(1, 1, 2)
    return angles_BTD.cos(), angles_BTD.sin()


@pytest.fixture
def float64(precise_norms, monkeypatch):
    """All arithmetic in float64: what differs then differs in the formulas."""
    monkeypatch.setattr("trl.trainer.utils._ChunkedLogProbFunction", Float64Head)
    monkeypatch.setattr("transformers.models.qwen2.modeling_qwen2.Qwen2RotaryEmbedding.forward", float64_angles)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def loop_groups(micro_batches, instances, tokenizer):
    """The rollouts of a trainer as the loop has them; the rewards are the loop's own."""
    prompts = tokenizer.apply_chat_template([list(i.prompt) for i in instances], add_generation_prompt=True)[
        "input_ids"
    ]
    completions = {tuple(ids): [] for ids in prompts}
    for inputs, _ in micro_batches:
        for row in range(len(inputs["prompt_ids"])):
            prompt, ids = (inputs[f"{p}_ids"][row][inputs[f"{p}_mask"][row].bool()] for p in ("prompt", "completion"))
            completions[tuple(prompt.tolist())].append(ids.tolist())
    groups = []
    for instance, prompt in zip(instances, prompts, strict=True):
        if group := completions[tuple(prompt)]:
            ends = [ids[-1] == tokenizer.eos_token_id for ids in group]
            texts = tokenizer.batch_decode(group, skip_special_tokens=True)
            rewards = [
                srl_loop.reward(t, instance.expert_action, truncated=not end)
                for t, end in zip(texts, ends, strict=True)
            ]
            # TRL rounds what a reward function returns to float32.
            groups.append(srl_loop.Group(list(prompt), group, torch.tensor(rewards, dtype=torch.float32).double()))
    return groups


@pytest.mark.parametrize(
    ("loss_type", "share_prefix"),
    [
        ("grpo", "trajectory"),
        ("dapo", "off"),
        pytest.param("grpo", "off", marks=pytest.mark.slow),
        pytest.param("dapo", "trajectory", marks=pytest.mark.slow),
    ],
)
def test_loss_and_gradient_are_those_of_the_trainer(tmp_path, float64, loss_type, share_prefix):
    """In the first update of a batch, and in the second, where the policy is no more the one that sampled."""
    base = resolve_model("tiny-base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    instances = srl_loop.cut_steps(PROBLEMS)
    recorder = Recorder()
    trainer = RecordingTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64),
        processing_class=tokenizer,
        reward_funcs=step_similarity,
        train_dataset=Dataset.from_list(
            [{"prompt": list(i.prompt), "expert_action": i.expert_action} for i in instances]
        ),
        callbacks=[recorder],
        args=SRLConfig(
            output_dir=str(tmp_path),
            loss_type=loss_type,
            share_prefix=share_prefix,
            min_reward_std=srl_loop.MIN_STD,
            num_generations=srl_loop.G,
            max_completion_length=srl_loop.MAX_NEW_TOKENS,
            num_iterations=2,
            per_device_train_batch_size=2 * srl_loop.G,
            gradient_accumulation_steps=2,
            max_steps=2,
            learning_rate=3e-3,
            max_grad_norm=0,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
        ),
    )
    trainer.micro_batches = []
    trainer.train()
    assert len(trainer.micro_batches) == 4
    losses = [sum(loss for _, loss in trainer.micro_batches[start : start + 2]) for start in (0, 2)]

    groups = loop_groups(trainer.micro_batches[:2], instances, tokenizer)
    assert [len(group.completion_ids) for group in groups] == [srl_loop.G] * 4
    assert all(srl_loop.is_informative(group.rewards_G) for group in groups)
    ids_RT, mask_RT, advantages_R = srl_loop.collate(groups)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    with torch.no_grad():
        old_RT = srl_loop.log_probs(model, ids_RT)
    for weights, gradients, expected in zip(recorder.weights, recorder.gradients, losses, strict=True):
        model.load_state_dict(weights, strict=False)
        model.zero_grad()
        log_probs_RT = srl_loop.log_probs(model, ids_RT)
        loss = srl_loop.loss(log_probs_RT, old_RT, advantages_R, mask_RT, loss_type)
        loss.backward()
        assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        for name, weight in model.named_parameters():
            assert (weight.grad - gradients[name]).norm() <= 1e-9 * gradients[name].norm(), name
    clipped_RT = ((log_probs_RT - old_RT).exp() - 1).abs() > srl_loop.CLIP
    assert clipped_RT[mask_RT.bool()].any()
    assert not clipped_RT[mask_RT.bool()].all()


def test_it_is_short_and_stands_by_itself():
    text = SCRIPT.read_text()
    assert len(text.splitlines()) <= 200
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom | ast.Import)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
    assert not [name for name in names if name.startswith(("trl", "srl.training", "srl.shared_prefix"))]


@pytest.mark.slow
def test_the_reward_rises(capsys):
    """Over 5 batches; the whole script has 15."""
    before, after = srl_loop.main(5)
    assert after > before + 0.02
    printed = capsys.readouterr().out
    assert f"mean reward {before:.3f}" in printed
    assert f"mean reward {after:.3f}" in printed
