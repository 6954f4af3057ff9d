"""Records of downloaded data: each is read, or named in one sentence with its file and its place there."""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, get_args

from amc_lib.files import content_or
from amc_lib.regions import Box, ImageSource, Region
from amc_lib.tokens import clean

OF_PYTHON = re.compile(r"(not enough|too many) values to unpack|\w+\(\) ")  # how it says that a form is another
LITTER = re.compile(r"\..*|thumbs\.db|desktop\.ini|.*\.(part|crdownload)", re.IGNORECASE | re.DOTALL)
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # what reading a bad record raises
KINDS = {"NoneType": "nothing", "dict": "an object", "list": "a list", "bool": "true or false"}  # of values in JSON
KINDS |= dict.fromkeys(("str", "string"), "text") | dict.fromkeys(("int", "float"), "a number")


@contextmanager
def naming(where: str) -> Iterator[None]:
    """A block that reads the record at `where` ("FILE, image 3"), which is named if it is malformed (ValueError)."""
    try:
        yield
    except MALFORMED as error:
        raise ValueError(f"{where}: {_reason(error):.200}") from error


def _reason(error: Exception) -> str:
    """What is wrong with a record, by the error that reading it raised."""
    if isinstance(error, KeyError):
        name = error.args[0]
        known = isinstance(name, str) and name.isidentifier()
        return f"has no {name}" if known else f"refers to {name!r}, which is not there"
    if isinstance(error, json.JSONDecodeError):
        return f"holds text that should be JSON, and is {error.doc!r:.80}"
    if isinstance(error, ArithmeticError):
        return "holds a number that is of no use, such as a size of 0"
    if isinstance(error, AttributeError | IndexError | TypeError) or OF_PYTHON.match(f"{error}"):
        kinds = re.findall("|".join(rf"\b{kind}\b(?!\()" for kind in KINDS), f"{error}")
        found = f": {KINDS[kinds[-1 if 'argument' in f'{error}' else 0]]} stands where something else belongs"
        return f"is of another form than expected{found if kinds else ''}"
    return re.sub(
        r"^(could not convert string to float|invalid literal for int.*?): (.*)", r"\2 is no number", f"{error}"
    )


def id_text(value: Any) -> str:
    """An id as text, "" for none: 12, "12", "012" and 12.0, as a column with gaps has it, are one id."""
    text = "" if value is None or value != value else str(value)
    return number[1] if (number := re.fullmatch(r"0*(\d+)(?:\.0)?", text)) else text


def by_id(records: Iterable[Any], what: str, id_of: Callable[[Any], Any] = itemgetter("id")) -> dict[str, Any]:
    """Records by their ids as text, without those that say none. ValueError for two of one id that differ."""
    found: dict[str, Any] = {}
    for record in records:
        name = ""
        with suppress(*MALFORMED):
            name = id_text(id_of(record))
        if name and found.setdefault(name, record) != record:
            raise ValueError(f"{what}: the id {name:.80} stands twice, with different contents")
    return found


class Regions(list[Region]):
    """Regions that a reader has read, with what it left out."""

    def __init__(
        self,
        regions: Iterable[Region] = (),
        skipped: Iterable[str] = (),
        held_out: int = 0,
        without_picture: int = 0,
    ) -> None:
        super().__init__(regions)
        self.skipped = list(skipped)  # a sentence for each malformed record
        self.held_out = held_out  # images that evaluation needs
        self.without_picture = without_picture  # images that are listed, and not part of the pictures at hand

    def replaced(self, regions: Iterable[Region]) -> Regions:
        """Other regions, with what was left out of these."""
        return Regions(regions, self.skipped, self.held_out, self.without_picture)

    @contextmanager
    def record(self, where: str) -> Iterator[None]:
        """A block that reads the record at `where`; a malformed one is left out, its sentence added to `skipped`."""
        try:
            with naming(where):
                yield
        except ValueError as error:
            self.skipped.append(str(error))

    @property
    def about(self) -> dict[str, Any]:
        """What was read and what was left out, as it stands beside results."""
        return {
            "regions": len(self),
            "images": len({region.image_id for region in self}),
            "held_out_images": self.held_out,
            "images_without_picture": self.without_picture,
            "skipped_records": len(self.skipped),
            "first_skipped": self.skipped[:5],
        }


def visible(paths: Iterable[Path]) -> list[Path]:
    """Without what systems and browsers leave beside data: LITTER (`._1.jpg`, `Thumbs.db`, ...) and `__MACOSX/`."""
    return [path for path in paths if not LITTER.fullmatch(path.name) and "__MACOSX" not in path.parts]


def files_below(folder: Path, above: frozenset[Path] = frozenset()) -> list[Path]:
    """The files in a folder and those below it, also links, sorted; nothing hidden and no LITTER.

    above: the real folders around it, which a link below does not enter again.
    """
    real, found = folder.resolve(), []
    for path in [] if real in above else visible(sorted(folder.iterdir())):
        if path.is_dir():
            found += files_below(path, above | {real})
        elif path.is_file():
            found.append(path)
    return found


