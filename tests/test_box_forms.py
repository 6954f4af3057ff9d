"""Boxes in another form than a file is read in: refused for the whole file, and never where they are what they seem."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusal import refused

from amc_lib.datasets import refer, visual_genome
from amc_lib.datasets.box_forms import CORNERS, FORMS, SIDES, fitting, require_form
from amc_lib.datasets.image_files import ImageFile

WIDTH, HEIGHT = 300, 200
MIDDLE = next(form for form in FORMS if form not in (CORNERS, SIDES))


def boxes(form: str, seed: int = 0, count: int = 12) -> list[list[float]]:
    """Random boxes inside the picture, in a form."""
    ends = np.sort(np.random.default_rng(seed).uniform(size=(count, 2, 2)), axis=1) * (WIDTH, HEIGHT)
    (x1, y1), (x2, y2) = ends[:, 0].T, ends[:, 1].T
    sides = x2 - x1, y2 - y1
    of = {CORNERS: (x1, y1, x2, y2), SIDES: (x1, y1, *sides), MIDDLE: ((x1 + x2) / 2, (y1 + y2) / 2, *sides)}
    return np.stack(of[form], axis=1).tolist()


def required(numbers: list[list[float]], said: str) -> None:
    require_form(Counter(fitting(one, (WIDTH, HEIGHT)) for one in numbers), said)


@pytest.mark.parametrize("said", FORMS)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_told_from_the_others(form, said):
    told = 0
    for seed in range(100):
        try:
            required(boxes(form, seed), said)
        except ValueError as error:
            assert f"do not fit their pictures as {said}, which is read, and fit as " in str(error)
            told += 1
    assert told == 0 if form == said else told >= 95


def test_a_few_boxes_that_overrun_do_not_make_the_others_corners():
    required([], SIDES)
    required([[100, 50, 250, 190]], SIDES)  # one alone may be drawn without care
    required([*boxes(SIDES, count=30), [100, 50, 250, 190], [90, 50, 280, 190]], SIDES)
    small = [[n, n, 90 + n, 60] for n in range(19)]  # that fit as both
    required([*small, [100, 50, 250, 190]], SIDES)
    with refused(f"2 of 4 boxes do not fit their pictures as {SIDES}, which is read, and fit as {CORNERS}"):
        required([*small[:2], [100, 50, 250, 190], [90, 50, 280, 190]], SIDES)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (WIDTH, HEIGHT)).save(path)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    "stated", [{}, {"images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}]}]
)
def test_instances(tmp_path, stated):
    path = tmp_path / "refcoco+" / "instances.json"
    refs = [
        {"ref_id": n, "ann_id": n, "image_id": 1, "split": "testA", "file_name": "a.jpg"}
        | {"sentences": [{"sent_id": n, "sent": "a dog"}]}
        for n in range(12)
    ]
    picture(tmp_path / refer.IMAGE_FOLDERS["refcoco+"] / "a.jpg")
    for form in FORMS:
        write(path, stated | {"annotations": [{"id": n, "bbox": box} for n, box in enumerate(boxes(form))]})
        path.with_name("refs(unc).p").write_bytes(pickle.dumps(refs))
        if form == SIDES:
            found = [region.boxes[0] for region in refer.read(tmp_path, "refcoco+", "unc", "testA")]
            np.testing.assert_allclose(found, boxes(CORNERS))
        else:
            with refused(f"of 12 boxes do not fit their pictures as {SIDES}, which is read, and fit as {form}"):
                refer.read(tmp_path, "refcoco+", "unc", "testA")


def test_detections(tmp_path):
    picture(tmp_path / "a.jpg")
    pictures = {"1": ImageFile(tmp_path / "a.jpg"), "2": ImageFile(tmp_path / "none.jpg")}
    for form in FORMS:
        write(tmp_path / "dets.json", {"1": boxes(form), "3": [[1, 1, 5, 5]]})
        if form == SIDES:
            found = refer.read_detections(tmp_path / "dets.json", pictures)
            np.testing.assert_allclose(found["1"], boxes(CORNERS))
        else:
            with refused(f"of 12 boxes do not fit their pictures as {SIDES}, which is read, and fit as {form}"):
                refer.read_detections(tmp_path / "dets.json", pictures)


def test_visual_genome(tmp_path):
    picture(tmp_path / "VG_100K" / "1.jpg")
    write(tmp_path / "image_data.json", [{"image_id": 1, "width": WIDTH, "height": HEIGHT}])
    for form in FORMS:
        named = [dict(zip(("x", "y", "width", "height"), box, strict=True)) for box in boxes(form)]
        described = [{"region_id": n, "phrase": "a dog", **box} for n, box in enumerate(named)]
        things = [
            dict(zip("xywh", box, strict=True)) | {"names": ["dog"], "attributes": ["red"]} for box in boxes(form)
        ]
        records = [{"image": "VG_100K/1.jpg", "caption": "a dog", "bbox": [box]} for box in boxes(form)]
        write(tmp_path / "region_descriptions.json", [{"id": 1, "regions": described}])
        write(tmp_path / "attributes.json", [{"image_id": 1, "attributes": things}])
        write(tmp_path / "records.json", records)
        for source, said in (("regions", SIDES), ("attributes", SIDES), ("records", CORNERS)):
            if form == said:
                found = [box for region in read(tmp_path, source) for box in region.boxes]
                np.testing.assert_allclose(found, boxes(CORNERS))
            else:
                with refused(f"of 12 boxes do not fit their pictures as {said}, which is read, and fit as {form}"):
                    read(tmp_path, source)


def read(root: Path, source: str):
    if source == "records":
        return visual_genome.read_records(root / "records.json", root)
    return visual_genome.read(root, (source,))
