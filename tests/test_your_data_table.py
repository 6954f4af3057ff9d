"""Tables of one's own: what becomes of their rows, and that nothing wrong in them passes or is left out unnamed."""

from __future__ import annotations

import csv
import io
import itertools
import re
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
    for name, (width, height) in SIZES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (8, 4)).save(folder / "turned.jpg", exif=turned)
    return folder


def table(folder: Path, content: str | bytes) -> Path:
    path = folder / f"table-{next(NUMBERS)}.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_csv(rows: list[tuple], columns: tuple[str, ...] = COLUMNS) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([columns, *rows])
    return buffer.getvalue()


def refused(folder: Path, content: str | bytes, message: str) -> None:
    path = table(folder, content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- what is read


def test_rows_of_one_image_and_phrase_are_the_boxes_of_one_region(folder):
    rows = "a.png,two cats,1,2,10,20\nsub/b b.jpg,dog,0,0,30,50\na.png,Two cats!,20,2,39.5,20\na.png,cat,1,2,10,20\n"
    first, second, third = read(table(folder, HEADER + rows))
    assert (first.id, first.image_id, first.phrase, first.kind) == ("a.png-0", "a.png", "two cats", "group")
    assert first.boxes == ((1, 2, 10, 20), (20, 2, 39.5, 20)) and first.split == ""
    assert (second.id, second.boxes, second.kind) == ("a.png-1", ((1, 2, 10, 20),), "object")
    assert third.image.open().size == (30, 50) and third.image.path == folder / "sub/b b.jpg"


def test_order_of_columns_case_of_names_blank_rows_and_byte_order_mark_do_not_matter(folder):
    plain = read(table(folder, HEADER + "a.png,cat,1,2,10,20\n"))
    other = " X1,Y1,x2 ,y2,Phrase,IMAGE\r\n\r\n1, 2,1e1,20.0,cat,./a.png\r\n,,,,,\r\n"
    assert read(table(folder, b"\xef\xbb\xbf" + other.encode())) == plain


def test_pictures_may_lie_elsewhere(folder, tmp_path):
    path = table(tmp_path, HEADER + "a.png,cat,1,2,10,20\n")
    assert read(path, folder)[0].image.path == folder / "a.png"
    with pytest.raises(ValueError, match=r"row 2: .*a\.png: no such image"):
        read(path)
    with pytest.raises(ValueError, match="no such folder of pictures"):
        read(path, folder / "none")


def test_split_column_is_kept(folder):
    rows = "a.png,cat,1,2,10,20,test\na.png,dog,1,2,10,20,test\nsub/b b.jpg,dog,1,2,10,20,train\n"
    regions = read(table(folder, "image,phrase,x1,y1,x2,y2,split\n" + rows))
    assert [region.split for region in regions] == ["test", "test", "train"]


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=12)
PHRASES = WORDS.filter(lambda text: clean_or_none(text) is not None)


def clean_or_none(text: str) -> str | None:
    try:
        return clean(text)
    except ValueError:
        return None


@st.composite
def rows_of_boxes(draw) -> list[tuple]:
    """Rows without repetitions: image, phrase, box inside the image."""
    rows, seen = [], set()
    for _ in range(draw(st.integers(1, 8))):
        image = draw(st.sampled_from(sorted(SIZES)))
        width, height = SIZES[image]
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        box = (x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height)))
        phrase = draw(PHRASES)
        if (key := (image, clean(phrase), box)) not in seen:
            seen.add(key)
            rows.append((image, phrase, *box))
    return rows


@given(rows=rows_of_boxes())
@settings(max_examples=60, deadline=None)
def test_every_row_is_read_and_no_other(folder, rows):
    regions = read(table(folder, as_csv(rows)))
    found = {(r.image_id, clean(r.phrase), box) for r in regions for box in r.boxes}
    assert found == {(image, clean(phrase), tuple(map(float, box))) for image, phrase, *box in rows}
    assert sum(len(region.boxes) for region in regions) == len(rows)
    assert len({region.id for region in regions}) == len(regions)
    assert len({(region.image_id, clean(region.phrase)) for region in regions}) == len(regions)


