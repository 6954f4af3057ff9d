"""What a run leaves in its folder, and how that is opened again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from amc_lib.checkpoints import DESCRIPTION, Checkpoint, save_checkpoint
from amc_lib.files import ROOT, write_bytes, write_csv, write_json
from amc_study.rival.region_tower import open_checkpoint

RUNS = ROOT / "runs"


class RunError(RuntimeError):
    """A run that cannot be written."""


@dataclass(frozen=True)
class Run:
    folder: Path
    history: pd.DataFrame  # columns step, epoch, seconds, learning_rate, losses, pointing
    metrics: dict[str, Any]

    def checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.folder)


def open_run(folder: str | Path) -> Run:
    """A finished run. Raises ValueError if the folder holds none."""
    folder = Path(folder)
    if not is_finished(folder):
        raise ValueError(f"{folder}: no finished run")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return Run(folder, pd.read_csv(folder / "history.csv"), metrics)


def is_finished(folder: Path) -> bool:
    return (folder / "metrics.json").is_file() and (folder / DESCRIPTION).is_file()


def write_run(
    folder: Path,
    checkpoint: Checkpoint,
    history: pd.DataFrame,
    identity: dict[str, Any],
    data: dict[str, Any],
    record: dict[str, Any],
) -> None:
    """All files of a run; metrics.json, whose presence says that the run is finished, goes first and comes last.

    Raises RunError with one sentence if they cannot be written.
    """
    final = history.iloc[-1].to_dict() if len(history) else {}
    try:
        for left_by_a_killed_writer in folder.glob(".*.tmp"):
            left_by_a_killed_writer.unlink(missing_ok=True)
        (folder / "metrics.json").unlink(missing_ok=True)
        write_csv(folder / "history.csv", history)
        save_checkpoint(folder, checkpoint.model, checkpoint.tokenizer, checkpoint.settings, {**record, **identity})
        write_json(folder / "metrics.json", {**identity, "final": final, "data": data, "provenance": record})
    except OSError as error:
        raise RunError(
            f"{folder}: the finished run cannot be written ({error}); what snapshots it has are kept, and the same "
            "command goes on from the newest"
        ) from error


def require_writable(folder: Path) -> None:
    """Raises RunError where nothing can be written into the folder."""
    with _explained(folder):
        write_bytes(folder / ".probe", b"\0")
        (folder / ".probe").unlink()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """A system's error inside the block as one sentence about the folder."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error}); name another output") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside the block no other process is in a block of the same folder, say one that outlived its killed parent.

    The system frees the lock of a process that dies. Where someone else has it, this is said, and waited for.
    Raises RunError where there can be no lock.
    """
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    with _explained(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{folder}: another process is at work in it; waiting until that has ended", flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()
