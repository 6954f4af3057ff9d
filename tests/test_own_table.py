"""Tables of one's own: what becomes of their rows, and that nothing wrong in them passes or is left out unnamed."""

from __future__ import annotations

import csv
import io
import itertools
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from amc_lib.datasets.own_table import COLUMNS, read
from amc_lib.tokens import clean

SIZES = {"a.png": (40, 30), "sub/b b.jpg": (30, 50), "ünïcode-1.png": (64, 64)}  # width, height
HEADER = "image,phrase,x1,y1,x2,y2\n"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for name, (width, height) in {**SIZES, "large.png": (400, 300)}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    for orientation in (6, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (40, 30)).save(folder / f"turned-{orientation}.jpg", exif=exif)
    return folder


def table(folder: Path, content: str | bytes) -> Path:
    path = folder / f"table-{next(NUMBERS)}.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_csv(rows: list[tuple]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([COLUMNS, *rows])
    return buffer.getvalue()


def refused(folder: Path, content: str | bytes, message: str) -> None:
    path = table(folder, content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_rows_of_one_image_and_phrase_are_the_boxes_of_one_region(folder):
    rows = "a.png,two cats,1,2,10,20\nsub/b b.jpg,dog,0,0,30,50\na.png,Two cats!,20,2,39.5,20\na.png,cat,1,2,10,20\n"
    first, second, third = read(table(folder, HEADER + rows))
    assert (first.id, first.image_id, first.phrase, first.kind) == ("a.png-0", "a.png", "two cats", "group")
    assert first.boxes == ((1, 2, 10, 20), (20, 2, 39.5, 20)) and first.split == ""
    assert (second.id, second.boxes, second.kind) == ("a.png-1", ((1, 2, 10, 20),), "object")
    assert third.image.open().size == (30, 50) and third.image.path == folder / "sub/b b.jpg"
    assert read(table(folder, HEADER + "turned-9.jpg,cat,1,2,10,20\n"))  # an EXIF orientation that turns nothing


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf X1,Y1,x2 ,y2,Phrase,IMAGE\r\n\r\n1, 2,1e1,20.0,cat,./a.png\r\n,,,,,\r\n",
        b"image;phrase;x1;y1;x2;y2\na.png;cat;1,0;2,0;10,00;20\n",
        f"{HEADER}a.png,cat,1,2,10,20\n".replace(",", "\t").encode("utf-16"),
        b"file_name,caption,bbox_x,bbox_y,bbox_w,bbox_h\na.png,cat,1,2,9,18\n",
        b"Image ID,category_name,Left,top,RIGHT,bottom\n.\\a.png,cat,1,2,10,20\n",
        b"img,label,bbox_x1,bbox_y1,bbox_x2,bbox_y2\nsub/../a.png,cat,1,2,10,20\n",
        b"filename,class,x_min,ymin,xmax,y_max,unit\na.png,cat,1,2,10,20,pixels\n",
        b"sep=;\r\nimage;phrase;x1;y1;x2;y2\r\na.png;cat;1,0;2;10;20\r\n",
        b'\n ,,,\nimage,phrase,x1,y1,x2,y2,\na.png, "cat",1,2,10,20,\n',
    ],
    ids=[
        *("order, capitals, blank rows, byte order mark", "semicolons", "UTF-16", "sizes", "sides", "bbox", "corners"),
        *("sep=", "blank first rows and last column"),
    ],
)
def test_forms_that_do_not_matter(folder, content):
    assert read(table(folder, content)) == read(table(folder, HEADER + "a.png,cat,1,2,10,20\n"))


def test_pictures_may_lie_elsewhere(folder, tmp_path, monkeypatch):
    path = table(tmp_path, HEADER + "a.png,cat,1,2,10,20\n")
    assert read(path, folder)[0].image.path == folder / "a.png"
    monkeypatch.setenv("HOME", str(folder))
    assert read(path, "~")[0].image.path == folder / "a.png"
    whole, home = (table(tmp_path, f"{HEADER}{name},cat,1,2,10,20\n") for name in (folder / "a.png", "~/a.png"))
    assert read(whole, folder) == read(home, folder) == read(path, folder)  # which are the same names
    assert read(home)[0].image_id == read(whole)[0].image_id == str(folder / "a.png")
    with pytest.raises(ValueError, match=r"row 2: .*a\.png: no such image"):
        read(path)
    with pytest.raises(ValueError, match="no such folder of pictures"):
        read(path, folder / "none")
    for missing in (folder / "none.csv", folder / "sub"):
        with pytest.raises(ValueError, match=re.escape(str(missing))):
            read(missing)


def test_split_column_is_kept(folder):
    rows = "a.png,cat,1,2,10,20,test\na.png,dog,1,2,10,20,Test\nsub/b b.jpg,dog,1,2,10,20,Train\n"
    rows += "large.png,dog,1,2,100,200,validation\n"
    regions = read(table(folder, "image,phrase,x1,y1,x2,y2,split\n" + rows))
    assert [region.split for region in regions] == ["test", "test", "train", "val"]


