"""Rows that share prefixes, scored as plain padded rows and as packs."""

import numpy as np
import torch
import transformers
from hypothesis import strategies as st

from srl.shared_prefix.attention import SHARED_PREFIX_ATTENTION, model_inputs
from srl.shared_prefix.packing import pack

VOCABULARY = 40


def model_of(kind="Qwen2", dtype=torch.float32, seed=0, **changed):
    """A small random model whose attention matters."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}{'Text' * (kind == 'Gemma3')}Config")(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **({} if kind in ("Qwen2", "Phi3") else {"head_dim": 8}),
        initializer_range=0.3,
        pad_token_id=0,
        attn_implementation=SHARED_PREFIX_ATTENTION,
        **changed,
    )
    return getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype)


def trajectory(n_steps=4, n_samples=3, seed=0):
    """Prompts that extend one another up to a stem, completions of many lengths; and every special kind of row."""
    rng = np.random.default_rng(seed)
    body, stem = rng.integers(1, VOCABULARY, 60), rng.integers(1, VOCABULARY, 3)
    rows, lengths = [], []
    for step in range(n_steps):
        prompt = np.concatenate([body[: 20 + 10 * step], stem])
        for _ in range(n_samples):
            rows.append(np.concatenate([prompt, rng.integers(1, VOCABULARY, rng.integers(1, 25))]))
            lengths.append(len(prompt))
    rows += [rows[0], rows[1][:-2], rows[2][: lengths[2]], rng.integers(1, VOCABULARY, 30)]
    lengths += [lengths[0], min(lengths[1], len(rows[1]) - 3), lengths[2], 1]
    return rows, lengths


def plain(model, rows, lengths):
    """Per row, the log-probs of its completion: one padded batch, attention masked as usual."""
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
    logprobs = model(input_ids=padded, attention_mask=mask, use_cache=False).logits.log_softmax(-1)
    return [
        logprobs[i, length - 1 : len(row) - 1].gather(1, torch.from_numpy(row[length:])[:, None])[:, 0]
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True))
    ]


def packed(model, rows, lengths, **options):
    """The same from packs."""
    found = [torch.zeros(0)] * len(rows)
    for one in pack(rows, lengths, **options):
        logits = model(**model_inputs(one, "cpu"), use_cache=False).logits[0]
        labels = torch.from_numpy(one.labels_T).clamp(min=0)[:, None]
        logprobs_T = logits.log_softmax(-1).gather(1, labels)[:, 0]
        for index, places in zip(one.rows, one.places, strict=True):
            found[index] = logprobs_T[places]
    return found


@st.composite
def row_sets(draw):
    """Random trees: rows that branch off earlier rows anywhere, or repeat, continue or cut them."""
    token = st.integers(1, VOCABULARY - 1)
    rows = [draw(st.lists(token, min_size=2, max_size=10))]
    for _ in range(draw(st.integers(0, 7))):
        start = draw(st.sampled_from(rows))
        rows.append(start[: draw(st.integers(1, len(start)))] + draw(st.lists(token, max_size=8)))
    return [np.array(row) for row in rows], [draw(st.integers(1, len(row))) for row in rows]


def seen_keys(plan):
    """Per place, the places that it attends to."""
    seen = [set() for _ in range(plan.n_places)]
    for start, stop in plan.chains:
        for place in range(start, stop):
            seen[place] |= set(range(start, place + 1))
    for block in plan.blocks:
        for place in range(block.start, block.stop):
            keys = set(range(block.key_start, block.key_stop))
            assert not keys & seen[place]  # no key counted twice
            seen[place] |= keys
    return seen
