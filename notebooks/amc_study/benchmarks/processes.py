"""Measures that need a process of their own: peak memory, and how it and seconds grow."""

from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from amc_study.benchmarks.timing import side_by_side, spread, use_all_cores

GIB = 2**30
LONGEST_WAIT = 900  # seconds that a process waits for those beside it

_barrier: Barrier | None = None  # of this process and those beside it


def _join(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def together() -> None:
    """Wait until every process beside this one has come here too."""
    if _barrier is not None:
        _barrier.wait()


def in_processes(measure: Callable[..., Any], arguments: list[tuple], own_processes: bool = True) -> list[Any]:
    """`measure(*own)` for each of `arguments`, all at once, each in a new process, whose memory is then its own.

    Without `own_processes` they run here, one after the other.
    """
    if not own_processes:
        return [measure(*own) for own in arguments]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(arguments), timeout=LONGEST_WAIT)
    with ProcessPoolExecutor(len(arguments), context, _join, (barrier,)) as pool:
        return [one.result() for one in [pool.submit(measure, *own) for own in arguments]]


def alone(measure: Callable[..., Any], *arguments: Any, own_processes: bool = True) -> Any:
    """`measure(*arguments)` in a new process."""
    return in_processes(measure, [arguments], own_processes)[0]


def peak_bytes() -> int:
    """The most memory that this process has held so far: the GPU's where there is one, else resident memory.

    Linux keeps it by address space; what `getrusage` says there includes the process that started this one.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        held = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
        return int(held["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)


def seconds_and_bytes(call: Callable[[], object], rounds: int) -> tuple[float, int]:
    """Median seconds of `call` after one that does not count, and the peak memory of this process by then."""
    use_all_cores()
    seconds = side_by_side({"": call}, rounds)[""]
    return spread(seconds).value, peak_bytes()
