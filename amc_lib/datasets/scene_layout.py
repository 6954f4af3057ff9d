"""Where pictograms stand in a scene, and which of their pixels stay visible."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from amc_lib.config import SceneSettings
from amc_lib.datasets.pictograms import DISTRACTORS, Part, distractor, pictogram
from amc_lib.datasets.scene_cast import PLAIN, Thing
from amc_lib.regions import Box

INK = 128  # least alpha, of 255, at which a pixel counts as covered
CROWDING = 0.35  # share of the pictograms that are first tried beside another one
_TRIES = 40  # positions for one pictogram before the whole layout is thrown away
_LAYOUTS = 25


@dataclass(frozen=True)
class Placement:
    """A pictogram on the canvas: a named thing, or a distractor by its character.

    `width` is the longer side in pixels before turning, `degrees` counter-clockwise, `corner` (x, y) the upper left
    pixel of the sprite.
    """

    thing: Thing | str
    width: int
    degrees: float
    mirrored: bool
    corner: tuple[int, int] = (0, 0)

    @property
    def named(self) -> bool:
        return isinstance(self.thing, Thing)

    def sprite(self) -> Image.Image:
        """The turned pictogram, RGBA, as small as its ink allows."""
        turned = self._turn(self._raster())
        return turned.crop(_ink_box(turned.getchannel("A")))

    def part_masks(self, part: Part) -> list[np.ndarray]:
        """Where the sprite shows each box of a part: bool, the sprite's shape."""
        raster = self._raster()
        frame = _ink_box(self._turn(raster).getchannel("A"))
        masks = []
        for x1, y1, x2, y2 in part.boxes:
            cut = Image.new("RGBA", raster.size)
            box = (
                round(x1 * raster.width),
                round(y1 * raster.height),
                round(x2 * raster.width),
                round(y2 * raster.height),
            )
            cut.paste(raster.crop(box), box)
            masks.append(_ink(self._turn(cut).crop(frame)))
        return masks

    def _raster(self) -> Image.Image:
        if isinstance(self.thing, str):
            return distractor(self.thing)
        pattern = "" if self.thing.pattern == PLAIN else self.thing.pattern
        return pictogram(self.thing.concept, self.thing.colour, pattern)

    def _turn(self, image: Image.Image) -> Image.Image:
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scale = self.width / max(image.size)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        return image.rotate(self.degrees, Image.Resampling.BILINEAR, expand=True)


def _ink(image: Image.Image) -> np.ndarray:
    return np.asarray(image.getchannel("A")) >= INK


def _ink_box(alpha: Image.Image) -> tuple[int, int, int, int]:
    box = alpha.point(lambda value: 255 * (value >= INK)).getbbox()
    if box is None:
        raise ValueError(f"a pictogram of {alpha.size} pixels is too small to be seen")
    return box