def test_table_of_windows_is_read_and_that_is_said(folder, capsys):
    (region,) = read(table(folder, f"{HEADER}a.png,café,1,2,10,20\n".encode("cp1252")))
    assert region.phrase == "café" and "is read as Windows' cp1252" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["xl/sheet.xml", "[Content_Types].xml", None])
def test_workbook_is_named(folder, name):
    with (folder / "book.xlsx").open("wb") as file, zipfile.ZipFile(file, "w") as book:
        book.writestr(name or "x", bytes(range(256)))
    content = (folder / "book.xlsx").read_bytes() if name else b"\xd0\xcf\x11\xe0" + bytes(range(256))
    refused(folder, content, "is a workbook of a spreadsheet program: save the sheet as CSV")


PHRASES = st.tuples(st.sampled_from(["cat", "Ünï 7", "two, cats"]), st.text("äb \t\n\"';,", max_size=5)).map("".join)
EDGE = st.integers(0, 28)
BOXES = st.builds(lambda x, y, width, height: (x, y, x + width, y + height), *[EDGE] * 2, *[st.integers(2, 9)] * 2)
INSIDE = BOXES.filter(lambda box: max(box) <= 30)  # inside every picture


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(sorted(SIZES)), PHRASES, INSIDE).map(lambda row: (*row[:2], *row[2])),
        min_size=1,
        unique_by=lambda row: (row[0], clean(row[1]), row[2:]),
    )
)
@settings(max_examples=30, deadline=None)
def test_every_row_is_read_and_no_other(folder, rows):
    regions = read(table(folder, as_csv(rows)))
    boxes = {(r.image_id, clean(r.phrase), box) for r in regions for box in r.boxes}
    assert boxes == {(image, clean(phrase), tuple(map(float, box))) for image, phrase, *box in rows}
    assert sum(len(region.boxes) for region in regions) == len(rows)
    assert len({region.id for region in regions}) == len(regions)
    assert len({(region.image_id, clean(region.phrase)) for region in regions}) == len(regions)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("image", "none.png", "no such image"),
        ("image", "broken.png", "cannot be read as an image"),
        ("image", "turned-6.jpg", "it is stored turned (EXIF orientation 6)"),
        ("image", "sub/../../a.png", "a.png: no such image"),
        ("image", "", "the cell image is empty"),
        ("phrase", " ?! ", "the phrase '?!' has no words"),
        ("x1", "", "x1 is '', which is not a number"),
        ("x2", "nan", "x2 is 'nan', which is not a number"),
        ("x2", "10,5", "x2 is '10,5', which is not a number"),
        ("x2", "1", "the box has no area"),
        ("x1", "-1.5", "lies outside the image of 40 x 30, or partly"),
        ("y2", "31.5", "lies outside the image of 40 x 30, or partly"),
    ],
    ids=str,
)
def test_fault_is_named_with_its_row(folder, column, value, message):
    row = dict(zip(COLUMNS, ("a.png", "cat", "1", "2", "10", "20"), strict=True)) | {column: value}
    good = ("sub/b b.jpg", "dog", 1, 2, 10, 20)
    content = as_csv([good, tuple(row.values()), ("a.png", "bird", 1, 2, 10, 20)])
    refused(folder, content, message)
    refused(folder, content, ".csv, row 3: ")


def test_first_fault_is_named_and_the_others_are_counted(folder):
    rows = [("a.png", "a\ncat", 1, 2, 10, 20), *(("a.png", "cat", 1, 2, "x", 20) for _ in range(7))]
    refused(folder, as_csv(rows), "row 3: x2 is 'x', which is not a number (and 6 more rows are at fault)")


def test_rows_that_contradict_or_repeat_others_are_named(folder):
    box = ",1,2,10,20"
    refused(folder, f"{HEADER}a.png,cat{box}\na.png,dog{box}\na.png,Cat.{box}\n", "row 4: repeats row 2")
    with_split = "image,phrase,x1,y1,x2,y2,split\n"
    rows = f"a.png,cat{box},train\na.png,dog{box},test\n"
    refused(folder, with_split + rows, "row 3: a.png is in the split train in a row above")
    refused(folder, f"{with_split}a.png,cat{box},dev\n", "row 2: the split 'dev' is none of train, val, test")


