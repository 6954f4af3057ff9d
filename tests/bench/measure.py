"""Timing in alternating rounds, and the rows that come of it."""

from __future__ import annotations

import multiprocessing
import re
import resource
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.benchmark import Timer

from amc_study.provenance import device_name, processor_name

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DIGITS = 5  # significant, in the csv
Result = TypeVar("Result")
Seconds = dict[str, list[float]]  # by name of what is timed, one for each round


@dataclass(frozen=True)
class Row:
    """A line of benchmarks.csv: the median of the rounds, and the least and the greatest of them."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    machine: str


def row(name: str, values: float | Sequence[float], unit: str, machine: str | None = None) -> Row:
    """A row out of the values of all rounds, or of a number that was counted once."""
    values = [values] if isinstance(values, int | float) else values
    numbers = (float(f"{number:.{DIGITS}g}") for number in (statistics.median(values), min(values), max(values)))
    return Row(name, *numbers, unit, machine or this_machine())


def alternating(calls: Mapping[str, Callable[[], object]], rounds: int) -> Seconds:
    """Seconds of each call in `rounds` rounds: A B C, C B A, A B C ..., so that a busy moment meets all alike."""
    threads = torch.get_num_threads()
    timers = {name: Timer("call()", globals={"call": call}, num_threads=threads) for name, call in calls.items()}
    seconds: Seconds = {name: [] for name in calls}
    for turn in range(rounds):
        for name in list(timers) if turn % 2 == 0 else reversed(timers):
            seconds[name].append(timers[name].blocked_autorange(min_run_time=1e-3).median)  # after one call to warm up
    return seconds


def ratios(seconds: Seconds, slow: str, fast: str) -> list[float]:
    """How many times `fast` is faster than `slow`, in each round."""
    return [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]


def alone(call: Callable[..., Result], *given: object) -> Result:
    """What `call(*given)` returns in a new process, whose memory holds nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(call, *given).result()


def peak_memory() -> int:
    """Bytes that this process has held at most.

    On Linux its own mark: there `getrusage` gives a new process the mark of the one that started it.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def forget_peak() -> None:
    """On Linux `peak_memory` then speaks of what follows: what was freed before does not count."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def this_machine() -> str:
    """The GPUs, or the processor and its threads."""
    return device_name() if DEVICE == "cuda" else f"{processor_name()}, {torch.get_num_threads()} threads"
