"""Phrases in arrays: what is read back is what was written, once for all processes, and whole."""

from __future__ import annotations

import itertools
import pickle
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amc_lib.data import Phrase
from amc_lib.datasets import photo_table
from amc_lib.datasets.image_files import ImageFile
from amc_lib.datasets.photo_table import ARRAYS, PhotoTable, build, open_table
from amc_lib.files import write_array, write_json
from amc_lib.regions import Box, Region

ROOT = Path("/data/visual_genome")
ABOUT = {"regions": 3, "first_skipped": ["übel: no such image"]}
CUP, PLATE = (1.0, 2.0, 3.0, 4.0), (0.5, 0.0, 480.25, 320.0)


def region(id: str, phrase: str = "cup", boxes: Sequence[Box] = (CUP,), image: str = "VG_100K/1.jpg") -> Region:
    return Region(id, "train", ImageFile(ROOT / image), Path(image).stem, phrase, tuple(boxes))


def table(*regions: Region) -> PhotoTable:
    return build(regions, ROOT, ABOUT)


def rows(of: PhotoTable) -> list[tuple[str, list[Phrase]]]:
    return [(of.image(row), of.phrases(row)) for row in range(len(of))]


def never() -> PhotoTable:
    raise AssertionError("made again")


# --------------------------------------------------------------------------------------------------------------- rows


def test_row_holds_the_phrases_of_one_record():
    made = table(
        region("0:vg_train:0-0", "a cup", [CUP, PLATE]),
        region("0:vg_train:0-1", "the cup", [CUP, PLATE]),
        region("0:vg_train:1-0", "plate", [PLATE]),
        region("1:vg-more:1-0", "plate", [PLATE], image="VG_100K_2/2.jpg"),
    )
    assert rows(made) == [
        ("VG_100K/1.jpg", [Phrase("a cup", (CUP, PLATE)), Phrase("the cup", (CUP, PLATE))]),
        ("VG_100K/1.jpg", [Phrase("plate", (PLATE,))]),
        ("VG_100K_2/2.jpg", [Phrase("plate", (PLATE,))]),
    ]
    assert made.images == ["VG_100K/1.jpg", "VG_100K_2/2.jpg"]


@pytest.mark.parametrize(
    ("ids", "phrases_of_rows"),
    [
        (["a-0", "a-1", "b-0"], [2, 1]),
        (["a-b-0", "a-b-1", "a-c-0"], [2, 1]),
        (["a-0", "b-0", "a-1"], [1, 1, 1]),  # neighbours alone
        (["regions:1:10-0", "regions:1:1-0", "attributes:1:1-0"], [1, 1, 1]),
        ([], []),
    ],
)
def test_rows_are_told_apart_by_what_stands_before_the_last_dash(ids, phrases_of_rows):
    assert [len(phrases) for _, phrases in rows(table(*map(region, ids)))] == phrases_of_rows


# --------------------------------------------------------------------------------------------------------- kept on disk


WORDS = st.text(max_size=8).filter(str.strip)
NUMBERS = st.floats(0, 4096, width=32)


@st.composite
def a_box(draw) -> Box:
    (x1, x2), (y1, y2) = (sorted(draw(st.lists(NUMBERS, min_size=2, max_size=2, unique=True))) for _ in range(2))
    return x1, y1, x2, y2


PHRASES = st.tuples(WORDS, st.lists(a_box(), max_size=3))
NAMES = st.text(string.ascii_letters + string.digits + "_ äλ", min_size=1, max_size=6).map("{}.jpg".format)
RECORDS = st.lists(st.tuples(NAMES, st.lists(PHRASES, min_size=1, max_size=3)), max_size=5)


@settings(deadline=None, max_examples=40)  # every example writes files
@given(RECORDS)
def test_what_is_read_back_is_what_was_written(tmp_path_factory, records):
    regions = [
        region(f"regions:{number}-{n}", phrase, boxes, image)
        for number, (image, phrases) in enumerate(records)
        for n, (phrase, boxes) in enumerate(phrases)
    ]
    made, folder = table(*regions), tmp_path_factory.mktemp("table")
    found = open_table(folder, lambda: made)
    expected = [(image, [Phrase(text, tuple(boxes)) for text, boxes in phrases]) for image, phrases in records]
    assert rows(made) == rows(found) == expected
    assert found.about == ABOUT and found.images == list(dict.fromkeys(image for image, _ in records))
    for name in ARRAYS:
        assert getattr(found, name).dtype == getattr(made, name).dtype


def test_second_opening_makes_nothing(tmp_path):
    first = open_table(tmp_path / "table", lambda: table(region("a-0")))
    assert rows(open_table(tmp_path / "table", never)) == rows(first)


def test_arrays_are_mapped_and_not_read(tmp_path):
    found = open_table(tmp_path, lambda: table(region("a-0")))
    for name in ARRAYS:
        array = getattr(found, name)
        assert isinstance(array, np.memmap) and not array.flags.writeable
        assert Path(array.filename) == tmp_path / f"{name}.npy"


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


def test_array_that_is_a_pickle_is_refused_unread(tmp_path):
    open_table(tmp_path, lambda: table(region("a-0")))
    made = tmp_path / "executed"
    np.save(tmp_path / "boxes.npy", np.array([Bomb(made)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        open_table(tmp_path, never)
    (tmp_path / "boxes.npy").write_bytes(pickle.dumps(Bomb(made)))
    with pytest.raises(ValueError, match="pickled"):
        open_table(tmp_path, never)
    assert not made.exists()


@pytest.mark.parametrize("written", range(len(ARRAYS) + 1))
def test_table_whose_writing_was_cut_off_is_made_again(tmp_path, monkeypatch, written):
    """The writing stops before array number `written`, or before the description, which is last."""
    left = itertools.count()

    def stop_at(write):
        def writer(path, content):
            if next(left) == written:
                raise KeyboardInterrupt
            write(path, content)

        return writer

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(photo_table, "write_array", stop_at(write_array))
        patch.setattr(photo_table, "write_json", stop_at(write_json))
        open_table(tmp_path, lambda: table(region("a-0", "stale"), region("b-0", "stale")))
    assert len(list(tmp_path.glob("*.npy"))) == written and not (tmp_path / "table.json").exists()
    found = open_table(tmp_path, lambda: table(region("c-0", "fresh")))
    assert rows(found) == [("VG_100K/1.jpg", [Phrase("fresh", (CUP,))])]


@pytest.mark.parametrize(
    ("name", "array", "why"),
    [
        ("boxes", np.full((1, 4), np.nan, np.float32), "boxes are not four finite numbers each"),
        ("text_end", np.array([10**6]), "text_end does not lead to the end of text"),
        ("row_image", np.array([7], np.int32), "a row is of an image that is not there"),
        ("row_image", np.array([0], np.int64), "row_image is int64 of 1 dimensions"),
    ],
)
def test_damaged_table_is_named(tmp_path, name, array, why):
    open_table(tmp_path, lambda: table(region("a-0")))
    np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(ValueError, match=f"{tmp_path}: is damaged .{why}.; delete it, and it is made again"):
        open_table(tmp_path, never)
