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
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from amc_lib.datasets.box_forms import SIDES, fitting, require_form
from amc_lib.datasets.image_files import ImageBytes
from amc_lib.datasets.records import Regions, box_from_size, four_numbers, id_text, naming, region, visible
from amc_lib.datasets.units import require_pixels
from amc_lib.files import content_or

TEXTS = ("sentences", "sentence", "captions", "caption", "expressions", "expression", "phrases", "phrase", "answer")
NAMES = ("train", "val", "test", "testA", "testB", "testC", "testAB", "testBC")
SPLITS = {name.lower(): name for name in NAMES}  # by `split_key`; looked for in the names of files
COCO_NUMBER = re.compile(r"(?:COCO_\w+?2014_|(?<!\d)(?=\d{12}(?!\d)))0*(\d+)")  # of a picture, in its file's name
JSON = re.compile(r"""\s*[\[{]\s*["'{\d-]""")  # how a list or a struct as text begins; a phrase seldom does
Rows = list[tuple[int, dict[str, Any]]]  # number in the file, and the row with its columns in small letters


def files_of(folder: Path) -> list[Path]:
    """The parquet files of a data set, in its folder and below."""
    return sorted(visible(folder.rglob("*.parquet")))


def read(folder: Path, split: str) -> Regions:
    """Regions row by row, sentence by sentence, as `refer.read` gives them; malformed rows and repeats are `skipped`.

    Ids are `REF-SENTENCE`, with FILE:ROW for a ref whose id is missing or taken. ValueError naming the file for one
    that is no such table, and without pyarrow; ValueError for a split that no row has.
    """
    regions, refs, first, asked = Regions(), set(), {}, split_key(split)
    for file in files_of(folder):
        with naming(f"{file}"):
            rows = _rows(file, folder, lambda name: name == asked or name not in SPLITS)
            texts, before = _checked(rows), len(regions)
            for number, row in rows:
                with regions.record(where := f"{file}, row {number}"):
                    known_split(row.get("split", split))
                    image = ImageBytes(f"{file.name}, row {number}", _bytes(row["image"]))
                    box = box_from_size(*_bbox(row["bbox"]), size=image.size()[::-1])
                    of_image = hashlib.sha256(image.data).hexdigest()[:16]  # one for all its rows
                    content = of_image, repr({name: row[name] for name in row.keys() - {"image"}})
                    if (above := first.setdefault(content, where)) != where:
                        raise ValueError(f"repeats {above}")
                    ref = id_text(row.get("question_id")) or id_text(row.get("ref_id"))
                    if not ref or ref in refs:
                        ref = f"{file.relative_to(folder)}:{number}"
                    refs.add(ref)
                    image_id = _image_id(row) or of_image
                    for n, text in enumerate(_phrases(row[texts])):
                        with regions.record(f"{where}, sentence {n}"):
                            regions.append(region(f"{ref}-{n}", split, image, image_id, text, [box]))
            require_pixels(regions[before:])
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
    said = next((name for name in map(split_key, reversed(words)) if name in SPLITS), "")
    try:
        from pyarrow import ArrowException, parquet

        with parquet.ParquetFile(file) as table:
            names = {name: name.lower() for name in table.schema_arrow.names}
            own = [name for name in names if names[name] == "split"]
            if not own and not said:
                raise ValueError("says its split neither in a column split nor in its name")
            stated = table.read(own).column(0).to_pylist() if own else [said] * table.metadata.num_rows
            splits = [*map(split_key, stated)]
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


def split_key(name: Any) -> str:
    """A split's name in small letters and digits, as it is compared; "" for none."""
    name = re.sub(r"[^a-z0-9]", "", str(name or "").lower())
    return "val" if name == "validation" else name


def known_split(name: Any) -> str:
    """The key of a split. ValueError for none, and for one that is not known."""
    if not (key := split_key(name)):
        raise ValueError("says no split")
    if key not in SPLITS:
        raise ValueError(f"its split {name!r:.80} is none of {', '.join(NAMES)}")
    return key


def _checked(rows: Rows) -> str | None:
    """The column of texts; None without rows.

    ValueError where a column is missing, and where boxes evidently are not x, y, width, height.
    """
    if not rows:
        return None
    texts = next((name for name in TEXTS if name in rows[0][1]), None)
    if texts is None or not {"image", "bbox"} <= rows[0][1].keys():
        raise ValueError(f"needs image, bbox and one of {', '.join(TEXTS)}; its columns are {', '.join(rows[0][1])}")
    fits = Counter()
    for _, row in rows:
        with suppress(ValueError):  # named when it is read
            size = ImageBytes("", _bytes(row["image"])).size()[::-1]
            fits[fitting(_bbox(row["bbox"]), size)] += 1
    require_form(fits, SIDES)
    return texts


def _bytes(image: Any) -> bytes:
    """The file of a picture. ValueError where there is none."""
    data = image.get("bytes") if isinstance(image, Mapping) else image
    if not isinstance(data, bytes):
        raise ValueError("its image holds no bytes")
    return data


def _bbox(bbox: Any) -> tuple[float, ...]:
    """x, y, width, height, which may be JSON. ValueError as `four_numbers`."""
    with suppress(ValueError):
        return four_numbers(_parsed(bbox))
    return four_numbers(bbox)  # names what the row says


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
    return said[1] if said else id_text(row.get("image_id"))
