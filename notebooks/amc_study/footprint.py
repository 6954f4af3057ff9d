"""What a full-size training step with AMC needs: seconds and memory, measured here, and computed for GPUs.

    python -m amc_study.footprint        # writes figures/paper_step.csv; 5 minutes on 2 cores, 10 GB

Measured rows are steps on this machine (losses, backward pass, AdamW), medians after a warm-up. Computed rows are for
GPUs that are not here: memory is weights, gradients, AdamW's two moments, the momentum model and the queues, plus what
autograd keeps for the backward pass of one image (counted on this machine) times the batch; seconds are the step's
floating-point operations over a share of the card's published peak.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from amc_lib.config import Settings
from amc_lib.files import write_csv, write_json
from amc_lib.model import ALBEF, build
from amc_lib.model.objectives import IGNORED
from amc_lib.presets import preset
from amc_lib.step import Batch, Losses, training_losses
from amc_lib.train import parameter_groups
from amc_study.figures import FOLDER
from amc_study.provenance import device_name, processor_name, provenance

TOKENS = 12  # of a phrase, as region descriptions have
REPETITIONS = 5
GIB = 2**30
RESERVE = 1.15  # of computed memory: the allocator's fragments and the kernels' scratch space
UTILISATION = 0.4  # of the peak, assumed: what steps of this kind reach
COLUMNS = ("device", "precision", "checkpointing", "batch", "seconds", "memory_gib", "how")


@dataclass(frozen=True)
class Card:
    name: str
    memory_gib: int
    tflops: dict[str, float]  # dense peak of matrix products as published, by precision (float32: TF32)


CARDS = (
    Card("RTX 4090 24 GB", 24, {"float32": 82.6, "bf16": 165.2}),
    Card("A100 80 GB", 80, {"float32": 156.0, "bf16": 312.0}),
    Card("H200 141 GB", 141, {"float32": 494.7, "bf16": 989.4}),
)
BATCHES = (16, 32, 64, 128)


def full_size_batch(size: int, settings: Settings | None = None, device: str = "cpu") -> Batch:
    """Random pixels, phrases of `TOKENS` tokens and a box each, in the shapes of the paper tier."""
    settings = settings or preset("paper")
    generator = torch.Generator().manual_seed(0)
    side, text = settings.model.vision.image_size, settings.model.text
    input_ids = torch.randint(1000, text.vocab_size, (size, TOKENS), generator=generator)
    labels = torch.full_like(input_ids, IGNORED)
    labels[:, 2:4] = input_ids[:, 2:4]
    box_mask = torch.zeros(size, settings.amc.map_size, settings.amc.map_size)
    box_mask[:, 40:120, 60:200] = 1
    return Batch(
        image=torch.randn(size, 3, side, side, generator=generator),
        image_rows=torch.arange(size),
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        mlm_input_ids=input_ids,
        mlm_labels=labels,
        box_mask=box_mask,
        has_box=torch.ones(size, dtype=torch.bool),
        unreadable=torch.tensor(0),
    ).to(device)


class Stepper:
    """A full-size model with its optimizer, ready to take steps in one precision."""

    def __init__(self, settings: Settings, device: str, precision: str, checkpointing: bool) -> None:
        self.settings, self.device, self.precision = settings, device, precision
        torch.manual_seed(0)
        self.model: ALBEF = build(settings.model).to(device).train()
        self.model.checkpoint_layers(checkpointing)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, 0.02), lr=1e-5, fused=True)

    def losses(self, batch: Batch, **draw: Any) -> Losses:
        """`draw`: `negatives` or `generator` of `training_losses`."""
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.precision == "bf16"):
            return training_losses(self.model, batch, self.settings.objective, self.settings.amc, alpha=0.4, **draw)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.losses(batch).total

    def step(self, batch: Batch, **draw: Any) -> Losses:
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.losses(batch, **draw)
        losses.total.backward()
        self.optimizer.step()
        return losses

    def seconds(self, batch: Batch) -> float:
        """The median of `REPETITIONS` steps after one."""
        times = []
        for _ in range(REPETITIONS + 1):
            begin = time.perf_counter()
            self.step(batch)
            if self.device != "cpu":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
        return statistics.median(times[1:])

    def kept_bytes(self, size: int) -> int:
        """Bytes that autograd keeps for the backward pass of a batch, parameters and buffers not counted."""
        own = {tensor.untyped_storage().data_ptr() for tensor in self.model.state_dict().values()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total = self.forward(full_size_batch(size, self.settings, self.device))
        bytes_kept = sum(kept.values())
        del total
        return bytes_kept

    def flops(self, batch: Batch) -> int:
        with FlopCounterMode(display=False) as counter:
            self.forward(batch).backward()
        return counter.get_total_flops()


def state_bytes(model: ALBEF) -> int:
    """Weights, gradients and AdamW's moments of the online model; weights of the momentum model; buffers."""
    trainable = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    return 4 * trainable + frozen + sum(b.numel() * b.element_size() for b in model.buffers())


def measured_row(precision: str, checkpointing: bool, size: int) -> tuple:
    """One row of this machine, in a process of its own, so that its peak memory is its own."""
    settings, device = preset("paper"), "cuda" if torch.cuda.is_available() else "cpu"
    seconds = Stepper(settings, device, precision, checkpointing).seconds(full_size_batch(size, settings, device))
    on_gpu = device == "cuda"
    memory = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    name = device_name() if on_gpu else f"{processor_name()}, {torch.get_num_threads()} threads"
    return name, precision, checkpointing, size, round(seconds, 3), round(memory / GIB, 1), "measured"


def computed_rows(precision: str, checkpointing: bool) -> list[tuple]:
    """Rows for the cards that hold the batch."""
    settings = preset("paper")
    stepper = Stepper(settings, "cpu", precision, checkpointing)
    one, two = stepper.kept_bytes(1), stepper.kept_bytes(2)
    each, fixed = two - one, state_bytes(stepper.model) + 2 * one - two
    flops = stepper.flops(full_size_batch(1, settings))
    rows = []
    for card, batch in itertools.product(CARDS, BATCHES):
        memory = round(RESERVE * (fixed + each * batch) / GIB, 1)
        seconds = round(flops * batch / (card.tflops[precision] * 1e12 * UTILISATION), 3)
        if memory <= card.memory_gib:
            rows.append((card.name, precision, checkpointing, batch, seconds, memory, "computed"))
    return rows


def main() -> None:
    argparse.ArgumentParser(prog="python -m amc_study.footprint", description=__doc__.split("\n")[0]).parse_args()
    begin, sizes = time.perf_counter(), BATCHES if torch.cuda.is_available() else (2, 4)
    rows: list[tuple] = []
    for precision, checkpointing in (("float32", False), ("bf16", False), ("bf16", True)):
        for size in sizes:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, context) as alone:
                rows.append(alone.submit(measured_row, precision, checkpointing, size).result())
            print(rows[-1], flush=True)
        rows += computed_rows(precision, checkpointing)
    write_csv(FOLDER / "paper_step.csv", pd.DataFrame(rows, columns=COLUMNS))
    record = provenance(preset("paper"), seed=0, seconds=time.perf_counter() - begin)
    write_json(FOLDER / "paper_step.json", record)


if __name__ == "__main__":
    main()
