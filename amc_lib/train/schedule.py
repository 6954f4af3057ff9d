"""What changes over training steps: the learning rate and the weight of the soft targets; and what decays."""

from __future__ import annotations

import math

from torch import nn

from amc_lib.config import Settings, TrainingSettings


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
