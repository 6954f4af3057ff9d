"""Pictures and phrases that are damaged or of odd kinds: an answer in the picture's own pixels, or one sentence."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hostile import JUNK, NASTY_TEXT, RUNS, damaged, drive, outcome, untouched
from hypothesis import strategies as st
from PIL import Image
from test_grounder import tiny_checkpoint

from amc_lib.config import VisionSettings
from amc_lib.datasets.image_files import ImageFile
from amc_lib.grounder import Grounder, Grounding, read_image
from amc_study.rival.detector import Proposals
from amc_study.rival.region_grounder import RegionGrounder

ORIENTATION = 0x0112  # EXIF tag
WIDTH, HEIGHT = 24, 16
MODES = [
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "F",
    "I;16",
]


def ramp(mode: str = "RGB", width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(picture).convert(mode)


def kinds() -> dict[str, bytes]:
    """Files of the kinds that people have."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    frames = [ramp("P"), ramp("P").transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    deep = Image.fromarray(np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16))
    pictures: dict[str, Callable[[io.BytesIO], None]] = {
        "jpeg": lambda file: ramp().save(file, "JPEG", exif=exif),
        "grey jpeg": lambda file: ramp("L").save(file, "JPEG", progressive=True),
        "cmyk jpeg": lambda file: ramp("CMYK").save(file, "JPEG"),
        "png": lambda file: ramp("RGBA").save(file, "PNG"),
        "palette png": lambda file: ramp("P").save(file, "PNG", transparency=0),
        "deep png": lambda file: deep.save(file, "PNG"),
        "gif": lambda file: frames[0].save(file, "GIF", save_all=True, append_images=frames[1:]),
        "bmp": lambda file: ramp().save(file, "BMP"),
        "tiff": lambda file: ramp("CMYK").save(file, "TIFF"),
        "float tiff": lambda file: ramp("F").save(file, "TIFF"),
        "webp": lambda file: ramp().save(file, "WEBP", lossless=True),
        "ppm": lambda file: ramp().save(file, "PPM"),
    }
    contents = {}
    for name, save in pictures.items():
        save(file := io.BytesIO())
        contents[name] = file.getvalue()
    return contents


