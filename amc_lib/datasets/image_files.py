"""Pictures in files: the source of an image that a Region of the paper tier names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


class UnreadableImageError(ValueError):
    """A picture that is missing or damaged."""


@contextmanager
def reading(image: object) -> Iterator[None]:
    """Whatever a missing or damaged picture raises in the block becomes an UnreadableImageError that names `image`."""
    try:
        yield
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{image}: no such image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{image}: cannot be read as an image: {error}") from error


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A picture on disk. Boxes of the data sets count stored pixels, so an EXIF rotation is not applied."""

    path: Path

    def open(self) -> Image.Image:
        """RGB at its stored size. UnreadableImageError naming the file if it is missing or damaged."""
        with reading(self.path), Image.open(self.path) as file:
            return file.convert("RGB")


class ImageFolder:
    """The pictures of a data set, listed once, which is much faster than asking the disk for each.

    They lie directly in one of the folders `names` below `root`, or in any folder `images` of theirs (SAIAPR TC-12
    comes as 00/images/, 01/images/, ...). ValueError if there is none of the folders.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.names = names
        folders = [root / name for name in names if (root / name).is_dir()]
        if not folders:
            none_of = f"no {names[0]}/" if len(names) == 1 else f"neither {' nor '.join(f'{name}/' for name in names)}"
            raise ValueError(f"{root}: holds {none_of}")
        self._paths: dict[str, str] = {}
        for folder in folders:
            for parent, _, files in os.walk(folder):
                if Path(parent) == folder or Path(parent).name == "images":
                    self._paths |= dict.fromkeys(files, parent)

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, name: str, where: str) -> ImageFile:
        """The picture of a name, whatever folders stand before it. `where` begins the sentence if it is missing."""
        file_name = name.rpartition("/")[2]
        if file_name not in self._paths:
            raise ValueError(f"{where}: the image {file_name} is not in {' or '.join(self.names)}")
        return ImageFile(Path(self._paths[file_name], file_name))
