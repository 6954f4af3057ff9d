"""The training loop, on whatever devices accelerate finds: losses, updates, validation, history, snapshots.

Same settings, seed, number of threads and processes, machine and libraries: the same bits, whether or not the run was
killed and continued on the way. Not promised: with other numbers of threads or processes (sums in another order), on
another processor or version of torch, with bf16 across machines, and on GPUs, whose scatter and index operations add
in whatever order they arrive; there a continued run differs from an uninterrupted one as two of those differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.utils.data import DataLoader

from amc_lib.config import Settings, TrainingSettings
from amc_lib.data import Collator, EpochBatches, PairDataset
from amc_lib.distributed import without_accelerator
from amc_lib.files import plain, write_json
from amc_lib.model import ALBEF
from amc_lib.step import Batch, Losses, training_losses
from amc_lib.train.log import History, Log, named
from amc_lib.train.snapshots import Snapshots, TrainingState


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
    training: TrainingSettings = getattr(settings, stage)
    accelerator, step, optimizer = _prepare(TrainingStep(model, settings, training.precision, step_losses), training)
    world, rank = accelerator.num_processes, accelerator.process_index
    batches = EpochBatches(len(pairs), training.batch_size, training.seed, rank, world, training.accumulation)
    if not len(batches):
        needed = training.batch_size * world * training.accumulation
        raise ValueError(f"{len(pairs)} images do not fill one batch of {needed}")
    loading = {"num_workers": training.workers, "generator": torch.Generator()}  # draws nothing from the global one
    loader = DataLoader(pairs, batch_sampler=batches, collate_fn=collator, **loading)
    log = Log(accelerator, stage, training.epochs, len(batches) // training.accumulation, log_every)
    generator = torch.Generator(accelerator.device).manual_seed(training.seed + rank)
    state = TrainingState(model, optimizer, generator, log, rank)
    if snapshots and (last := snapshots.newest(images=len(pairs), processes=world, device=accelerator.device.type)):
        state.restore(last)
        accelerator.print(f"{stage}: continues at update {log.step} of {log.end} from {last.folder}")
    for epoch in range(log.step // log.updates, training.epochs):
        first = log.step % log.updates * training.accumulation
        batches.start_epoch(epoch, first)
        pairs.start_epoch(epoch, most_things=1 if epoch < training.short_captions_until else None)
        model.train()
        for number, batch in enumerate(loader, first):
            rate = learning_rate(training, log.step, log.updates)
            options = loss_options(settings, training, log.step, log.updates) | {"generator": generator}
            options["move_momentum"] = number % training.accumulation == 0
            losses, problem = _update(accelerator, step, optimizer, batch, rate, training.max_grad_norm, options)
            if problem:
                update = batches.between(number - number % training.accumulation, number + 1)
                file = snapshots and snapshots.folder.with_name(f"diverged-{rank}.json")
                raise DivergedError(_with_images(f"update {log.step + 1}: {problem}", file, pairs, update))
            log.add(losses, batch, rate)
            if accelerator.sync_gradients:
                if after_update is not None:
                    after_update(model, log.step)
                if log.step % log.updates and training.snapshot_every and log.step % training.snapshot_every == 0:
                    state.keep(snapshots)
        if validate is not None:
            log.validated(epoch, 100 * validate(model))
        if training.snapshot_every:
            state.keep(snapshots)
    return log.history


def _prepare(step: TrainingStep, training: TrainingSettings) -> tuple[Accelerator, nn.Module, torch.optim.Optimizer]:
    """The step and its optimizer as accelerate wraps them; a step may leave parameters out (before fusion).

    bf16 is the step's own matter: accelerate allows but one precision in the life of a process.
    """
    wrapping = [DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)]
    options = {"gradient_accumulation_steps": training.accumulation, "kwargs_handlers": wrapping}
    accelerator = Accelerator(cpu=without_accelerator(), mixed_precision="no", **options)
    if accelerator.process_index:  # dropout differs between processes
        torch.manual_seed(torch.initial_seed() + accelerator.process_index)
    step.model.checkpoint_layers(training.checkpointing)
    train_top(step.model, training.trained_layers)
    groups = parameter_groups(step.model, training.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
    return accelerator, *accelerator.prepare(step.train(), optimizer)


def _update(accelerator, step, optimizer, batch: Batch, rate: float, limit: float, options) -> tuple[Losses, str]:
    """The losses of a batch, with the update that it may end; and what is wrong if they or gradients are not finite."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    with accelerator.accumulate(step):
        losses = step(batch.to(accelerator.device), **options)
        checked = {"loss": losses.total}
        accelerator.backward(losses.total)
        if accelerator.sync_gradients:
            checked["gradient"] = accelerator.clip_grad_norm_(step.parameters(), limit or math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for what, value in checked.items():
        if not torch.isfinite(value):
            numbers = ", ".join(f"{name} {loss.item():.6g}" for name, loss in named(losses).items())
            return losses, f"the {what} is no longer a finite number ({numbers})"
    return losses, ""


def _with_images(problem: str, file: Path | None, pairs: PairDataset, batches: Iterable[list[int]]) -> str:
    """The sentence of a problem, after writing the images and phrases of its batches to `file`."""
    if file is None:
        return problem
    seen = [pairs[index] for indices in batches for index in indices]  # drawn once more: the same phrases
    images = [{"image": pairs.image_name(pair.key[-1]), "phrases": plain(pair.phrases)} for pair in seen]
    try:
        write_json(file, {"problem": problem, "images": images})
    except OSError as error:
        return f"{problem}; {file} cannot be written ({error})"
    return f"{problem}; {file} names the images and phrases of this update"


def train_top(model: nn.Module, layers: int) -> None:
    """Freeze all but that many fusion layers from the top and the match head; 0 freezes nothing.

    ValueError where there are not so many.
    """
    if not layers:
        return
    encoder = model.text_encoder
    most = len(encoder.layers) - encoder.fusion_from
    if layers > most:
        raise ValueError(f"trained_layers is {layers}, but the model has {most} fusion layers")
    model.requires_grad_(False)
    for part in (*encoder.layers[-layers:], model.itm_head):
        part.requires_grad_(True)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW groups: no decay on biases, norms and whatever else has one dimension or none."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def learning_rate(training: TrainingSettings, step: int, steps_per_epoch: int) -> float:
    """The rate at a step counted from 0: linear warm-up over `warmup_steps`, then cosine to `min_learning_rate`."""
    if step < training.warmup_steps:
        share = step / training.warmup_steps
        return training.warmup_learning_rate + share * (training.learning_rate - training.warmup_learning_rate)
    done = step / steps_per_epoch if training.cosine_by == "step" else step // steps_per_epoch
    cosine = (1 + math.cos(math.pi * min(done / training.epochs, 1.0))) / 2
    return training.min_learning_rate + cosine * (training.learning_rate - training.min_learning_rate)


def loss_options(settings: Settings, training: TrainingSettings, step: int, steps_per_epoch: int) -> dict[str, Any]:
    """What the schedule tells the losses: the soft targets' weight, ramped linearly from 0, and what takes part yet."""
    epoch, ramp = step // steps_per_epoch, settings.objective.alpha_ramp_epochs * steps_per_epoch
    return {
        "alpha": settings.objective.alpha * min(1.0, step / ramp) if ramp else settings.objective.alpha,
        "fuse": epoch >= training.fuse_from,
        "hard_negatives": epoch >= training.hard_negatives_from,
    }
