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
from amc_study.scenes.backgrounds import draw_background
from amc_study.scenes.cast import draw_cast
from amc_study.scenes.concepts import Concept
from amc_study.scenes.language import Mention, expressions, mentions, write_captions
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
        return draw(self.settings, self.split, self.index).image


def draw(settings: SceneSettings, split: str, index: int) -> Scene:
    """Scene number `index` (0 <= index < settings.count(split)) of a split; ValueError for any other."""
    layout, background, language = _streams(settings, split, index)
    things = draw_cast(settings, split, layout)
    canvas, layers = lay_out(things, settings, layout)
    objects = tuple(
        SceneObject(t.concept, t.colour, t.pattern, t.size, canvas.box(layer), canvas.visible_share(layer), layer)
        for t, layer in zip(things, layers, strict=True)
    )
    mentioned = mentions(objects, language)
    captions = write_captions(mentioned, language)
    if split.startswith("referring"):
        mentioned = expressions(objects, language)
    regions = _regions(SceneImage(settings, split, index), objects, canvas, mentioned)
    image = draw_background(settings.size, background)
    for placement, sprite in zip(canvas.placements, canvas.sprites, strict=True):
        image.paste(sprite, placement.corner, mask=sprite)
    return Scene(image, objects, captions, regions, tuple(canvas.placements))


def _streams(settings: SceneSettings, split: str, index: int) -> list[np.random.Generator]:
    """Independent random streams for layout, background and language of one scene."""
    if not 0 <= index < settings.count(split):
        raise ValueError(f"scene {index} of {split}: the split has the scenes 0 to {settings.count(split) - 1}")
    split_code = int.from_bytes(hashlib.sha256(split.encode()).digest()[:4], "big")
    seeds = np.random.SeedSequence((settings.seed, split_code, index)).spawn(3)
    return [np.random.default_rng(seed) for seed in seeds]


def _regions(
    image: SceneImage, objects: tuple[SceneObject, ...], canvas: Canvas, mentioned: list[Mention]
) -> tuple[Region, ...]:
    """The mentions with boxes: none in pretraining, none in training of concepts that are not annotated.

    A part that is hidden too much has no box.
    """
    regions: list[Region] = []
    split, image_id = image.split, f"{image.split}-{image.index:05d}"
    for mention in mentioned if split != "pretrain" else ():
        annotated = all(objects[i].concept.annotated for i in mention.targets)
        boxes = tuple(objects[i].box for i in mention.targets)
        if mention.part:
            least_share = 1 - image.settings.max_occlusion
            boxes = canvas.part_boxes(objects[mention.targets[0]].layer, mention.part, least_share)
        if boxes and (annotated or split != "train"):
            kind = "part" if mention.part else "group" if len(boxes) > 1 else "object"
            name = f"{image_id}-{len(regions)}"
            regions.append(Region(name, split, image, image_id, mention.phrase, boxes, kind, annotated))
    return tuple(regions)
