"""Training of the detector on drawn scenes, and how well it then finds things."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from amc_lib.train import DivergedError, parameter_groups
from amc_study.rival.detection import average_precisions, mean_average_precision, recalled
from amc_study.rival.detector import UNKNOWN, Detector, Proposals, Target, Vocabulary
from amc_study.rival.objects import NamedObject, ObjectSplit
from amc_study.rival.pyramid import Levels
from amc_study.rival.settings import DetectorSettings
from amc_study.scenes.cast import PLAIN
from amc_study.scenes.concepts import CONCEPTS, PATTERNS

COUNTS = (10, 30, 50, 100)  # proposals of a picture among which recall looks
LOG_EVERY = 50  # steps
MAX_GRAD_NORM = 5.0
SCENES_AT_ONCE = 25
LOSSES = ("objectness", "anchor_box", "label", "box", "attribute", "total")


def scene_vocabulary() -> Vocabulary:
    """The annotated concepts in their own order, and the colours and patterns that things of any concept have."""
    classes = tuple(concept.name for concept in CONCEPTS if concept.annotated)
    colours = tuple(sorted({colour for concept in CONCEPTS for colour in concept.colours}))
    return Vocabulary(classes, colours, (PLAIN, *PATTERNS))


def train(detector: Detector, bank: ObjectSplit) -> list[dict[str, float]]:
    """Minimise the detector's losses in place over `settings.steps` batches; the losses, averaged over LOG_EVERY steps.

    Raises DivergedError at the first loss that is not finite.
    """
    settings = detector.settings
    optimizer = torch.optim.AdamW(
        parameter_groups(detector, settings.weight_decay), lr=settings.learning_rate, fused=True
    )
    history: list[dict[str, float]] = []
    recent: list[Tensor] = []
    begin = time.perf_counter()
    detector.train()
    with tqdm(total=settings.steps, desc="detector", unit="step") as bar:
        for step, (levels, targets) in enumerate(_batches(settings, bank, detector.vocabulary), start=1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            losses = detector.losses(levels, targets)
            if not torch.isfinite(losses.total):
                raise DivergedError(f"the detector's loss is no longer a finite number at step {step}")
            optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
            torch.nn.utils.clip_grad_norm_(detector.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            recent.append(torch.stack([getattr(losses, name).detach() for name in LOSSES]))
            bar.update()
            if step % LOG_EVERY == 0 or step == settings.steps:
                means = dict(zip(LOSSES, torch.stack(recent).mean(0).tolist(), strict=True))
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


@torch.inference_mode()
def evaluate(detector: Detector, bank: ObjectSplit) -> dict[str, float]:
    """Numbers on a split, each in [0, 1].

    map50: mean average precision of the annotated concepts, of at most 100 boxes a picture with one label each.
    recallN, recallN_unboxed: share of the things found by the first N boxes, of concepts with and without boxes in
    finetuning.
    """
    found = _propose_all(detector.eval(), bank)
    index = {name: number for number, name in enumerate(detector.vocabulary.classes)}
    true = [_boxes_and_labels([thing for thing in scene if thing.annotated], index) for scene in bank.objects]
    numbers = {
        "map50": mean_average_precision(average_precisions([(p.boxes, p.scores, p.labels) for p in found], true))
    }
    for suffix, annotated in (("", True), ("_unboxed", False)):
        boxes = [_boxes([thing for thing in scene if thing.annotated == annotated]) for scene in bank.objects]
        for count in COUNTS:
            hits = [recalled(p.boxes, of_scene, count) for p, of_scene in zip(found, boxes, strict=True)]
            numbers[f"recall{count}{suffix}"] = float(torch.cat(hits).float().mean())
    return numbers


def named_rightly(detector: Detector, bank: ObjectSplit) -> dict[str, float]:
    """Shares of the annotated things of a split whose class, colour and pattern are told rightly at their true boxes.

    Colour and pattern count where a thing has one.
    """
    answers, truths = [], []
    scale = bank.side / bank.settings.size
    for scenes in _scene_ranges(bank):
        targets = [target_of(bank.objects[index], detector.vocabulary, scale) for index in scenes]
        answers.append(torch.stack(detector.eval().name(bank.levels(scenes), [target.boxes for target in targets])))
        truths += [torch.stack((target.labels - 1, target.colours, target.patterns)) for target in targets]
    answer, truth = torch.cat(answers, dim=1), torch.cat(truths, dim=1)  # [3, things]
    right = [(of_kind == true)[true != UNKNOWN].float().mean() for of_kind, true in zip(answer, truth, strict=True)]
    return dict(zip(("label", "colour", "pattern"), map(float, right), strict=True))


def _propose_all(detector: Detector, bank: ObjectSplit) -> list[Proposals]:
    """The first 100 proposals of every scene, in its own pixels."""
    size = (bank.settings.size, bank.settings.size)
    found: list[Proposals] = []
    for scenes in _scene_ranges(bank):
        of_range = detector.propose_levels(bank.levels(scenes), max(COUNTS))
        found += [proposals.resized(size) for proposals in of_range]
    return found


def _scene_ranges(bank: ObjectSplit) -> Iterator[list[int]]:
    """All scenes of a bank, some at a time."""
    for start in range(0, len(bank), SCENES_AT_ONCE):
        yield list(range(start, min(start + SCENES_AT_ONCE, len(bank))))


def _batches(
    settings: DetectorSettings, bank: ObjectSplit, vocabulary: Vocabulary
) -> Iterator[tuple[Levels, list[Target]]]:
    """`settings.steps` batches; every scene comes once before any comes again."""
    rng = np.random.default_rng(settings.seed)
    scale = bank.side / bank.settings.size
    targets = [target_of(things, vocabulary, scale) for things in bank.objects]
    waiting: list[int] = []
    for _ in range(settings.steps):
        while len(waiting) < settings.batch_size:
            waiting += rng.permutation(len(bank)).tolist()
        chosen, waiting = waiting[: settings.batch_size], waiting[settings.batch_size :]
        yield bank.levels(chosen), [targets[index] for index in chosen]


def target_of(things: list[NamedObject], vocabulary: Vocabulary, scale: float) -> Target:
    """What there is to learn in a scene: its annotated things. scale: pixels of the input for one of the scene."""
    things = [thing for thing in things if thing.annotated]
    colours = [_index(vocabulary.colours, thing.colour) for thing in things]
    patterns = [_index(vocabulary.patterns, thing.pattern) for thing in things]
    labels = [1 + vocabulary.classes.index(thing.concept) for thing in things]
    return Target(
        _boxes(things) * scale, *(torch.tensor(ids, dtype=torch.int64) for ids in (labels, colours, patterns))
    )


def _index(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name else UNKNOWN


def _boxes(things: list[NamedObject]) -> Tensor:
    return torch.tensor([thing.box for thing in things], dtype=torch.float32).reshape(-1, 4)


def _boxes_and_labels(things: list[NamedObject], index: dict[str, int]) -> tuple[Tensor, Tensor]:
    return _boxes(things), torch.tensor([index[thing.concept] for thing in things], dtype=torch.int64)
