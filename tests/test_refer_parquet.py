"""Refer data sets as parquet files: the forms of their texts, boxes, splits and ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from refer_data import UNITS, parquet_row, write_parquet, written
from refusal import refused

from amc_lib.datasets import refer


@pytest.fixture
def root(tmp_path) -> Path:
    return written(tmp_path)


def test_parquet_files_give_the_same_regions(root):
    expected = refer.read(root, "refcoco+", "unc", "testA")
    write_parquet(root, [parquet_row()])
    write_parquet(root, [parquet_row(answer=["dog"])], "testAB-00000-of-00001.parquet")  # of another split
    regions = refer.read(root, "refcoco+", "unc", "testA")
    assert [(r.phrase, r.boxes, r.image_id, r.split) for r in regions] == [
        (r.phrase, r.boxes, r.image_id, r.split) for r in expected
    ]
    assert [r.id for r in regions] == ["7-0", "7-1"]
    assert regions[0].image.size() == (300, 451) and regions[0].image.open().size == (451, 300)


def test_parquet_rows_in_other_words_and_malformed_ones(root):
    plain = {"image": parquet_row()["image"]["bytes"], "sentences": [{"sent": "a dog"}, {"raw": "The dog!"}]}
    rows = [plain | {"bbox": bbox} for bbox in ([0, 0, 5, 5], [500, 0, 5, 5])] + [
        plain | {"image": b"", "bbox": [0, 0, 5, 5]}
    ]
    path = write_parquet(root, rows)
    regions = refer.read(root, "refcoco+", "unc", "testA")
    assert [r.phrase for r in regions] == ["a dog", "The dog!"] and len({r.image_id for r in regions}) == 1
    outside, unreadable = regions.skipped
    assert outside == f"{path}, row 1: the box (500, 0, 505, 5) lies outside the image of 451 x 300"
    assert unreadable.startswith(f"{path}, row 2: {path.name}, row 2: cannot be read as an image")
    write_parquet(root, [{"image": b"", "box": 1}])
    with refused(
        "sentence, captions, caption, expressions, expression, phrases, phrase, answer; its columns are image, box"
    ):
        refer.read(root, "refcoco+", "unc", "testA")
    path.write_bytes(b"PAR1")
    with refused(f"{path}: cannot be read as parquet: "):
        refer.read(root, "refcoco+", "unc", "testA")


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [
        ("answer", "a cat", ["a cat"]),
        ("Sentences", ["a cat", "dog"], ["a cat", "dog"]),
        ("sentence", [{"sent": "a cat"}, {"raw": "Dog!"}], ["a cat", "Dog!"]),
        ("CAPTION", '["a cat", {"sent": "dog"}]', ["a cat", "dog"]),
        ("expressions", {"sent": ["a cat", "dog"]}, ["a cat", "dog"]),
        ("phrases", "[left] cat", ["[left] cat"]),
        ("captions", None, "row 0, sentence 0: the phrase None is not text"),
        ("captions", ["cat", None], "row 0, sentence 1: the phrase None is not text"),
        ("captions", [], "row 0: has no sentence"),
        ("captions", "['a cat' 'dog']", "row 0: \"['a cat' 'dog']\" is not JSON: "),
    ],
)
def test_texts_of_a_parquet_row(root, column, value, found):
    row = {name.title(): value for name, value in parquet_row().items() if name != "answer"}
    path = write_parquet(root, [row | {column: value}])
    regions = refer.read(root, "refcoco+", "unc", "testA")
    if isinstance(found, list):
        assert [(r.phrase, r.image_id) for r in regions] == [(phrase, "42") for phrase in found] and not regions.skipped
    else:
        assert len(regions.skipped) == 1 and regions.skipped[0].startswith(f"{path}, {found}")


@pytest.mark.parametrize(
    ("bbox", "box"),
    [
        ({"x": 1.5, "y": 2, "w": 10, "h": 20}, (1.5, 2, 11.5, 22)),
        ({"width": 10, "height": 20, "X": 1.5, "Y": 2}, (1.5, 2, 11.5, 22)),
        ("[1.5, 2, 10, 20]", (1.5, 2, 11.5, 22)),
        ('{"x": 1.5, "y": 2, "width": 10, "height": 20}', (1.5, 2, 11.5, 22)),
        ({"x1": 1, "y1": 2, "x2": 10, "y2": 20}, None),
        ([1, 2, 3], None),
        ("1234", None),
        ("[1. 2. 3. 4.]", None),
        (None, None),
    ],
)
def test_boxes_of_a_parquet_row(root, bbox, box):
    path = write_parquet(root, [parquet_row(bbox=bbox)])
    regions = refer.read(root, "refcoco+", "unc", "testA")
    if box:
        assert [r.boxes for r in regions] == [(box,)] * 2 and not regions.skipped
    else:
        assert regions.skipped == [f"{path}, row 0: the bbox {bbox!r} is not x, y, width, height"]


def test_parquet_boxes_that_are_corners_are_refused(root):
    """Of 451 x 300 pixels; one box that overruns its picture does not make the others corners."""
    sizes, overrun, corners = [200, 9, 100, 50], [9, 200, 80, 210], [300, 50, 400, 299]
    path = write_parquet(root, [parquet_row(bbox=box) for box in (sizes, overrun)])
    assert len(refer.read(root, "refcoco+", "unc", "testA")) == 4
    write_parquet(root, [parquet_row(bbox=box) for box in (corners, overrun, [9, 9, 99, 99], None)])
    sentence = "2 of 3 boxes do not fit their pictures as x, y, width, height, which is read, and fit as x1, y1, x2, y2"
    with refused(f"{path}: {sentence}"):
        refer.read(root, "refcoco+", "unc", "testA")


@pytest.mark.parametrize(("unit", "look"), UNITS)
def test_parquet_boxes_that_are_no_pixels_are_refused(root, unit, look):
    """The picture is 451 x 300; boxes that all end far below 100 may be pixels."""
    boxes = [[9 * n * unit, 5 * n * unit, 19 * unit, 9 * unit] for n in range(10)]
    path = write_parquet(root, [parquet_row(bbox=box) for box in boxes])
    with refused(f"{path}: its boxes look like {look}, and only pixels are read"):
        refer.read(root, "refcoco+", "unc", "testA")
    write_parquet(root, [parquet_row(bbox=box) for box in [*boxes, [300, 50, 20, 20]]])
    assert len(refer.read(root, "refcoco+", "unc", "testA")) == 22
    if unit == 1:
        write_parquet(root, [parquet_row(bbox=box) for box in boxes[:8]])
        assert len(refer.read(root, "refcoco+", "unc", "testA")) == 16


def test_parquet_rows_that_stand_twice_count_once(root):
    rows = [parquet_row(), parquet_row(), parquet_row(bbox=[0, 0, 5, 5]), parquet_row(answer=["tall man"])]
    path = write_parquet(root, rows)
    copy = write_parquet(root, rows[:1], "copy/testA.parquet")
    regions = refer.read(root, "refcoco+", "unc", "testA")
    assert [r.phrase for r in regions] == ["man in red", "tall man"] * 2 + ["tall man"]
    assert regions.skipped == [f"{path}, row {n}: repeats {copy}, row 0" for n in (0, 1)]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("refcoco+.parquet", "split"),
        ("refcoco_plus.parquet", "Split"),
        ("train.parquet", "split"),  # the column says more than the name
        ("TESTA/0000.parquet", None),
        ("data/testA-00000-of-00001.parquet", None),
        ("refcoco_testa-0.parquet", None),
    ],
)
def test_parquet_split_is_found(root, name, column):
    rows = [parquet_row(answer=[split], **{column: split} if column else {}) for split in ("train", "testA", None)]
    path = write_parquet(root, rows if column else rows[1:2], name)
    write_parquet(root, [parquet_row(answer=["b"])], "testB-0.parquet").write_bytes(b"damaged")
    regions = refer.read(root, "refcoco+", "unc", "testA")
    assert [(r.phrase, r.split) for r in regions] == [("testA", "testA")]
    assert regions.skipped == ([f"{path}, row 2: says no split"] if column else [])


def test_parquet_split_that_is_not_there(root):
    path = write_parquet(root, [parquet_row()], "train.parquet")
    with refused("refcoco+: no parquet file has the split 'testA', in a column split or in its name") as raised:
        refer.read(root, "refcoco+", "unc", "testA")
    assert isinstance(raised.value.__cause__, FileNotFoundError)  # missing, not broken
    path = path.rename(path.with_name("refcoco+.parquet"))
    with refused(f"{path}: says its split neither in a column split nor in its name"):
        refer.read(root, "refcoco+", "unc", "testA")


def test_ids_of_parquet_regions_and_pictures(root):
    """Ids are those of the rows, each once; numbers of a column with gaps are floats."""
    row = {name: value for name, value in parquet_row().items() if name not in ("question_id", "file_name")}
    write_parquet(root, [row, row | {"ref_id": 5, "image_id": 42}, row | {"ref_id": 5}], "testA-0.parquet")
    write_parquet(root, [row | {"image_id": "COCO_train2014_000000000042"}], "testA/0.parquet")
    regions = refer.read(root, "refcoco+", "unc", "testA")[::2]
    assert [r.id for r in regions] == ["testA/0.parquet:0-0", "testA-0.parquet:0-0", "5-0", "testA-0.parquet:2-0"]
    hashed = regions[1].image_id
    assert len(hashed) == 16 and [r.image_id for r in regions] == ["42", hashed, "42", hashed]