class Canvas:
    """The topmost pictogram at every pixel, kept while pictograms are laid one over another."""

    def __init__(self, size: int):
        self.size = size
        self.owner = np.full((size, size), -1, dtype=np.int16)  # index into placements, -1 for background
        self.placements: list[Placement] = []
        self.covered: list[int] = []  # pixels of each pictogram alone
        self.visible: list[int] = []  # of these, not hidden by later ones

    def add(self, placement: Placement, ink: np.ndarray, max_occlusion: float) -> bool:
        """Lay a pictogram on top, unless it would hide more of a named one than allowed."""
        x, y = placement.corner
        window = self.owner[y : y + ink.shape[0], x : x + ink.shape[1]]
        hidden = np.bincount(window[ink] + 1, minlength=len(self.placements) + 1)[1:]
        for other, loss, left, whole in zip(self.placements, hidden, self.visible, self.covered, strict=True):
            if loss and other.named and left - loss < (1 - max_occlusion) * whole:
                return False
        self.visible = [int(left - loss) for left, loss in zip(self.visible, hidden, strict=True)]
        window[ink] = len(self.placements)
        self.placements.append(placement)
        self.covered.append(int(ink.sum()))
        self.visible.append(self.covered[-1])
        return True

    def visible_share(self, index: int) -> float:
        return self.visible[index] / self.covered[index]

    def box(self, index: int, mask: np.ndarray | None = None) -> Box | None:
        """xyxy (exclusive x2, y2) of a pictogram's visible pixels, within a mask of its sprite's shape if given."""
        x, y = self.placements[index].corner
        height, width = (self.size, self.size) if mask is None else mask.shape
        x, y = (0, 0) if mask is None else (x, y)
        seen = self.owner[y : y + height, x : x + width] == index
        if mask is not None:
            seen = seen & mask
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        if not len(rows):
            return None
        return (float(x + columns[0]), float(y + rows[0]), float(x + columns[-1] + 1), float(y + rows[-1] + 1))

    def part_boxes(self, index: int, part: Part, least_share: float) -> tuple[Box, ...]:
        """Boxes of a part's visible pixels; none at all if one of them is seen less than `least_share`."""
        x, y = self.placements[index].corner
        boxes = []
        for mask in self.placements[index].part_masks(part):
            seen = (self.owner[y : y + mask.shape[0], x : x + mask.shape[1]] == index) & mask
            box = self.box(index, mask)
            if box is None or seen.sum() < least_share * mask.sum():
                return ()
            boxes.append(box)
        return tuple(boxes)


def lay_out(things: list[Thing], settings: SceneSettings, rng: np.random.Generator) -> Canvas:
    """Place all things and some distractors at random; ValueError if they do not fit."""
    number = int(rng.integers(settings.distractors[0], settings.distractors[1] + 1))
    extras = [DISTRACTORS[i] for i in rng.choice(len(DISTRACTORS), number, replace=False)]
    pieces = [_posed(thing, thing.width, settings, rng) for thing in things]
    pieces += [_posed(character, float(rng.uniform(*settings.object_width)), settings, rng) for character in extras]
    pieces = [(piece, _ink(piece.sprite())) for piece in (pieces[i] for i in rng.permutation(len(pieces)))]
    for _ in range(_LAYOUTS):
        canvas = Canvas(settings.size)
        if all(_place(piece, ink, canvas, settings, rng) for piece, ink in pieces):
            return canvas
    raise ValueError(
        f"{len(pieces)} pictograms of object_width {settings.object_width} do not fit a scene without hiding more than "
        f"max_occlusion {settings.max_occlusion} of one"
    )


def _posed(thing: Thing | str, width: float, settings: SceneSettings, rng: np.random.Generator) -> Placement:
    degrees = float(rng.uniform(-settings.rotation_degrees, settings.rotation_degrees))
    return Placement(thing, max(1, round(width * settings.size)), degrees, mirrored=bool(rng.random() < 0.5))


def _place(
    piece: Placement, ink: np.ndarray, canvas: Canvas, settings: SceneSettings, rng: np.random.Generator
) -> bool:
    """Lay one pictogram at a random position, at first perhaps beside another."""
    room = np.array([canvas.size - ink.shape[1], canvas.size - ink.shape[0]])
    if (room < 0).any():
        raise ValueError(f"object_width {settings.object_width} leaves a turned pictogram no room in the scene")
    crowd = bool(canvas.placements) and rng.random() < CROWDING
    for attempt in range(_TRIES):
        corner = rng.integers(0, room + 1)
        if crowd and attempt < _TRIES // 2:
            other = canvas.placements[rng.integers(len(canvas.placements))]
            corner = other.corner + rng.uniform(-0.8, 0.8, 2) * (piece.width + other.width) / 2
            corner = np.clip(corner, 0, room).astype(int)
        if canvas.add(replace(piece, corner=(int(corner[0]), int(corner[1]))), ink, settings.max_occlusion):
            return True
    return False
