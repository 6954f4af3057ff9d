"""What test_distributed.py runs in every process: one training step on this rank's part of a stored batch."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from reference_cases import TINY_AMC, TINY_OBJECTIVE, tiny_batch, tiny_model
from torch.nn.parallel import DistributedDataParallel

from amc_lib.config import Settings, TrainingSettings
from amc_lib.presets import preset
from amc_lib.step import Batch
from amc_lib.train.loop import TrainingStep

SIZES = (3, 2)  # phrases of each rank: not equal, so that every mean must be weighted
ALPHA = 0.3


def settings(model) -> Settings:
    training = TrainingSettings(batch_size=5)
    return replace(
        preset("paper"), model=model, objective=TINY_OBJECTIVE, amc=TINY_AMC, pretraining=training, finetuning=training
    )


def whole_batch() -> tuple[Batch, tuple[torch.Tensor, torch.Tensor]]:
    """Five phrases, one of them with no box and one with two labels, and negatives inside each rank's part."""
    batch = tiny_batch(sum(SIZES))
    batch.has_box[1] = False
    batch.mlm_labels[0, 2] = batch.input_ids[0, 2]
    return batch, (torch.tensor([1, 2, 0, 4, 3]), torch.tensor([2, 0, 1, 4, 3]))


def part(batch: Batch, rank: int) -> Batch:
    first = sum(SIZES[:rank])
    rows = slice(first, first + SIZES[rank])
    taken = {name: tensor[rows] if tensor.ndim else tensor for name, tensor in vars(batch).items()}
    return Batch(**taken | {"image_rows": torch.arange(SIZES[rank])})


def step(batch: Batch, negatives, wrap=lambda module: module) -> dict[str, torch.Tensor]:
    """Losses, gradients and what the step leaves in the queues."""
    model = tiny_model()
    module = wrap(TrainingStep(model, settings(model.settings)))
    losses = module(batch, alpha=ALPHA, negatives=negatives)
    losses.total.backward()
    gradients = {f"grad/{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    values = {name: loss.detach() for name, loss in vars(losses).items()}
    return values | gradients | {"queue": model.image_queue, "pointer": model.queue_ptr_txt}


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    batch, negatives = whole_batch()
    first = sum(SIZES[:rank])
    own = tuple(rows[first : first + SIZES[rank]] - first for rows in negatives)
    found = step(part(batch, rank), own, lambda m: DistributedDataParallel(m, find_unused_parameters=True))
    torch.save(found, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
