"""Visual Genome in its own format: sources, merged phrases, clipped boxes, held-out images, and what is malformed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pandas as pd
import pytest
from paper_data import coco_id, flickr_id, write_paper_data
from PIL import Image
from refusal import refused

from amc_lib.datasets import visual_genome

PLACE = {"x": 10, "y": 5, "w": 20, "h": 10}
DESCRIBED = [
    {"region_id": 71, "image_id": 1, "x": 1, "y": 2, "width": 9, "height": 8, "phrase": "A black cat."},
    {"region_id": 72, "image_id": 1, "x": -4, "y": 30, "width": 60, "height": 20, "phrase": "the floor"},
    {"region_id": 73, "image_id": 2, "x": 0, "y": 0, "width": 5, "height": 5, "phrase": "x"},
]
ATTRIBUTED = [
    {"object_id": 81, "names": ["cat"], "attributes": ["black", "furry"], **PLACE},
    {"object_id": 82, "names": ["Cat"], "attributes": ["Black"], **PLACE | {"x": 30}},
    {"object_id": 83, "names": ["cat"], "attributes": ["black"], **PLACE},
    {"object_id": 84, "names": ["floor"], **PLACE},
]
FILES = {
    "image_data": [
        {"image_id": 1, "width": 50, "height": 40, "coco_id": None, "flickr_id": None, "url": "x/VG_100K_2/1.jpg"},
        {"image_id": 2, "width": 50, "height": 40, "coco_id": 98304, "flickr_id": 555, "url": "x/VG_100K/2.jpg"},
    ],
    "region_descriptions": [{"id": 1, "regions": DESCRIBED[:2]}, {"id": 2, "regions": DESCRIBED[2:]}],
    "attributes": [{"image_id": 1, "attributes": ATTRIBUTED}, {"image_id": 2, "attributes": []}],
}
MISSING = (("refcoco", "unc"), ("refcocog", "umd"))  # sets that the mini copy does not have
FIRST, SECOND = (10.0, 5.0, 30.0, 15.0), (30.0, 5.0, 50.0, 15.0)


@pytest.fixture
def root(tmp_path) -> Path:
    for name, records in FILES.items():
        write(tmp_path, name, records)
    for name in ("VG_100K/1.jpg", "VG_100K_2/2.jpg"):  # not where the urls say
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (50, 40)).save(tmp_path / name)
    return tmp_path


def write(root: Path, name: str, records: object) -> None:
    (root / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")


def changed(records: list, change: dict) -> list:
    """The records of a file, the first thing of the first image changed."""
    (name,) = (key for key, value in records[0].items() if isinstance(value, list))
    return [records[0] | {name: [records[0][name][0] | change, *records[0][name][1:]]}, *records[1:]]


def test_descriptions_are_regions_clipped_to_the_picture(root):
    regions = visual_genome.read(root, sources=("regions",))
    assert [(r.id, r.phrase, r.boxes) for r in regions] == [
        ("regions:1:71-0", "A black cat.", ((1.0, 2.0, 10.0, 10.0),)),
        ("regions:1:72-0", "the floor", ((0.0, 30.0, 50.0, 40.0),)),
        ("regions:2:73-0", "x", ((0.0, 0.0, 5.0, 5.0),)),
    ]
    assert {r.split for r in regions} == {"train"}
    assert (regions.skipped, regions.held_out) == ([], 0)


def test_boxes_are_brought_to_the_size_of_the_picture(root):
    expected = visual_genome.read(root)
    Image.new("RGB", (100, 80)).save(root / "VG_100K" / "1.jpg")
    Image.new("RGB", (50, 42)).save(root / "VG_100K_2" / "2.jpg")  # of another shape than image_data.json states
    regions = visual_genome.read(root)
    doubled = [tuple(tuple(2 * edge for edge in box) for box in r.boxes) for r in expected if r.image_id == "1"]
    assert [r.boxes for r in regions] == doubled
    assert any("image 1: the image has another shape than its annotation" in one for one in regions.skipped)


def test_equal_phrases_of_an_image_are_one_region(root):
    regions = visual_genome.read(root, sources=("attributes",))
    assert [(r.id, r.phrase, r.boxes, r.kind) for r in regions] == [
        ("attributes:1:0-0", "black cat", (FIRST, SECOND), "group"),
        ("attributes:1:1-0", "furry cat", (FIRST,), "object"),
    ]
    both = visual_genome.read(root)
    assert len({r.id.rpartition("-")[0] for r in both}) == len(both) == 5  # rows of their own


def test_one_name_or_attribute_need_not_be_a_list(root):
    write(root, "attributes", [{"id": 1, "attributes": [ATTRIBUTED[0] | {"names": "cat", "attributes": "black"}]}])
    assert [r.phrase for r in visual_genome.read(root, sources=("attributes",))] == ["black cat"]


def test_an_image_or_region_that_stands_twice_counts_once(root):
    whole = [r.id for r in visual_genome.read(root)]
    again, other = DESCRIBED[0], DESCRIBED[0] | {"phrase": "a dog"}
    described = [{"id": 1, "regions": [*DESCRIBED[:2], again, other]}, FILES["region_descriptions"][1]]
    write(root, "region_descriptions", [*described, {"id": "1", "regions": []}, described[1]])
    write(root, "attributes", FILES["attributes"] * 2)
    write(root, "image_data", [*FILES["image_data"], FILES["image_data"][0]])
    regions = visual_genome.read(root)
    assert [r.id for r in regions] == whole
    descriptions, attributes = root / "region_descriptions.json", root / "attributes.json"
    assert regions.skipped == [
        f"{root / 'image_data.json'}, image 2: repeats image 1",
        f"{descriptions}, image 0, region 2: repeats region 71",
        f"{descriptions}, image 0, region 3: repeats region 71, with other contents",
        f"{descriptions}, image 2: repeats image 1, with other contents",
        f"{descriptions}, image 3: repeats image 2",
        f"{attributes}, image 2: repeats image 1",
        f"{attributes}, image 3: repeats image 2",
    ]
    write(root, "image_data", [*FILES["image_data"], FILES["image_data"][0] | {"width": 100}])
    with refused(f"{root / 'image_data.json'}: the id 1 stands twice, with different contents"):
        visual_genome.read(root)


SHARES, PERCENT = "shares of the sides (0 to 1)", "percent of the sides (0 to 100)"


@pytest.mark.parametrize(("unit", "look"), [(1 / 300, SHARES), (100 / 300, PERCENT), (1, None)])
def test_boxes_that_are_no_pixels_are_refused_for_the_whole_file(root, unit, look):
    """Twenty boxes in a picture of 300 x 300, of which one overruns it."""
    Image.new("RGB", (300, 300)).save(root / "VG_100K" / "1.jpg")
    write(root, "image_data", [{"image_id": 1, "width": 300, "height": 300}])
    corners = [(14 * n * unit, n * unit, (14 * n + 30) * unit, (n + 30) * unit) for n in range(19)]
    corners.append((0, 0, 9 * unit, 700 * unit))
    records = [{"image": "VG_100K/1.jpg", "caption": f"cat {n}", "bbox": [box]} for n, box in enumerate(corners)]
    sides = ({"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1} for x1, y1, x2, y2 in corners)
    described = [{"region_id": n, "phrase": f"cat {n}", **place} for n, place in enumerate(sides)]
    write(root, "region_descriptions", [{"id": 1, "regions": described}])
    write(root, "records", records)
    for name, read in (
        ("region_descriptions.json", lambda: visual_genome.read(root, ("regions",))),
        ("records.json", lambda: visual_genome.read_records(root / "records.json", root)),
    ):
        if look:
            with refused(f"{root / name}: its boxes look like {look}, and only pixels are read"):
                read()
        else:
            assert len(read()) == 20 and not read().skipped


def test_outer_names_of_the_versions_differ(root):
    """Version 1.0 calls every image `id`; newer region files may name the image outside only."""
    write(root, "attributes", [{"id": 1, "attributes": ATTRIBUTED}])
    region = {key: value for key, value in DESCRIBED[0].items() if key != "image_id"}
    write(root, "region_descriptions", [{"image_id": 1, "regions": [region]}])
    assert [r.id for r in visual_genome.read(root)][:2] == ["regions:1:71-0", "attributes:1:0-0"]


def test_images_held_out_are_left_out_and_counted(root):
    regions = visual_genome.read(root, held_out={"2", "99"})
    assert {r.image_id for r in regions} == {"1"} and regions.held_out == 1


def test_pictures_of_evaluation_are_held_out_by_their_ids_elsewhere(tmp_path):
    """Visual Genome's first has the COCO id of a testA picture, its second the Flickr id of a test picture."""
    write_paper_data(tmp_path)
    genome, flickr, refer = (tmp_path / name for name in ("visual_genome", "flickr30k", "refer"))
    ids, unknown = visual_genome.held_out_ids(genome, flickr, refer)
    assert ids == {"2315353", "2315354"}
    assert unknown == [f"{name}: {refer / name}/refs({by}).p: no such file" for name, by in MISSING]
    write(genome, "image_data", [{"image_id": 1, "coco_id": flickr_id(0), "flickr_id": coco_id(0)}])
    assert not visual_genome.held_out_ids(genome, flickr, refer)[0]


