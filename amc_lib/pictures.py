"""Pictures in every form in which people hold them, and what an answer keeps of one to show it again."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amc_lib.datasets.image_files import Picture, UnreadableImageError, read_image, reading
from amc_lib.files import named_path

FileBytes = bytes | bytearray | memoryview
AnyPicture = Picture | FileBytes | Mapping[str, Any]  # the latter {"bytes": ..., "path": ...}, one of which may be None
Kept = Path | bytes | Image.Image  # where a picture lies, its file's bytes, or itself where it has no file
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # how one on the web begins; C:/ is a folder


def read_picture(image: AnyPicture) -> tuple[Kept, Image.Image]:
    """What is kept of a picture, and the picture: RGB and upright. ValueError with one sentence if it cannot be read.

    A file's bytes are kept as they are, which is a small part of its pixels.
    """
    source = _source(image)
    picture = _read(source)
    return source if isinstance(source, Path | bytes) else picture, picture


def read_again(kept: Kept, size: tuple[int, int]) -> Image.Image:
    """A kept picture of `size` (width, height). ValueError where its file is gone, or holds one of another size."""
    if isinstance(kept, Image.Image):
        return kept
    picture = _read(kept)
    if picture.size != size:
        sizes = "it had {} x {} pixels and now has {} x {}".format(*size, *picture.size)
        raise ValueError(f"{kept}: is another picture than the one that was asked about: {sizes}")
    return picture


def _read(source: Any) -> Image.Image:
    return read_image(io.BytesIO(source) if isinstance(source, bytes) else source)


def _source(image: AnyPicture) -> Path | bytes | Image.Image | np.ndarray:
    """A picture's path, its file's bytes, or its pixels; what is none of these as it is, for `read_image` to refuse."""
    if isinstance(image, Mapping):
        given = {name: value for name, value in image.items() if value is not None}
        if not given.keys() & {"bytes", "path"}:
            names = ", ".join(map(str, given)) or "nothing"
            raise ValueError(f"a picture as a mapping must hold its file's bytes or its path; this one holds {names}")
        image = given.get("bytes", given.get("path"))
    if isinstance(image, FileBytes):
        return bytes(image)
    if isinstance(image, str | Path):
        if ADDRESS.match(f"{image}"):
            raise UnreadableImageError(f"{image}: is an address, not a file: download the picture and give its path")
        return named_path(image)
    if isinstance(image, np.ndarray):
        return _of_array(image)
    return _content(image) if hasattr(image, "read") and not isinstance(image, io.TextIOBase) else image


def _of_array(array: np.ndarray) -> np.ndarray:
    """Grey [H, W] of [H, W, 1]; other pictures as they are. ValueError for what has no rows and columns."""
    if array.ndim == 3 and array.shape[2] == 1:
        return array[..., 0]
    if array.ndim not in (2, 3):
        shape = f"it is {array.dtype} {[*array.shape]}, not uint8 [H, W, 3]"
        raise UnreadableImageError(f"the ndarray: cannot be read as an image: {shape}")
    return array


def _content(file: Any) -> bytes:
    """All bytes of an open file, from its beginning where it can be wound back."""
    name = getattr(file, "name", None) or f"the {type(file).__name__}"
    with reading(name):
        if getattr(file, "seekable", bool)():
            file.seek(0)
        return bytes(file.read())
