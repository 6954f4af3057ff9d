"""Pictures in files: the source of an image that a Region of the paper tier names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError


@dataclass(frozen=True)
class ImageFile:
    """A picture on disk. Boxes of the data sets count stored pixels, so an EXIF rotation is not applied."""

    path: Path

    def open(self) -> Image.Image:
        """RGB at its stored size. ValueError naming the file if it is missing or damaged."""
        try:
            with Image.open(self.path) as file:
                return file.convert("RGB")
        except FileNotFoundError as error:
            raise ValueError(f"{self.path}: no such image") from error
        except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(f"{self.path}: cannot be read as an image: {error}") from error
