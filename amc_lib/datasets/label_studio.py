"""The rectangles of Label Studio's exports JSON, JSON_MIN and CSV: lists of tasks, upright boxes in percent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from amc_lib.datasets.annotation_files import Annotations, Drawn, chosen, each, refuse
from amc_lib.datasets.image_files import ENDINGS
from amc_lib.datasets.records import box_from_size, naming, scaled

OF_MIN = ("annotator", "annotation_id")  # what only JSON_MIN has
BESIDE_REGIONS = ("labels", "textarea", "choices", "taxonomy", "rating", "number", "datetime", "relation")
WORDS = ("text", "choices", "labels", "rectanglelabels")  # of a result


def tasks(path: Path, content: Iterable[Any], phrase: str | None) -> Annotations:
    """Of an export, as JSON or as JSON_MIN. ValueError for a list of another tool."""
    for number, task in enumerate(content):
        where = f"{path}, task {number}"
        task = _whole(task) if isinstance(task, Mapping) and {*OF_MIN} & task.keys() else task
        if not (isinstance(task, Mapping) and "data" in task and {"annotations", "predictions"} & task.keys()):
            known = "Label Studio's tasks have data and annotations"
            raise ValueError(f"{where}: is of no known annotation tool ({known})")
        with naming(where):
            images = _names(task["data"])
            every = [(one["result"], one.get("was_cancelled")) for one in task.get("annotations") or []]
            guesses = len(task.get("predictions") or [])
        if guesses and not every:
            yield f"{where}, {images[0]}", partial(refuse, f"it has predictions ({guesses}) and no annotation")
        for results, cancelled in every:
            yield from _regions(f"{where}, {images[0]}", images, results, cancelled, phrase)


def _regions(where: str, images: list[str], results: Any, cancelled: bool, phrase: str | None) -> Annotations:
    """Of one annotation of a task."""
    if cancelled and isinstance(results, list):
        yield where, partial(refuse, f"it was cancelled, with {len(results)} results")
        return
    annotations = each(where, "result", results, partial(_box, images, results, phrase))
    yield from (one for number, one in enumerate(annotations) if not _beside(results, number))


def _beside(results: Any, number: int) -> bool:
    """Whether a result is no region, but a control of the whole picture or of a region."""
    result = results[number] if isinstance(results, list) else None
    return isinstance(result, Mapping) and result.get("type") in BESIDE_REGIONS


def _whole(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """A task of JSON_MIN as JSON has it."""
    values = [(control, value) for control, several in task.items() if isinstance(several, list) for value in several]
    regions = [_result(control, value) for control, value in values if isinstance(value, Mapping)]
    return {"data": task, "annotations": [{"result": regions}]}


def _result(control: str, value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A region of JSON_MIN as JSON has it; controls other than its own labels have lost it there."""
    shape = "rectangle" if {"width", "height"} <= value.keys() else "region"
    kind = next((name for name in value if name.endswith("labels")), shape)
    size = {name: value.get(name) for name in ("original_width", "original_height")}
    return {"type": kind, "from_name": control, "value": value} | size


def _names(data: Mapping[str, Any]) -> list[str]:
    """What the picture of a task may be called: as its address says, and without the 8 digits that uploading adds."""
    if not any(isinstance(value, str) for value in data.values()):
        raise ValueError("its data name no picture")
    texts = {key: re.sub(r"^.*\?d=|\?.*$", "", value) for key, value in data.items() if isinstance(value, str)}
    known = {key: key.lower() in ("image", "img", "picture", "photo") for key in texts}
    key = max(texts, key=lambda key: (known[key], texts[key].lower().endswith(ENDINGS)))
    name = unquote(texts[key] if "?d=" in data[key] else re.split(r"[/\\]", texts[key])[-1])
    return [name, re.sub(r"(^|/)[0-9a-f]{8}-(?=[^/]+$)", r"\1", name)]


def _box(images: list[str], results: list[Any], phrase: str | None, result: Mapping[str, Any]) -> Drawn:
    """The box of a result, with the words of the controls that share its id."""
    kind, value = result["type"], result["value"]
    if not re.fullmatch("rectangle(labels)?", kind) or value.get("rotation"):
        raise ValueError(f"it is a {'turned ' if value.get('rotation') else ''}{kind}, not an upright rectangle")
    same = (
        [one for one in results if isinstance(one, Mapping) and one.get("id") == result["id"]] if "id" in result else []
    )
    fields, labels = {}, []
    for one in same or [result]:
        if words := next((one["value"][kind] for kind in WORDS if one["value"].get(kind)), None):
            fields[one.get("from_name", one["type"])] = words
            labels += words if one["type"].endswith("labels") else []
    size = result["original_width"], result["original_height"]
    box = scaled(box_from_size(value["x"], value["y"], value["width"], value["height"]), (size[0] / 100, size[1] / 100))
    renamed = len({*images}) > 1
    return Drawn(images, chosen(fields, phrase, labels or None), box, size, unit="pixel", renamed=renamed)