def test_pictures_of_evaluation_are_held_out_by_parquet_files(tmp_path):
    """By the file's name or `image_id`, in whatever form the split is said, and without reading pictures."""
    rows = [
        {"split": split, "file_name": f"COCO_train2014_{number:012d}_0.jpg", "image_id": None}
        for split, number in (("train", 1), ("validation", 2), ("testA", 3))
    ]
    named = [{"image_id": 4}, {"image_id": 5}, {"image_id": None}]
    write(tmp_path, "image_data", [{"image_id": 100 + n, "coco_id": n, "flickr_id": None} for n in range(9)])
    for name, table in (("refcoco+/all", rows), ("refcoco/testB-0", named), ("refcoco/train-0", [{"image_id": 6}])):
        (path := tmp_path / f"{name}.parquet").parent.mkdir(exist_ok=True)
        pd.DataFrame(table).to_parquet(path)
    ids, unknown = visual_genome.held_out_ids(tmp_path, tmp_path, tmp_path)
    assert ids == {"102", "103", "104", "105"}
    file, flickr = tmp_path / "refcoco" / "testB-0.parquet", tmp_path / "val.txt"
    assert unknown == [
        f"flickr30k val: {flickr}: no such file; the lists that are there: none (and 1 more)",
        f"{file}, row 2: neither file_name nor image_id says COCO's number of its picture",
        f"refcocog: {tmp_path}/refcocog/refs(umd).p: no such file",
    ]


