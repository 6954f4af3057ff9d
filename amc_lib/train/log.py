"""The history of a run: mean losses every few updates, and a line of progress at least once a minute."""

from __future__ import annotations

import time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from amc_lib.step import Batch, Losses

History = list[dict[str, float]]
FIRST_LINE, LINES_EVERY = 10, 60  # seconds
PRINTED = {
    "mean": "L_mean",
    "max": "L_max",
    "other": "L_other",
}  # names of losses that differ from those of the history's columns


class Log:
    """Updates counted in `step`; rows of `history` hold means over all processes since the row before.

    The first process prints lines: one after `FIRST_LINE` seconds, then every `LINES_EVERY` and at each epoch's end.
    """

    def __init__(self, accelerator: Accelerator, stage: str, epochs: int, updates: int, every: int) -> None:
        self.accelerator, self.stage, self.epochs = accelerator, stage, epochs
        self.updates, self.every = updates, every  # updates of an epoch, and between two rows
        self.history: History = []
        self.step = self.unreadable = 0
        self.recent: list[Tensor] = []  # the losses of each batch since the last row
        self.start = time.perf_counter()
        self.here = (self.start, 0)  # when and at which update this process began
        self.next_line = self.start + FIRST_LINE

    @property
    def end(self) -> int:
        """The number of updates of the whole run."""
        return self.epochs * self.updates

    def add(self, losses: Losses, batch: Batch, rate: float) -> None:
        """Take the losses of a batch; the last batch of an update is counted, and may make a row and a line."""
        values = named(losses)
        self.recent.append(torch.stack([*values.values()]).detach().float())
        self.unreadable += int(batch.unreadable)
        if not self.accelerator.sync_gradients:
            return
        self.step += 1
        means = torch.stack(self.recent).mean(0)  # [losses]
        at_end = self.step % self.updates == 0
        if at_end or self.step % self.every == 0:
            means, self.recent = self.accelerator.reduce(means, "mean"), []
            lost = self.accelerator.reduce(torch.tensor(self.unreadable, device=self.accelerator.device), "sum")
            row = {"step": self.step, "epoch": self.step / self.updates, "seconds": time.perf_counter() - self.start}
            row |= {"learning_rate": rate} | dict(zip(values, means.tolist(), strict=True))
            self.history.append(row | {"unreadable": int(lost)})
        if at_end or time.perf_counter() >= self.next_line:
            self._line(dict(zip(values, means.tolist(), strict=True)))

    def validated(self, epoch: int, pointing: float) -> None:
        self.history[-1]["pointing"] = pointing
        self._print(f"epoch {epoch + 1} of {self.epochs}: pointing on the validation split {pointing:.1f} %")

    def progress(self) -> dict[str, Any]:
        """What is the same on all processes, ready for JSON; `seconds` leaves out the time between two processes."""
        return {"step": self.step, "seconds": time.perf_counter() - self.start, "history": self.history}

    def tensors(self) -> dict[str, Tensor]:
        """What differs between processes: losses not yet in a row [N, names], images unreadable so far."""
        recent = {"recent_losses": torch.stack(self.recent)} if self.recent else {}
        return recent | {"unreadable": torch.tensor(self.unreadable)}

    def restore(self, progress: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on where `progress()` and `tensors()` were taken."""
        self.step, self.history = progress["step"], progress["history"]
        self.start, self.here = time.perf_counter() - progress["seconds"], (time.perf_counter(), self.step)
        self.unreadable = int(tensors["unreadable"])
        self.recent = list(tensors.get("recent_losses", torch.empty(0)).to(self.accelerator.device))

    def _line(self, means: dict[str, float]) -> None:
        now, (began, first) = time.perf_counter(), self.here
        left = (self.end - self.step) * (now - began) / (self.step - first)
        shown = {PRINTED.get(name, name): value for name, value in means.items() if value or name != "other"}
        losses = ", ".join(f"{name} {value:.3g}" for name, value in shown.items())
        epoch = -(-self.step // self.updates)
        self._print(f"epoch {epoch} of {self.epochs}, step {self.step} of {self.end}, {duration(left)} left: {losses}")
        self.next_line = now + LINES_EVERY

    def _print(self, text: str) -> None:
        self.accelerator.print(f"{self.stage}: {text}", flush=True)


def named(losses: Losses) -> dict[str, Tensor]:
    """The losses by name, with their total."""
    return {**vars(losses), "total": losses.total}


def duration(seconds: float) -> str:
    """`41 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
