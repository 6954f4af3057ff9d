"""What the readers of downloaded data share: files and records that are either understood or named in one sentence.

Every error is a ValueError with one sentence that names the file and, where there is one, the record.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from amc_lib.regions import Box, Region
from amc_lib.tokens import clean
from amc_lib.wording import shown

FARTHEST = 1e6  # pixels from a picture's corner to where a box may end; anything beyond is no box
LARGEST_ID = 2**63  # ids are whole numbers below it


class Regions(list[Region]):
    """What a reader has read.

    `skipped` holds one sentence for each record left out because it is malformed, `held_out` the number of images
    left out because they are for evaluation.
    """

    def __init__(self, regions: Iterable[Region] = (), skipped: Iterable[str] = (), held_out: int = 0) -> None:
        super().__init__(regions)
        self.skipped = list(skipped)
        self.held_out = held_out


class Skips:
    """Whether a malformed record ends the reading (`strict`) or is left out; then `sentences` says which and why."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.sentences: list[str] = []

    @contextmanager
    def record(self) -> Iterator[None]:
        """A block that reads one record; its ValueError is raised or collected."""
        try:
            yield
        except ValueError as error:
            if self.strict:
                raise
            self.sentences.append(str(error))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as text: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: cannot be read as text: {error.reason} at byte {error.start} of UTF-8") from error
    if "\0" in text:
        raise ValueError(f"{path}: cannot be read as text: it holds NUL characters, as UTF-16 does")
    return text


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is no JSON, or not all of it: {error}") from error
    except ValueError as error:  # of int()
        raise ValueError(f"{path}: is no JSON that can be read: it holds a number of thousands of digits") from error
    except RecursionError as error:
        raise ValueError(f"{path}: is no JSON that can be read: it is nested too deeply") from error


def read_list(path: Path) -> list[Any]:
    """The list that a JSON file holds."""
    records = read_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{path}: holds no list of records")
    return records


def entry(record: Any, name: str, where: str) -> Any:
    """record[name]; `where` begins the sentence that says it is not there."""
    if not isinstance(record, Mapping) or name not in record:
        raise ValueError(f"{where}: has no {name}")
    return record[name]


def list_entry(record: Any, name: str, where: str) -> list[Any]:
    """record[name], which must be a list."""
    value = entry(record, name, where)
    if not isinstance(value, list):
        raise ValueError(f"{where}: {name} is no list")
    return value


def id_entry(record: Any, name: str, where: str) -> int | str:
    """record[name], which must be an integer or text."""
    value = entry(record, name, where)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{where}: {name} is neither a number nor text")
    if abs(value) >= LARGEST_ID if isinstance(value, int) else not is_unicode(value):
        raise ValueError(f"{where}: {name} {shown(value)} is no id")
    return value


def text_entry(record: Any, name: str, where: str) -> str:
    """record[name], which must be text."""
    value = entry(record, name, where)
    if not isinstance(value, str) or not is_unicode(value):
        raise ValueError(f"{where}: {name} {shown(value)} is no text")
    return value


def is_unicode(text: str) -> bool:
    """Whether a text can be written at all: JSON and pickles may hold halves of surrogate pairs, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def path_below(root: Path, name: str, where: str) -> Path:
    """The file that a record calls `name`, which may not lead out of `root`."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or "\\" in name:
        raise ValueError(f"{where}: {shown(name)} is no name of a file below {root}")
    return root / path


def phrase_of(text: Any, where: str) -> str:
    """A phrase as written, if any word of it is left after `amc_lib.tokens.clean`."""
    if not isinstance(text, str):
        raise ValueError(f"{where}: the phrase {shown(text)} is no text")
    try:
        clean(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return text


def four_numbers(values: Any, names: str, where: str) -> Box:
    """Four numbers, none beyond FARTHEST; `names` says which they should be."""
    numbers = tuple(values) if isinstance(values, list | tuple) else ()
    kinds = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if len(numbers) != 4 or not kinds or not all(abs(n) <= FARTHEST for n in numbers):
        raise ValueError(f"{where}: bbox needs the numbers {names}")
    return tuple(map(float, numbers))


def from_size(values: Any, where: str) -> Box:
    """A box xyxy out of x, y, width, height, in the same pixels."""
    x, y, width, height = four_numbers(values, "x, y, width and height", where)
    return x, y, x + width, y + height


def checked(box: Box, where: str, size: tuple[float, float] | None = None) -> Box:
    """The box, if it has an area and, where `size` (width, height) of its image is known, shares pixels with it."""
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        raise ValueError(f"{where}: box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area")
    if size and (x1 >= size[0] or y1 >= size[1] or x2 <= 0 or y2 <= 0):
        raise ValueError(
            f"{where}: box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) lies outside the image of {size[0]:g} x {size[1]:g}"
        )
    return box
