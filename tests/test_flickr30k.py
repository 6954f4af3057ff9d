"""Flickr30k Entities in its own format: chains, several boxes, phrases without a place, and what is malformed.

One test reads the photographs themselves, where AMC_PHOTOS says that they lie.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image
from refusal import refused

from amc_lib.datasets import flickr30k
from amc_lib.files import photos_root

SENTENCES = """\
[/EN#1/people Two  young men] stand near [/EN#2/animals a dog] on [/EN#3/scene the street] .
[/EN#1/people/other Men] look at [/EN#0/notvisual nothing] while [/EN#4/clothing his hat] falls .
"""
ANNOTATIONS = """\
<annotation><filename>7.jpg</filename><size><width>50</width><height>40</height><depth>3</depth></size>
<object><name>1</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax></bndbox></object>
<object><name>1</name><name>2</name>
<bndbox><xmin>21</xmin><ymin>5</ymin><xmax>31</xmax><ymax>25</ymax></bndbox></object>
<object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object>
<object><name>4</name><scene>0</scene><nobndbox>1</nobndbox></object>
</annotation>
"""
FIRST, SECOND = (0.0, 1.0, 10.0, 21.0), (20.0, 4.0, 30.0, 24.0)


@pytest.fixture
def root(tmp_path) -> Path:
    files = {"Sentences/7.txt": SENTENCES, "Annotations/7.xml": ANNOTATIONS, "test.txt": "7\n", "val.txt": ""}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "flickr30k-images").mkdir()
    Image.new("RGB", (50, 40), "red").save(tmp_path / "flickr30k-images" / "7.jpg")
    return tmp_path


def annotate(root: Path, old: str, new: str) -> None:
    (root / "Annotations" / "7.xml").write_text(ANNOTATIONS.replace(old, new), encoding="utf-8")


def test_every_phrase_with_a_box_is_a_region(root):
    regions = flickr30k.read(root, "test")
    assert [(r.id, r.phrase, r.boxes, r.kind, r.entity, r.chain) for r in regions] == [
        ("7-0", "Two young men", (FIRST, SECOND), "group", "people", "1"),
        ("7-1", "a dog", (SECOND,), "object", "animals", "2"),
        ("7-3", "Men", (FIRST, SECOND), "group", "people", "1"),
    ]
    assert {(r.image_id, r.split) for r in regions} == {("7", "test")}
    assert regions[0].image.open().size == (50, 40)
    assert flickr30k.read(root, "val") == []


def test_captions_have_their_words_and_no_marks(root):
    assert flickr30k.captions(root / "Sentences" / "7.txt") == [
        "Two young men stand near a dog on the street .",
        "Men look at nothing while his hat falls .",
    ]
    (root / "Sentences" / "7.txt").write_text("Dogs [/EN#2/animals bark .\n", encoding="utf-8")
    with refused("7.txt: has no marked phrase, or one that is not closed"):
        flickr30k.captions(root / "Sentences" / "7.txt")


def test_box_that_overruns_the_picture_stays_as_it_is(root):
    annotate(root, "<ymin>2<", "<ymin>0<")
    assert flickr30k.read(root, "test")[0].boxes[0] == (0.0, -1.0, 10.0, 21.0)
    annotate(root, "<xmax>31", "<xmax>61")
    assert flickr30k.read(root, "test")[1].boxes == ((20.0, 4.0, 60.0, 24.0),)


def test_other_name_of_the_image_folder_and_a_byte_order_mark(root):
    (root / "test.txt").write_bytes(b"\xef\xbb\xbf7\r\n")
    (root / "flickr30k-images").rename(root / "images")
    assert flickr30k.read(root, "test")[0].image.open().mode == "RGB"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Sentences/7.txt", "[/EN#1/people Two men stand .", "Sentences/7.txt: has no marked phrase, or one that is"),
        ("Sentences/7.txt", "[/EN#1/people ...]", "Sentences/7.txt, phrase 0: the phrase '...' has no words"),
        ("Annotations/7.xml", "<annotation>", "Annotations/7.xml: is not XML"),
        ("Annotations/7.xml", ANNOTATIONS.replace("<xmin>21", "<xmin>x"), "7.xml, object 2: 'x' is no number"),
        ("Annotations/7.xml", ANNOTATIONS.replace("<xmax>11", "<xmax>1"), "object 1: the box (0, 1, 0, 21) has no"),
        (
            "Annotations/7.xml",
            ANNOTATIONS.replace("21<", "61<").replace("31<", "71<"),
            "7.xml, object 2: the box (60, 4, 70, 24) lies outside the image of 50 x 40",
        ),
        ("test.txt", "7 8", "Annotations/8.xml: no such file"),
    ],
)
def test_malformed_record_is_left_out_and_named(root, name, text, message):
    (root / name).write_text(text, encoding="utf-8")
    regions = flickr30k.read(root, "test")
    assert message in regions.skipped[0] and len(regions.skipped) == 1
    if "object 1" in message:  # a bad box takes its chain with it
        assert [r.phrase for r in regions] == ["a dog"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<html><body>404</body></html>", "is a web page, not the file itself: download it again"),
        ("<annotations></annotations>", "its outermost element is annotations, not annotation"),
    ],
)
def test_xml_of_something_else_is_named(root, text, sentence):
    path = root / "Annotations" / "7.xml"
    path.write_text(text, encoding="utf-8")
    regions = flickr30k.read(root, "test")
    assert regions == [] and regions.skipped == [f"{root / 'test.txt'}, image 7: {path}: {sentence}"]


def test_chains_are_read_with_spaces_and_a_missing_one_is_named(root):
    expected = flickr30k.read(root, "test")
    annotate(root, "<name>1</name>", "<name>\n 1 </name>")
    assert flickr30k.read(root, "test") == expected
    missing = "the chain of its box, or one of several, is not named"
    for number, old, new, boxes in (
        (1, "<object><name>1</name><bndbox>", "<object><bndbox>", {"1": (SECOND,), "2": (SECOND,)}),
        (2, "<name>1</name><name>2</name>", "<name> </name><name>2</name>", {"1": (FIRST,), "2": (SECOND,)}),
    ):
        annotate(root, old, new)
        regions = flickr30k.read(root, "test")
        assert regions.skipped == [f"{root / 'Annotations' / '7.xml'}, object {number}: {missing}"]
        assert {region.chain: region.boxes for region in regions} == boxes


def test_other_pictures_are_read_beside_a_missing_one(root):
    (root / "test.txt").write_text("8\n7\n", encoding="utf-8")
    for folder, suffix in (("Sentences", "txt"), ("Annotations", "xml")):
        (root / folder / f"8.{suffix}").write_bytes((root / folder / f"7.{suffix}").read_bytes())
    regions = flickr30k.read(root, "test")
    assert [r.id for r in regions] == ["7-0", "7-1", "7-3"]
    missing = f"{root / 'test.txt'}, image 8: the image '8.jpg' is not in flickr30k-images or images"
    assert regions.skipped == [missing]


@pytest.mark.parametrize("folder", ["Flicker8k_Dataset", "Flickr8k_Dataset", "Images"])
def test_pictures_of_flickr8k_are_those_of_the_list_that_are_there(root, folder):
    (root / "test.txt").write_text("6\n7\n8\n", encoding="utf-8")
    (root / "flickr30k-images").rename(root / folder)
    (root / folder / "7.jpg").rename(root / folder / "7_693b08cb0e.jpg")
    (root / folder / "9_0123456789.jpg").write_bytes(b"of no list")
    regions = flickr30k.read(root, "test")
    assert [(r.id, r.image.path.name) for r in regions] == [(f"7-{n}", "7_693b08cb0e.jpg") for n in (0, 1, 3)]
    assert (regions.skipped, regions.without_picture, regions.about["images_without_picture"]) == ([], 2, 2)
    assert regions.replaced(regions[:1]).about == regions.about | {"regions": 1}
    assert flickr30k.read(root, "val").without_picture == 0


@pytest.mark.parametrize(
    ("width", "height"),
    [(25, 20), (75, 60), (50, 41), (49, 40), (25, 21), (100, 81), (500, 405)],  # five within a pixel
)
def test_boxes_are_brought_to_the_size_of_the_picture(root, width, height):
    Image.new("RGB", (width, height)).save(root / "flickr30k-images" / "7.jpg")
    regions = flickr30k.read(root, "test")
    across, down = width / 50, height / 40
    assert regions[1].boxes == ((20 * across, 4 * down, 30 * across, 24 * down),)
    assert len(regions) == 3 and not regions.skipped


@pytest.mark.parametrize(("width", "height"), [(40, 50), (50, 42), (25, 22), (48, 40), (500, 420), (100, 40)])
def test_picture_of_another_shape_than_its_annotation_is_left_out_and_named(root, width, height):
    Image.new("RGB", (width, height)).save(root / "flickr30k-images" / "7.jpg")
    regions = flickr30k.read(root, "test")
    hint = ", perhaps stored turned (EXIF orientation): then save it upright" if (width, height) == (40, 50) else ""
    assert regions == [] and regions.skipped == [
        f"{root / 'test.txt'}, image 7: the image has another shape than its annotation: its boxes were drawn at "
        f"50 x 40 pixels, and it has {width} x {height}{hint}"
    ]


@pytest.mark.skipif("AMC_PHOTOS" not in os.environ, reason="AMC_PHOTOS, the folder of the photographs, is not set")
def test_photographs_of_val():
    regions = flickr30k.read(photos_root(), "val")
    assert (regions.about["images"], len(regions), regions.skipped) == (247, 3_239, [])
    assert {r.entity for r in regions} >= {"people", "clothing", "bodyparts", "animals", "vehicles", "scene", "other"}
    boxes = {}
    for region in regions:
        assert boxes.setdefault((region.image_id, region.chain), region.boxes) == region.boxes
    sentences = photos_root() / "Sentences"
    captions = [flickr30k.captions(sentences / f"{image_id}.txt") for image_id in {r.image_id for r in regions}]
    assert {len(of_picture) for of_picture in captions} == {5} and not any("[" in c for cs in captions for c in cs)


def test_what_is_missing_is_named(root):
    with refused(f"{root / 'dev.txt'}: no such file; the lists that are there: test"):
        flickr30k.read(root, "dev")
    with refused(f"{root / 'train.txt'}: no such file"):
        flickr30k.read(root, "train")
    (root / "test.txt").write_text("7\n../7\n", encoding="utf-8")
    with refused(f"{root / 'test.txt'}: '../7' is not an image id"):
        flickr30k.read(root, "test")
