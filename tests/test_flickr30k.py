"""Flickr30k Entities in its own format: chains, several boxes, phrases without a place, and what is malformed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from amc_lib.datasets import flickr30k
from amc_lib.evaluate import point_hits

SENTENCES = """\
[/EN#1/people Two  young men] stand near [/EN#2/other a dog] on [/EN#3/scene the street] .
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


@pytest.fixture
def root(tmp_path) -> Path:
    files = {"Sentences/7.txt": SENTENCES, "Annotations/7.xml": ANNOTATIONS, "test.txt": "7\n", "val.txt": ""}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "flickr30k-images").mkdir()
    Image.new("RGB", (50, 40), "red").save(tmp_path / "flickr30k-images" / "7.jpg")
    return tmp_path


def refused(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


def test_every_phrase_with_a_box_is_a_region(root):
    regions = flickr30k.read(root, "test")
    first, second = (0.0, 1.0, 10.0, 21.0), (20.0, 4.0, 30.0, 24.0)
    assert [(r.phrase, r.boxes, r.kind) for r in regions] == [
        ("Two young men", (first, second), "group"),
        ("a dog", (second,), "object"),
        ("Men", (first, second), "group"),
    ]
    assert {(r.image_id, r.split) for r in regions} == {("7", "test")}
    assert len({r.id for r in regions}) == 3
    assert regions[0].image.open().size == (50, 40)
    assert point_hits([(25, 10), (25, 10), (15, 10)], regions).tolist() == [True, True, False]


def test_box_that_begins_one_pixel_outside_is_kept(root):
    (root / "Annotations" / "7.xml").write_text(ANNOTATIONS.replace("<ymin>2<", "<ymin>0<"), encoding="utf-8")
    assert flickr30k.read(root, "test")[0].boxes[0] == (0.0, -1.0, 10.0, 21.0)


def test_split_without_pictures_is_empty(root):
    assert flickr30k.read(root, "val") == []


def test_other_name_of_the_image_folder(root):
    (root / "flickr30k-images").rename(root / "images")
    assert flickr30k.read(root, "test")[0].image.open().mode == "RGB"
    (root / "images").rename(root / "pictures")
    with refused(f"{root}: holds neither flickr30k-images/ nor images/"):
        flickr30k.read(root, "test")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Sentences/7.txt", "[/EN#1/people Two men stand .", "Sentences/7.txt, caption 1: a phrase is not closed"),
        ("Sentences/7.txt", "fine\n[/EN#1/people ] stand .", "Sentences/7.txt, caption 2: a phrase is not closed"),
        ("Annotations/7.xml", "<annotation>", "Annotations/7.xml: is no XML"),
        ("Annotations/7.xml", ANNOTATIONS.replace("<xmin>21", "<xmin>x"), "7.xml, object 2: a box needs the numbers"),
        ("Annotations/7.xml", ANNOTATIONS.replace("<xmax>11", "<xmax>1"), "object 1: box (0, 1, 0, 21) has no area"),
        ("Annotations/7.xml", ANNOTATIONS.replace("<xmax>11", "<xmax>inf"), "7.xml, object 1: a box needs the numbers"),
        (
            "Annotations/7.xml",
            ANNOTATIONS.replace("21<", "61<").replace("31<", "71<"),
            "7.xml, object 2: box (60, 4, 70, 24) lies outside the image of 50 x 40",
        ),
        ("Annotations/7.xml", ANNOTATIONS.replace("<width>50", "<width>"), "7.xml: size needs the numbers"),
        ("Sentences/7.txt", "[/EN#1/people ...]", "Sentences/7.txt, phrase 0: the phrase '...' has no words"),
        ("test.txt", "7 8", "Annotations/8.xml: no such file"),
    ],
)
def test_malformed_record_is_named_or_left_out(root, name, text, message):
    (root / name).write_text(text, encoding="utf-8")
    with refused(message):
        flickr30k.read(root, "test")
    (sentence,) = flickr30k.read(root, "test", strict=False).skipped
    assert message in sentence


