"""Rows out of TRL's padded batches, to the CPU and to the device; those that begin alike come together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srl.shared_prefix.packing import Ids


def like_after_like(
    generate: Callable[[list[Any]], tuple[list[Any], Any]], prompts: list[Any]
) -> tuple[list[Any], Any]:
    """What `generate` gives for the prompts, asked in sorted order: vLLM then finds what they share in its cache.

    Equal prompts stay together, as TRL wants the samples of one.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    rank = sorted(range(len(order)), key=order.__getitem__)
    completion_ids, logprobs = generate([prompts[i] for i in order])
    return [completion_ids[i] for i in rank], None if logprobs is None else [logprobs[i] for i in rank]


def rows_of(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Ids and mask of a micro-batch, as TRL joins prompts and completions."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    return ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)


def on_cpu(ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Both in one copy, (2, B, T). It waits for all that the device has been given to do."""
    return torch.stack((ids_BT, mask_BT.to(ids_BT.dtype))).cpu()


def to_device(array: npt.NDArray[Any], device: torch.device | str) -> Tensor:
    """An array on the device. A GPU fetches it when it comes to that, and nothing waits: hence the pinned copy."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def unpadded(ids_BT: Tensor, mask_BT: Tensor, n_columns: int) -> tuple[list[Ids], list[int]]:
    """The rows without their padding, and the lengths of their prompts; completions stand in the last columns."""
    ids, mask = ids_BT.cpu().numpy(), mask_BT.bool().cpu().numpy()
    rows = [row[kept] for row, kept in zip(ids, mask, strict=True)]
    # Where a prompt is all padding, nothing can be told about the first token after it.
    return rows, np.maximum(1, mask[:, : mask.shape[1] - n_columns].sum(1)).tolist()


def in_order(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows in as many micro-batches of the same size, sorted: those that begin alike are neighbours."""
    rows = [row for b in batches for row in unpadded(b["prompt_ids"], b["prompt_mask"], 0)[0]]
    order = sorted(range(len(rows)), key=lambda i: rows[i].astype(">i8").tobytes())
    size = len(rows) // len(batches)

    def sorted_parts(values: list[Any]) -> Any:
        whole = values[0] is None or values[0].ndim == 0  # one for all rows
        return values if whole else torch.cat(values)[order].split(size)

    columns = {name: sorted_parts([batch[name] for batch in batches]) for name in batches[0]}
    return [{name: parts[i] for name, parts in columns.items()} for i in range(len(batches))]
