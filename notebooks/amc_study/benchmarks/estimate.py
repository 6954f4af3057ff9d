"""What finetuning on Visual Genome would take on GPUs, from counted operations and assumptions that stand beside it."""

from __future__ import annotations

import itertools

import pandas as pd

from amc_study.benchmarks.arithmetic import count_flops
from amc_study.benchmarks.plan import Plan
from amc_study.benchmarks.rows import Row, row
from amc_study.footprint import CARDS, UTILISATION, Stepper, full_size_batch

VISITS = {  # pairs of image and phrase in one epoch; what the data sets count is in data/README.md
    "one phrase of each image": 108_077,
    "every region description": 5_408_689,
}
GPUS = 8
SCALING = 0.9  # of eight GPUs' time that is not spent waiting for each other, assumed
PRECISION = "bf16"
COLUMNS = (
    "gpus", "card", "precision", "epoch", "pairs_an_epoch", "epochs", "batch", "gflop_a_pair", "card_tflops",
    "utilisation", "scaling", "updates", "hours",
)  # fmt: skip


def flops_of_a_pair(plan: Plan) -> float:
    """Counted operations of a step, forward and backward, over its pairs; on CPU, where any machine can count them."""
    size = plan.batches[-1]
    stepper = Stepper(plan.model, "cpu", "float32", checkpointing=False)
    return count_flops(lambda: stepper.forward(full_size_batch(size, plan.model)).backward()) / size


def estimate_table(plan: Plan, flops: float) -> pd.DataFrame:
    """Hours for each card and meaning of an epoch; columns as in `COLUMNS`, assumptions included."""
    training = plan.model.finetuning
    rows = []
    for card, (epoch, pairs) in itertools.product(CARDS, VISITS.items()):
        speed = GPUS * card.tflops[PRECISION] * 1e12 * UTILISATION * SCALING  # operations a second
        updates = pairs // (GPUS * training.batch_size) * training.epochs
        hours = flops * pairs * training.epochs / speed / 3600
        rows.append(
            (GPUS, card.name, PRECISION, epoch, pairs, training.epochs, GPUS * training.batch_size,
             round(flops / 1e9, 1), card.tflops[PRECISION], UTILISATION, SCALING, updates, round(hours, 2))
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def estimate_rows(estimates: pd.DataFrame, card: str = "A100 80 GB") -> list[Row]:
    """The hours on eight of one card, computed."""
    chosen = estimates[estimates["card"] == card].set_index("epoch")["hours"]
    names = {"one phrase of each image": "vg_hours_images", "every region description": "vg_hours_regions"}
    return [row(name, chosen[epoch], "hours, computed", f"{GPUS} x {card}") for epoch, name in names.items()]
