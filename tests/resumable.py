"""What test_resume.py starts in processes of its own, in order to kill them: tiny finetunings that repeat exactly.

A fork server that has imported the library makes a process in milliseconds. `Harm` says what befalls it.
"""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny_scenes import TINY

from amc_lib.checkpoints import save_checkpoint
from amc_lib.config import Settings
from amc_lib.data import Collator, FixedPairs, Phrase
from amc_lib.model import ALBEF
from amc_lib.tokens import Tokenizer, word_vocabulary
from amc_lib.train.log import Log
from amc_study import runs
from amc_study.runs import finetune

WORDS = ["red", "green", "blue", "square", "and", "a"]
IMAGES, UPDATES = 32, 12  # in batches of 8, three times
SETTINGS = replace(
    TINY,
    model=replace(
        TINY.model,
        vision=replace(TINY.model.vision, image_size=32, trunk="none", patch_size=8, drop_path=0.2),
        text=replace(TINY.model.text, dropout=0.1),
        temperature_range=(0.001, 0.5),
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


def changed(settings: Settings, **training: Any) -> Settings:
    return replace(settings, finetuning=replace(settings.finetuning, **training))


def squares(images: int = IMAGES, seed: int = 0, per_image: int = 2) -> FixedPairs:
    """Half of each picture has a colour; three phrases, one of them without a box."""
    pictures = torch.rand(images, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    box, whole = (0.0, 0.0, 1.0, 0.5), (0.0, 0.0, 1.0, 1.0)
    phrases = []
    for i in range(images):
        pictures[i, i % 3, :16] += 1
        first, second = WORDS[i % 3], WORDS[(i + 1) % 3]
        phrases.append([Phrase(first, (box,)), Phrase(f"{first} and {second}", (whole, box), 2), Phrase("a square")])
    return FixedPairs(pictures, phrases, seed, per_image)


def tokenizer() -> Tokenizer:
    return Tokenizer(word_vocabulary(WORDS), 8)


def collator() -> Collator:
    return Collator(tokenizer(), 0.4, 16)


def brightness(model: ALBEF) -> float:
    """In place of pointing: some number that depends on the weights."""
    return float(model.itm_head.weight.detach().abs().mean())


@dataclass(frozen=True)
class Harm:
    """What befalls a process: SIGKILL some seconds after an update, or in place of a write; a full disk."""

    update: int | None = None
    seconds: float = 0.0
    write: int | None = None  # which rename of a whole file into its place kills, counted from 1
    full: str | None = None  # no file whose path this pattern matches can be written

    def arrange(self) -> None:
        add, replace, writes = Log.add, os.replace, itertools.count(1)

        def add_and_kill(log: Log, *arguments: Any) -> None:
            add(log, *arguments)
            if log.step == self.update and self.seconds:
                threading.Timer(self.seconds, kill).start()  # the process does not end before it
            elif log.step == self.update:
                kill()

        def replace_or_not(source: Path, target: Path) -> None:
            if next(writes) == self.write:
                kill()
            if self.full and re.search(self.full, str(target)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            replace(source, target)

        Log.add, os.replace = add_and_kill, replace_or_not


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------------------------------------------------ in the process


def train(home: Path, output: Path, training: dict[str, Any], harm: Harm) -> None:
    settings = changed(SETTINGS, **training)
    runs.Scenes.training_pairs = lambda *_: squares(seed=settings.finetuning.seed)
    runs.Scenes.validation_split = lambda _: None
    runs._validator = lambda *_: brightness
    harm.arrange()
    finetune(settings, home / "start", output)


def _enter(log: Path, function: Callable, arguments: Sequence[Any], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout.reconfigure(line_buffering=True)
    function(*arguments)


# ------------------------------------------------------------------------------------------------------ from the test


def fork_server() -> BaseContext:
    """Starts processes with this file's imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:  # the server reads sys.path from its environment
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


class Processes:
    """Starts functions of this file in processes; `printed` is what they wrote since it was last asked."""

    def __init__(self, home: Path) -> None:
        self.home, self.log, self.read = home, home / "printed.txt", 0
        self.context = fork_server()
        torch.manual_seed(0)
        save_checkpoint(home / "start", ALBEF(SETTINGS.model), tokenizer(), SETTINGS, {})

    def start(self, function: Callable, *arguments: Any, environment: dict[str, str] | None = None):
        environment = {"OMP_NUM_THREADS": "1"} | (environment or {})
        process = self.context.Process(target=_enter, args=(self.log, function, (self.home, *arguments), environment))
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
    """All that a run leaves, but for when, out of which commit and with which interruptions."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    about = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    del metrics["final"]["seconds"]
    for record in (metrics["provenance"], about["about"]):
        for name in ("seconds", "date", "commit", "dirty", "continued_at"):
            del record[name]
    history = pd.read_csv(folder / "history.csv").drop(columns="seconds")
    weights = (folder / "weights.safetensors").read_bytes()
    return {"weights": weights, "history": history.to_dict("list"), "metrics": metrics, "about": about}


def continued_at(folder: Path) -> list[int]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["provenance"]["continued_at"]


def join_all(processes: Sequence[Any]) -> None:
    """Wait for processes that need each other: once one has died of a signal or an error, the others are killed."""
    while any(process.is_alive() for process in processes):
        if any(process.exitcode for process in processes):
            for process in processes:
                process.kill()
        time.sleep(0.02)
    for process in processes:
        process.join()
