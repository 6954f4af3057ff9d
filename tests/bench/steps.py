"""The training step of base size against its plain form (tests/plain_step.py): seconds, memory, losses."""

from __future__ import annotations

import copy
import statistics
from dataclasses import replace
from functools import partial

import torch

from amc_lib.config import Settings
from amc_lib.presets import preset
from tests.bench.measure import DEVICE, Row, alternating, ratios, row
from tests.bench.stepper import Stepper, count_flops, kept_bytes, random_batch
from tests.plain_step import PlainStepper

SUFFIX = {"float32": "", "bf16": "_bf16"}  # precision -> end of the rows' names


def settings_without_amc(settings: Settings) -> Settings:
    return replace(settings, amc=replace(settings.amc, lambda1=0.0, lambda2=0.0))


def matmul_rates(sizes: tuple[int, ...], rounds: int) -> dict[str, list[float]]:
    """GFLOP/s of square matrix products in each precision: the rounds of the fastest size."""
    rates = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        factors = {size: torch.randn(size, size, device=DEVICE).to(dtype) for size in sizes}
        seconds = alternating({str(size): partial(torch.mm, x, x) for size, x in factors.items()}, rounds)
        by_size = [[2 * size**3 / s / 1e9 for s in seconds[str(size)]] for size in sizes]
        rates[name] = max(by_size, key=max)
    return rates


def step_rows(settings: Settings, batches: tuple[int, ...], rounds: int, sizes: tuple[int, ...]) -> list[Row]:
    """Seconds and speedups at each batch, what AMC adds, and the share of the measured peak of matrix products."""
    rates = matmul_rates(sizes, rounds)
    rows = [row(f"matmul_peak_{precision}", rate, "GFLOP/s") for precision, rate in rates.items()]
    fast, plain = Stepper(settings, DEVICE), PlainStepper(settings)
    plain.model.to(DEVICE)
    half, without = copy.copy(fast), copy.copy(fast)  # of the same model and optimizer
    half.precision, without.settings = "bf16", settings_without_amc(settings)
    steppers = {"plain": plain, "float32": fast, "bf16": half, "without_amc": without}
    speedups: dict[str, list[list[float]]] = {precision: [] for precision in SUFFIX}
    for size in batches:
        batch = random_batch(size, settings, DEVICE)
        seconds = alternating({name: partial(stepper.step, batch) for name, stepper in steppers.items()}, rounds)
        rows += [row(f"train_step_seconds_{name}_b{size}", values, "s") for name, values in seconds.items()]
        for precision, values in speedups.items():
            values.append(ratios(seconds, "plain", precision))
            rows.append(row(f"train_step_speedup{SUFFIX[precision]}_b{size}", values[-1], "times"))
    for precision, values in speedups.items():
        rows.append(row(f"train_step_speedup{SUFFIX[precision]}", min(values, key=statistics.median), "times"))
    rows.append(row("amc_overhead", [100 * (r - 1) for r in ratios(seconds, "float32", "without_amc")], "%"))
    gflop = count_flops(fast, batch) / 1e9
    rows.append(row(f"train_step_gflop_b{size}", gflop, "GFLOP, counted"))
    for precision, rate in rates.items():
        shares = [100 * gflop / s / statistics.median(rate) for s in seconds[precision]]
        rows.append(row(f"matmul_share{SUFFIX[precision]}", shares, "%"))
    return rows


def agreement_rows(settings: Settings) -> list[Row]:
    """The largest relative difference of a loss from the plain form's, and the memory for one more sample.

    Both forms start from the same weights, with the same negatives and without dropout.
    """
    text = replace(settings.model.text, dropout=0.0)
    settings = replace(settings, model=replace(settings.model, text=text))
    batches = [random_batch(size, settings, DEVICE) for size in (2, 3)]
    values, memory = {}, {}
    for name in ("plain", *SUFFIX):
        stepper = PlainStepper(settings) if name == "plain" else Stepper(settings, DEVICE, name)
        stepper.model.to(DEVICE)
        memory[name] = kept_bytes(stepper, batches[1]) - kept_bytes(stepper, batches[0])
        other = torch.tensor([1, 0], device=DEVICE)
        values[name] = vars(stepper.losses(batches[0], negatives=(other, other)))
    rows = [row(f"memory_per_sample_{name}", kept / 2**20, "MiB a sample, counted") for name, kept in memory.items()]
    for precision, suffix in SUFFIX.items():
        plain = {name: loss.item() for name, loss in values["plain"].items() if loss.item()}
        difference = max(abs(values[precision][name].item() - loss) / loss for name, loss in plain.items())
        rows.append(row(f"train_step_loss_difference_{precision}", difference, "relative"))
        rows.append(row(f"memory_share{suffix}", 100 * memory[precision] / memory["plain"], "%"))
    return rows


def scenes_rows(rounds: int) -> list[Row]:
    """Pairs of image and phrase that a training step on scenes handles in a second, with boxes and without."""
    settings = preset("scenes")
    rows = []
    for stage, staged in (("pretraining", settings_without_amc(settings)), ("finetuning", settings)):
        training, stepper = getattr(settings, stage), Stepper(staged, DEVICE)
        batch = random_batch(training.batch_size, settings, DEVICE, training.phrases_per_image)
        seconds = alternating({stage: partial(stepper.step, batch)}, rounds)[stage]
        rates = [len(batch.image_rows) / s for s in seconds]
        rows.append(row(f"{stage}_samples_per_second", rates, "pairs/s"))
    return rows