def split_of(folder: str) -> str:
    """train, val or test, as a folder is called (also valid, train2017, ...); else ""."""
    name = re.fullmatch(r"(train|val|test)(id|idation|ing)?\d*", folder.lower())
    return name[1] if name else ""


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark. ValueError naming the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "\0" in text:
            raise ValueError(f"{path}: {content_or(path, 'is not UTF-8, but perhaps UTF-16: save it as UTF-8')}")
        return text
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {content_or(path, f'cannot be read as UTF-8 text: {error}')}") from error


def read_foreign_text(path: Path) -> str:
    """The text of a file that other programs wrote: UTF-8, UTF-16 with its mark or, which is said, Windows' cp1252.

    Lines end in a line feed. ValueError naming the file for anything else.
    """
    try:
        return read_text(path)
    except ValueError as error:
        if not isinstance(error.__cause__, UnicodeDecodeError):
            raise
        data = path.read_bytes()
        encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "cp1252"
        text = re.sub("\r\n?", "\n", data.decode(encoding, errors="replace"))
        if {"\0", "\ufffd"} & {*text}:  # as no text holds them
            raise
    if encoding == "cp1252":
        print(f"{path}: is not UTF-8, and is read as Windows' cp1252; if letters come out wrong, save it as UTF-8")
    return text


def read_json(path: Path, kind: type) -> Any:
    """The list or dict in a JSON file. ValueError naming the file."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {content_or(path, f'is not JSON, or not all of it: {error}')}") from error
    if not isinstance(value, kind):
        wanted = " or ".join(KINDS[one.__name__] for one in get_args(kind) or [kind])
        raise ValueError(f"{path}: holds {KINDS[type(value).__name__]}, not {wanted}")
    return value


def words_of(phrase: Any) -> str:
    """The cleaned phrase. ValueError for one that has no words."""
    if not isinstance(phrase, str):
        raise ValueError(f"the phrase {phrase!r:.80} is not text")
    return clean(phrase)


def region(
    id: str, split: str, image: ImageSource, image_id: str, phrase: Any, boxes: Sequence[Box], **names: str
) -> Region:
    """A region, a group where it has several boxes; `names`: its entity and chain. ValueError without words."""
    words_of(phrase)
    return Region(id, split, image, image_id, phrase, tuple(boxes), "group" if len(boxes) > 1 else "object", **names)


def four_numbers(bbox: Any) -> tuple[float, float, float, float]:
    """x, y, width, height. ValueError for what is not four numbers, in a list or under these names in any case."""
    try:
        values = bbox
        if isinstance(bbox, Mapping):
            sides = {name.lower(): side for name, side in bbox.items()}
            values = [sides[name] if name in sides else sides.get(name[0]) for name in ("x", "y", "width", "height")]
        x, y, width, height = map(float, values if isinstance(values, list) else ())
    except (TypeError, ValueError) as error:
        raise ValueError(f"the bbox {bbox!r:.80} is not x, y, width, height") from error
    return x, y, width, height


def box_xyxy(x1: float, y1: float, x2: float, y2: float, *, size: tuple[float, float] | None = None) -> Box:
    """A box in pixels. ValueError for one without area, or outside an image of `size` (width, height)."""
    box = tuple(map(float, (x1, y1, x2, y2)))
    text = ", ".join(f"{edge:g}" for edge in box)
    if not (all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"the box ({text}) has no area")
    if size and (box[0] >= size[0] or box[1] >= size[1] or box[2] <= 0 or box[3] <= 0):
        raise ValueError(f"the box ({text}) lies outside the image of {size[0]:g} x {size[1]:g}")
    return box


def box_from_size(x: float, y: float, width: float, height: float, *, size: tuple[float, float] | None = None) -> Box:
    """xyxy of a box given as x, y, width, height in pixels; errors as `box_xyxy`."""
    x, y, width, height = map(float, (x, y, width, height))
    return box_xyxy(x, y, x + width, y + height, size=size)


def scale(annotated: tuple[float, float], stored: tuple[float, float]) -> tuple[float, float]:
    """Factors of x and y that bring boxes from a picture's annotated to its stored size, both (width, height).

    ValueError for sizes of different shapes, with a word on a picture that may be stored turned.
    """
    if not _of_one_shape(annotated, stored):
        sizes = "its boxes were drawn at {:g} x {:g} pixels, and it has {:g} x {:g}".format(*annotated, *stored)
        turned = ", perhaps stored turned (EXIF orientation): then save it upright"
        hint = turned if _of_one_shape(annotated, stored[::-1]) else ""
        raise ValueError(f"the image has another shape than its annotation: {sizes}{hint}")
    return stored[0] / annotated[0], stored[1] / annotated[1]


def _of_one_shape(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether the larger of two sizes, brought down by one factor to the longer side of the smaller, is that one.

    The other side may differ by a pixel.
    """
    smaller, larger = sorted((first, second), key=max)
    longer = larger.index(max(larger))
    factor = smaller[longer] / larger[longer]
    return all(abs(factor * side - of_smaller) <= 1 for side, of_smaller in zip(larger, smaller, strict=True))


def scaled(box: Box, factors: tuple[float, float]) -> Box:
    """A box xyxy with its x and y multiplied by factors (of `scale`)."""
    (x1, y1, x2, y2), (across, down) = box, factors
    return x1 * across, y1 * down, x2 * across, y2 * down
