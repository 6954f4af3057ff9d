"""Scenes: pictograms with names, composed into pictures with exact boxes, region phrases, captions and expressions.

A scene is a function of (settings.seed, split, index): the same on every machine, whatever was drawn before. Splits:

train        captions, and region phrases with boxes except for unannotated concepts (Visual Genome's role)
val          like phrases; for choosing settings
phrases      noun phrases out of captions, possibly with several boxes (Flickr30k Entities' role)
referring_a  people and animals beside others of their kind, told apart by attributes (RefCOCO+ testA's role)
referring_b  the same with all else (testB's role)

The pictograms are OpenMoji's (CC BY-SA 4.0): show `pictograms.ATTRIBUTION` wherever scenes are shown.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from amc_lib.config import SceneSettings
from amc_lib.regions import Box, Region
from amc_study.scenes import language as scene_language
from amc_study.scenes.backgrounds import draw_background
from amc_study.scenes.cast import Thing, draw_cast
from amc_study.scenes.concepts import Concept
from amc_study.scenes.language import Mention
from amc_study.scenes.layout import Canvas, Placement, lay_out

SPLITS = ("pretrain", "train", "val", "phrases", "referring_a", "referring_b")


@dataclass(frozen=True)
class SceneObject:
    """A named thing as it stands in a scene.

    `colour`, `pattern` ("plain", "striped", "spotted") and `size` ("small", "big") are "" where they do not apply.
    `box` is the tight xyxy box (pixels, exclusive x2 and y2) of the visible pixels, `visible` their share of all its
    pixels, `layer` its index in Scene.placements.
    """

    concept: Concept
    colour: str
    pattern: str
    size: str
    box: Box
    visible: float
    layer: int


@dataclass(frozen=True)
class Scene:
    """A picture (RGB, settings.size square), what it shows and what can be said of it.

    `placements` are all pictograms in painting order, distractors included.
    """

    image: Image.Image
    objects: tuple[SceneObject, ...]
    captions: tuple[str, ...]  # shortest first
    regions: tuple[Region, ...]
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class SceneImage:
    """The picture of a scene, drawn when opened."""

    settings: SceneSettings
    split: str
    index: int

    def open(self) -> Image.Image:
        """RGB, settings.size square."""
        layout, background, _ = _streams(self.settings, self.split, self.index)
        _, canvas = _compose(self.settings, self.split, layout)
        return _paint(canvas, background)


def draw(settings: SceneSettings, split: str, index: int) -> Scene:
    """Scene number `index` (0 <= index < settings.count(split)) of a split; ValueError for any other."""
    layout, background, language = _streams(settings, split, index)
    objects, canvas = _compose(settings, split, layout)
    captions, regions = _describe(settings, split, index, objects, canvas, language)
    return Scene(_paint(canvas, background), objects, captions, regions, tuple(canvas.placements))


def read(settings: SceneSettings, split: str) -> list[Region]:
    """All regions of a split, scene by scene, without painting the pictures."""
    regions: list[Region] = []
    for index in range(settings.count(split)):
        layout, _, language = _streams(settings, split, index)
        objects, canvas = _compose(settings, split, layout)
        regions += _describe(settings, split, index, objects, canvas, language)[1]
    return regions


def _streams(settings: SceneSettings, split: str, index: int) -> list[np.random.Generator]:
    """Independent random streams for layout, background and language of one scene."""
    if not 0 <= index < settings.count(split):
        raise ValueError(f"scene {index} of {split}: the split has the scenes 0 to {settings.count(split) - 1}")
    split_code = int.from_bytes(hashlib.sha256(split.encode()).digest()[:4], "big")
    seeds = np.random.SeedSequence((settings.seed, split_code, index)).spawn(3)
    return [np.random.default_rng(seed) for seed in seeds]


def _compose(settings: SceneSettings, split: str, rng: np.random.Generator) -> tuple[tuple[SceneObject, ...], Canvas]:
    """Choose the things of a scene and place them."""
    things = draw_cast(settings, split, rng)
    canvas, layers = lay_out(things, settings, rng)
    return tuple(_scene_object(thing, canvas, layer) for thing, layer in zip(things, layers, strict=True)), canvas


def _scene_object(thing: Thing, canvas: Canvas, layer: int) -> SceneObject:
    return SceneObject(
        thing.concept, thing.colour, thing.pattern, thing.size, canvas.box(layer), canvas.visible_share(layer), layer
    )


def _describe(
    settings: SceneSettings,
    split: str,
    index: int,
    objects: tuple[SceneObject, ...],
    canvas: Canvas,
    rng: np.random.Generator,
) -> tuple[tuple[str, ...], tuple[Region, ...]]:
    """Captions and regions of a scene; pretraining scenes have no regions, for no box is known there."""
    said = scene_language.mentions(objects, rng)
    captions = scene_language.captions(said, rng)
    if split == "pretrain":
        return captions, ()
    if split.startswith("referring"):
        said = scene_language.expressions(objects, rng)
    image, image_id = SceneImage(settings, split, index), f"{split}-{index:05d}"
    regions = []
    for mention in said:
        annotated = all(objects[i].concept.annotated for i in mention.targets)
        boxes = _boxes(mention, objects, canvas, 1 - settings.max_occlusion)
        if boxes and (annotated or split != "train"):
            kind = "part" if mention.part else "group" if len(boxes) > 1 else "object"
            name = f"{image_id}-{len(regions)}"
            regions.append(Region(name, split, image, image_id, mention.phrase, boxes, kind, annotated))
    return captions, tuple(regions)


def _boxes(mention: Mention, objects: tuple[SceneObject, ...], canvas: Canvas, least_share: float) -> tuple[Box, ...]:
    """Boxes of what a mention means; none for a part that is hidden too much."""
    if mention.part:
        return canvas.part_boxes(objects[mention.targets[0]].layer, mention.part, least_share)
    return tuple(objects[i].box for i in mention.targets)


def _paint(canvas: Canvas, rng: np.random.Generator) -> Image.Image:
    """The background with all pictograms on it, RGB."""
    image = draw_background(canvas.size, rng)
    for placement, sprite in zip(canvas.placements, canvas.sprites, strict=True):
        image.paste(sprite, placement.corner, mask=sprite)
    return image
