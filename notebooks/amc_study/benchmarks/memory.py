"""Peak memory of a training step, each form and batch in a process of its own."""

from __future__ import annotations

import numpy as np

from amc_lib.config import Settings
from amc_study.benchmarks.plain import plain_form
from amc_study.benchmarks.plan import Plan
from amc_study.benchmarks.processes import GIB, alone, seconds_and_bytes
from amc_study.benchmarks.rows import Row, row
from amc_study.benchmarks.timing import device
from amc_study.footprint import Stepper, full_size_batch

FORMS = ("plain", "float32", "bf16")
MIB = 2**20


def step_seconds_and_bytes(settings: Settings, form: str, size: int, rounds: int = 1) -> tuple[float, int]:
    """Seconds of a step of `form` ("plain", "float32", "bf16") at batch `size`, and this process's peak memory.

    At least two steps are taken: AdamW's moments are there from the second on.
    """
    if form == "plain":
        stepper = plain_form("plain_step").PlainStepper(settings)
        stepper.model.to(device())
    else:
        stepper = Stepper(settings, device(), form, checkpointing=False)
    batch = full_size_batch(size, settings, device())
    return seconds_and_bytes(lambda: stepper.step(batch) and None, rounds)


def memory_rows(plan: Plan) -> list[Row]:
    """Peak of each form at each batch, the growth per sample (a line through them), and shares of the plain form's."""
    rows, per_sample, totals = [], {}, {}
    for form in FORMS:
        peaks = [
            alone(step_seconds_and_bytes, plan.model, form, size, own_processes=plan.own_processes)[1]
            for size in plan.memory_batches
        ]
        at_batch = zip(plan.memory_batches, peaks, strict=True)
        rows += [row(f"memory_{form}_b{size}", peak / GIB, "GiB") for size, peak in at_batch]
        per_sample[form], totals[form] = np.polyfit(plan.memory_batches, peaks, 1)[0], peaks[-1]
        rows.append(row(f"memory_per_sample_{form}", per_sample[form] / MIB, "MiB a sample"))
    for form, suffix in (("float32", ""), ("bf16", "_bf16")):
        rows.append(row(f"memory_share{suffix}", 100 * per_sample[form] / per_sample["plain"], "%"))
        name = f"memory_share_total{suffix}_b{plan.memory_batches[-1]}"
        rows.append(row(name, 100 * totals[form] / totals["plain"], "%"))
    return rows
