"""The pictures of a folder, by what annotation tools call them."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import ExifTags, Image

from amc_lib.datasets.annotation_files import Drawn
from amc_lib.datasets.image_files import ENDINGS, open_image, reading, require_size
from amc_lib.datasets.records import files_below, split_of

PLAIN_FOLDERS = ("images", "jpegimages", "labels", "annotations", "", ".", "..")  # tell no picture from another


def require_upright(file: Image.Image) -> None:
    """ValueError for a picture, opened or decoded, that is stored turned or mirrored."""
    turned = file.getexif().get(ExifTags.Base.Orientation)
    if turned in range(2, 9):
        raise ValueError(f"it is stored turned (EXIF orientation {turned}), so boxes are unclear; save it upright")


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) by the file's header. UnreadableImageError naming the file, also for one turned or too large."""
    with reading(path, path), open_image(path) as file:
        require_upright(file)
        require_size(file)
        return file.size


class Pictures:
    """The pictures below a folder, by what annotations call them, in capitals or not. ValueError without the folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder of pictures")
        self.folder = folder
        self.size = cache(upright_size)
        self._paths: dict[str, list[Path]] = defaultdict(list)  # by name, with and without the ending of a picture
        self._uploads: dict[str, list[Path]] = defaultdict(list)  # by name, as uploading changes it
        for path in files_below(folder):
            name = _same(path.name)
            for known in {name, _same(path.stem) if path.suffix.lower() in ENDINGS else name}:
                self._paths[known].append(path)
            self._uploads[_uploaded(name)].append(path)

    def of(self, drawn: Drawn) -> Path:
        """The picture in which a box was drawn.

        Where its annotation names one and its own file's name another, that counts which has the stated size.
        ValueError if there is none, or if it may be several.
        """
        named = self._first(drawn.images)
        own = self._first(drawn.own) if named is None else self._known(drawn.own)
        if named and own and named != own:
            fitting = [path for path in (named, own) if drawn.size == self.size(path)]
            if len(fitting) != 1:
                raise ValueError(
                    f"it names {named.name}, and by the name of its file it is of {own.name}: which is it?"
                )
            return fitting[0]
        if not (path := named or own or (drawn.renamed and self._upload(drawn.images[-1]))):
            raise ValueError(f"there is no picture {(*drawn.images, *drawn.own)[0]} below {self.folder}")
        return path

    def _known(self, names: Sequence[str]) -> Path | None:
        """The picture of the names; None also where it may be several."""
        with suppress(ValueError):
            return self._first(names)
        return None

    def _upload(self, name: str) -> Path | None:
        return _only(name, self._uploads.get(_uploaded(_parts(name)[-1]), []))

    def _first(self, names: Sequence[str]) -> Path | None:
        """The picture of the first of the names that fits one. ValueError if it fits several.

        A name fits whose folders, without PLAIN_FOLDERS, are the last ones of the picture's path; an address or an
        absolute path, as of the machine where the boxes were drawn, fits also if it ends in the picture's path below
        the folder; folders of splits alone fit also a picture that lies in no folder. The best fit counts.
        """
        for name in names:
            *folders, last = _parts(name)
            fits = defaultdict(list)  # by how well: the very path, its folders that count, or the last of them
            for path in self._paths.get(last, ()):
                below = path.relative_to(self.folder).as_posix()
                inside, around = (_parts(f"{place}")[:-1] for place in (below, path.absolute()))
                if inside == folders:
                    fits[0 if below == name else 1].append(path)
                elif _ends(around, folders):
                    fits[2].append(path)
                elif re.match(r"(\w+:)?[/\\]", name) and _ends(folders, inside):
                    fits[3 + len(folders) - len(inside)].append(path)
                elif not inside and all(map(split_of, folders)) and not any(map(split_of, around[-1:])):
                    fits[3].append(path)
            if path := _only(name, fits[min(fits, default=0)]):
                return path
        return None


def _only(name: str, found: Sequence[Path]) -> Path | None:
    """The one picture that was found by a name, perhaps through several links; ValueError for others."""
    if other := next((path for path in found if path.resolve() != found[0].resolve()), None):
        raise ValueError(f"{name} may be {found[0]} or {other}: name the folder of the right one")
    return found[0] if found else None


def _same(name: str) -> str:
    """A name in small letters, with one spelling of umlauts."""
    return unicodedata.normalize("NFC", name.lower())


def _uploaded(name: str) -> str:
    """A name as Label Studio stores an uploaded file: blanks are lines, and other signs are lost."""
    return re.sub(r"[^-\w.]", "", name.replace(" ", "_"))


def _parts(name: str) -> list[str]:
    """The folders of a path that count, and its last name, in small letters."""
    *folders, last = re.split(r"[/\\]", _same(name))
    return [*(folder for folder in folders if folder not in PLAIN_FOLDERS), last]


def _ends(folders: list[str], last: list[str]) -> bool:
    return folders[max(0, len(folders) - len(last)) :] == last
