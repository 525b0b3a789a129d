"""The memory model: against what autograd keeps, and against what was measured on a GPU and on a CPU."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from trunks import LONG, MATH, QWEN_05B, QWEN_7B, SHORT, SMALL, SWE, rows_of

from srl.runs.recipe import Data, Model, Recipe, Rollout
from srl.shared_prefix.attention import SHARED_PREFIX_ATTENTION, model_inputs
from srl.shared_prefix.cost import ModelSize
from srl.shared_prefix.packing import pack
from srl.training.memory import activation_bytes, adapter_weights, logits_bytes, memory


def heaviest(shape, variant):
    """Tokens of the pass that holds most: 8 rows padded alike; all rows, shared; the later half of them."""
    rows, lengths = rows_of(*shape)
    if variant == "rows":
        return 8 * max(map(len, rows))
    first = len(rows) // 2 if variant == "halves" else 0
    (one,) = pack(rows[first:], lengths[first:], "prompt" if variant == "prompt" else "trajectory")
    return one.plan.n_places


def tiny(kind, n_layers, computes_in, checkpointing):
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=SHARED_PREFIX_ATTENTION,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    return model.to(torch.bfloat16 if computes_in == "bfloat16" else torch.float32)


def kept(model, computes_in, one):
    """Bytes that autograd keeps of a pass through the layers, weights and their copies aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes = {parameter.numel() for parameter in model.parameters() if parameter.ndim > 1}
    found = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own and tensor.numel() not in sizes:
            found[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other takes its place
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=computes_in == "autocast"),
    ):
        model.base_model(**model_inputs(one, "cpu"), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.parametrize("kind", ["Qwen2", "Llama"])
@pytest.mark.parametrize("computes_in", ["float32", "autocast", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_layer_keeps_what_the_formula_says(kind, computes_in, checkpointing):
    (one,) = pack(*rows_of(100, 3, 4, 20, 30))
    three, two = (tiny(kind, n_layers, computes_in, checkpointing) for n_layers in (3, 2))
    found = (kept(three, computes_in, one) - kept(two, computes_in, one)) / one.plan.n_places
    one_more, as_it_is = (
        activation_bytes(ModelSize.of(model.config), computes_in, checkpointing=checkpointing) for model in (three, two)
    )
    assert found == pytest.approx(one_more - as_it_is, rel=0.03)


MIB = 2**20
ON_A_GPU = [  # one H200: what a pass added, in GB as torch's allocator counts
    (QWEN_05B, "autocast", MATH, "rows", 10),
    (QWEN_05B, "autocast", MATH, "trajectory", 13),
    (QWEN_05B, "autocast", SWE, "rows", 46),
    (QWEN_05B, "autocast", SWE, "trajectory", 32),
    (QWEN_05B, "autocast", SWE, "halves", 20),
    (QWEN_7B, "bfloat16", MATH, "rows", 39),
    (QWEN_7B, "bfloat16", MATH, "halves", 28),
    (QWEN_7B, "bfloat16", SWE, "halves", 75),
]
ON_A_CPU = [  # docs/performance.md, in MiB
    (SMALL, "float32", MATH, "rows", 1263),
    (SMALL, "float32", MATH, "prompt", 1658),
    (SMALL, "float32", MATH, "trajectory", 1485),
    (SMALL, "float32", SWE, "rows", 4435),
    (SMALL, "float32", SWE, "prompt", 7459),
    (SMALL, "float32", SWE, "trajectory", 2948),
    (SMALL, "float32", SWE, "halves", 1991),
    (SMALL, "float32", LONG, "trajectory", 3473),
    (SMALL, "float32", SHORT, "trajectory", 1427),
]


@pytest.mark.parametrize(("size", "computes_in", "shape", "variant", "measured"), ON_A_GPU + ON_A_CPU)
def test_the_memory_of_a_pass_is_within_a_fifth_of_what_was_measured(size, computes_in, shape, variant, measured):
    tokens, on_gpu = heaviest(shape, variant), size is not SMALL
    bytes_kept = tokens * activation_bytes(size, computes_in, checkpointing=False)
    found = bytes_kept + logits_bytes(size, tokens, computes_in, on_gpu=on_gpu)
    assert found / (1e9 if on_gpu else MIB) == pytest.approx(measured, rel=0.2)


def recipe(**trl):
    return Recipe(
        stage="srl",
        output_dir="runs/x",
        model=Model(model_name_or_path="x"),
        data=Data(path="steps"),
        rollout=Rollout(),
        trl=trl,
    )


def test_what_stays_between_passes_is_counted_by_hand():
    """A 7B model by AdamW: 4 + 4 + 8 bytes a weight in float32, and 2 more for autocast's copies of the products."""
    found = memory(recipe(), QWEN_7B, 1000, 8 * 1000, on_gpu=True)
    assert found.weights == 4 * QWEN_7B.weights + 2 * QWEN_7B.matrix_weights
    assert (found.gradients, found.optimizer) == (4 * QWEN_7B.weights, 8 * QWEN_7B.weights)
    assert found.cache == 8 * 1000 * 57_344
    assert QWEN_7B.weights == pytest.approx(7.616e9, rel=1e-3)  # the released model's number of parameters
    assert QWEN_05B.weights == pytest.approx(494e6, rel=1e-3)
    sharded = memory(recipe(fsdp=True), QWEN_7B, 1000, 8 * 1000, on_gpu=True, devices=8)
    assert sharded.optimizer == found.optimizer / 8
    assert sharded.activations == found.activations
    assert memory(recipe(gradient_checkpointing=False), QWEN_7B, 1000, 0, on_gpu=True).activations > found.activations
    on_cpu = memory(recipe(), QWEN_7B, 1000, 0, on_gpu=False)
    assert on_cpu.weights == 4 * QWEN_7B.weights


def test_adapters_are_counted():
    model = get_peft_model(
        tiny("Llama", 2, "float32", checkpointing=False), LoraConfig(r=4, target_modules="all-linear")
    )
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert adapter_weights(ModelSize.of(model.config), rank=4) == trainable
