"""Where pictograms stand in a scene, and which of their pixels stay visible."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from amc_lib.config import SceneSettings
from amc_lib.regions import Box
from amc_study.scenes.cast import PLAIN, Thing
from amc_study.scenes.concepts import Part
from amc_study.scenes.pictograms import DISTRACTORS, distractor, pictogram

INK = 128  # least alpha, of 255, at which a pixel counts as covered
CROWDING = 0.3  # share of the pictograms that are first tried beside another one
_TRIES = 40  # positions for one pictogram before the whole layout is thrown away
_LAYOUTS = 80  # before the settings are called impossible


@dataclass(frozen=True)
class Placement:
    """A pictogram on the canvas: a named thing, or a distractor by its character.

    `width` is the longer side in pixels before turning, `degrees` counter-clockwise after mirroring, `corner` (x, y)
    the upper left pixel of the sprite.
    """

    thing: Thing | str
    width: int
    degrees: float
    mirrored: bool
    corner: tuple[int, int] = (0, 0)

    def sprite(self) -> Image.Image:
        """The turned pictogram, RGBA, as small as its ink allows."""
        turned = self._turn(self._raster())
        return turned.crop(_ink_box(turned))

    def part_masks(self, part: Part) -> list[np.ndarray]:
        """Where the sprite shows each box of a part: bool, the sprite's shape."""
        raster = self._raster()
        frame = _ink_box(self._turn(raster))
        masks = []
        for box in part.boxes:
            x1, y1, x2, y2 = (round(share * side) for share, side in zip(box, raster.size * 2, strict=True))
            cut = Image.new("RGBA", raster.size)
            cut.paste(raster.crop((x1, y1, x2, y2)), (x1, y1))
            masks.append(_ink(self._turn(cut).crop(frame)))
        return masks

    def _raster(self) -> Image.Image:
        if isinstance(self.thing, str):
            return distractor(self.thing)
        return pictogram(self.thing.concept, self.thing.colour, self.thing.pattern.replace(PLAIN, ""))

    def _turn(self, image: Image.Image) -> Image.Image:
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scale = self.width / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        return image.rotate(self.degrees, Image.Resampling.BILINEAR, expand=True)


def _ink(image: Image.Image) -> np.ndarray:
    return np.asarray(image.getchannel("A")) >= INK


def _ink_box(image: Image.Image) -> tuple[int, int, int, int]:
    box = Image.fromarray(_ink(image)).getbbox()
    if box is None:
        raise ValueError(f"object_width: a pictogram of {image.width} x {image.height} pixels is too small to be seen")
    return box


class Canvas:
    """The topmost pictogram at every pixel, kept while pictograms are laid one over another.

    `owner` [size, size] is the index of that pictogram in `placements`, -1 for the background.
    """

    def __init__(self, size: int):
        self.size = size
        self.owner = np.full((size, size), -1, dtype=np.int16)
        self.placements: list[Placement] = []
        self.sprites: list[Image.Image] = []
        self.covered: list[int] = []  # pixels of each pictogram alone
        self.visible: list[int] = []  # of these, not hidden by later pictograms

    def add(self, placement: Placement, sprite: Image.Image, max_occlusion: float) -> bool:
        """Lay a pictogram on top, unless it would hide more of a named one than allowed."""
        ink = _ink(sprite)
        window = self._window(placement, ink)
        hidden = np.bincount(window[ink] + 1, minlength=len(self.placements) + 1)[1:].tolist()
        for other, loss, left, whole in zip(self.placements, hidden, self.visible, self.covered, strict=True):
            if loss and isinstance(other.thing, Thing) and left - loss < (1 - max_occlusion) * whole:
                return False
        window[ink] = len(self.placements)
        self.placements.append(placement)
        self.sprites.append(sprite)
        self.covered.append(int(ink.sum()))
        self.visible = [left - loss for left, loss in zip(self.visible, hidden, strict=True)] + self.covered[-1:]
        return True

    def visible_share(self, index: int) -> float:
        return self.visible[index] / self.covered[index]

    def box(self, index: int) -> Box:
        """xyxy (exclusive x2, y2) of a pictogram's visible pixels."""
        placement = self.placements[index]
        return _box(self._window(placement, _ink(self.sprites[index])) == index, placement.corner)

    def part_boxes(self, index: int, part: Part, least_share: float) -> tuple[Box, ...]:
        """xyxy of the visible pixels of each box of a part; none at all if one is seen less than `least_share`."""
        placement, boxes = self.placements[index], []
        for mask in placement.part_masks(part):
            seen = (self._window(placement, mask) == index) & mask
            if not mask.any() or seen.sum() < max(1, least_share * mask.sum()):
                return ()
            boxes.append(_box(seen, placement.corner))
        return tuple(boxes)

    def _window(self, placement: Placement, mask: np.ndarray) -> np.ndarray:
        x, y = placement.corner
        return self.owner[y : y + mask.shape[0], x : x + mask.shape[1]]


