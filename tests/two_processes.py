"""Run by test_trainer under `torchrun`: steps with refills that the two processes need unequally; shared prefixes."""

import gc
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from srl.training.trainer import SRLConfig, SRLTrainer

sys.path.insert(0, str(Path(__file__).parent))
from trainers import noisy_reward, options, rows, train_log, trainer_on, trainer_on_steps


def reward(completions, expert_logprob_gain, **columns):
    """The noisy reward, where each completion has come with a number of its own."""
    assert len(expert_logprob_gain) == len(completions)
    return noisy_reward(completions, **columns)


def pooled(model, folder, rank):
    """A run whose second process finds no signal: what each step logs, and the advantages here."""

    def lopsided(completions, **_):
        return [len(completion[0]["content"]) % 5 / 4 if rank == 0 else 0.25 for completion in completions]

    changed = {"use_cpu": True, "max_completion_length": 12, "max_oversampling": 2}
    trainer = trainer_on(model, folder, SRLTrainer, SRLConfig, reward=lopsided, **changed)
    advantages = []
    score = trainer._generate_and_score_completions

    def note(inputs):
        batch = score(inputs)
        advantages.append(batch["advantages"].view(-1, 4).abs().max(dim=1).values.tolist())
        return batch

    trainer._generate_and_score_completions = note
    trainer.train()
    weights = [parameter.double().sum().item() for parameter in trainer.model.parameters()]
    return {"log": trainer.state.log_history[:3], "advantages": advantages, "weights": weights}


def evaluated(model, folder):
    """The means of an evaluation of 5 rows, 2 at a time on each process: the second batch repeats rows."""

    def reward(id, repeated, log_metric, **_):
        for number, again in zip(id, repeated, strict=True):
            if not again:
                log_metric("id", number)
        return [float(number) for number in id]

    trainer = trainer_on(
        model, folder, reward=reward, use_cpu=True, per_device_eval_batch_size=2, num_generations_eval=1
    )
    metrics = trainer.evaluate(rows(5))
    return [metrics[name] for name in ("eval_reward", "eval_rewards/reward/mean", "eval_id", "eval_reward_std")]


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
        rounds[-1] += n_groups > 0
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
        trainer = trainer_on_steps(model, folder, **changed)
        # The loss holds the KL term; TRL's metric of it weighs micro-batches alike, and sharing makes those up anew.
        losses[share_prefix] = train_log(trainer, "loss", "grad_norm")
    found = {"weights": weights, "rounds": rounds, "ids": ids, "losses": losses}
    found |= {"pooled": pooled(model, folder / "pooled", rank), "evaluated": evaluated(model, folder)}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


main(sys.argv[1], Path(sys.argv[2]))
# Python may end before gloo's threads do, which aborts a process that has done all its work. They end with their group,
# and that is held by the trainers' models.
gc.collect()
torch.distributed.destroy_process_group()
