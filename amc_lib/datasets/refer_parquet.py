"""RefCOCO, RefCOCO+ and RefCOCOg as they circulate in parquet files: one row for each region of a picture.

Columns: `image` (the file's bytes, alone or in a struct under "bytes"), `answer`, `sentences` or `captions` (a list of
texts, or of structs with "sent" or "raw"), `bbox` (x, y, width, height in pixels of that picture) and, where there are
any, `file_name` (COCO's, from which the picture's id is read) and `question_id`. A split's files begin with its name
(testA-00000-of-00001.parquet). Reading needs pyarrow: pip install 'amc-grounding[parquet]'.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from amc_lib.datasets.image_files import ImageBytes
from amc_lib.datasets.records import Regions, box_from_size, region
from amc_lib.files import content_or

TEXTS = ("answer", "sentences", "captions")


def files_of(folder: Path, split: str) -> list[Path]:
    """A split's files in a folder, or in its folder `data`; one that goes on as another name is none of them."""
    name = re.compile(rf"{re.escape(split)}(?![A-Za-z0-9]).*\.parquet")
    return sorted(
        path for place in (folder, folder / "data") for path in place.glob("*.parquet") if name.match(path.name)
    )


def read(files: Sequence[Path], split: str) -> Regions:
    """Regions row by row, sentence by sentence, as `refer.read` gives them; malformed rows are named in `skipped`.

    ValueError naming the file for one that is no such table, and without pyarrow.
    """
    regions = Regions()
    for file in files:
        try:
            table = pd.read_parquet(file)
        except ImportError as error:
            raise ValueError(f"{file}: reading parquet needs pyarrow: pip install 'amc-grounding[parquet]'") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"{file}: {content_or(file, f'cannot be read as parquet: {error!s:.200}')}") from error
        texts = next((name for name in TEXTS if name in table), None)
        if texts is None or not {"image", "bbox"} <= set(table):
            raise ValueError(f"{file}: needs image, bbox and {' or '.join(TEXTS)}; its columns are {', '.join(table)}")
        for number, row in enumerate(table.to_dict("records")):
            where = f"{file}, row {number}"
            with regions.record(where):
                image = ImageBytes(f"{file.name}, row {number}", _bytes(row["image"]))
                height, width = image.size()
                box, name = box_from_size(*row["bbox"], size=(width, height)), row.get("question_id", number)
                for n, text in enumerate(row[texts]):
                    with regions.record(f"{where}, sentence {n}"):
                        regions.append(region(f"{name}-{n}", split, image, _image_id(row, image), _text(text), [box]))
    return regions


def _bytes(image: Any) -> bytes:
    data = image.get("bytes") if isinstance(image, Mapping) else image
    if not isinstance(data, bytes):
        raise ValueError("its image holds no bytes")
    return data


def _text(sentence: Any) -> Any:
    return sentence.get("sent") or sentence.get("raw") if isinstance(sentence, Mapping) else sentence


def _image_id(row: Mapping[str, Any], image: ImageBytes) -> str:
    """COCO's number where the file name says it, else the content's hash: the same for all rows of a picture."""
    number = re.match(r"COCO_\w+2014_0*(\d+)", str(row.get("file_name", "")))
    return number[1] if number else hashlib.sha256(image.data).hexdigest()[:16]
