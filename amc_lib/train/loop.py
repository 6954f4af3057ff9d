"""The training loop, on whatever devices accelerate finds: losses, updates, validation, history, snapshots.

Same settings, same seed, same number of threads and processes, same machine and libraries: the same bits, whether or
not the run was killed and continued on the way. Not promised: with another number of threads or processes (sums are
taken in another order), on another processor or version of torch (other kernels), with bf16 across machines, and on
GPUs, where the backward passes of scatter and index operations add with atomics in whatever order they arrive; there a
continued run starts from the same state and then differs as two uninterrupted runs do.
"""

from __future__ import annotations

import math
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
from amc_lib.files import plain, write_json
from amc_lib.model import ALBEF
from amc_lib.step import Batch, Losses, training_losses
from amc_lib.train.log import History, Log, named
from amc_lib.train.schedule import alpha_at, learning_rate, parameter_groups
from amc_lib.train.snapshots import Snapshots
from amc_lib.train.state import TrainingState


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
    after_update: Callable[[ALBEF, int], None] | None = None,
) -> History:
    """Train `model` in place for `stage` ("pretraining" or "finetuning") and return its history.

    `step_losses` gives a dataclass of scalars with their `total`; another system than ALBEF has others. Where there
    are `snapshots` of this very run, it goes on from the newest, and it leaves new ones as it goes. `after_update`
    looks at the model and the number of updates so far; it must not change the model or torch's global generator.

    A history row holds step (updates so far), epoch, seconds, learning_rate, the mean losses since the row before and
    how many images could not be read so far; at the end of an epoch also `pointing` (percent, from `validate`).
    Raises DivergedError at the first loss or gradient that is not finite.
    """
    run = _Run(model, pairs, collator, settings, stage, log_every, step_losses, snapshots)
    log, training = run.state.log, run.training
    for epoch in range(log.step // log.updates, training.epochs):
        for number, batch in run.batches_of(epoch):
            rate = learning_rate(training, log.step, log.updates)
            losses = run.update(batch, number, rate)
            log.add(losses, batch, rate)
            if not run.accelerator.sync_gradients:
                continue
            if after_update is not None:
                after_update(model, log.step)
            if training.snapshot_every and log.step % training.snapshot_every == 0 and log.step % log.updates:
                run.keep()
        if validate is not None:
            log.validated(epoch, 100 * validate(model))
        run.keep()
    log.bar.close()
    return log.history


class _Run:
    """Model, data, optimizer and state of one stage of training on one process."""

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
    ) -> None:
        self.settings, self.pairs, self.snapshots = settings, pairs, snapshots
        self.training: TrainingSettings = getattr(settings, stage)
        training, self.accelerator = self.training, _accelerator(self.training)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.batches = EpochBatches(len(pairs), training.batch_size, training.seed, rank, world, training.accumulation)
        if not len(self.batches):
            needed = training.batch_size * world * training.accumulation
            raise ValueError(f"{len(pairs)} images do not fill one batch of {needed}")
        loading = {"num_workers": training.workers, "generator": torch.Generator()}  # draws nothing from the global one
        self.loader = DataLoader(pairs, batch_sampler=self.batches, collate_fn=collator, **loading)
        if rank:
            torch.manual_seed(torch.initial_seed() + rank)  # dropout differs between processes
        model.checkpoint_layers(training.checkpointing)
        groups = parameter_groups(model, training.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
        step = TrainingStep(model, settings, training.precision, step_losses).train()
        self.step, optimizer = self.accelerator.prepare(step, optimizer)
        generator = torch.Generator(self.accelerator.device).manual_seed(training.seed + rank)
        log = Log(self.accelerator, stage, training.epochs, len(self.batches) // training.accumulation, log_every)
        self.state = TrainingState(model, optimizer, generator, log, rank)
        device = self.accelerator.device.type
        if snapshots and (snapshot := snapshots.newest(images=len(pairs), processes=world, device=device)):
            self.state.restore(snapshot)
            end = training.epochs * log.updates
            self.accelerator.print(f"{stage}: continues at update {log.step} of {end} from {snapshot.folder}")

    def keep(self) -> None:
        """Leave a snapshot."""
        if self.snapshots is not None and self.training.snapshot_every:
            self.snapshots.write(self.state.log.progress(), self.state.parts())

    def batches_of(self, epoch: int) -> enumerate[Batch]:
        """The numbers and batches of an epoch that are still to come."""
        first = self.state.log.step % self.state.log.updates * self.training.accumulation
        self.batches.start_epoch(epoch, first)
        self.pairs.start_epoch(epoch, most_things=1 if epoch < self.training.short_captions_until else None)
        self.state.model.train()
        return enumerate(self.loader, first)

    def update(self, batch: Batch, number: int, rate: float) -> Losses:
        """The losses of an epoch's batch, their gradients and, with the last batch of an update, the update."""
        training, log, optimizer = self.training, self.state.log, self.state.optimizer
        for group in optimizer.param_groups:
            group["lr"] = rate
        with self.accelerator.accumulate(self.step):
            losses = self.step(
                batch.to(self.accelerator.device),
                alpha=alpha_at(self.settings, log.step, log.updates),
                fuse=self.batches.epoch >= training.fuse_from,
                hard_negatives=self.batches.epoch >= training.hard_negatives_from,
                move_momentum=number % training.accumulation == 0,
                generator=self.state.generator,
            )
            self._require_finite("loss", losses.total, losses, number)
            self.accelerator.backward(losses.total)
            if self.accelerator.sync_gradients:
                limit = training.max_grad_norm or math.inf
                norm = self.accelerator.clip_grad_norm_(self.step.parameters(), limit)
                self._require_finite("gradient", norm, losses, number)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return losses

    def _require_finite(self, what: str, value: Tensor, losses: Losses, last: int) -> None:
        """Else raise DivergedError, after writing which images and phrases this update's batches up to `last` held."""
        if torch.isfinite(value):
            return
        update, numbers = self.state.log.step + 1, {name: f"{loss.item():.6g}" for name, loss in named(losses).items()}
        sentence = f"update {update}: the {what} is no longer a finite number, at losses {numbers}"
        if self.snapshots is None:
            raise DivergedError(sentence)
        first, file = last - last % self.training.accumulation, self.snapshots.diverged_file(self.state.process)
        batches = [
            {"batch": number, "images": [self._visited(index) for index in indices]}
            for number, indices in enumerate(self.batches.between(first, last + 1), first)
        ]
        about = {"update": update, "epoch": self.batches.epoch, "what": what, "losses": numbers, "batches": batches}
        try:
            write_json(file, about)
        except OSError as error:
            raise DivergedError(f"{sentence}; {file} cannot be written ({error})") from error
        raise DivergedError(f"{sentence}; {file} names the images and phrases of this update")

    def _visited(self, index: int) -> dict[str, Any]:
        """An image and its phrases of this epoch, drawn once more."""
        pairs = self.pairs[index]
        row = pairs.key[-1]
        return {"index": index, "row": row, "image": self.pairs.image_name(row), "phrases": plain(pairs.phrases)}


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
