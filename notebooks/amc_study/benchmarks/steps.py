"""The base-size training step against its plain form: seconds, equal losses, AMC's overhead, share of the peak."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch

from amc_lib.config import Settings
from amc_lib.step import Losses
from amc_study.benchmarks.arithmetic import GIGA, count_flops
from amc_study.benchmarks.plain import plain_form
from amc_study.benchmarks.plan import Plan
from amc_study.benchmarks.rows import Row, row
from amc_study.benchmarks.timing import Seconds, Spread, device, ratio, side_by_side, spread
from amc_study.footprint import Stepper, full_size_batch

PRECISIONS = ("float32", "bf16")
SUFFIX = {"float32": "", "bf16": "_bf16"}  # of the rows' names


def step_rows(plan: Plan, peaks: dict[str, Spread]) -> list[Row]:
    """Seconds, speedups, AMC's overhead and the share of `peaks` (GFLOP/s by precision) at each batch of `plan`."""
    rows, fast = [], Stepper(plan.model, device(), "float32", checkpointing=False)
    plain = plain_form("plain_step").PlainStepper(plan.model)
    plain.model.to(device())
    speedups: dict[str, list[Spread]] = {precision: [] for precision in PRECISIONS}
    for size in plan.batches:
        seconds = side_by_side(_forms(plain, fast, size), plan.repetitions, plan.warm_up)
        rows += [row(f"train_step_seconds_{form}_b{size}", spread(own), "s") for form, own in seconds.items()]
        for precision in PRECISIONS:
            speedups[precision].append(ratio(seconds, "plain", precision))
    for precision, measured in speedups.items():
        name = f"train_step_speedup{SUFFIX[precision]}"
        rows.append(row(name, min(measured, key=lambda one: one.value), "times"))
        rows += [row(f"{name}_b{size}", one, "times") for size, one in zip(plan.batches, measured, strict=True)]
    return rows + _overhead_row(seconds) + _share_rows(fast, plan.batches[-1], seconds, peaks)


def _forms(plain: object, fast: Stepper, size: int) -> dict[str, Callable[[], object]]:
    """The step in its plain form, and the fast one in float32, in bf16 and without AMC, on one model and optimizer."""
    batch = full_size_batch(size, fast.settings, fast.device)
    half, without = copy.copy(fast), copy.copy(fast)
    half.precision = "bf16"
    without.settings = replace(fast.settings, amc=replace(fast.settings.amc, lambda1=0.0, lambda2=0.0))
    steppers = {"plain": plain, "float32": fast, "bf16": half, "without_amc": without}
    return {name: lambda one=one: one.step(batch) and None for name, one in steppers.items()}


def _overhead_row(seconds: Seconds) -> list[Row]:
    share = ratio(seconds, "float32", "without_amc")
    return [row("amc_overhead", Spread(*(100 * (one - 1) for one in (share.value, share.low, share.high))), "%")]


def _share_rows(fast: Stepper, size: int, seconds: Seconds, peaks: dict[str, Spread]) -> list[Row]:
    """Counted operations of the forward and backward pass over the whole step's seconds, as a share of the peak."""
    flops = count_flops(lambda: fast.forward(full_size_batch(size, fast.settings, fast.device)).backward())
    rows = [row(f"train_step_gflop_b{size}", flops / GIGA, "GFLOP, counted")]
    for precision in PRECISIONS:
        share = spread([100 * flops / GIGA / s / peaks[precision].value for s in seconds[precision]])
        rows.append(row(f"matmul_share{SUFFIX[precision]}", share, "%"))
    return rows


def loss_rows(plan: Plan) -> list[Row]:
    """The largest relative difference of any loss, and of the total, from the plain form's.

    All three start from the same weights and queues, with the same negatives and without dropout.
    """
    settings = replace(plan.model, model=replace(plan.model.model, text=replace(plan.model.model.text, dropout=0.0)))
    plain = plain_form("plain_step").PlainStepper(settings)
    plain.model.to(device())
    truth = _losses(plain, settings)
    del plain
    rows = []
    for precision in PRECISIONS:
        own = _losses(Stepper(settings, device(), precision, checkpointing=False), settings)
        largest = max(abs(own[name] - value) / abs(value) for name, value in truth.items() if value)  # no box head
        rows.append(row(f"train_step_loss_difference_{precision}", largest, "relative"))
    return rows


def _losses(stepper: object, settings: Settings, size: int = 2) -> dict[str, float]:
    batch = full_size_batch(size, settings, device())
    others = torch.arange(size, device=device()).roll(1)  # each pair's negatives: its neighbour's image and text
    losses: Losses = stepper.losses(batch, negatives=(others, others))
    return {name: getattr(losses, name).item() for name in (*vars(losses), "total")}