@given(rows=rows_of_boxes(), seed=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_order_of_rows_changes_no_region(folder, rows, seed):
    def content(of_rows: list[tuple]) -> set:
        regions = read(table(folder, as_csv(of_rows)))
        return {(region.image_id, clean(region.phrase), frozenset(region.boxes)) for region in regions}

    shuffled = list(rows)
    seed.shuffle(shuffled)
    assert content(shuffled) == content(rows)


# ------------------------------------------------------------------------------------------------------ what is refused

FAULTS = [
    ("image", "none.png", "no such image"),
    ("image", "broken.png", "cannot be read as an image"),
    ("image", "turned.jpg", "is stored turned (EXIF orientation 6)"),
    ("image", "sub", "cannot be read as an image"),
    ("image", "", "the image '' is no file name"),
    ("image", "../own/a.png", "leaves the folder of the pictures"),
    ("image", "sub/../../a.png", "leaves the folder of the pictures"),
    ("image", "/etc/hostname", "leaves the folder of the pictures"),
    ("image", "C:\\a.png", "leaves the folder of the pictures"),
    ("image", "..\\a.png", "leaves the folder of the pictures"),
    ("image", "a" * 5000, "cannot be read as an image"),
    ("phrase", "", "the phrase '' has no words"),
    ("phrase", " ?! ", "has no words"),
    ("x1", "", "x1 is '', which is no number"),
    ("y1", "one", "y1 is 'one', which is no number"),
    ("x2", "nan", "x2 is 'nan', which is no number"),
    ("y2", "inf", "y2 is 'inf', which is no number"),
    ("x2", "1_0", "x2 is '1_0', which is no number"),
    ("x2", "10,5", "x2 is '10,5', which is no number"),
    ("x2", "१०", "which is no number"),
    ("x2", "1", "has no area"),
    ("y2", "0", "has no area"),
    ("x1", "-0.5", "lies outside the image of 40 x 30, or partly"),
    ("y2", "30.5", "lies outside the image of 40 x 30, or partly"),
]


@pytest.mark.parametrize(("column", "value", "message"), FAULTS, ids=lambda value: str(value)[:30])
def test_fault_is_named_with_its_row(folder, column, value, message):
    row = dict(zip(COLUMNS, ("a.png", "cat", "1", "2", "10", "20"), strict=True)) | {column: value}
    good = ("sub/b b.jpg", "dog", 1, 2, 10, 20)
    refused(folder, as_csv([good, tuple(row.values()), ("a.png", "bird", 1, 2, 10, 20)]), message)
    with pytest.raises(ValueError, match=r"\.csv, row 3: "):
        read(table(folder, as_csv([good, tuple(row.values())])))


@given(rows=rows_of_boxes(), fault=st.sampled_from(FAULTS), at=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_fault_is_found_wherever_it_stands(folder, rows, fault, at):
    column, value, _ = fault
    at %= len(rows)
    broken = dict(zip(COLUMNS, ("a.png", "a wrong row", 1, 2, 10, 20), strict=True)) | {column: value}
    content = as_csv([*rows[:at], tuple(broken.values()), *rows[at:]])
    before = content.splitlines()  # a phrase may hold line breaks, so rows are counted, not lines
    assert before
    with pytest.raises(ValueError, match=rf"\.csv, row {at + 2}: "):
        read(table(folder, content))


def test_first_faults_are_named_in_order_and_the_others_counted(folder):
    rows = [("a.png", "cat", 1, 2, 10, 20), *(("a.png", "cat", 1, 2, "x", 20) for _ in range(7))]
    rows[3] = ("none.png", "cat", 1, 2, 10, 20)
    with pytest.raises(ValueError) as caught:
        read(table(folder, as_csv(rows)))
    numbers = [int(n) for n in re.findall(r"row (\d+)", str(caught.value))]
    assert numbers == [3, 4, 5, 6, 7] and str(caught.value).endswith("; and 2 more")


def test_one_missing_picture_is_said_once(folder):
    rows = [("none.png", "cat", 1, 2, 10, 20), ("none.png", "dog", 1, 2, 10, 20)]
    with pytest.raises(ValueError) as caught:
        read(table(folder, as_csv(rows)))
    assert str(caught.value).count("no such image") == 1


def test_rows_that_contradict_or_repeat_others_are_named(folder):
    box = ",1,2,10,20"
    refused(folder, f"{HEADER}a.png,cat{box}\na.png,dog{box}\na.png,Cat.{box}\n", "row 4: repeats row 2")
    with_split = "image,phrase,x1,y1,x2,y2,split\n"
    rows = f"a.png,cat{box},train\na.png,dog{box},test\n"
    refused(folder, with_split + rows, "row 3: a.png is in test here, but in train in row 2")
    refused(folder, f"{with_split}a.png,cat{box},dev\n", "row 2: the split 'dev' is none of train, val, test")
    refused(folder, f"{with_split}a.png,cat{box},\n", "row 2: the split '' is none of")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (HEADER, "holds no row below its header"),
        (f"{HEADER}\n,,,,,\n", "holds no row below its header"),
        ("image,phrase,x1,y1,x2\na.png,cat,1,2,3\n", "row 1: lacks the column y2"),
        ("image,phrase,x1\n", "row 1: lacks the column y1, x2, y2"),
        ("image,phrase,x1,y1,x2,y3\n", "row 1: unknown column 'y3'; did you mean 'y2'?"),
        ("image,phrase,x1,y1,x2,y2,spilt\n", "row 1: unknown column 'spilt'; did you mean 'split'?"),
        ("image,phrase,x1,y1,x2,y2,colour\n", "row 1: unknown column 'colour' (known: image, phrase"),
        ("image,phrase,x1,y1,x2,y2,\n", "row 1: unknown column ''"),
        ("image,phrase,x1,y1,x2,y2,x1\n", "row 1: has the column x1 more than once"),
        ("a.png,cat,1,2,10,20\n", "row 1: unknown column 'a.png'"),
        ("image;phrase;x1;y1;x2;y2\n", "row 1: columns are separated by ';'; save the table with commas"),
        ("image\tphrase\tx1\ty1\tx2\ty2\n", "row 1: columns are separated by '\\t'"),
        (f"{HEADER}a.png,cat,1,2,10\n", "row 2: has 5 cells, the header 6"),
        (f"{HEADER}a.png,a cat, a dog,1,2,10,20\n", "row 2: has 7 cells, the header 6"),
        (f'{HEADER}a.png,"cat,1,2,10,20\n', "line 2: is no CSV"),
        (f"{HEADER}a.png,café,1,2,10,20\n".encode("latin-1"), 'line 2: is not UTF-8; save the table as "CSV UTF-8"'),
        (f"{HEADER}a.png,cat,1,2,10,20\n".encode("utf-16"), "line 1: is not UTF-8"),
        (f"{HEADER}a\0.png,cat,1,2,10,20\n", "cannot be read as text: it holds NUL characters"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_table_that_is_none_is_named(folder, content, message):
    refused(folder, content, message)


def test_missing_table_is_named(folder):
    for path in (folder / "none.csv", folder / "sub"):
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read(path)


@given(
    content=st.one_of(
        st.binary(max_size=80), st.text(max_size=80).map(lambda text: (HEADER + text).encode("utf-8", "replace"))
    )
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_bytes_the_answer_is_regions_or_one_sentence(folder, content):
    try:
        regions = read(table(folder, content))
    except ValueError as error:
        assert "table-" in str(error)
    else:
        assert regions
