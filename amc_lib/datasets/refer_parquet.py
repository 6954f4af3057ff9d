"""RefCOCO, RefCOCO+ and RefCOCOg as they circulate in parquet files: one row for each region of a picture.

Columns, in any capitals: `image` (the file's bytes, alone or in a struct under "bytes"), one of TEXTS (a text, or a
list of texts or of structs with "sent" or "raw"), `bbox` (x, y, width, height in pixels of that picture, a list or a
struct, which may be JSON) and, where there are any, `file_name` or `image_id` (COCO's), `question_id` or `ref_id`.
A row's split is what the column `split` says or, without one, its file's name or folder (testA-00000-of-00001.parquet,
testA/0000.parquet). Reading needs pyarrow: pip install 'amc-grounding[parquet]'.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from amc_lib.datasets.image_files import ImageBytes
from amc_lib.datasets.records import Regions, box_from_size, naming, region, visible
from amc_lib.datasets.units import LOOKS, evident_unit
from amc_lib.files import content_or

TEXTS = ("sentences", "sentence", "captions", "caption", "expressions", "expression", "phrases", "phrase", "answer")
SPLITS = ("train", "val", "test", "testa", "testb", "testc", "testab", "testbc")  # looked for in the names of files
COCO_NUMBER = re.compile(r"(?:COCO_\w+?2014_|(?<!\d)(?=\d{12}(?!\d)))0*(\d+)")  # of a picture, in its file's name
JSON = re.compile(r"""\s*[\[{]\s*["'{\d-]""")  # how a list or a struct as text begins; a phrase seldom does
Rows = list[tuple[int, dict[str, Any]]]  # number in the file, and the row with its columns in small letters


def files_of(folder: Path) -> list[Path]:
    """The parquet files of a data set, in its folder and below."""
    return sorted(visible(folder.rglob("*.parquet")))


def read(folder: Path, split: str) -> Regions:
    """Regions row by row, sentence by sentence, as `refer.read` gives them; malformed rows are named in `skipped`.

    Ids are `REF-SENTENCE`, with FILE:ROW for a ref whose id is missing or taken. ValueError naming the file for one
    that is no such table, and without pyarrow; ValueError for a split that no row has.
    """
    regions, refs = Regions(), set()
    for file in files_of(folder):
        with naming(f"{file}"):
            rows = _rows(file, folder, lambda name: name in ("", _split(split)))
            texts = _checked(rows)
            for number, row in rows:
                with regions.record(f"{file}, row {number}"):
                    if not _split(row.get("split", split)):
                        raise ValueError("says no split")
                    image = ImageBytes(f"{file.name}, row {number}", _bytes(row["image"]))
                    box = box_from_size(*_bbox(row["bbox"]), size=image.size()[::-1])
                    image_id = _image_id(row) or hashlib.sha256(image.data).hexdigest()[:16]  # one for all its rows
                    ref = _id(row.get("question_id")) or _id(row.get("ref_id"))
                    if not ref or ref in refs:
                        ref = f"{file.relative_to(folder)}:{number}"
                    refs.add(ref)
                    for n, text in enumerate(_phrases(row[texts])):
                        with regions.record(f"{file}, row {number}, sentence {n}"):
                            regions.append(region(f"{ref}-{n}", split, image, image_id, text, [box]))
    if not regions and not regions.skipped:
        reason = f"no parquet file has the split {split!r}, in a column split or in its name"
        raise ValueError(f"{folder}: {reason}") from FileNotFoundError(folder)
    return regions


def held_out(folder: Path, faults: Regions) -> set[int]:
    """COCO's numbers of the pictures of all splits but train; a file or row that does not say them is named."""
    numbers = set()
    for file in files_of(folder):
        with faults.record(f"{file}"):
            for number, row in _rows(file, folder, lambda name: name != "train", ("file_name", "image_id")):
                with faults.record(f"{file}, row {number}"):
                    if not (image_id := _image_id(row)).isdecimal():
                        raise ValueError("neither file_name nor image_id says COCO's number of its picture")
                    numbers.add(int(image_id))
    return numbers


def _rows(file: Path, folder: Path, asked: Callable[[str], bool], columns: tuple[str, ...] = ()) -> Rows:
    """The rows whose split is asked for ("" where its column is empty), all columns or those of `columns`.

    ValueError for a file that does not say its splits, for a damaged one whose name says no other, without pyarrow.
    """
    words = re.split(r"[^a-z0-9]+", file.relative_to(folder).as_posix().lower())
    said = next((name for name in map(_split, reversed(words)) if name in SPLITS), "")
    try:
        from pyarrow import ArrowException, parquet

        with parquet.ParquetFile(file) as table:
            names = {name: name.lower() for name in table.schema_arrow.names}
            own = [name for name in names if names[name] == "split"]
            if not own and not said:
                raise ValueError("says its split neither in a column split nor in its name")
            stated = table.read(own).column(0).to_pylist() if own else [said] * table.metadata.num_rows
            splits = [*map(_split, stated)]
            if not any(map(asked, splits)):
                return []  # before its pictures are read
            batches = table.iter_batches(64, columns=[name for name in names if not columns or names[name] in columns])
            rows = chain.from_iterable(batch.to_pylist() for batch in batches)
            return [
                (number, {names[name]: value for name, value in row.items()})
                for number, (split, row) in enumerate(zip(splits, rows, strict=True))
                if asked(split)
            ]
    except ImportError as error:
        raise ValueError("reading parquet needs pyarrow: pip install 'amc-grounding[parquet]'") from error
    except (OSError, ArrowException) as error:
        if said and not asked(said):
            return []
        raise ValueError(content_or(file, f"cannot be read as parquet: {error!s:.200}")) from error


def _split(name: Any) -> str:
    """A split's name in small letters and digits, as it is compared; "" for none."""
    name = re.sub(r"[^a-z0-9]", "", str(name or "").lower())
    return "val" if name == "validation" else name


def _checked(rows: Rows) -> str | None:
    """The column of texts; None without rows.

    ValueError where a column is missing, where the boxes evidently are not in pixels, and where they evidently
    are corners: where more of them fit their pictures as x1, y1, x2, y2 alone than as x, y, width, height alone.
    """
    if not rows:
        return None
    texts = next((name for name in TEXTS if name in rows[0][1]), None)
    if texts is None or not {"image", "bbox"} <= rows[0][1].keys():
        raise ValueError(f"needs image, bbox and one of {', '.join(TEXTS)}; its columns are {', '.join(rows[0][1])}")
    corners = sizes = 0
    boxes = []
    for _, row in rows:
        with suppress(ValueError):  # named when it is read
            x, y, w, h = _bbox(row["bbox"])
            height, width = ImageBytes("", _bytes(row["image"])).size()
            boxes.append(((x, y, x + w, y + h), (width, height)))
            as_sizes = x + w <= width + 1 and y + h <= height + 1  # a pixel for rounding
            as_corners = x < w <= width + 1 and y < h <= height + 1
            corners, sizes = corners + (as_corners > as_sizes), sizes + (as_sizes > as_corners)
    if corners > sizes:
        fit = "overrun their pictures as x, y, width, height and fit as x1, y1, x2, y2, which is not read"
        raise ValueError(f"{corners} of {len(rows)} boxes {fit}")
    if unit := evident_unit(boxes):
        raise ValueError(f"its boxes look like {LOOKS[unit]}: a bbox is read in pixels")
    return texts


def _bytes(image: Any) -> bytes:
    """The file of a picture. ValueError where there is none."""
    data = image.get("bytes") if isinstance(image, Mapping) else image
    if not isinstance(data, bytes):
        raise ValueError("its image holds no bytes")
    return data


def _bbox(bbox: Any) -> tuple[float, ...]:
    """x, y, width, height. ValueError for anything else than four numbers in a list or a struct of these names."""
    try:
        values = _parsed(bbox)
        if isinstance(values, Mapping):
            sides = {name.lower(): side for name, side in values.items()}
            values = [sides[name] if name in sides else sides.get(name[0]) for name in ("x", "y", "width", "height")]
        x, y, width, height = map(float, values if isinstance(values, list) else ())
    except (TypeError, ValueError) as error:
        raise ValueError(f"the bbox {bbox!r:.80} is not x, y, width, height") from error
    return x, y, width, height


def _phrases(texts: Any) -> list[Any]:
    """One text, or what is in a list, however deep; of a struct, its "sent" or "raw"."""
    texts = _parsed(texts)
    if isinstance(texts, Mapping):
        return _phrases(texts.get("sent") or texts.get("raw"))
    if texts == []:
        raise ValueError("has no sentence")
    return [phrase for text in texts for phrase in _phrases(text)] if isinstance(texts, list) else [texts]


def _parsed(value: Any) -> Any:
    """What a text holds that is a list or a struct as JSON; anything else as it is. ValueError for malformed JSON."""
    if not isinstance(value, str) or not JSON.match(value):
        return value
    with naming(f"{value!r:.80} is not JSON"):
        return json.loads(value)


def _image_id(row: Mapping[str, Any]) -> str:
    """COCO's number of the picture where `file_name` or `image_id` says it, else `image_id`; "" without one."""
    said = COCO_NUMBER.search(f"{row.get('file_name')} {row.get('image_id')}")
    return said[1] if said else _id(row.get("image_id"))


def _id(value: Any) -> str:
    """An id as text, "" for none; in a column with gaps, whole numbers are floats."""
    text = "" if value is None or value != value else str(value)
    return number[1] if (number := re.fullmatch(r"0*(\d+)(?:\.0)?", text)) else text
