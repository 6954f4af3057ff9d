"""Training of the detector: what there is to learn in a picture, and the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from amc_lib.config import PhotoSettings, SceneSettings
from amc_lib.train import DivergedError, parameter_groups
from amc_study.rival.detector import UNKNOWN, Detector, Target, Vocabulary
from amc_study.rival.objects import Levels, NamedObject, ObjectSplit
from amc_study.rival.settings import DetectorSettings
from amc_study.scenes.cast import PLAIN
from amc_study.scenes.concepts import CONCEPTS, PATTERNS

LOG_EVERY = 50  # steps
MAX_GRAD_NORM = 5.0


ENTITY_TYPES = ("people", "clothing", "bodyparts", "animals", "vehicles", "instruments", "scene", "other")


def vocabulary_of(data: SceneSettings | PhotoSettings) -> Vocabulary:
    """What a detector can name. Of scenes the annotated concepts in their own order, with all colours and patterns.

    Of photographs Flickr30k Entities' types: the names that its boxes come with. (A detector of things without names
    would be no simpler, and its features would tell no kinds apart.)
    """
    if isinstance(data, PhotoSettings):
        return Vocabulary(ENTITY_TYPES, (), ())
    classes = tuple(concept.name for concept in CONCEPTS if concept.annotated)
    colours = tuple(sorted({colour for concept in CONCEPTS for colour in concept.colours}))
    return Vocabulary(classes, colours, (PLAIN, *PATTERNS))


def target_of(things: list[NamedObject], vocabulary: Vocabulary, scale: float) -> Target:
    """What there is to learn in a picture: its annotated things. scale: pixels of the input for one of their boxes."""
    things = [thing for thing in things if thing.annotated]

    def ids(field: str, names: tuple[str, ...]) -> Tensor:
        words = [getattr(thing, field) for thing in things]
        return torch.tensor([names.index(word) if word else UNKNOWN for word in words], dtype=torch.int64)

    labels, colours = 1 + ids("concept", vocabulary.classes), ids("colour", vocabulary.colours)
    return Target(boxes_of(things) * scale, labels, colours, ids("pattern", vocabulary.patterns))


def boxes_of(things: list[NamedObject]) -> Tensor:
    """float32 [n, 4], xyxy in pixels of the picture."""
    return torch.tensor([thing.box for thing in things], dtype=torch.float32).reshape(-1, 4)


def train(detector: Detector, objects: ObjectSplit) -> list[dict[str, float]]:
    """Minimise the detector's losses in place over `settings.steps` batches; the losses, averaged over LOG_EVERY steps.

    Raises DivergedError at the first loss that is not finite.
    """
    settings = detector.settings
    groups = parameter_groups(detector, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    history: list[dict[str, float]] = []
    recent: list[Tensor] = []
    begin = time.perf_counter()
    detector.train()
    with tqdm(_batches(detector, objects), desc="detector", total=settings.steps, unit="step") as bar:
        for step, (levels, targets) in enumerate(bar, start=1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            losses = detector.losses(levels, targets)
            total = sum(losses.values())
            if not torch.isfinite(total):
                raise DivergedError(f"the detector's loss is no longer a finite number at step {step}")
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(detector.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            recent.append(torch.stack([*losses.values(), total]).detach())
            if step % LOG_EVERY == 0 or step == settings.steps:
                means = dict(zip((*losses, "total"), torch.stack(recent).mean(0).tolist(), strict=True))
                history.append({"step": step, "seconds": time.perf_counter() - begin} | means)
                bar.set_postfix(total=f"{means['total']:.3g}")
                recent.clear()
    return history


def learning_rate(settings: DetectorSettings, step: int) -> float:
    """Of step 1 to `settings.steps`: a linear warm-up, then a cosine down to 0."""
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    done = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
    return settings.learning_rate * (1 + math.cos(math.pi * done)) / 2


def _batches(detector: Detector, objects: ObjectSplit) -> Iterator[tuple[Levels, list[Target]]]:
    """`settings.steps` batches; every picture comes once before any comes again."""
    settings, rng = detector.settings, np.random.default_rng(detector.settings.seed)
    targets = [target_of(things, detector.vocabulary, objects.scale) for things in objects.objects]
    visits = settings.steps * settings.batch_size
    order = np.concatenate([rng.permutation(len(objects)) for _ in range(math.ceil(visits / len(objects)))])
    for start in range(0, visits, settings.batch_size):
        chosen = order[start : start + settings.batch_size].tolist()
        yield objects.levels(chosen), [targets[index] for index in chosen]