def test_boxes_that_are_not_in_pixels_are_recognised(folder):
    shares = "a.png,cat,0.1,0.2,0.5,0.9\nsub/b b.jpg,dog,0,0,1,1\n"
    refused(folder, HEADER + shares, "look like shares of the sides (0 to 1): add a column unit that says share in")
    percent = "large.png,cat,10,20,50,90\n"
    refused(folder, HEADER + percent, "look like percent of the sides (0 to 100): add a column unit that says percent")
    small = "large.png,dog,1,2,10,20\na.png,cat,1,2,10,95\n"  # a box outside of the small picture, were it pixels
    refused(folder, HEADER + percent + small, "look like percent of the sides (0 to 100)")
    assert read(table(folder, HEADER + percent + "large.png,dog,10,20,50,290\n"))
    assert read(table(folder, HEADER + "a.png,cat,1,2,10,20\na.png,dog,1,2,10,20\n" + percent))  # most fit as pixels
    refused(folder, HEADER + shares.replace("0,0,1,1", "0,0,1,1.0002"), "look like shares of the sides (0 to 1)")
    refused(folder, HEADER + percent.replace("90", "100.1"), "look like percent of the sides")
    mixed = "a.png,cat,1,2,10,20\nlarge.png,dog,0.1,0.2,0.5,0.9\n"
    refused(folder, HEADER + mixed, "row 3: the box is smaller than a pixel: is it given as shares of the sides?")
    overrun = "large.png,dog,5,5,60,103\nlarge.png,cow,5,5,60,40\n"
    refused(folder, HEADER + percent + overrun, "row 2: the boxes of the table look like percent of the sides")
    thousandths = "large.png,cat,100,100,950,500\na.png,dog,200,200,600,400\n"
    refused(
        folder, HEADER + thousandths, "look like thousandths of the sides (0 to 1000): add a column unit that says p"
    )


@pytest.mark.parametrize(
    ("unit", "box", "pixels"),
    [
        ("pixel", (10, 20, 50, 90), (10, 20, 50, 90)),
        ("Percent", (10, 20, 50, 100.5), (40, 60, 200, 300)),
        ("shares", (0.1, 0.2, 0.5, 1), (40, 60, 200, 300)),
        ("share", (0.1, 0.2, 0.5, 1.1), "row 2: the box lies outside the image of 400 x 300, or partly"),
        ("inch", (1, 2, 3, 4), "row 2: the unit 'inch' is none of pixel, percent, share, permille"),
        ("permille", (100, 200, 500, 1000), (40, 60, 200, 300)),
        (
            "percent",
            (0.1, 0.2, 0.5, 1),
            "row 2: the column unit says percent, and the boxes look like shares of the sides (0 to 1): let it",
        ),
    ],
)
def test_column_unit_decides_what_boxes_are_in(folder, unit, box, pixels):
    content = f"image,phrase,x1,y1,x2,y2,unit\nlarge.png,cat,{','.join(map(str, box))},{unit}\n"
    if isinstance(pixels, str):
        refused(folder, content, pixels)
    else:
        assert read(table(folder, content))[0].boxes == (pytest.approx(pixels),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is an empty file"),
        (b" \n,,\n", "holds no row"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
        (b"%PDF-1.4", "is a PDF document"),
        (b' [{"image": "a.png"}]', "is JSON, not CSV: a name that ends in .json"),
        ("image,Phrase,phrase,phrase,x1,y1,x2,y2\n", ".csv, row 1: has two columns phrase"),
        (HEADER, "holds no row below its header"),
        ("image,phrase,x1,y1,x2,y2,spilt\n", "they are image, phrase, x1, y1, x2, y2, spilt"),
        (
            "a.png,cat,1,2,10,20\n",
            ".csv, row 1: has no header: put the line image,phrase,x1,y1,x2,y2 above the first row",
        ),
        ("train;1;2,5;10;20;cat;a.png\n", "put the line split;x1;y1;x2;y2;phrase;image above the first row"),
        ("a.png,cat,1,2,10,20,0.9\n", "put the line image,phrase,x1,y1,x2,y2 above the first row"),
        (
            "filename,width,height,class,xmin,ymin,xmax,ymax\n",
            "ymin, xmax, ymax, or let 'python -m amc_lib.datasets im",
        ),
        ("file,image,label,x1,y1,x2,y2\n", "they are file, image, label, x1, y1, x2, y2, or let"),
        ("image,phrase,x,y,w,h\n", "; change x to x1, y to y1, w to x2 (x + w), h to y2 (y + h)"),
        (f"{HEADER}a.png,cat,1,2,10\n", "row 2: y2 is '', which is not a number"),
        (f"{HEADER}a.png,a cat, a dog,1,2,10,20\n", ".csv, row 2: has more cells than the header has names"),
        (f'{HEADER}a.png,"cat,1,2,10,20\n', ".csv, row 2: has a quotation mark that is not closed"),
        (f"\n{HEADER}\na.png,cat,1,2,x,20\n", ".csv, row 4: x2 is 'x'"),
        (b"\xff\x00a.png\n", "cannot be read as UTF-8 text"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_table_in_another_form_is_named(folder, content, message):
    refused(folder, content, message)


def test_edges_that_are_outside_by_rounding_end_at_the_edge(folder):
    (region,) = read(table(folder, as_csv([("a.png", "cat", -0.4, 2, 40.0004, 30.9)])), folder)
    assert region.boxes == ((0.0, 2.0, 40.0, 30.0),)