def test_what_a_set_does_not_say_is_named_and_the_rest_held_out(tmp_path):
    write_paper_data(tmp_path)
    genome, flickr, refer = (tmp_path / name for name in ("visual_genome", "flickr30k", "refer"))
    (flickr / "val.txt").write_text("12\nx7\n", encoding="utf-8")
    path = refer / "refcoco+" / "refs(unc).p"
    path.write_bytes(pickle.dumps([{}, *pickle.loads(path.read_bytes()), {"split": "val"}]))
    ids, unknown = visual_genome.held_out_ids(genome, flickr, refer)
    assert ids == {"2315353", "2315354"} and len(unknown) == 4
    assert unknown[0].startswith(f"{flickr}/val.txt, image x7: ") and "'x7'" in unknown[0]
    assert unknown[1] == f"{path}, ref 0: has no split (and 1 more)"
    path.write_bytes(b"no pickle")
    ids, unknown = visual_genome.held_out_ids(genome, flickr, refer)
    assert ids == {"2315354"} and unknown[1].startswith(f"refcoco+: {path}: cannot be read as a pickle of refs")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("region_descriptions", {"phrase": "?!"}, "image 0, region 0: the phrase '?!' has no words"),
        ("region_descriptions", {"width": 0}, "image 0, region 0: the box (1, 2, 1, 10) has no area"),
        ("region_descriptions", {"x": 50}, "region 0: the box (50, 2, 59, 10) lies outside the image of 50 x 40"),
        ("region_descriptions", {"x": "a"}, "image 0, region 0: 'a' is no number"),
        ("attributes", {"attributes": ["black", ""]}, "image 0, object 0: the phrase '' has no words"),
    ],
)
def test_malformed_thing_is_left_out_and_named(root, name, change, message):
    whole = {r.phrase for r in visual_genome.read(root)}
    write(root, name, changed(FILES[name], change))
    regions = visual_genome.read(root)
    (sentence,) = regions.skipped
    assert sentence.startswith(f"{root / name}.json, ") and message in sentence
    only_there = {"region_descriptions": "A black cat.", "attributes": "furry cat"}
    assert whole - {r.phrase for r in regions} == {only_there[name]}


