"""Pictures in files: kinds that people have are read as they look, others end in one sentence that names the file."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from amc_lib.datasets.image_files import ImageFile, ImageFolder, read_image

WIDTH, HEIGHT = 24, 16
ORIENTATION = 0x0112  # EXIF tag


def ramp(mode: str = "RGB") -> Image.Image:
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, WIDTH)
    picture[..., 1] = np.linspace(0, 255, HEIGHT)[:, None]
    return Image.fromarray(picture).convert(mode)


def deep() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16))


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    picture.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


MIRRORED = ramp("P").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
GREY = np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH, 1).repeat(3, axis=2)
READ = pytest.mark.parametrize("read", [read_image, lambda path: ImageFile(path).open()], ids=["grounder", "data set"])


@READ
@pytest.mark.parametrize(
    ("save", "expected", "tolerance"),
    [
        (lambda: saved(ramp(), "PNG"), ramp(), 0),
        (lambda: saved(ramp(), "WEBP", lossless=True), ramp(), 0),
        (lambda: saved(ramp("CMYK"), "JPEG"), ramp(), 12),
        (lambda: saved(ramp("P"), "PNG"), ramp("P").convert("RGB"), 0),
        (lambda: saved(ramp("P"), "GIF", save_all=True, append_images=[MIRRORED]), ramp("P").convert("RGB"), 12),
        (lambda: saved(deep(), "PNG"), GREY, 1),
    ],
    ids=["png", "webp", "cmyk jpeg", "palette", "first frame of gif", "16 bits"],
)
def test_kinds_look_as_they_should(
    tmp_path, read, save: Callable[[], bytes], expected: Image.Image | np.ndarray, tolerance: float
):
    (tmp_path / "a").write_bytes(save())
    picture = read(tmp_path / "a")
    assert picture.mode == "RGB"
    assert np.abs(np.asarray(picture).astype(float) - np.asarray(expected)).mean() <= tolerance


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_any_mode_is_read_as_rgb(mode):
    read = read_image(ramp("L").convert(mode) if mode == "LA" else ramp(mode))
    assert read.mode == "RGB" and read.size == (WIDTH, HEIGHT)


def test_transparency_lies_on_white():
    glass = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    glass.putpixel((0, 0), (10, 20, 30, 0))
    assert [read_image(glass).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (255, 0, 0)]


@pytest.mark.parametrize(("scale", "dtype"), [(1, np.int32), (257, np.int32), (257, np.uint16)])
def test_grey_of_more_bits_keeps_its_brightness(scale, dtype):
    grey = (GREY[..., 0].astype(int) * scale).astype(dtype)
    assert np.abs(np.asarray(read_image(grey)).astype(float) - GREY).max() <= 1


def test_dark_grey_of_16_bits_stays_dark():
    assert np.asarray(read_image(np.full((2, 2), 200, np.uint16))).max() == 0


def test_rotated_picture_is_turned_for_a_person_and_not_for_the_boxes_of_a_data_set(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned clockwise by a quarter
    (path := tmp_path / "a.png").write_bytes(saved(ramp(), "PNG", exif=exif))
    upright = ramp().transpose(Image.Transpose.ROTATE_270)
    assert (np.asarray(read_image(path)) == np.asarray(upright)).all()
    assert (np.asarray(ImageFile(path).open()) == np.asarray(ramp())).all()
    assert ImageFile(path).size() == (HEIGHT, WIDTH)


@READ
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (saved(ramp(), "PNG")[:-30], "cannot be read as an image"),
        (b"", "cannot be read as an image of BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP: it is an empty file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "WEBP: it is a HEIC picture"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "WEBP: it is an AVIF picture"),
        (b"\0\0\0\x18ftypisom", "WEBP: it is a video"),
        (b"<?xml version='1.0'?>\n<svg width='9'/>", "WEBP: it is an SVG drawing"),
        (b"%PDF-1.7", "WEBP: it is a PDF document"),
        (b"version https://git-lfs.github.com/spec/v1", "WEBP: it is a Git LFS pointer"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as an image of BMP"),
        (b"P5 99999 99999 255\n", "cannot be read as an image: "),  # says to be of ten billion pixels
        (saved(ramp("F"), "TIFF"), "its values are floats, whose range is not known"),
    ],
    ids=[
        "truncated",
        "empty",
        "HEIC",
        "AVIF",
        "video",
        "SVG",
        "PDF",
        "LFS",
        "EPS, which starts programs",
        "bomb",
        "floats",
    ],
)
def test_file_that_is_not_a_picture_is_named(tmp_path, read, data, message):
    path = tmp_path / "picture"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    path.unlink()
    with pytest.raises(ValueError, match=f"{path}: no such image"):
        read(path)


@pytest.mark.parametrize("array", [np.zeros((4, 5, 3)), np.zeros((3, 4, 5), np.uint8)])
def test_array_of_another_form_is_named(array):
    with pytest.raises(ValueError, match=rf"it is {array.dtype} \[[345, ]+\], not uint8 \[H, W, 3\]"):
        read_image(array)


def test_folder_does_not_count_what_systems_and_browsers_leave(tmp_path):
    for name in ("1.jpg", "._1.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "2.jpg.part", "__MACOSX/2.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"")
    folder = ImageFolder(tmp_path, ["images"])
    assert len(folder) == 1 and folder.find("some/where/1.jpg").path == tmp_path / "images" / "1.jpg"
    with pytest.raises(ValueError, match=r"the image '2\.jpg' is not in images"):
        folder.find("2.jpg")
