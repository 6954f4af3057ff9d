"""How seconds and memory grow: with batch, resolution, phrases of an image and processes; exponents fitted to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy import stats

from amc_lib.config import Settings
from amc_study.benchmarks.memory import step_seconds_and_bytes
from amc_study.benchmarks.plan import Plan
from amc_study.benchmarks.pointing import Pointer, phrases
from amc_study.benchmarks.processes import GIB, alone, in_processes, peak_bytes, seconds_and_bytes, together
from amc_study.benchmarks.rows import Row, row
from amc_study.benchmarks.timing import Spread, machine, side_by_side, spread

COLUMNS = ("axis", "x", "seconds", "memory_gib", "machine")
AXES = {
    "batch": "images in a training step",
    "resolution": "side of the image, pixels (step of 2)",
    "phrases": "phrases of one image (pointing)",
    "processes": "processes that share pictures to point at",
}
STEP_BATCH = 2  # images of the step whose resolution changes
PHRASES_A_PICTURE = 4  # that the processes share
CONFIDENCE = 0.95


def growth_points(plan: Plan) -> pd.DataFrame:
    """Seconds and peak memory at every point of the four axes; columns as in `COLUMNS`."""

    def step(settings: Settings, size: int) -> tuple[float, int]:
        arguments = (settings, "float32", size, plan.growth_rounds)
        return alone(step_seconds_and_bytes, *arguments, own_processes=plan.own_processes)

    points = [("batch", size, *step(plan.model, size)) for size in plan.growth_batches]
    points += [("resolution", side, *step(_with_side(plan.model, side), STEP_BATCH)) for side in plan.growth_sides]
    for count in plan.growth_phrases:
        asked = (plan.model, count, plan.growth_rounds)
        points.append(("phrases", count, *alone(pointing_seconds_and_bytes, *asked, own_processes=plan.own_processes)))
    points += [("processes", count, *_shared(plan, count)) for count in plan.growth_processes]
    rows = [(axis, x, seconds, memory / GIB, machine()) for axis, x, seconds, memory in points]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def exponent_rows(points: pd.DataFrame) -> list[Row]:
    """For each axis the exponents of seconds and of memory; `low` and `high` are ends of a 95 % interval."""
    rows = []
    for axis, part in points.groupby("axis", sort=False):
        for measure, name in (("seconds", "seconds"), ("memory_gib", "memory")):
            rows.append(row(f"growth_{name}_{axis}", exponent(part["x"], part[measure]), "exponent, fitted"))
    return rows


def exponent(x: pd.Series, y: pd.Series) -> Spread:
    """The slope of log y over log x by least squares with its 95 % interval (Student's t, as many points less 2).

    Raises ValueError for fewer than three points, which leave no interval.
    """
    if len(x) < 3:
        raise ValueError(f"an exponent needs at least three points, got {len(x)}")
    horizontal, vertical = np.log(x) - np.log(x).mean(), np.log(y) - np.log(y).mean()
    slope = float((horizontal * vertical).sum() / (horizontal**2).sum())
    variance = ((vertical - slope * horizontal) ** 2).sum() / (len(x) - 2)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 2) * np.sqrt(variance / (horizontal**2).sum()))
    return Spread(slope, slope - half, slope + half)


def pointing_seconds_and_bytes(settings: Settings, count: int, rounds: int) -> tuple[float, int]:
    """Seconds in which `count` phrases of one image are pointed at, and this process's peak memory."""
    pointer, asked = Pointer(settings), phrases(count)
    return seconds_and_bytes(lambda: pointer.at_once(asked), rounds)


def shared_seconds_and_bytes(settings: Settings, images: int, rounds: int) -> tuple[float, int]:
    """The same for `images` pictures one after the other on one thread, begun together with the other processes."""
    torch.set_num_threads(1)
    pointer, asked = Pointer(settings), phrases(PHRASES_A_PICTURE)

    def answer() -> None:
        together()
        for _ in range(images):
            pointer.at_once(asked)

    return spread(side_by_side({"": answer}, rounds)[""]).value, peak_bytes()


def _shared(plan: Plan, count: int) -> tuple[float, int]:
    """Seconds until the last of `count` processes has its share done, and the memory of all."""
    share = [(plan.model, plan.growth_images // count, plan.growth_rounds)] * count
    measured = in_processes(shared_seconds_and_bytes, share, plan.own_processes)
    return max(seconds for seconds, _ in measured), sum(memory for _, memory in measured)


def _with_side(settings: Settings, side: int) -> Settings:
    return replace(settings, model=replace(settings.model, vision=replace(settings.model.vision, image_size=side)))
