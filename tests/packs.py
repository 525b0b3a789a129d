"""Rows that share prefixes, scored as plain padded rows and as packs."""

import numpy as np
import torch
import transformers

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