def test_box_that_overruns_the_picture_stays_as_it_is(root):
    (root / "Annotations" / "7.xml").write_text(ANNOTATIONS.replace("<xmax>31", "<xmax>61"), encoding="utf-8")
    assert flickr30k.read(root, "test")[1].boxes == ((20.0, 4.0, 60.0, 24.0),)


def test_a_bad_box_takes_its_chains_with_it(root):
    (root / "Annotations" / "7.xml").write_text(ANNOTATIONS.replace("<xmax>11", "<xmax>1"), encoding="utf-8")
    regions = flickr30k.read(root, "test", strict=False)
    assert [r.phrase for r in regions] == ["a dog"]
    assert len(regions.skipped) == 1


def test_other_pictures_are_read_beside_a_bad_one(root):
    (root / "test.txt").write_text("8\n7\n9\n", encoding="utf-8")
    for folder, suffix in (("Sentences", "txt"), ("Annotations", "xml")):
        for copy in "89":
            (root / folder / f"{copy}.{suffix}").write_bytes((root / folder / f"7.{suffix}").read_bytes())
    (root / "Annotations" / "9.xml").write_bytes(b"\xff\xfe<annotation/>")
    regions = flickr30k.read(root, "test", strict=False)
    assert [r.id for r in regions] == ["7-0", "7-1", "7-3"]
    first, second = regions.skipped
    assert first == f"{root / 'test.txt'}, image 8: the image 8.jpg is not in flickr30k-images or images"
    assert second.startswith(f"{root / 'Annotations' / '9.xml'}: cannot be read as text")


def test_list_of_a_split_may_begin_with_a_byte_order_mark(root):
    (root / "test.txt").write_bytes(b"\xef\xbb\xbf7\r\n")
    assert len(flickr30k.read(root, "test")) == 3


def test_what_is_missing_is_named(root):
    with refused("unknown Flickr30k Entities split 'dev'; known: train, val, test"):
        flickr30k.read(root, "dev")
    with refused(f"{root / 'train.txt'}: no such file"):
        flickr30k.read(root, "train")
    with refused(f"{root / 'train.txt'}: no such file"):
        flickr30k.read(root, "train", strict=False)


def test_picture_that_does_not_open_is_named(root):
    region = flickr30k.read(root, "test")[0]
    picture = root / "flickr30k-images" / "7.jpg"
    picture.write_bytes(picture.read_bytes()[:-200])
    with refused("7.jpg: cannot be read as an image: "):
        region.image.open()
    for data in (b"not a picture", b"P5 99999 99999 255\n"):  # the latter says to be of ten billion pixels
        picture.write_bytes(data)
        with refused("7.jpg: cannot be read as an image"):
            region.image.open()
    picture.unlink()
    with refused("7.jpg: no such image"):
        region.image.open()


@pytest.mark.parametrize("image_id", ["../7", "/etc/passwd", "a/b", "7\x1b", "7" * 200])
def test_image_id_that_is_no_name_is_refused(root, image_id):
    (root / "test.txt").write_text(f"7\n{image_id}\n", encoding="utf-8")
    with refused(f"{root / 'test.txt'}: '{image_id[:9]}"[:60] if image_id.isprintable() else "is no image id"):
        flickr30k.read(root, "test", strict=False)


def test_text_in_another_encoding_is_no_file_without_phrases(root):
    for name in ("Sentences/7.txt", "Annotations/7.xml"):
        whole = (root / name).read_bytes()
        (root / name).write_bytes(whole.decode().encode("utf-16-le"))
        with refused(f"{root / name}: cannot be read as text: it holds NUL characters, as UTF-16 does"):
            flickr30k.read(root, "test")
        (root / name).write_bytes(whole)
    (root / "Sentences" / "7.txt").write_text("\n", encoding="utf-8")
    with refused(f"{root / 'Sentences' / '7.txt'}: holds no caption"):
        flickr30k.read(root, "test")


@pytest.mark.parametrize("width", ["nan", "inf", "0", "-5", "1e7"])
def test_size_that_no_picture_has_is_refused(root, width):
    text = ANNOTATIONS.replace("<width>50<", f"<width>{width}<")
    (root / "Annotations" / "7.xml").write_text(text, encoding="utf-8")
    with refused("7.xml: size needs the numbers width and height"):
        flickr30k.read(root, "test")