@pytest.mark.parametrize(
    ("name", "records", "message"),
    [
        ("image_data", [FILES["image_data"][0], {"image_id": 2}], "image_data.json, image 1: has no width"),
        ("image_data", FILES["image_data"][:1], "region_descriptions.json, image 1: image_data.json has no image 2"),
        ("region_descriptions", [{"id": 1}], "region_descriptions.json, image 0: has no regions"),
    ],
)
def test_malformed_image_is_left_out_and_named(root, name, records, message):
    write(root, name, records)
    (sentence,) = visual_genome.read(root, sources=("regions",)).skipped
    assert message in sentence


def test_missing_picture_is_one_skip_however_many_regions_it_has(root):
    (root / "VG_100K" / "1.jpg").unlink()
    message = f"{root / 'image_data.json'}, image 0: the image '1.jpg' is not in VG_100K or VG_100K_2"
    regions = visual_genome.read(root)
    assert [r.id for r in regions] == ["regions:2:73-0"] and regions.skipped == [message]


def test_damaged_file_is_an_error(root):
    (root / "attributes.json").write_bytes(b"{}")
    with refused(f"{root / 'attributes.json'}: holds an object, not a list"):
        visual_genome.read(root)


def records_file(root: Path, *changes: dict) -> Path:
    record = {"image": "VG_100K/1.jpg", "caption": "black cat", "bbox": [[1, 2, 10, 10]]}
    write(root, "vg_attributes", [record | change for change in changes])
    return root / "vg_attributes.json"


def test_captions_of_an_authors_record_share_a_row_and_its_boxes(root):
    path = records_file(root, {}, {"caption": ["cats", "two cats"], "bbox": [[1, 2, 10, 10], [3, 4, 50, 40]]})
    both = ((1.0, 2.0, 10.0, 10.0), (3.0, 4.0, 50.0, 40.0))
    regions = visual_genome.read_records(path, root)
    assert [(r.id, r.phrase, r.boxes, r.kind) for r in regions] == [
        ("vg_attributes:0-0", "black cat", both[:1], "object"),
        ("vg_attributes:1-0", "cats", both, "group"),
        ("vg_attributes:1-1", "two cats", both, "group"),
    ]
    assert regions[0].image.open().size == (50, 40)


OUTSIDE = ("../VG_100K/1.jpg", "/etc/passwd", "VG_100K/../../1.jpg", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"image": name}, f"record 1: the image {name!r} is not in ") for name in ("VG_100K/9.jpg", *OUTSIDE)),
        ({"caption": ["cat", "..."]}, "record 1: the phrase '...' has no words"),
        ({"bbox": [[1, 2, 1, 10]]}, "record 1: the box (1, 2, 1, 10) has no area"),
    ],
)
def test_malformed_authors_record_is_left_out_and_named(root, change, message):
    path = records_file(root, {}, change)
    regions = visual_genome.read_records(path, root)
    (sentence,) = regions.skipped
    assert [r.id for r in regions] == ["vg_attributes:0-0"] and sentence.startswith(f"{path}, {message}")
