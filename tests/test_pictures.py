"""Pictures in the forms in which people hold them: what is read of each, what is kept, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusal import refused

from amc_lib.pictures import read_again, read_picture

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8))
GREY = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)


@pytest.fixture
def path(tmp_path) -> Path:
    PICTURE.save(tmp_path / "a.png")
    return tmp_path / "a.png"


def same(first: Image.Image, second: Image.Image) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_of_a_file_its_path_or_its_bytes_are_kept_and_not_its_pixels(path):
    data = path.read_bytes()
    read_before = io.BytesIO(data)
    read_before.read()
    with path.open("rb") as file:
        for image in (data, bytearray(data), memoryview(data), file, read_before, {"bytes": data, "path": "x"}):
            kept, picture = read_picture(image)
            assert kept == data and same(picture, PICTURE) and same(read_again(kept, (6, 4)), PICTURE)
    for image in (path, str(path), {"bytes": None, "path": str(path)}):
        kept, picture = read_picture(image)
        assert kept == path and same(picture, PICTURE) and same(read_again(kept, (6, 4)), PICTURE)
    kept, picture = read_picture(PICTURE)
    assert kept is picture and read_again(kept, (6, 4)) is picture


def test_grey_arrays_have_one_channel_or_none():
    expected = Image.fromarray(GREY[..., 0]).convert("RGB")
    assert all(same(read_picture(array)[1], expected) for array in (GREY, GREY[..., 0]))


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ({"image": PICTURE}, "must hold its file's bytes or its path; this one holds image"),
        ({"bytes": None, "path": None}, "must hold its file's bytes or its path; this one holds nothing"),
        (np.zeros(5, np.uint8), "it is uint8 [5], not uint8 [H, W, 3]"),
        (np.zeros((2, 4, 6, 3), np.uint8), "it is uint8 [2, 4, 6, 3], not uint8 [H, W, 3]"),
        (np.zeros((4, 6, 1)), "its values are floats, whose range is not known"),
        ("https://example.org/a.jpg", "https://example.org/a.jpg: is an address, not a file: download the picture"),
        (io.StringIO("a"), "a file open for bytes, got StringIO"),
        (io.BytesIO(b"<html>"), "it is a web page"),
    ],
)
def test_what_is_no_picture_is_said(image, sentence):
    with refused(sentence):
        read_picture(image)


def test_a_closed_file_and_another_picture_in_its_place_are_named(path):
    file = path.open("rb")
    file.close()
    with refused(f"{path}: cannot be read as an image: "):
        read_picture(file)
    PICTURE.rotate(90, expand=True).save(path)
    sentence = f"{path}: is another picture than the one that was asked about: it had 6 x 4 pixels and now has 4 x 6"
    with refused(sentence):
        read_again(path, (6, 4))
