"""The history of a run: counts updates, shows progress, and makes a row of mean losses every few updates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from amc_lib.step import Batch, Losses

History = list[dict[str, float]]


class Log:
    """`step` counts updates; a row holds the means over all processes since the row before."""

    def __init__(self, accelerator: Accelerator, stage: str, epochs: int, updates: int, every: int) -> None:
        self.accelerator, self.updates, self.every = accelerator, updates, every
        self.history: History = []
        self.step = self.unreadable = 0
        self.recent: list[Tensor] = []  # the losses of each batch since the last row
        self.names: list[str] = []
        self.start = time.perf_counter()
        shown = {} if accelerator.is_main_process else {"disable": True}
        self.bar = tqdm(total=epochs * updates, desc=stage, unit="step", **shown)

    @property
    def seconds(self) -> float:
        """Since the run began; of a run that was continued, without the time between."""
        return time.perf_counter() - self.start

    def add(self, losses: Losses, batch: Batch, rate: float) -> None:
        self.names = names(losses)
        self.recent.append(values(losses))
        self.unreadable += int(batch.unreadable)
        if not self.accelerator.sync_gradients:
            return
        self.step += 1
        self.bar.update()
        if self.step % self.every and self.step % self.updates:
            return
        means = named(self.names, self.accelerator.reduce(torch.stack(self.recent).mean(0), "mean"))
        lost = self.accelerator.reduce(torch.tensor(self.unreadable, device=self.accelerator.device), "sum")
        row = {"step": self.step, "epoch": self.step / self.updates, "seconds": self.seconds}
        self.history.append(row | {"learning_rate": rate} | means | {"unreadable": int(lost)})
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in means.items()})
        self.recent = []

    def validated(self, epoch: int, pointing: float) -> None:
        self.history[-1]["pointing"] = pointing
        if self.accelerator.is_main_process:
            self.bar.write(f"epoch {epoch + 1}: pointing on the validation split {pointing:.1f} %")

    def progress(self) -> dict[str, Any]:
        """What is the same on all processes, ready for JSON."""
        return {"step": self.step, "seconds": self.seconds, "history": self.history}

    def tensors(self) -> dict[str, Tensor]:
        """What each process has of its own: losses not yet in a row [N, names], unreadable images so far."""
        recent = {"recent_losses": torch.stack(self.recent)} if self.recent else {}
        return recent | {"unreadable": torch.tensor(self.unreadable)}

    def restore(self, progress: dict[str, Any], own: dict[str, Tensor]) -> None:
        """Go on where `progress()` and `tensors()` were taken."""
        self.step, self.history = progress["step"], progress["history"]
        self.start = time.perf_counter() - progress["seconds"]
        self.unreadable = int(own["unreadable"])
        self.recent = list(own["recent_losses"].to(self.accelerator.device)) if "recent_losses" in own else []
        self.bar.update(self.step)


def names(losses: Losses) -> list[str]:
    return [*vars(losses), "total"]


def values(losses: Losses) -> Tensor:
    return torch.stack([getattr(losses, name).detach().float() for name in names(losses)])


def named(names: Sequence[str], values: Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
