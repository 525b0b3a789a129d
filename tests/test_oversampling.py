"""A first round that is larger than the batch: what is trained on stays the same."""

import pytest
from trainers import trainer_on

from srl.training.dynamic_sampling import RefillCursor


@pytest.mark.parametrize("max_oversampling", [1, 1.5, 4])
def test_a_batch_is_what_drawing_one_by_one_would_choose(tiny_model, tmp_path, max_oversampling):
    """The first informative groups in drawing order, however large the rounds; every other row has none."""
    trainer = trainer_on(tiny_model, tmp_path, max_oversampling=max_oversampling, max_steps=1)
    trainer._recent.append((1, 2))
    rounds, batches = [], []
    sample_batch, sample_round = trainer._sample_batch, trainer._sample_round
    trainer._sample_batch = lambda inputs: batches.append((inputs, sample_batch(inputs))) or batches[-1][1]
    trainer._sample_round = lambda rows: rounds.append(len(rows) // 4) or sample_round(rows)
    trainer.train()
    ((inputs, (chosen, dropped)),) = batches
    assert rounds[0] == {1: 4, 1.5: 6, 4: 13}[max_oversampling]
    stream = [row["id"] for row in inputs[::4]] + RefillCursor(24, seed=3).take(24)
    one_by_one = [row for row in stream if row % 2][:4]
    assert [group.rows[0]["id"] for group in chosen] == one_by_one
    assert len(chosen) + len(dropped) == sum(rounds)
    assert trainer.state.log_history[0]["kept_fraction"] == sum(g.informative for g in chosen + dropped) / sum(rounds)
    assert list(trainer._recent) == [(1, 2), (sum(g.informative for g in chosen + dropped), sum(rounds))]
