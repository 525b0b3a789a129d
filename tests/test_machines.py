"""The arithmetic of `srl plan`: within a fifth of what was measured on one H200 and on one CPU core."""

import pytest
from trunks import LONG, MATH, QWEN_05B, QWEN_7B, SHORT, SMALL, SWE, rows_of

from srl.shared_prefix.cost import cost
from srl.shared_prefix.packing import pack
from srl.training.machines import GPUS, Pass, seconds_of_pass, seconds_of_sampling

CPU_CORE = 62e9
"""FLOPs per second of the core of docs/performance.md."""


def passes(shape, variant):
    """As measured then, when packs computed their attention part by part."""
    rows, lengths = rows_of(*shape)
    completion, longest = shape[3], max(map(len, rows))
    if variant in ("padded", "rows"):
        eights = [longest if variant == "padded" else len(row) for row in rows[::8]]
        masked = variant == "padded"
        return [Pass(8 * n, 8 * completion, 8 * n * n / (1 if masked else 2), masked=masked) for n in eights]
    size = len(rows) // (2 if variant == "halves" else 1)
    packs = [pack(rows[i : i + size], lengths[i : i + size])[0] for i in range(0, len(rows), size)]
    return [
        Pass(
            tokens=one.plan.n_places,
            labelled=int((one.labels_T >= 0).sum()),
            pairs=one.plan.n_pairs,
            parts=len(one.plan.chains) + len(one.plan.blocks),
        )
        for one in packs
    ]


ON_ONE_H200 = [
    (QWEN_05B, "autocast", MATH, "padded", 0.643),
    (QWEN_05B, "autocast", MATH, "rows", 0.572),
    (QWEN_05B, "autocast", MATH, "trajectory", 0.449),
    (QWEN_05B, "autocast", SWE, "padded", 10.7),
    (QWEN_05B, "autocast", SWE, "rows", 3.67),
    (QWEN_05B, "autocast", SWE, "trajectory", 1.32),
    (QWEN_05B, "autocast", SWE, "halves", 1.28),
    (QWEN_7B, "bfloat16", MATH, "rows", 1.98),
    (QWEN_7B, "bfloat16", MATH, "halves", 0.823),
    (QWEN_7B, "bfloat16", SWE, "halves", 2.60),
]


@pytest.mark.parametrize(("size", "computes_in", "shape", "variant", "measured"), ON_ONE_H200)
def test_passes_on_a_gpu(size, computes_in, shape, variant, measured):
    found = sum(
        seconds_of_pass(one, size, GPUS["H200"], computes_in, checkpointing=False) for one in passes(shape, variant)
    )
    assert found == pytest.approx(measured, rel=0.2)


def test_sampling_on_a_gpu():
    """64 prompts of 200 to 500 tokens × 8, on weights in bfloat16."""
    seconds = seconds_of_sampling(512, 350, 256, QWEN_05B, GPUS["H200"])
    assert 512 * 256 / seconds == pytest.approx(19_146, rel=0.2)


ON_A_CPU = [
    *((MATH, sharing, measured) for sharing, measured in (("trajectory", 5.0), ("prompt", 5.9), ("rows", 15.2))),
    *((SWE, sharing, measured) for sharing, measured in (("trajectory", 24.4), ("prompt", 63.6))),
    *((LONG, sharing, measured) for sharing, measured in (("trajectory", 18.2), ("prompt", 18.7), ("rows", 27.9))),
    *((SHORT, sharing, measured) for sharing, measured in (("prompt", 4.2), ("rows", 4.7))),
]


@pytest.mark.parametrize(("shape", "sharing", "measured"), ON_A_CPU)
def test_passes_on_a_cpu(shape, sharing, measured):
    rows, lengths = rows_of(*shape)
    assert cost(pack(rows, lengths, sharing), rows, SMALL).total / CPU_CORE == pytest.approx(measured, rel=0.2)


def test_checkpointing_and_narrower_gpus_cost_time():
    (one,) = passes(SWE, "trajectory")
    plain, again = (
        seconds_of_pass(one, QWEN_7B, GPUS["H200"], "bfloat16", checkpointing=checkpointing)
        for checkpointing in (False, True)
    )
    assert again == pytest.approx(4 / 3 * plain, rel=0.1)
    assert seconds_of_pass(one, QWEN_7B, GPUS["L4"], "bfloat16", checkpointing=False) > 3 * plain
