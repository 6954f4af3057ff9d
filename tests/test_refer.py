"""Refer data sets in their own format: sentences and boxes, and a pickle that is read without being executed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from PIL import Image
from refer_data import FIRST, INSTANCES, NAME, REFS, SENTENCES, UNITS, parquet_row, write_parquet, write_refs, written
from refusal import refused

from amc_lib.datasets import refer
from amc_lib.datasets.records import Regions


@pytest.fixture
def root(tmp_path) -> Path:
    return written(tmp_path)


class Executed:
    """Unpickled in the usual way, it would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_every_sentence_is_a_region(root):
    regions = refer.read(root, "refcoco+", "unc", "testA")
    assert [(r.id, r.phrase, r.boxes) for r in regions] == [
        ("5-1", "man in red", ((1.5, 2.0, 11.5, 22.0),)),
        ("5-2", "tall man", ((1.5, 2.0, 11.5, 22.0),)),
    ]
    assert {(r.split, r.image_id) for r in regions} == {("testA", "42")}
    assert [r.phrase for r in refer.read(root, "refcoco+", "unc", "train")] == ["dog"]


def test_picture_and_its_size_are_those_of_the_images_list(root):
    """What refs call their file is not a picture's name; SAIAPR TC-12 lies in numbered folders."""
    folder = root / "refclef"
    (root / "refcoco+").rename(folder)
    refs = [REFS[0] | {"file_name": "8756_2.jpg", "split": "test"}]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    image = {"id": 42, "file_name": "8756.jpg", "width": 60, "height": 50}
    (folder / "instances.json").write_text(json.dumps(INSTANCES | {"images": [image]}), encoding="utf-8")
    for inside in ("images", "segmented_images"):
        (root / "images" / "saiapr_tc-12" / "08" / inside).mkdir(parents=True)
        Image.new("RGB", (60, 50)).save(root / "images" / "saiapr_tc-12" / "08" / inside / "8756.jpg")
    regions = refer.read(root, "refclef", "unc", "test")
    assert regions[0].image.path == root / "images" / "saiapr_tc-12" / "08" / "images" / "8756.jpg"
    image["width"] = 1
    (folder / "instances.json").write_text(json.dumps(INSTANCES | {"images": [image]}), encoding="utf-8")
    (sentence,) = refer.read(root, "refclef", "unc", "test").skipped
    assert "ref 0: the box (1.5, 2, 11.5, 22) lies outside the image of 1 x 50" in sentence


def test_refs_of_two_splits_count_for_both(root):
    """RefCLEF's UNC file: testAB belongs to A and B, testBC to B and C, and there is no test."""
    refs = [
        FIRST | {"ref_id": n, "split": split, "sentences": SENTENCES[:1]}
        for n, split in enumerate(("testA", "testAB", "testBC", "testC", "train"))
    ]
    write_refs(root, refs)
    for split, expected in {"testA": "01", "testB": "12", "testC": "23", "train": "4"}.items():
        regions = refer.read(root, "refcoco+", "unc", split)
        assert [region.id for region in regions] == [f"{number}-1" for number in expected]
        assert {region.split for region in regions} == {split}
    with refused("no split 'test'; it has testA, testB, testC, train"):
        refer.read(root, "refcoco+", "unc", "test")


@pytest.mark.parametrize(("unit", "look"), UNITS)
def test_boxes_of_instances_that_are_no_pixels_are_refused(root, unit, look):
    Image.new("L", (300, 200)).save(root / refer.IMAGE_FOLDERS["refcoco+"] / f"{NAME}.jpg")
    annotations = [{"id": n, "bbox": [n * unit, 0, 30 * unit, 95 * unit]} for n in range(10)]
    path = root / "refcoco+" / "instances.json"
    path.write_text(json.dumps({"annotations": annotations}), encoding="utf-8")
    write_refs(root, [FIRST | {"ref_id": n, "ann_id": n, "sentences": SENTENCES} for n in range(10)])
    with refused(f"{path}: its boxes look like {look}, and only pixels are read"):
        refer.read(root, "refcoco+", "unc", "testA")
    annotations[0]["bbox"] = [200, 100, 90, 90]
    path.write_text(json.dumps({"annotations": annotations}), encoding="utf-8")
    assert len(refer.read(root, "refcoco+", "unc", "testA")) == 20


