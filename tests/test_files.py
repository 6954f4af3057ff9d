"""Writers leave a whole file or the old one, never a piece, and no litter; downloads are named for what they are."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from amc_lib.files import (
    ROOT,
    atomic_file,
    atomic_folder,
    photos_root,
    plain,
    unexpected_content,
    write_bytes,
    write_csv,
    write_json,
)


def test_photographs_lie_where_the_variable_says_or_one_folder_below(tmp_path, monkeypatch):
    monkeypatch.setenv("AMC_PHOTOS", "")
    assert photos_root() in (ROOT / "data" / "photos", ROOT / "data" / "photos" / "flickr30k")
    monkeypatch.setenv("AMC_PHOTOS", str(tmp_path))
    assert photos_root() == tmp_path
    (tmp_path / "flickr30k").mkdir()
    assert photos_root() == tmp_path / "flickr30k"
    (tmp_path / "Annotations").mkdir()
    assert photos_root() == tmp_path


def test_json_is_readable_utf8_and_its_folder_is_made(tmp_path):
    path = tmp_path / "a" / "b" / "x.json"
    write_json(path, {"λ1": 0.2, "names": ["a", None]})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"λ1": 0.2, "names": ["a", None]}
    assert "λ1" in text and text.endswith("}\n")


def test_csv_keeps_every_digit_and_has_no_index(tmp_path):
    path = tmp_path / "x.csv"
    frame = pd.DataFrame({"system": ["AMC"], "accuracy": [0.1 + 0.2]})
    write_csv(path, frame)
    assert path.read_text(encoding="utf-8").splitlines()[0] == "system,accuracy"
    pd.testing.assert_frame_equal(pd.read_csv(path), frame, check_exact=True)


def test_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half of the n")
        raise RuntimeError("power cut")
    assert path.read_bytes() == b"old"
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and [entry.name for entry in tmp_path.iterdir()] == ["x.bin"]


def test_folder_is_whole_or_not_there_and_the_quicker_of_two_stays(tmp_path):
    path = tmp_path / "entry"
    with pytest.raises(RuntimeError), atomic_folder(path) as folder:
        (folder / "half").touch()
        raise RuntimeError("power cut")
    assert not [*tmp_path.iterdir()]
    with atomic_folder(path) as slower:
        (slower / "slower").touch()
        with atomic_folder(path) as quicker:
            (quicker / "quicker").touch()
        assert path.is_dir()
    assert [entry.relative_to(tmp_path).as_posix() for entry in tmp_path.rglob("*")] == ["entry", "entry/quicker"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_value_that_json_cannot_hold_is_refused_before_the_old_file_is_touched(tmp_path, value):
    path = tmp_path / "x.json"
    write_json(path, {"accuracy": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"accuracy": value})
    with pytest.raises((ValueError, TypeError), match=r"settings\.inner\[1\]\.accuracy is "):
        plain({"inner": [{}, {"accuracy": value}]})
    assert json.loads(path.read_text()) == {"accuracy": 1} and len(list(tmp_path.iterdir())) == 1


def test_plain_values_are_those_of_json():
    values = {"array": (np.float32(0.5), np.int64(3)), "inside": ROOT / "data" / "x", "outside": Path("/else/where")}
    assert plain(values) == {"array": [0.5, 3], "inside": "data/x", "outside": "where"}


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"\n<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"PK\3\4 the beginning of an archive", "an incomplete download"),
        (b"\xef\xbb\xbf<!-- a page --><html>", "a web page"),
        (b"Rar!\x1a\x07\x01\0", "a compressed archive"),
        (b"x" * 257 + b"ustar\0" + b"00", "a compressed archive"),
        (bytes(4096), "a file of zeros"),
        (b"", "an empty file"),
        (b"\x80\2}q\0.", None),
    ],
)
def test_downloads_are_named_for_what_they_are(tmp_path, data, content):
    (tmp_path / "x").write_bytes(data)
    found = unexpected_content(tmp_path / "x")
    assert found is None if content is None else found.startswith(content)
