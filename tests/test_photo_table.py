"""Phrases in arrays: what is read back is what was written, once for all processes, and whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amc_lib.data import Phrase
from amc_lib.datasets.image_files import ImageFile
from amc_lib.datasets.records import Regions
from amc_lib.regions import Region
from amc_study.photos.photo_table import PhotoTable, build, open_table

ROOT = Path("/data/visual_genome")
CUP, PLATE = (1.0, 2.0, 3.0, 4.0), (0.5, 0.0, 480.25, 320.0)


def table(*regions: tuple) -> PhotoTable:
    """A table of (id, phrase, boxes, image)."""
    return build(Regions(Region(id, "", ImageFile(ROOT / name), name, *rest) for id, *rest, name in regions), ROOT)


def rows(table: PhotoTable) -> list[tuple[str, list[Phrase]]]:
    return [(table.image(row), table.phrases(row)) for row in range(len(table))]


def test_table_is_read_back_as_written_a_row_for_neighbours_whose_ids_agree_up_to_the_last_dash(tmp_path):
    one, other = "VG_100K/1.jpg", "VG_100K_2/ä λ.jpg"
    made = table(
        ("a-b-0", "cup", (CUP,), one),
        ("a-b-1", "ünï", (CUP, PLATE), one),
        ("a-c-0", "x", (), other),
        ("a-b-2", "y", (CUP,), one),
    )
    opened = open_table(tmp_path / "table", lambda: made)
    again = open_table(tmp_path / "table", lambda: pytest.fail("made again"))
    first = [Phrase("cup", (CUP,)), Phrase("ünï", (CUP, PLATE))]
    expected = [(one, first), (other, [Phrase("x")]), (one, [Phrase("y", (CUP,))])]
    assert rows(made) == rows(opened) == rows(again) == expected and opened.about["regions"] == 4
    assert isinstance(opened.lines, np.memmap) and not opened.lines.flags.writeable


def test_table_whose_writing_was_cut_off_is_made_again(tmp_path, monkeypatch):
    stale, fresh = (table(("a-0", text, (CUP,), "1.jpg")) for text in ("stale", "fresh"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.rename", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
        open_table(tmp_path / "table", lambda: stale)
    assert rows(open_table(tmp_path / "table", lambda: fresh)) == rows(fresh)


def test_damaged_table_is_named_and_no_pickle_is_read(tmp_path):
    folder = tmp_path / "table"
    open_table(folder, lambda: table(("a-0", "cup", (CUP,), "1.jpg")))
    np.save(folder / "ends.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=f"{folder}: is damaged .*; delete it, and it is made again"):
        open_table(folder, lambda: pytest.fail("made again"))
