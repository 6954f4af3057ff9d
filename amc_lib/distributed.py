"""Several processes as one: what each must know of the others' part of a batch.

Everything here is the identity in a single process. Ranks hold equal or unequal numbers of rows; where rows meet they
stand in rank order.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor


def process_state() -> PartialState:
    """This process among those that accelerate launched; without GPUs they talk through gloo."""
    return PartialState(cpu=without_accelerator())


def without_accelerator() -> bool:
    return not torch.accelerator.is_available()


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """[B, ...] of every rank -> the rows of all, without gradient, and where this rank's rows begin among them."""
    if world_size() == 1:
        return rows.detach(), 0
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    lengths = [int(count) for count in counts]
    padding = [0, 0] * (rows.ndim - 1) + [0, max(lengths) - len(rows)]  # behind the last row
    padded = F.pad(rows.detach(), padding).contiguous()
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    everything = torch.cat([part[:length] for part, length in zip(gathered, lengths, strict=True)])
    return everything, sum(lengths[: rank()])


def mean_weights(counts: Tensor) -> list[float]:
    """Factors that turn this rank's means over counts[k] items into its parts of the means over all ranks' items.

    The average over ranks of factor * mean is the mean over all items, and likewise for gradients, which are averaged
    over ranks. 1 where no rank has an item.
    """
    if world_size() == 1:
        return [1.0] * len(counts)
    total = counts.clone()
    dist.all_reduce(total)
    pairs = zip(counts.tolist(), total.tolist(), strict=True)
    return [here * world_size() / everywhere if everywhere else 1.0 for here, everywhere in pairs]
