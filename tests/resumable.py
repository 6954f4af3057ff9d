"""What test_resume.py starts in processes of its own, in order to kill them: tiny finetunings that repeat exactly.

A fork server that has imported the library makes a process in milliseconds. `Harm` says what befalls it.
"""

from __future__ import annotations

import errno
import functools
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from test_runs import TINY, OneByOne

from amc_lib import files, tiers
from amc_lib.config import Settings
from amc_lib.datasets import scene_bank
from amc_lib.runs import finetune, pretrain
from amc_lib.training import snapshots
from amc_lib.training.log import Log

SETTINGS = replace(
    TINY,
    model=replace(
        TINY.model,
        vision=replace(TINY.model.vision, drop_path=0.2),
        text=replace(TINY.model.text, dropout=0.1),
        momentum=0.9,
    ),
    objective=replace(TINY.objective, alpha=0.4),
    finetuning=replace(
        TINY.finetuning,
        epochs=3,
        batch_size=8,
        phrases_per_image=2,
        short_captions_until=1,
        fuse_from=1,
        hard_negatives_from=2,
        max_grad_norm=1.0,
        snapshot_every=3,
    ),
)
UPDATES = 24  # of 64 scenes in batches of 8, three times


@dataclass(frozen=True)
class Harm:
    """What happens to a process: SIGKILL some seconds after an update, or at a call of fsync or replace; a full disk."""

    update: int | None = None
    seconds: float = 0.0
    call: str | None = None  # "fsync" or "replace", of `amc_lib.files`
    at: int = 1  # which call kills, counted from 1
    full: tuple[str, ...] = ()  # no file whose path holds one of these can be written

    def arrange(self) -> None:
        if self.update is not None:
            Log.add = _then(Log.add, lambda log: self._after(log.step))
        if self.call is not None:
            calls = iter(range(1, 10**9))
            setattr(os, self.call, _before(getattr(os, self.call), lambda *_: next(calls) == self.at and kill()))
        if self.full:
            os.fsync = _before(os.fsync, self._refuse)

    def _after(self, step: int) -> None:
        if step == self.update and not self.seconds:
            kill()
        elif step == self.update:
            threading.Timer(self.seconds, kill).start()  # the process does not end before it

    def _refuse(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if any(part in path for part in self.full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _before(function: Callable, do: Callable) -> Callable:
    return lambda *arguments: (do(*arguments), function(*arguments))[1]


def _then(function: Callable, do: Callable) -> Callable:
    return lambda first, *arguments: (function(first, *arguments), do(first))[0]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------------------------------------------------ in the process


def prepare(home: Path) -> None:
    """Draw the scenes and train what finetuning starts from."""
    pretrain(SETTINGS, home / "start")


def train(home: Path, output: Path, training: dict[str, Any], harm: Harm) -> None:
    settings = replace(SETTINGS, finetuning=replace(SETTINGS.finetuning, **training))
    harm.arrange()
    finetune(settings, home / "start", output)


def _enter(log: Path, home: Path, function: Callable, arguments: Sequence[Any], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout.reconfigure(line_buffering=True)
    scene_bank.ProcessPoolExecutor = OneByOne
    tiers.open_bank = functools.partial(scene_bank.open_bank, cache=home / "cache")
    function(*arguments)


# ------------------------------------------------------------------------------------------------------ from the test


class Processes:
    """Starts functions of this file in processes; `printed` is what they wrote since it was last asked."""

    def __init__(self, home: Path) -> None:
        self.home, self.log, self.read = home, home / "printed.txt", 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["resumable"])

    def start(self, function: Callable, *arguments: Any, environment: dict[str, str] | None = None):
        environment = {"OMP_NUM_THREADS": "1"} | (environment or {})
        process = self.context.Process(
            target=_enter, args=(self.log, self.home, function, (self.home, *arguments), environment)
        )
        process.start()
        return process

    def train(self, output: Path, harm: Harm | None = None, **training: Any) -> int:
        """The exit code of one finetuning; -9 if it was killed."""
        process = self.start(train, output, training, harm or Harm())
        process.join(timeout=300)
        return process.exitcode

    def printed(self) -> str:
        text = self.log.read_text(encoding="utf-8")[self.read :]
        self.read += len(text)
        return text


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves, without times and without when it was continued."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    about = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    del metrics["final"]["seconds"]
    for record in (metrics["provenance"], about["about"]):
        for name in ("seconds", "date", "continued_at", "unwritten_snapshots"):
            del record[name]
    history = pd.read_csv(folder / "history.csv").drop(columns="seconds")
    weights = (folder / "weights.safetensors").read_bytes()
    return {"weights": weights, "history": history.to_dict("list"), "metrics": metrics, "about": about}


def continued_at(folder: Path) -> list[int]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["provenance"]["continued_at"]
