"""Phrases in arrays: what is read back is what was written, once for all processes, and whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amc_lib.data import Phrase
from amc_lib.datasets.image_files import ImageFile
from amc_lib.regions import Box, Region
from amc_study.photos.photo_table import PhotoTable, build, open_table

ROOT = Path("/data/visual_genome")
ABOUT = {"regions": 3, "first_skipped": ["übel: no such image"]}
CUP, PLATE = (1.0, 2.0, 3.0, 4.0), (0.5, 0.0, 480.25, 320.0)


def region(id: str, phrase: str = "cup", boxes: Sequence[Box] = (CUP,), image: str = "VG_100K/1.jpg") -> Region:
    return Region(id, "train", ImageFile(ROOT / image), Path(image).stem, phrase, tuple(boxes))


def table(*regions: Region) -> PhotoTable:
    return build(regions, ROOT, ABOUT)


def rows(table: PhotoTable) -> list[tuple[str, list[Phrase]]]:
    return [(table.image(row), table.phrases(row)) for row in range(len(table))]


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
def test_row_holds_the_neighbours_whose_ids_agree_up_to_the_last_dash(ids, phrases_of_rows):
    assert [len(phrases) for _, phrases in rows(table(*map(region, ids)))] == phrases_of_rows


WORDS = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)
PHRASES = st.lists(st.tuples(WORDS, st.lists(st.sampled_from([CUP, PLATE]), max_size=3)), min_size=1, max_size=3)
NAMES = st.sampled_from(["VG_100K/1.jpg", "VG_100K_2/ä λ.jpg", "2.jpg"])


@settings(deadline=None, max_examples=20)  # every example writes files
@given(st.lists(st.tuples(NAMES, PHRASES), max_size=5))
def test_what_is_read_back_is_what_was_written(tmp_path_factory, records):
    regions = [
        region(f"regions:{number}-{n}", phrase, boxes, image)
        for number, (image, phrases) in enumerate(records)
        for n, (phrase, boxes) in enumerate(phrases)
    ]
    made, folder = table(*regions), tmp_path_factory.mktemp("tables") / "table"
    opened = open_table(folder, lambda: made)
    expected = [(image, [Phrase(text, tuple(boxes)) for text, boxes in phrases]) for image, phrases in records]
    assert rows(made) == rows(opened) == rows(open_table(folder, lambda: pytest.fail("made again"))) == expected
    assert isinstance(opened.lines, np.memmap) and not opened.lines.flags.writeable
    assert opened.about == ABOUT


def test_table_whose_writing_was_cut_off_is_made_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.rename", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
        open_table(tmp_path / "table", lambda: table(region("a-0", "stale")))
    opened = open_table(tmp_path / "table", lambda: table(region("c-0", "fresh")))
    assert rows(opened) == [("VG_100K/1.jpg", [Phrase("fresh", (CUP,))])]


def test_damaged_table_is_named_and_no_pickle_is_read(tmp_path):
    folder = tmp_path / "table"
    open_table(folder, lambda: table(region("a-0")))
    np.save(folder / "ends.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=f"{folder}: is damaged .*; delete it, and it is made again"):
        open_table(folder, lambda: pytest.fail("made again"))
