"""What only a GPU can show: tokens a second and the largest batch. Without one there are no such rows."""

from __future__ import annotations

import torch

from amc_study.benchmarks.plan import Plan
from amc_study.benchmarks.rows import Row, row
from amc_study.benchmarks.timing import device, side_by_side, spread
from amc_study.footprint import Stepper, full_size_batch

BATCHES = (16, 32, 64, 128, 256, 512)


def gpu_rows(plan: Plan) -> list[Row]:
    """In bf16 with fused attention: tokens (of images and texts) a second at each batch that fits, and the largest."""
    if not torch.cuda.is_available():
        print("no GPU here: rows named gpu_* are absent")
        return []
    stepper, rows = Stepper(plan.model, device(), "bf16", checkpointing=False), []
    tokens = plan.model.model.vision.grid**2 + 1
    for size in BATCHES:
        try:
            batch = full_size_batch(size, plan.model, device())
            seconds = side_by_side({"": lambda batch=batch: stepper.step(batch) and None}, plan.repetitions)[""]
        except torch.cuda.OutOfMemoryError:
            break
        each = size * (tokens + batch.input_ids.shape[1])
        rows.append(row(f"gpu_tokens_per_second_b{size}", spread([each / s for s in seconds]), "tokens/s"))
        largest = size
    return [*rows, row("gpu_largest_batch", largest, "pairs")] if rows else rows
