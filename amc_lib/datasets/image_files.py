"""Pictures: of people, in whatever form they come, and in the files of data sets, as the image source of regions."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from amc_lib.datasets.records import LITTER
from amc_lib.files import named_path, what_it_is

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow knows more, some of which start programs
ENDINGS = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")  # of such files
MOST_PIXELS = 89_478_485  # from which on Pillow warns of decompression bombs
Picture = Image.Image | np.ndarray | str | Path | BinaryIO


class UnreadableImageError(ValueError):
    """A picture that is missing or damaged."""


@contextmanager
def reading(image: object, source: Any = None) -> Iterator[None]:
    """Whatever a missing or damaged picture raises in the block becomes an UnreadableImageError that names `image`.

    source: its path, bytes or open file, for a word on what it is where it is no picture.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{image}: no such image") from error
    except UnidentifiedImageError as error:
        content = f": it is {what}" if (what := what_it_is(_head(source))) else ""
        kinds = ", ".join(FORMATS)
        raise UnreadableImageError(f"{image}: cannot be read as an image of {kinds}{content}") from error
    except Exception as error:  # decoders raise nearly anything
        raise UnreadableImageError(f"{image}: cannot be read as an image: {error!s:.200}") from error


def _head(source: Any) -> bytes:
    """The first bytes of a path, of bytes, or of an open file; some that say nothing where there are none to be had."""
    if isinstance(source, bytes):
        return source[:512]
    if isinstance(source, str | Path):
        with open(source, "rb") as file:
            return file.read(512)
    try:
        source.seek(0)
        return source.read(512)
    except (AttributeError, OSError):
        return b"?"


def open_image(source: Any) -> Image.Image:
    """A picture of one of FORMATS, not yet decoded."""
    return Image.open(source, formats=FORMATS)


def require_size(picture: Image.Image) -> None:
    """ValueError for a picture without pixels, and for one of more than MOST_PIXELS."""
    if not 0 < picture.width * picture.height <= MOST_PIXELS:
        raise ValueError(f"it has {picture.width} x {picture.height} pixels, of 1 to {MOST_PIXELS:,} that are read")


def to_rgb(picture: Image.Image) -> Image.Image:
    """The first frame as RGB; 16 bits of grey are scaled, which Pillow would cut off; 32 too, if 8 do not hold them.

    ValueError for floats, for a picture without pixels, and for one of more than MOST_PIXELS.
    """
    require_size(picture)
    if picture.mode == "F":
        raise ValueError("its values are floats, whose range is not known")
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        whole = 255 if picture.mode == "I" and values.max() <= 255 else 65_535
        picture = Image.fromarray((values * (255 / whole)).clip(0, 255).astype(np.uint8))
    return picture.convert("RGB")


def read_image(image: Picture) -> Image.Image:
    """A picture, its path, an open file, or uint8 [H, W, 3] as RGB: upright as its EXIF says, transparency on white.

    ValueError with one sentence if it is missing or damaged.
    """
    known = isinstance(image, Image.Image | np.ndarray | str | Path)
    if isinstance(image, io.TextIOBase) or not (known or hasattr(image, "read")):
        kinds = "a PIL image, an array, a path or a file open for bytes"
        raise ValueError(f"an image must be {kinds}, got {type(image).__name__}")
    if isinstance(image, str | Path):
        image = named_path(image)
    named = image if isinstance(image, Path) else f"the {type(image).__name__}"
    with reading(named, image):
        if isinstance(image, np.ndarray):
            try:
                image = Image.fromarray(image)
            except TypeError as error:
                raise ValueError(f"it is {image.dtype} {[*image.shape]}, not uint8 [H, W, 3]") from error
        picture = ImageOps.exif_transpose(image if isinstance(image, Image.Image) else open_image(image))
        if picture.has_transparency_data:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        return to_rgb(picture)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A picture on disk. Boxes of the data sets count stored pixels, so an EXIF rotation is not applied."""

    path: Path

    def open(self) -> Image.Image:
        """RGB at its stored size. UnreadableImageError naming the file if it is missing or damaged."""
        with reading(self.path, self.path), open_image(self.path) as file:
            return to_rgb(file)

    def size(self) -> tuple[int, int]:
        """(height, width) by the file's header."""
        with reading(self.path, self.path), open_image(self.path) as file:
            return file.height, file.width


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """A picture whose file lies inside another one, which `name` says; else as `ImageFile`."""

    name: str
    data: bytes

    @property
    def path(self) -> Path:
        """No file, but what tells the picture apart in messages."""
        return Path(self.name)

    def open(self) -> Image.Image:
        with reading(self.name, self.data), open_image(io.BytesIO(self.data)) as file:
            return to_rgb(file)

    def size(self) -> tuple[int, int]:
        """(height, width) by the file's header."""
        with reading(self.name, self.data), open_image(io.BytesIO(self.data)) as file:
            return file.height, file.width


class ImageFolder:
    """The pictures of a data set by name, listed once, which is much faster than asking the disk for each.

    They lie directly in one of the folders `names` below `root`, or in any folder `images` of theirs (SAIAPR TC-12
    comes as 00/images/, 01/images/, ...). LITTER is no picture. ValueError without any folder.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.names = names
        folders = [root / name for name in names if (root / name).is_dir()]
        if not folders:
            raise ValueError(f"{root}: has no folder {' or '.join(names)}") from FileNotFoundError(root)
        self._paths: dict[str, str] = {}
        for folder in folders:
            for parent, _, files in os.walk(folder):
                if Path(parent) == folder or Path(parent).name == "images":
                    self._paths |= {file: parent for file in files if not LITTER.fullmatch(file)}

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[str]:
        """The file names of the pictures."""
        return iter(self._paths)

    def find(self, name: str) -> ImageFile:
        """The picture of a name, whatever folders stand before it. ValueError if it is missing."""
        file_name = name.rpartition("/")[2]
        if file_name not in self._paths:
            raise ValueError(f"the image {file_name!r:.80} is not in {' or '.join(self.names)}")
        return ImageFile(Path(self._paths[file_name], file_name))
