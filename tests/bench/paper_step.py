"""What a step of the paper's size needs: measured on this machine, and computed for GPUs that are not here.

Computed memory is weights, gradients, AdamW's moments, momentum model and queues, plus what autograd keeps for a
sample (counted here) times the batch. Computed seconds are counted operations over a share of the published peak.
"""

from __future__ import annotations

import itertools
from functools import partial
from statistics import median

import pandas as pd
import torch

from amc_lib.presets import preset
from tests.bench.measure import DEVICE, Row, alone, alternating, peak_memory, row, this_machine
from tests.bench.stepper import Stepper, count_flops, kept_bytes, random_batch

GIB = 2**30
RESERVE = 1.15  # of computed memory: the allocator's fragments and the kernels' scratch space, assumed
UTILISATION = 0.4  # of the published peak, assumed
SCALING = 0.9  # of eight GPUs' time that is not spent waiting for each other, assumed
CARDS = {  # GiB, and dense TFLOP/s of matrix products as published (float32: TF32)
    "RTX 4090 24 GB": (24, {"float32": 82.6, "bf16": 165.2}),
    "A100 80 GB": (80, {"float32": 156.0, "bf16": 312.0}),
    "H200 141 GB": (141, {"float32": 494.7, "bf16": 989.4}),
}
BATCHES = (16, 32, 64, 128)
FORMS = (("float32", False), ("bf16", False), ("bf16", True))  # precision, checkpointing
COLUMNS = ("device", "precision", "checkpointing", "batch", "seconds", "memory_gib", "how")
VISUAL_GENOME = {"images": 108_077, "regions": 5_408_689}  # phrases in an epoch: one of each image, or every region


def measured(precision: str, checkpointing: bool, size: int, rounds: int) -> tuple:
    """A line for this machine; to be called in a process of its own, whose peak memory it reports."""
    settings = preset("paper")
    stepper, batch = Stepper(settings, DEVICE, precision, checkpointing), random_batch(size, settings, DEVICE)
    seconds = median(alternating({"": partial(stepper.step, batch)}, rounds)[""])
    memory = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else peak_memory()
    return this_machine(), precision, checkpointing, size, round(seconds, 3), round(memory / GIB, 1), "measured"


def computed(precision: str, checkpointing: bool) -> list[tuple]:
    """Lines for the cards, at each batch that fits."""
    settings = preset("paper")
    stepper = Stepper(settings, "cpu", precision, checkpointing)
    one, two = (kept_bytes(stepper, random_batch(size, settings)) for size in (1, 2))
    model = stepper.model
    trainable = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    fixed = weights + 3 * trainable + 2 * one - two  # gradients and two moments; what no sample adds to
    flops = count_flops(stepper, random_batch(1, settings))
    lines = []
    for (card, (room, tflops)), size in itertools.product(CARDS.items(), BATCHES):
        memory = RESERVE * (fixed + (two - one) * size) / GIB
        if memory <= room:
            seconds = flops * size / (tflops[precision] * 1e12 * UTILISATION)
            lines.append((card, precision, checkpointing, size, round(seconds, 3), round(memory, 1), "computed"))
    return lines


def paper_step_table(rounds: int) -> pd.DataFrame:
    """figures/paper_step.csv: 5 minutes and 10 GB on two cores."""
    lines = []
    for precision, checkpointing in FORMS:
        for size in BATCHES if DEVICE == "cuda" else (2, 4):
            lines.append(alone(measured, precision, checkpointing, size, rounds))
        lines += computed(precision, checkpointing)
    return pd.DataFrame(lines, columns=list(COLUMNS))


def visual_genome_rows(table: pd.DataFrame, card: str = "A100 80 GB", gpus: int = 8) -> list[Row]:
    """Hours of the paper's finetuning on Visual Genome, from the computed seconds in bf16 at batch 64."""
    training = preset("paper").finetuning
    chosen = (table["device"] == card) & (table["precision"] == "bf16") & ~table["checkpointing"]
    step = table[chosen & (table["batch"] == training.batch_size)]["seconds"].item()
    updates = training.epochs / (training.batch_size * gpus * SCALING)  # of all GPUs, for each pair of an epoch
    return [
        row(f"vg_hours_{epoch}", step * pairs * updates / 3600, "hours, computed", f"{gpus} x {card}")
        for epoch, pairs in VISUAL_GENOME.items()
    ]
