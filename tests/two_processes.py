"""Run by test_trainer under `torchrun`: steps with refills that the two processes need unequally; shared prefixes."""

import gc
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from srl.training.trainer import SRLConfig, SRLTrainer

sys.path.insert(0, str(Path(__file__).parent))
from test_shared_prefix_trainer import train_log, trainer_on
from test_trainer import noisy_reward, options, rows


def reward(completions, expert_logprob_gain, **columns):
    """The noisy reward, where each completion has come with a number of its own."""
    assert len(expert_logprob_gain) == len(completions)
    return noisy_reward(completions, **columns)


def main(model, folder):
    trainer = SRLTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        processing_class=AutoTokenizer.from_pretrained(model),
        reward_funcs=reward,
        args=SRLConfig(**options(folder, use_cpu=True, expert_logprob_gain=True)),
        train_dataset=rows(),
    )
    rounds, ids = [], []
    sample_batch, refill_rows = trainer._sample_batch, trainer._refill_rows

    def count_rounds(inputs):
        rounds.append(1)
        return sample_batch(inputs)

    def note_refills(n_groups):
        rounds[-1] += 1
        drawn = refill_rows(n_groups)
        if not ids:
            ids.extend(sorted({row["id"] for row in drawn}))
        return drawn

    trainer._sample_batch, trainer._refill_rows = count_rounds, note_refills
    assert trainer.accelerator.num_processes == 2
    trainer.train()
    weights = [parameter.double().sum().item() for parameter in trainer.model.parameters()]
    assert all(torch.isfinite(torch.tensor(weights)))
    rank = trainer.accelerator.process_index

    losses = {}  # of whole trajectories, with and without shared prefixes
    for share_prefix in ("trajectory", "off"):
        changed = {"step_order": "trajectory", "share_prefix": share_prefix, "beta": 0.1, "use_cpu": True}
        trainer = trainer_on(model, folder, **changed)
        # The loss holds the KL term; TRL's metric of it weighs micro-batches alike, and sharing makes those up anew.
        losses[share_prefix] = train_log(trainer, "loss", "grad_norm")
    found = {"weights": weights, "rounds": rounds, "ids": ids, "losses": losses}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


main(sys.argv[1], Path(sys.argv[2]))
# Python may end before gloo's threads do, which aborts a process that has done all its work. They end with their group,
# and that is held by the trainers' models.
gc.collect()
torch.distributed.destroy_process_group()
