"""Timing side by side: what is compared runs in turn in one process, so that a busy moment meets all of it alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from amc_study.provenance import device_name, processor_name


@dataclass(frozen=True)
class Spread:
    """The median of several rounds, with the smallest and the largest of them."""

    value: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


Seconds = dict[str, list[float]]  # by name, one for each round


def side_by_side(callables: Mapping[str, Callable[[], object]], repetitions: int = 5, warm_up: int = 1) -> Seconds:
    """Seconds of each callable in `repetitions` rounds, after `warm_up` rounds that do not count.

    A round runs all of them, in turn forwards and backwards: A B C, C B A, A B C, ... A callable that returns a number
    has measured its seconds itself.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions must be positive, got {repetitions}")
    seconds: Seconds = {name: [] for name in callables}
    for turn in range(warm_up + repetitions):
        names = list(callables)
        for name in names if turn % 2 == 0 else reversed(names):
            begin = time.perf_counter()
            own = callables[name]()
            _wait_for_gpu()
            elapsed = own if isinstance(own, float) else time.perf_counter() - begin
            if turn >= warm_up:
                seconds[name].append(elapsed)
    return seconds


def ratio(seconds: Seconds, slow: str, fast: str) -> Spread:
    """How many times `fast` goes into `slow`, taken round by round."""
    return spread([a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)])


def use_all_cores() -> int:
    """Give torch as many threads as there are cores (or as OMP_NUM_THREADS says) and return their number."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    return torch.get_num_threads()


def machine() -> str:
    """What the numbers were measured on: the GPU, or the processor and torch's threads."""
    if torch.cuda.is_available():
        return device_name()
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
