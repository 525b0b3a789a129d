"""Shared prefixes on trial: no false alarm for models as sharp as trained ones, and no wrong model passes."""

import logging

import pytest
import torch
from packs import model_of
from trainers import train_log, trainer_on_steps

from srl.shared_prefix import trial
from srl.shared_prefix.trial import in_float32, problem_with_packs, problem_with_sampling

KINDS = ["Qwen2", "Qwen3", "Llama"]


def sharpen(model):
    """As sure of its next tokens as a trained model: log-probs of arbitrary tokens are far below 0."""
    with torch.no_grad():
        model.lm_head.weight.mul_(100)
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.mul_(4)
    return model


def lose_plan(model):
    """One layer keeps its attention's arguments to itself."""
    forward = model.model.layers[1].self_attn.forward
    model.model.layers[1].self_attn.forward = lambda *args, attention_plan=None, branch_cache=None, **kwargs: forward(
        *args, **kwargs
    )


def count_positions_itself(model):
    """Positions are where a token stands in the row, whatever it is told."""
    rotary = model.model.rotary_emb.forward

    def forward(hidden, position_ids):
        return rotary(hidden, torch.arange(position_ids.shape[1])[None])

    model.model.rotary_emb.forward = forward


def mix_neighbours(model):
    """A short convolution before the layers."""
    layer = model.model.layers[0]
    forward = layer.forward
    layer.forward = lambda hidden, *args, **kwargs: forward(
        hidden + hidden.roll(1, dims=1) * (torch.arange(hidden.shape[1]) > 0)[None, :, None], *args, **kwargs
    )


@pytest.fixture(params=["float32", "bfloat16", "autocast"])
def computing(request):
    """A way to compute, for a model in float32."""
    if request.param == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            yield lambda model: model
    else:
        yield lambda model: model.to(getattr(torch, request.param))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharp_model_is_right(kind, computing):
    model = computing(sharpen(model_of(kind)))
    assert problem_with_packs(model) is None
    assert problem_with_sampling(model) is None


def test_in_bfloat16_its_logprobs_say_nothing():
    """The trial would take this model for a wrong one, if it were compared in what it computes in."""
    rows = torch.from_numpy(trial.ROWS_RT)
    with torch.no_grad():
        exact = trial._plain_logprobs(sharpen(model_of()), rows)
        model = sharpen(model_of()).to(torch.bfloat16)
        plain, packed = trial._plain_logprobs(model, rows), trial._packed_logprobs(model)
    assert (plain - exact).abs().mean() > 0.1
    assert (packed - plain).abs().mean() > 0.1


@pytest.mark.parametrize("wrong", [lose_plan, count_positions_itself, mix_neighbours])
@pytest.mark.parametrize("sharp", [False, True])
def test_a_wrong_model_is_found_out(wrong, sharp, computing):
    model = model_of()
    wrong(model)
    model = computing(sharpen(model) if sharp else model)
    assert problem_with_packs(model)
    assert problem_with_sampling(model)


def test_a_model_that_runs_in_float32_only_is_found_out():
    """Here it does not even compute: the layer's products want one type."""
    model = model_of().to(torch.bfloat16)
    model.model.layers[0].mlp.register_forward_pre_hook(lambda layer, args: (args[0].float(),))
    assert "dtype" in problem_with_packs(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_what_they_were(dtype):
    model = sharpen(model_of(dtype=dtype))

    def weights():
        return [(id(p), p.dtype, p.data_ptr(), p.double().sum().item()) for p in model.parameters()]

    before, seen = weights(), []
    model.model.layers[0].mlp.register_forward_hook(lambda layer, args, out: seen.append(out.dtype))
    problem_with_packs(model)
    assert weights() == before
    assert torch.float32 in seen
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.model.layers)

    def stop(layer, args):
        raise RuntimeError("in the middle of a layer")

    model.model.layers[1].mlp.register_forward_pre_hook(stop)
    assert problem_with_packs(model) == "in the middle of a layer"
    with pytest.raises(RuntimeError, match="middle"), in_float32(model):
        model(torch.tensor([[1, 2]]))
    assert weights() == before
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.model.layers)


def test_a_layer_at_a_time_is_converted():
    model = model_of(dtype=torch.bfloat16)
    first, second = model.model.layers
    seen = []
    first.mlp.register_forward_hook(
        lambda *_: seen.append([layer.mlp.up_proj.weight.dtype for layer in (first, second)])
    )
    with torch.no_grad(), in_float32(model):
        model(torch.tensor([[1, 2]]))
    assert seen == [[torch.float32, torch.bfloat16]]


def test_tf32_is_off_in_the_meantime_only():
    def setting():
        matmul = torch.backends.cuda.matmul
        return matmul.fp32_precision if hasattr(matmul, "fp32_precision") else matmul.allow_tf32

    before = setting()
    with trial._without_tf32():
        assert setting() in ("ieee", False)
    assert setting() == before


def sharing_ratio(model, folder, caplog, computed_in, change):
    """Of a step in bfloat16, where sharing switches itself neither off nor over to `generate`."""

    def prepare(model):
        change(model)
        model.to(torch.bfloat16 if computed_in == "bfloat16" else torch.float32)

    options = {"bf16": computed_in == "autocast", "use_cpu": True, "max_steps": 1, "step_order": "trajectory"}
    trainer = trainer_on_steps(model, folder, change=prepare, same_completions=False, **options)
    with caplog.at_level(logging.WARNING):
        ((ratio,),) = train_log(trainer, "sharing_ratio")
    assert not [record.message for record in caplog.records if "share_prefix" in record.message]
    assert not trainer._samples_elsewhere()
    return ratio


@pytest.mark.parametrize("computed_in", ["autocast", "bfloat16"])
def test_a_sharp_model_trains_in_bfloat16_with_shared_prefixes(tiny_model, tmp_path, caplog, computed_in):
    assert sharing_ratio(tiny_model, tmp_path, caplog, computed_in, sharpen) > 1


@pytest.mark.slow
@pytest.mark.parametrize("computed_in", ["autocast", "bfloat16"])
def test_a_real_model_trains_in_bfloat16_with_shared_prefixes(real_model, tmp_path, caplog, computed_in):
    ratio = sharing_ratio(real_model, tmp_path, caplog, computed_in, lambda model: None)
    print(f"{computed_in}: sharing ratio {ratio:.2f}")
    assert ratio > 1