def test_splits_are_the_same_in_any_capitals_and_unknown_ones_are_named(root):
    path = root / "refcoco+" / "refs(unc).p"
    names = ("testA", "testa", "TESTA", "tetsA", "Train", "validation")
    write_refs(root, [FIRST | {"ref_id": n, "split": name, "sentences": SENTENCES} for n, name in enumerate(names)])
    unknown = f"{path}, ref 3: its split 'tetsA' is none of train, val, test, testA, testB, testC, testAB, testBC"
    for split, expected in (("testA", "012"), ("testa", "012"), ("train", "4"), ("val", "5")):
        regions = refer.read(root, "refcoco+", "unc", split)
        assert [r.id for r in regions] == [f"{n}-{sentence}" for n in expected for sentence in (1, 2)]
        assert {r.split for r in regions} == {split} and regions.skipped == [unknown]
    assert refer.held_out(root, "refcoco+", "unc", faults := Regions()) == {42} and not faults.skipped
    path = write_parquet(root, [parquet_row(split=name, answer=[f"{n}"]) for n, name in enumerate(names)], "a.parquet")
    regions = refer.read(root, "refcoco+", "unc", "testA")
    assert [r.phrase for r in regions] == ["0", "1", "2"]
    assert regions.skipped == [unknown.replace("refs(unc).p, ref", f"{path.name}, row")]