@pytest.fixture(scope="module")
def grounder(tmp_path_factory) -> Grounder:
    return Grounder.load(tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny"))


def check_answer(answer: Grounding) -> None:
    width, height = answer.image.size
    assert answer.image.mode == "RGB" and answer.heatmap.shape == (height, width)
    assert np.isfinite(answer.heatmap).all() and 0 <= answer.heatmap.min() <= answer.heatmap.max() <= 1
    assert 0 <= answer.point[0] < width and 0 <= answer.point[1] < height and 0 <= answer.score <= 1


@RUNS
def test_damaged_pictures(inputs, tmp_path):
    path, contents = tmp_path / "picture", kinds()

    def law(case: bytes) -> None:
        path.write_bytes(case)
        with untouched(tmp_path):
            picture, _ = outcome(lambda: read_image(path), path)
            stored, _ = outcome(ImageFile(path).open, path)
            uploaded, _ = outcome(lambda: read_image(io.BytesIO(case)))
        for read in (picture, stored, uploaded):
            assert read is None or (read.mode == "RGB" and 0 < read.width * read.height <= 89_478_485)
        assert (picture is None) == (uploaded is None)

    drive(inputs, law, st.sampled_from(sorted(contents)).flatmap(lambda name: damaged(contents[name])))


@RUNS
def test_pictures_of_odd_sizes_and_modes(inputs, grounder):
    sizes = st.sampled_from([0, 1, 2, 3, 31, 64, 2000])

    def law(mode: str, width: int, height: int, other: Any) -> None:
        picture = Image.new(mode, (width, height), None if mode == "P" else 0)
        if other is None and width * height:
            picture = ramp("RGB", width, height)
        elif other is not True and not isinstance(other, str):
            picture = other
        if not isinstance(picture, str) and getattr(picture, "width", 9) * getattr(picture, "height", 9) > 10_000:
            return
        answer, _ = outcome(lambda: grounder.ground(picture, "w1"))
        if answer is not None:
            assert isinstance(picture, Image.Image) and answer.image.size == picture.size
            check_answer(answer)

    others = st.sampled_from([True, True, True, None, 3, 2.5, b"x", [1], np.zeros((4, 4, 3)), torch.zeros(3, 4, 4)])
    drive(inputs, law, st.sampled_from(MODES), sizes, sizes, others)


class FewBoxes:
    """Stands for a detector, which sees the same three boxes in every picture."""

    def propose(self, pictures: list[Image.Image]) -> list[Proposals]:
        boxes = torch.tensor([[0.0, 0, 5, 5], [1, 1, 9, 9], [2, 0, 8, 3]])
        size = pictures[0].size[::-1]
        return [Proposals(boxes, torch.ones(3), torch.zeros(3, dtype=torch.int64), torch.randn(3, 4), size)]


@RUNS
def test_phrases_of_all_kinds(inputs, grounder, monkeypatch):
    seen: list[list[str]] = []
    regions = RegionGrounder(
        SimpleNamespace(settings=SimpleNamespace(model=SimpleNamespace(vision=VisionSettings(trunk="regions")))),
        FewBoxes(),
    )
    monkeypatch.setattr(regions, "match", lambda picture, proposals, phrases: seen.append(phrases) or phrases)

    def law(phrase: Any) -> None:
        answer, error = outcome(lambda: grounder.ground(ramp(), phrase))
        _, of_regions = outcome(lambda: regions.ground(ramp(), phrase))
        assert error == of_regions
        if answer is not None:
            answers = answer if isinstance(answer, list) else [answer]
            assert [answer.phrase for answer in answers] == ([phrase] if isinstance(phrase, str) else list(phrase))
            for one in answers:
                check_answer(one)
                assert len(grounder.checkpoint.tokenizer.tokens(one.phrase)) > 2

    texts = NASTY_TEXT | st.text(max_size=8) | st.text("w12 \u0301\ufffd\u200b\u202e\U0001f600漢", max_size=5)
    drive(inputs, law, texts | JUNK | st.lists(texts | JUNK, max_size=3))


# ------------------------------------------------------------------------------- kinds of pictures, read as they should


@pytest.mark.parametrize("name", ["png", "bmp", "ppm", "webp"])
def test_lossless_kinds_are_read_to_the_pixel(name):
    assert (np.asarray(read_image(io.BytesIO(kinds()[name]))) == np.asarray(ramp())).all()


def test_rotated_picture_is_turned_for_a_person_and_not_for_the_boxes_of_a_data_set(tmp_path):
    (tmp_path / "a.jpg").write_bytes(kinds()["jpeg"])
    assert read_image(tmp_path / "a.jpg").size == (HEIGHT, WIDTH)
    assert ImageFile(tmp_path / "a.jpg").open().size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("read", [read_image, lambda path: ImageFile(path).open()], ids=["grounder", "data set"])
def test_other_kinds_look_as_they_should(tmp_path, read):
    def near(name: str, expected: Image.Image, tolerance: float) -> bool:
        (tmp_path / "a").write_bytes(kinds()[name])
        found = np.asarray(read(tmp_path / "a")).astype(float)
        return bool(np.abs(found - np.asarray(expected)).mean() < tolerance)

    assert near("cmyk jpeg", ramp(), 12)
    assert near("tiff", ramp("CMYK").convert("RGB"), 1e-9)
    assert near("palette png", ramp("P").convert("RGB"), 1e-9)
    assert near("gif", ramp("P").convert("RGB"), 12)  # the first of two frames, which mirror each other
    assert not near("gif", ramp("P").convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT), 12)
    grey = np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH, 1).repeat(3, axis=2)
    assert near("deep png", grey, 1)
    with pytest.raises(ValueError, match="its values are floats, whose range is not known"):
        near("float tiff", ramp(), 1)


@pytest.mark.parametrize("name", ["a.eps", "a.pdf", "a.svg"])
def test_kinds_that_could_start_programs_are_not_opened(tmp_path, name):
    start = {"a.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.pdf": b"%PDF-1.4\n", "a.svg": b"<svg/>"}
    path: Path = tmp_path / name
    path.write_bytes(start[name])
    with pytest.raises(ValueError, match=f"{name}: cannot be read as an image: of no known kind"):
        read_image(path)
