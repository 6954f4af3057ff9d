"""Label Studio's regions, the controls that say what they are, and the pictures that were uploaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotation_samples import two_pictures, write
from refusal import refused

from amc_lib.datasets.annotations import convert


@pytest.fixture
def folder(tmp_path) -> Path:
    return two_pictures(tmp_path)


def studio(folder: Path, results: list[dict], data: dict, **more: object) -> Path:
    rectangle = {"id": "r", "original_width": 40, "original_height": 30, "value": {}}
    results = [rectangle | result for result in results]
    return write(folder / "studio.json", [{"data": data, "annotations": [{"result": results, **more}]}])


RECTANGLE = {"type": "rectangle", "value": {"x": 10, "y": 10, "width": 40, "height": 50}}
LABEL = {"type": "labels", "from_name": "kind", "value": {"labels": ["cat"]}}
TEXTS = [
    {"type": "textarea", "from_name": name, "value": {"text": [text]}} for name, text in zip("ab", "AB", strict=True)
]


@pytest.mark.parametrize(
    ("results", "phrase", "words"),
    [
        ([RECTANGLE, LABEL, *TEXTS], "b", ["B"]),
        ([RECTANGLE, LABEL, *TEXTS], None, ["cat"]),
        ([RECTANGLE, TEXTS[0]], None, ["A"]),
        ([RECTANGLE, {"type": "choices", "value": {"choices": ["big", "red"]}}], None, ["big", "red"]),
        ([RECTANGLE, LABEL, {"type": "relation", "id": None}, {"type": "choices", "id": "x"}], None, ["cat"]),
    ],
)
def test_label_studio_regions_are_joined_with_their_controls(folder, results, phrase, words):
    table, skipped, _ = convert(studio(folder, results, {"image": "a.png"}), folder, phrase)
    assert [*table["phrase"]] == words and not skipped and [*table.iloc[0, 2:]] == [4, 3, 20, 18]
    with refused("its phrase may be any of a, b: --phrase says which"):
        convert(studio(folder, [RECTANGLE, *TEXTS], {"image": "a.png"}), folder)
    with refused("task 0, a.png: it was cancelled, with 2 results"):
        convert(studio(folder, [RECTANGLE, LABEL], {"image": "a.png"}, was_cancelled=True), folder)


@pytest.mark.parametrize(
    "data",
    [
        {"caption": "two cats", "image": "https://x.org/d/a.png?token=b.png"},
        {"caption": "two cats", "url": "/data/upload/3/0a1b2c3d-a.png"},
        {"thumbnail": "b.png", "img": "/data/local-files/?d=data/a.png"},
    ],
)
def test_label_studio_pictures_are_found_by_their_address(folder, data):
    assert [*convert(studio(folder, [RECTANGLE, LABEL], data), folder)[0]["image"]] == ["a.png"]
