"""The training loop, on whatever devices accelerate finds: losses, updates, validation, history."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from amc_lib.config import Settings, TrainingSettings
from amc_lib.distributed import without_accelerator
from amc_lib.model import ALBEF
from amc_lib.pairs import Collator, EpochBatches, PairDataset
from amc_lib.step import Batch, Losses, training_losses
from amc_lib.training.schedule import alpha_at, learning_rate, parameter_groups

History = list[dict[str, float]]


class DivergedError(RuntimeError):
    """A loss or gradient that is not a finite number."""


class TrainingStep(nn.Module):
    """The model with its losses as one forward pass, which is what accelerate wraps for several devices."""

    def __init__(
        self, model: ALBEF, settings: Settings, precision: str = "float32", losses: Callable[..., Any] = training_losses
    ) -> None:
        super().__init__()
        self.model, self.settings, self.precision, self.losses = model, settings, precision, losses

    def forward(self, batch: Batch, **options) -> Losses:
        with torch.autocast(batch.image.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.losses(self.model, batch, self.settings.objective, self.settings.amc, **options)


def set_seed(seed: int) -> None:
    """Seed torch's global generator (initial weights, dropout) and use all cores."""
    torch.manual_seed(seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


def train(
    model: ALBEF,
    pairs: PairDataset,
    collator: Collator,
    settings: Settings,
    stage: str,
    validate: Callable[[ALBEF], float] | None = None,
    log_every: int = 25,
    step_losses: Callable[..., Any] = training_losses,
) -> History:
    """Train `model` in place for `stage` ("pretraining" or "finetuning") and return its history.

    `step_losses` gives a dataclass of scalars with their `total`; another system than ALBEF has others.

    A history row holds step (updates so far), epoch, seconds, learning_rate, the mean losses since the row before and
    how many images could not be read so far; at the end of an epoch also `pointing` (percent, from `validate`).
    Raises DivergedError at the first loss that is not finite.
    """
    training: TrainingSettings = getattr(settings, stage)
    accelerator = _accelerator(training)
    world, rank = accelerator.num_processes, accelerator.process_index
    batches = EpochBatches(len(pairs), training.batch_size, training.seed, rank, world, training.accumulation)
    if not len(batches):
        needed = training.batch_size * world * training.accumulation
        raise ValueError(f"{len(pairs)} images do not fill one batch of {needed}")
    loader = DataLoader(pairs, batch_sampler=batches, collate_fn=collator, num_workers=training.workers)
    if rank:
        torch.manual_seed(torch.initial_seed() + rank)  # dropout of its own
    model.checkpoint_layers(training.checkpointing)
    optimizer = torch.optim.AdamW(parameter_groups(model, training.weight_decay), lr=training.learning_rate, fused=True)
    step_module = TrainingStep(model, settings, training.precision, step_losses).train()
    step_module, optimizer = accelerator.prepare(step_module, optimizer)
    generator = torch.Generator(accelerator.device).manual_seed(training.seed + rank)
    updates = len(batches) // training.accumulation
    log = _Log(accelerator, stage, training.epochs, updates, log_every)
    for epoch in range(training.epochs):
        batches.epoch = pairs.epoch = epoch
        pairs.most_things = 1 if epoch < training.short_captions_until else None
        model.train()
        for number, batch in enumerate(loader):
            rate = learning_rate(training, log.step, updates)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with accelerator.accumulate(step_module):
                losses = step_module(
                    batch.to(accelerator.device),
                    alpha=alpha_at(settings, log.step, updates),
                    fuse=epoch >= training.fuse_from,
                    hard_negatives=epoch >= training.hard_negatives_from,
                    move_momentum=number % training.accumulation == 0,
                    generator=generator,
                )
                _update(accelerator, step_module, optimizer, losses, training.max_grad_norm)
            log.add(losses, batch, rate)
        if validate is not None:
            log.validated(epoch, 100 * validate(model))
    log.bar.close()
    return log.history


class _Log:
    """Counts updates, shows progress, and makes a history row of the means over all processes every few updates."""

    def __init__(self, accelerator: Accelerator, stage: str, epochs: int, updates: int, every: int) -> None:
        self.accelerator, self.updates, self.every = accelerator, updates, every
        self.history: History = []
        self.step = self.unreadable = 0
        self.recent: list[Tensor] = []
        self.names: list[str] = []
        self.start = time.perf_counter()
        shown = {} if accelerator.is_main_process else {"disable": True}
        self.bar = tqdm(total=epochs * updates, desc=stage, unit="step", **shown)

    def add(self, losses: Losses, batch: Batch, rate: float) -> None:
        self.names = _names(losses)
        self.recent.append(_values(losses))
        self.unreadable += int(batch.unreadable)
        if not self.accelerator.sync_gradients:
            return
        self.step += 1
        self.bar.update()
        if self.step % self.every and self.step % self.updates:
            return
        means = _named(self.names, self.accelerator.reduce(torch.stack(self.recent).mean(0), "mean"))
        lost = self.accelerator.reduce(torch.tensor(self.unreadable, device=self.accelerator.device), "sum")
        row = {"step": self.step, "epoch": self.step / self.updates, "seconds": time.perf_counter() - self.start}
        self.history.append(row | {"learning_rate": rate} | means | {"unreadable": int(lost)})
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in means.items()})
        self.recent = []

    def validated(self, epoch: int, pointing: float) -> None:
        self.history[-1]["pointing"] = pointing
        if self.accelerator.is_main_process:
            self.bar.write(f"epoch {epoch + 1}: pointing on the validation split {pointing:.1f} %")


def _accelerator(training: TrainingSettings) -> Accelerator:
    """Accumulation as the settings say; parameters that a step leaves out (before fusion) are allowed for.

    bf16 is the step's own matter: accelerate allows but one precision in the life of a process.
    """
    wrapping = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    return Accelerator(
        cpu=without_accelerator(),
        mixed_precision="no",
        gradient_accumulation_steps=training.accumulation,
        kwargs_handlers=[wrapping],
    )


def _update(
    accelerator: Accelerator,
    step_module: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Losses,
    max_grad_norm: float,
) -> None:
    """Gradients of the batch and, with the last batch of an update, the update."""
    total = losses.total
    if not torch.isfinite(total):
        raise DivergedError(f"the loss is no longer a finite number: {_named(_names(losses), _values(losses))}")
    accelerator.backward(total)
    if accelerator.sync_gradients:
        norm = accelerator.clip_grad_norm_(step_module.parameters(), max_grad_norm or math.inf)
        if not torch.isfinite(norm):
            values = _named(_names(losses), _values(losses))
            raise DivergedError(f"the gradient is no longer a finite number, at losses {values}")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _names(losses: Losses) -> list[str]:
    return [*vars(losses), "total"]


def _values(losses: Losses) -> Tensor:
    return torch.stack([getattr(losses, name).detach().float() for name in _names(losses)])


def _named(names: Sequence[str], values: Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