def _box(seen: np.ndarray, corner: tuple[int, int]) -> Box:
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    x, y = corner
    return (float(x + columns[0]), float(y + rows[0]), float(x + columns[-1] + 1), float(y + rows[-1] + 1))


def lay_out(things: list[Thing], settings: SceneSettings, rng: np.random.Generator) -> tuple[Canvas, list[int]]:
    """Place all things and some distractors at random; also the layer of each thing. ValueError if they do not fit."""
    if settings.distractors[1] > len(DISTRACTORS):
        raise ValueError(f"distractors {settings.distractors}: there are no more than {len(DISTRACTORS)}")
    number = int(rng.integers(settings.distractors[0], settings.distractors[1] + 1))
    extras = [DISTRACTORS[i] for i in rng.choice(len(DISTRACTORS), number, replace=False)]
    pieces = [_posed(thing, thing.width, settings, rng) for thing in things]
    pieces += [_posed(character, float(rng.uniform(*settings.object_width)), settings, rng) for character in extras]
    sprites = [piece.sprite() for piece in pieces]
    order = rng.permutation(len(pieces))
    for attempt in range(_LAYOUTS):
        if attempt == _LAYOUTS // 2:  # crowded: the largest first fit better
            order = np.argsort([-piece.width for piece in pieces], kind="stable")
        canvas = Canvas(settings.size)
        if all(_place(pieces[i], sprites[i], canvas, settings, rng) for i in order):
            return canvas, np.argsort(order)[: len(things)].tolist()
    raise ValueError(
        f"{len(pieces)} pictograms of object_width {settings.object_width} do not fit a scene without hiding more than "
        f"max_occlusion {settings.max_occlusion} of one"
    )


def _posed(thing: Thing | str, width: float, settings: SceneSettings, rng: np.random.Generator) -> Placement:
    degrees = float(rng.uniform(-settings.rotation_degrees, settings.rotation_degrees))
    return Placement(thing, max(1, round(width * settings.size)), degrees, mirrored=bool(rng.random() < 0.5))


def _place(
    piece: Placement, sprite: Image.Image, canvas: Canvas, settings: SceneSettings, rng: np.random.Generator
) -> bool:
    """Lay one pictogram at a random position, at first perhaps beside another."""
    room = np.array([canvas.size - sprite.width, canvas.size - sprite.height])
    if (room < 0).any():
        raise ValueError(f"object_width {settings.object_width} leaves a turned pictogram no room in the scene")
    crowd = bool(canvas.placements) and rng.random() < CROWDING
    for attempt in range(_TRIES):
        corner = rng.integers(0, room + 1)
        if crowd and attempt < _TRIES // 2:
            other = canvas.placements[rng.integers(len(canvas.placements))]
            corner = other.corner + rng.uniform(-0.9, 0.9, 2) * (piece.width + other.width) / 2
            corner = np.clip(corner, 0, room).astype(int)
        if canvas.add(replace(piece, corner=(int(corner[0]), int(corner[1]))), sprite, settings.max_occlusion):
            return True
    return False
