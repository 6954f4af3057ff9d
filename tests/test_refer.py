"""Refer data sets in their own format: sentences and boxes, and a pickle that is read without being executed."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import pytest
from PIL import Image

from amc_lib.datasets import refer

NAME = "COCO_train2014_000000000042"
REFS = [
    {
        "ref_id": 5,
        "ann_id": 11,
        "image_id": 42,
        "split": "testA",
        "file_name": f"{NAME}_0.jpg",
        "sentences": [
            {"sent_id": 1, "sent": "man in red", "raw": "Man in red!", "tokens": ["man", "in", "red"]},
            {"sent_id": 2, "sent": "tall man", "raw": "tall man", "tokens": ["tall", "man"]},
        ],
    },
    {
        "ref_id": 6,
        "ann_id": 12,
        "image_id": 42,
        "split": "train",
        "file_name": f"{NAME}_1.jpg",
        "sentences": [{"sent_id": 3, "sent": "dog", "raw": "dog", "tokens": ["dog"]}],
    },
]
INSTANCES = {"annotations": [{"id": 11, "bbox": [1.5, 2, 10, 20]}, {"id": 12, "bbox": [0, 0, 5, 5]}]}


class Executed:
    """Unpickled in the usual way, it would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "refcoco+"
    folder.mkdir()
    (folder / "refs(unc).p").write_bytes(pickle.dumps(REFS, protocol=2))
    (folder / "instances.json").write_text(json.dumps(INSTANCES), encoding="utf-8")
    images = tmp_path / refer.IMAGE_FOLDERS["refcoco+"]
    images.mkdir(parents=True)
    Image.new("L", (60, 50)).save(images / f"{NAME}.jpg")
    return tmp_path


def refused(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


def write_refs(root: Path, refs: object) -> None:
    (root / "refcoco+" / "refs(unc).p").write_bytes(pickle.dumps(refs))


def test_every_sentence_is_a_region(root):
    regions = refer.read(root, "refcoco+", "unc", "testA")
    assert [(r.id, r.phrase, r.boxes) for r in regions] == [
        ("5-1", "man in red", ((1.5, 2.0, 11.5, 22.0),)),
        ("5-2", "tall man", ((1.5, 2.0, 11.5, 22.0),)),
    ]
    assert {(r.split, r.image_id) for r in regions} == {("testA", "42")}
    picture = regions[0].image.open()
    assert (picture.mode, picture.size) == ("RGB", (60, 50))
    assert [r.phrase for r in refer.read(root, "refcoco+", "unc", "train")] == ["dog"]


def test_names_of_other_pictures_stay():
    assert refer._image_name("8756_2.jpg") == "8756_2.jpg"


def test_pickle_is_not_executed(root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_refs(root, [REFS[0] | {"raw": Executed()}])
    with refused("refused, because it names posix.mkdir; only plain containers are read"):
        refer.read(root, "refcoco+", "unc", "testA")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps(REFS)[:-20], pickle.dumps({"refs": 1})])
def test_damaged_pickle_is_named(root, data):
    (root / "refcoco+" / "refs(unc).p").write_bytes(data)
    with refused("refs(unc).p: "):
        refer.read(root, "refcoco+", "unc", "testA")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ann_id": 99}, "refs(unc).p, ref 0: instances.json has no annotation 99"),
        ({"sentences": [{"sent_id": 1}]}, "refs(unc).p, ref 0, sentence 0: has no sent"),
        ({"sentences": [{"sent_id": 1, "sent": " "}]}, "refs(unc).p, ref 0, sentence 0: the phrase ' ' has no words"),
        ({"split": "testB"}, "no split 'testA'; it has testB, train"),
    ],
)
def test_malformed_ref_is_named(root, change, message):
    write_refs(root, [REFS[0] | change, REFS[1]])
    with refused(message):
        refer.read(root, "refcoco+", "unc", "testA")


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ({"images": []}, "instances.json: is no COCO annotation file"),
        ({"annotations": [{"id": 11}]}, "instances.json, annotation 0: has no bbox"),
        ({"annotations": [{"id": 11, "bbox": [1, 2]}]}, "annotation 0: bbox needs the numbers x, y, width and height"),
        ({"annotations": [{"id": 11, "bbox": [1, 2, 0, 5]}]}, "json, annotation 0: box (1, 2, 1, 7) has no area"),
    ],
)
def test_malformed_annotation_is_named(root, instances, message):
    (root / "refcoco+" / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    with refused(message):
        refer.read(root, "refcoco+", "unc", "testA")


def test_what_is_missing_is_named(root):
    with refused("unknown refer data set 'refcoco++'; known: refcoco, refcoco+, refcocog, refclef"):
        refer.read(root, "refcoco++", "unc", "testA")
    with refused("refs(google).p: no such file"):
        refer.read(root, "refcoco+", "google", "testA")
    (root / "refcoco+" / "instances.json").unlink()
    with refused("instances.json: no such file"):
        refer.read(root, "refcoco+", "unc", "testA")
