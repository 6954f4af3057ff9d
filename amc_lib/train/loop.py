"""The training loop, on whatever devices accelerate finds: losses, updates, validation, history, snapshots.

Same settings, same seed, same number of threads and processes, same machine and libraries: the same bits, whether or
not the run was killed and continued on the way. Not promised: with another number of threads or processes (sums are
taken in another order), on another processor or version of torch (other kernels), with bf16 across machines, and on
GPUs, where the backward passes of scatter and index operations add with atomics in whatever order they arrive; there a
continued run starts from the same state and then differs as two uninterrupted runs do.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader

from amc_lib.config import Settings, TrainingSettings
from amc_lib.data import Collator, EpochBatches, PairDataset
from amc_lib.distributed import without_accelerator
from amc_lib.model import ALBEF
from amc_lib.step import Batch, Losses, training_losses
from amc_lib.train.log import History, Log, named, names, values
from amc_lib.train.schedule import alpha_at, learning_rate, parameter_groups
from amc_lib.train.snapshots import Snapshots
from amc_lib.train.state import TrainingState
from amc_lib.train.watch import Watch

AfterUpdate = Callable[[ALBEF, int], None]
"""Called with the model, which it must leave as it was, and the number of updates so far."""


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
    snapshots: Snapshots | None = None,
    after_update: AfterUpdate | None = None,
) -> History:
    """Train `model` in place for `stage` ("pretraining" or "finetuning") and return its history.

    `step_losses` gives a dataclass of scalars with their `total`; another system than ALBEF has others. Where there
    are `snapshots` of this very run, it goes on from the newest, and it leaves new ones as it goes. `after_update`
    looks at the model between updates; were it to draw from torch's global generator, it would change the run.

    A history row holds step (updates so far), epoch, seconds, learning_rate, the mean losses since the row before and
    how many images could not be read so far; at the end of an epoch also `pointing` (percent, from `validate`).
    Raises DivergedError at the first loss or gradient that is not finite.
    """
    loop = _Loop(model, pairs, collator, settings, stage, log_every, step_losses, snapshots, after_update)
    loop.go_on()
    log = loop.state.log
    for epoch in range(log.step // log.updates, loop.training.epochs):
        loop.train_epoch(epoch)
        if validate is not None:
            log.validated(epoch, 100 * validate(model))
        loop.keep()
    log.bar.close()
    return log.history


class _Loop:
    """One stage of training on one process."""

    def __init__(
        self,
        model: ALBEF,
        pairs: PairDataset,
        collator: Collator,
        settings: Settings,
        stage: str,
        log_every: int,
        step_losses: Callable[..., Any],
        snapshots: Snapshots | None,
        after_update: AfterUpdate | None,
    ) -> None:
        training: TrainingSettings = getattr(settings, stage)
        self.settings, self.training, self.stage, self.pairs = settings, training, stage, pairs
        self.snapshots, self.after_update = snapshots, after_update
        self.accelerator = accelerator = _accelerator(training)
        world, rank = accelerator.num_processes, accelerator.process_index
        self.batches = EpochBatches(len(pairs), training.batch_size, training.seed, rank, world, training.accumulation)
        if not len(self.batches):
            needed = training.batch_size * world * training.accumulation
            raise ValueError(f"{len(pairs)} images do not fill one batch of {needed}")
        own = torch.Generator()  # of the loader, so that beginning an epoch draws nothing from the global one
        self.loader = DataLoader(
            pairs, batch_sampler=self.batches, collate_fn=collator, num_workers=training.workers, generator=own
        )
        if rank:
            torch.manual_seed(torch.initial_seed() + rank)  # dropout of its own
        model.checkpoint_layers(training.checkpointing)
        groups = parameter_groups(model, training.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
        step_module = TrainingStep(model, settings, training.precision, step_losses).train()
        self.step_module, optimizer = accelerator.prepare(step_module, optimizer)
        generator = torch.Generator(accelerator.device).manual_seed(training.seed + rank)
        log = Log(accelerator, stage, training.epochs, len(self.batches) // training.accumulation, log_every)
        self.state = TrainingState(model, optimizer, generator, log, rank)
        self.watch = Watch(pairs, self.batches, snapshots.diverged_file(rank) if snapshots else None)

    def go_on(self) -> None:
        """Become the newest snapshot of this run, if there is one."""
        if self.snapshots is None:
            return
        accelerator, log = self.accelerator, self.state.log
        what_else_decides = {"processes": accelerator.num_processes, "device": accelerator.device.type}
        snapshot = self.snapshots.newest(images=len(self.pairs), **what_else_decides)
        if snapshot is not None:
            self.state.restore(snapshot)
            end = self.training.epochs * log.updates
            accelerator.print(f"{self.stage}: continues at update {log.step} of {end} from {snapshot.folder}")

    def keep(self) -> None:
        """Leave a snapshot."""
        if self.snapshots is not None and self.training.snapshot_every:
            self.snapshots.write(self.state.log.progress(), self.state.parts())

    def train_epoch(self, epoch: int) -> None:
        """The batches of an epoch that are still to come."""
        log, training, batches = self.state.log, self.training, self.batches
        batches.start_epoch(epoch, log.step % log.updates * training.accumulation)
        self.pairs.start_epoch(epoch, most_things=1 if epoch < training.short_captions_until else None)
        self.state.model.train()
        for number, batch in enumerate(self.loader, batches.first):
            self.train_batch(batch, number)
            due = training.snapshot_every and log.step % training.snapshot_every == 0
            if due and self.accelerator.sync_gradients and log.step % log.updates:  # an epoch's end has its own
                self.keep()

    def train_batch(self, batch: Batch, number: int) -> None:
        """Gradients of an epoch's batch and, with the last batch of an update, the update."""
        log, training, epoch = self.state.log, self.training, self.batches.epoch
        rate = learning_rate(training, log.step, log.updates)
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate
        with self.accelerator.accumulate(self.step_module):
            losses = self.step_module(
                batch.to(self.accelerator.device),
                alpha=alpha_at(self.settings, log.step, log.updates),
                fuse=epoch >= training.fuse_from,
                hard_negatives=epoch >= training.hard_negatives_from,
                move_momentum=number % training.accumulation == 0,
                generator=self.state.generator,
            )
            self._require_finite("loss", losses.total, losses, number)
            self.accelerator.backward(losses.total)
            if self.accelerator.sync_gradients:
                limit = training.max_grad_norm or math.inf
                norm = self.accelerator.clip_grad_norm_(self.step_module.parameters(), limit)
                self._require_finite("gradient", norm, losses, number)
            self.state.optimizer.step()
            self.state.optimizer.zero_grad(set_to_none=True)
        log.add(losses, batch, rate)
        if self.after_update is not None and self.accelerator.sync_gradients:
            self.after_update(self.state.model, log.step)

    def _require_finite(self, what: str, value: Tensor, losses: Losses, number: int) -> None:
        if not torch.isfinite(value):
            first = number - number % self.training.accumulation
            self.watch.stop(what, named(names(losses), values(losses)), self.state.log.step, first, number)


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
