"""The rectangles of Label Studio's exports JSON and JSON_MIN: lists of tasks, upright boxes in percent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from amc_lib.datasets.annotation_files import Annotations, Drawn, chosen, refuse
from amc_lib.datasets.image_files import ENDINGS
from amc_lib.datasets.records import box_from_size, naming, scaled

BESIDE_REGIONS = ("labels", "textarea", "choices", "taxonomy", "rating", "number", "datetime", "relation")
WORDS = ("text", "choices", "labels", "rectanglelabels")  # of a result


def tasks(path: Path, content: Iterable[Any], phrase: str | None) -> Annotations:
    """Of an export, as JSON or as JSON_MIN. ValueError for a list of another tool."""
    for number, task in enumerate(content):
        where = f"{path}, task {number}"
        task = _whole(task) if isinstance(task, Mapping) and {"annotator", "annotation_id"} & task.keys() else task
        if not (isinstance(task, Mapping) and {"data", "annotations"} <= task.keys()):
            raise ValueError(f"{where}: is of none of Label Studio's exports JSON and JSON_MIN")
        with naming(where):
            images = _names(task["data"])
            every = [(one["result"], one.get("was_cancelled")) for one in task["annotations"]]
        for results, cancelled in every:
            if cancelled:
                yield f"{where}, {images[0]}", partial(refuse, f"it was cancelled, with {len(results)} results")
                continue
            for place, result in enumerate(results):
                if result["type"] not in BESIDE_REGIONS:
                    same = [other for other in results if "id" in result and other.get("id") == result["id"]]
                    read = partial(_box, images, result, same or [result], phrase)
                    yield f"{where}, {images[0]}, result {place}", read


def _whole(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """A task of JSON_MIN as JSON has it; controls of a region other than its own labels have lost it there."""
    result = []
    for control, values in task.items():
        for value in values if isinstance(values, list) else []:
            if isinstance(value, Mapping):
                shape = "rectangle" if {"width", "height"} <= value.keys() else "region"
                kind = next((name for name in value if name.endswith("labels")), shape)
                size = {name: value.get(name) for name in ("original_width", "original_height")}
                result.append({"type": kind, "from_name": control, "value": value} | size)
    return {"data": task, "annotations": [{"result": result}]}


def _names(data: Mapping[str, Any]) -> list[str]:
    """What the picture of a task may be called: as its address says, and without the 8 digits that uploading adds."""
    if not any(isinstance(value, str) for value in data.values()):
        raise ValueError("its data name no picture")
    texts = {key: re.sub(r"^.*\?d=|\?.*$", "", value) for key, value in data.items() if isinstance(value, str)}
    known = {key: key.lower() in ("image", "img", "picture", "photo") for key in texts}
    key = max(texts, key=lambda key: (known[key], texts[key].lower().endswith(ENDINGS)))
    name = unquote(texts[key] if "?d=" in data[key] else re.split(r"[/\\]", texts[key])[-1])
    return [name, re.sub(r"(^|/)[0-9a-f]{8}-(?=[^/]+$)", r"\1", name)]


def _box(images: list[str], result: Mapping[str, Any], same: list[Mapping[str, Any]], phrase: str | None) -> Drawn:
    """The box of a result, with the words of the controls that share its id."""
    value = result["value"]
    if not re.fullmatch("rectangle(labels)?", result["type"]) or value.get("rotation"):
        kind = f"turned {result['type']}" if value.get("rotation") else result["type"]
        raise ValueError(f"it is a {kind}, not an upright rectangle")
    fields, labels = {}, []
    for one in same:
        if words := next((one["value"][kind] for kind in WORDS if one["value"].get(kind)), None):
            fields[one.get("from_name", one["type"])] = words
            labels += words if one["type"].endswith("labels") else []
    size = result["original_width"], result["original_height"]
    box = box_from_size(value["x"], value["y"], value["width"], value["height"])
    return Drawn(images, chosen(fields, phrase, labels or None), scaled(box, (size[0] / 100, size[1] / 100)), size)
