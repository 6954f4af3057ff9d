"""The training loop, on whatever devices accelerate finds: losses, optimizer, schedule, validation, history."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from amc_lib.config import Settings, TrainingSettings
from amc_lib.model import ALBEF
from amc_lib.pairs import Collator, EpochSampler, PairDataset
from amc_lib.step import Batch, Losses, training_losses

History = list[dict[str, float]]


class DivergedError(RuntimeError):
    """A loss or gradient that is not a finite number."""


def set_seed(seed: int) -> None:
    """Seed torch's global generator (initial weights, dropout) and use all cores."""
    torch.manual_seed(seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


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


def alpha_at(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """The weight of the soft targets, ramped linearly from 0 over the first epochs."""
    ramp = settings.objective.alpha_ramp_epochs * steps_per_epoch
    return settings.objective.alpha * min(1.0, step / ramp) if ramp else settings.objective.alpha


def train(
    model: ALBEF,
    pairs: PairDataset,
    collator: Collator,
    settings: Settings,
    stage: str,
    validate: Callable[[ALBEF], float] | None = None,
    log_every: int = 25,
) -> History:
    """Train `model` in place for `stage` ("pretraining" or "finetuning") and return its history.

    A history row holds step, epoch, seconds, learning_rate and the mean losses since the row before; at the end of an
    epoch also `pointing` (percent, from `validate`). Raises DivergedError at the first loss that is not finite.
    """
    training: TrainingSettings = getattr(settings, stage)
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    sampler = EpochSampler(len(pairs), training.seed)
    loader = DataLoader(pairs, training.batch_size, sampler=sampler, collate_fn=collator, drop_last=True)
    if not len(loader):
        raise ValueError(f"{len(pairs)} images do not fill one batch of {training.batch_size}")
    optimizer = torch.optim.AdamW(parameter_groups(model, training.weight_decay), lr=training.learning_rate, fused=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    generator = torch.Generator(accelerator.device).manual_seed(training.seed)
    history: History = []
    recent: list[Losses] = []
    start = time.perf_counter()
    step, steps = 0, training.epochs * len(loader)
    with tqdm(total=steps, desc=stage, unit="step") as bar:
        for epoch in range(training.epochs):
            sampler.epoch = pairs.epoch = epoch
            pairs.most_things = 1 if epoch < training.short_captions_until else None
            model.train()
            for batch in loader:
                rate = learning_rate(training, step, len(loader))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                losses = _train_step(
                    accelerator, model, optimizer, batch.to(accelerator.device), settings, training,
                    alpha=alpha_at(settings, step, len(loader)),
                    fuse=epoch >= training.fuse_from,
                    hard_negatives=epoch >= training.hard_negatives_from,
                    generator=generator,
                )  # fmt: skip
                recent.append(losses)
                step += 1
                bar.update()
                if step % log_every == 0 or step % len(loader) == 0:
                    row = {"step": step, "epoch": step / len(loader), "seconds": time.perf_counter() - start}
                    history.append(row | {"learning_rate": rate} | _means(recent))
                    bar.set_postfix({name: f"{history[-1][name]:.3f}" for name in ("itc", "itm", "mlm", "amc")})
                    recent = []
            if validate is not None:
                history[-1]["pointing"] = 100 * validate(accelerator.unwrap_model(model))
                bar.write(f"epoch {epoch + 1}: pointing on the validation split {history[-1]['pointing']:.1f} %")
    return history


def _train_step(
    accelerator: Accelerator,
    model: ALBEF,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: Settings,
    training: TrainingSettings,
    **step_options,
) -> Losses:
    with accelerator.autocast():
        losses = training_losses(model, batch, settings.objective, settings.amc, **step_options)
    if not torch.isfinite(losses.total):
        raise DivergedError(f"the loss is no longer a finite number: {_means([losses])}")
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(losses.total)
    norm = accelerator.clip_grad_norm_(model.parameters(), training.max_grad_norm or math.inf)
    if not torch.isfinite(norm):
        raise DivergedError(f"the gradient is no longer a finite number, at losses {_means([losses])}")
    optimizer.step()
    return Losses(**{name: tensor.detach() for name, tensor in vars(losses).items()})


def _means(losses: Sequence[Losses]) -> dict[str, float]:
    names = ("mlm", "itc", "itm", "amc", "total")
    return {name: float(torch.stack([getattr(row, name).detach() for row in losses]).mean()) for name in names}