def test_ids_are_the_same_as_text_and_as_numbers(root):
    expected = refer.read(root, "refcoco+", "unc", "testA")
    images = [{"id": "42", "file_name": f"{NAME}.jpg", "width": 60, "height": 50}]
    annotations = [{"id": "11", "bbox": [1.5, 2, 10, 20], "image_id": 42.0}]
    instances = {"images": images, "annotations": annotations}
    (root / "refcoco+" / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    for ref in ({}, {"ann_id": "11"}, {"image_id": "42"}, {"image_id": 42.0}):
        write_refs(root, [REFS[0] | ref])
        regions = refer.read(root, "refcoco+", "unc", "testA")
        assert [r for r in regions] == [r for r in expected] and not regions.skipped


@pytest.mark.parametrize("name", ["annotations", "images"])
def test_an_id_that_stands_for_two_things_in_instances_is_refused(root, name):
    path = root / "refcoco+" / "instances.json"
    images = [{"id": 42, "file_name": f"{NAME}.jpg", "width": 60, "height": 50}]
    instances = INSTANCES | {"images": images}
    for change in ({}, {"bbox": [0, 0, 9, 9], "width": 50}):
        again = [instances[name][0] | change]
        path.write_text(json.dumps(instances | {name: [*instances[name], *again]}), encoding="utf-8")
        if change:
            with refused(f"{path}: {name}: the id {again[0]['id']} stands twice, with different contents"):
                refer.read(root, "refcoco+", "unc", "testA")
        else:
            assert [r.boxes for r in refer.read(root, "refcoco+", "unc", "testA")] == [((1.5, 2.0, 11.5, 22.0),)] * 2


def test_ids_and_splits_that_are_not_there_or_there_twice_are_named(root):
    path, unsaid = root / "refcoco+" / "refs(unc).p", {name: REFS[1][name] for name in REFS[1] if name != "split"}
    write_refs(root, [REFS[0], unsaid, REFS[0]])
    regions = refer.read(root, "refcoco+", "unc", "testA")
    assert [r.id for r in regions] == ["5-1", "5-2"] and regions.skipped == [
        f"{path}, ref 1: has no split",
        f"{path}, ref 2, sentence 0: its id 5-1 is that of another sentence",
        f"{path}, ref 2, sentence 1: its id 5-2 is that of another sentence",
    ]
    write_refs(root, [unsaid])
    with refused(f"{path}: no split 'testA'; it has none; 1 refs say none that is known (ref 0: has no split)"):
        refer.read(root, "refcoco+", "unc", "testA")


def test_pickle_is_not_executed(root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_refs(root, [REFS[0] | {"raw": Executed()}])
    with refused("it names posix.mkdir; only plain data are read"):
        refer.read(root, "refcoco+", "unc", "testA")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("data", [b"", b"<html>", pickle.dumps(REFS)[:-20], pickle.dumps({"refs": 1})])
def test_damaged_pickle_is_named(root, data):
    (root / "refcoco+" / "refs(unc).p").write_bytes(data)
    with refused("refs(unc).p: "):
        refer.read(root, "refcoco+", "unc", "testA")


@pytest.mark.parametrize(
    ("ref", "annotation", "message"),
    [
        ({"ann_id": 99}, {}, "refs(unc).p, ref 0: instances.json has no annotation 99"),
        ({"sentences": []}, {}, "refs(unc).p, ref 0: has no list of sentences"),
        ({"sentences": "dog"}, {}, "refs(unc).p, ref 0: has no list of sentences"),
        ({"split": ["testA", "testB"]}, {}, "refs(unc).p, ref 0: its split ['testA', 'testB'] is not text"),
        ({"split": None}, {}, "refs(unc).p, ref 0: its split None is not text"),
        ({"sentences": [{"sent_id": 1}]}, {}, "refs(unc).p, ref 0, sentence 0: has no sent"),
        ({"sentences": [{"sent_id": 1, "sent": " "}]}, {}, "ref 0, sentence 0: the phrase ' ' has no words"),
        ({"file_name": "COCO_train2014_43_0.jpg"}, {}, "ref 0: the image 'COCO_train2014_43.jpg' is not in"),
        ({}, {"bbox": [1, 2]}, "ref 0: the bbox [1, 2] is not x, y, width, height"),
        ({}, {"bbox": None}, "ref 0: the bbox None is not x, y, width, height"),
        ({}, {"bbox": [1, 2, 0, 5]}, "ref 0: the box (1, 2, 1, 7) has no area"),
        ({}, {"image_id": 7}, "ref 0: its annotation 11 belongs to image 7"),
    ],
)
def test_malformed_record_is_left_out_and_named(root, ref, annotation, message):
    first, second = INSTANCES["annotations"]
    instances = {"annotations": [first | annotation, second]}
    (root / "refcoco+" / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    write_refs(root, [REFS[0] | ref, REFS[1] | {"split": "testA"}])
    regions = refer.read(root, "refcoco+", "unc", "testA")
    assert [r.id for r in regions] == ["6-3"]
    (sentence,) = regions.skipped
    assert message in sentence


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"annotations": [{"id": 1', "is not JSON, or not all of it"),
        (b"[]", "holds a list, not an object"),
        (b"\xff{}", "cannot be read as UTF-8 text"),
    ],
)
def test_damaged_file_is_an_error(root, data, message):
    (root / "refcoco+" / "instances.json").write_bytes(data)
    with refused(f"instances.json: {message}"):
        refer.read(root, "refcoco+", "unc", "testA")


RECORDS = [{"image_id": i, "box": box} for i, box in ((42, [1, 2, 3, 4]), (7, [1, 1, 1, 1]), (42, [0, 0, 5, 5.5]))]
BOXES = {"42": ((1.0, 2.0, 4.0, 6.0), (0.0, 0.0, 5.0, 5.5)), "7": ((1.0, 1.0, 2.0, 2.0),)}


@pytest.mark.parametrize(
    "detections",
    [
        {"42": [[1, 2, 3, 4], [0, 0, 5, 5.5]], "7": [[1, 1, 1, 1]]},
        RECORDS,
        {"dets": RECORDS},
    ],
)
def test_detections_of_each_shape(tmp_path, detections):
    (tmp_path / "dets.json").write_text(json.dumps(detections), encoding="utf-8")
    assert refer.read_detections(tmp_path / "dets.json") == BOXES


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        (3, "dets.json: holds a number, not a list or an object"),
        (
            [{"box": [1, 2, 3, 4]}],
            "detection 0: {'box': [1, 2, 3, 4]} is not an image_id and a box [x, y, width, height]",
        ),
        ([{"box": [1, 2, 3, 4], "image_id": None}], "detection 0: {'box': [1, 2, 3, 4], 'image_id': None} is not an "),
        ({"42": [[1, 2, 3, 4], [1, 2, 3]]}, "dets.json, detection 1: {'image_id': '42', 'box': [1, 2, 3]} is not an "),
        (
            {"annotations": [{"image_id": 42, "bbox": [1, 2, 3, 4]}]},
            "dets.json, detection 0: {'image_id': 'annotations'",
        ),
        ({"42": [[0.1, 0.2, 0.3, 0.4]]}, "dets.json: its boxes look like shares of the sides (0 to 1)"),
        ({"dets": []}, "dets.json: holds no detection"),
        ({"42": [[1, 2, 0, 4]]}, "dets.json, detection 0: the box (1, 2, 1, 6) has no area"),
    ],
)
def test_malformed_detections_are_named(tmp_path, detections, message):
    (tmp_path / "dets.json").write_text(json.dumps(detections), encoding="utf-8")
    with refused(message):
        refer.read_detections(tmp_path / "dets.json")


@pytest.mark.parametrize(
    ("stored", "box"),
    [((50, 60), (1, 2, 11, 12)), ((25, 30), (0.5, 1, 5.5, 6)), ((50, 62), None), ((120, 100), None)],
)
def test_boxes_are_brought_to_the_size_of_the_picture(root, stored, box):
    """instances.json states 50 x 60 pixels; a picture of another shape is left out and named."""
    images = [{"id": 42, "file_name": f"{NAME}.jpg", "width": 50, "height": 60}]
    annotations = [{"id": 11, "bbox": [1, 2, 10, 10], "image_id": 42}, INSTANCES["annotations"][1]]
    content = json.dumps({"images": images, "annotations": annotations})
    (root / "refcoco+" / "instances.json").write_text(content, encoding="utf-8")
    Image.new("L", stored).save(root / refer.IMAGE_FOLDERS["refcoco+"] / f"{NAME}.jpg")
    regions = refer.read(root, "refcoco+", "unc", "testA")
    if box is None:
        assert not regions and "ref 0: the image has another shape than its annotation" in regions.skipped[0]
        turned = "it has 120 x 100, perhaps stored turned (EXIF orientation): then save it upright"
        assert regions.skipped[0].endswith("it has 50 x 62" if stored == (50, 62) else turned)
    else:
        assert [r.boxes for r in regions] == [(box,)] * 2 and not regions.skipped


@pytest.mark.parametrize(
    ("data", "content"),
    [(b"<html>", "is a web page"), (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer")],
)
def test_file_that_is_no_pickle_or_json_is_named_for_what_it_is(root, data, content):
    for name in ("instances.json", "refs(unc).p"):
        (root / "refcoco+" / name).write_bytes(data)
        with refused(f"{name}: {content}"):
            refer.read(root, "refcoco+", "unc", "testA")


def test_what_is_missing_is_named(root):
    with refused("unknown refer data set 'refcoco++'; known: refcoco, refcoco+, refcocog, refclef"):
        refer.read(root, "refcoco++", "unc", "testA")
    with refused("no split 'testB'; it has testA, train"):
        refer.read(root, "refcoco+", "unc", "testB")
    with refused("refs(google).p: no such file"):
        refer.read(root, "refcoco+", "google", "testA")
    (root / "refcoco+" / "instances.json").unlink()
    with refused("instances.json: no such file"):
        refer.read(root, "refcoco+", "unc", "testA")
