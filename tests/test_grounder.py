"""Grounder with a tiny checkpoint: what comes back for pictures of every kind, and what is refused."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference_cases import TINY_AMC, tiny_model, tiny_settings

from amc_lib import Grounder, gradcam
from amc_lib.checkpoints import save_checkpoint
from amc_lib.config import SceneSettings, Settings, TrainingSettings
from amc_lib.evaluate import ground_phrases, peak
from amc_lib.grounder import Grounding, read_image
from amc_lib.model.trunk import pixels
from amc_lib.presets import preset
from amc_lib.tokens import SPECIAL, Tokenizer

WIDTH, HEIGHT = 60, 40
PHRASES = ["w1 w2", "w3", "w4 w5 w6"]
ORIENTATION = 0x0112  # EXIF tag


def tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A tower over the Lite0 trunk with random weights, and scenes small enough to be drawn at once."""
    training = TrainingSettings(batch_size=8)
    settings = Settings(
        "scenes", tiny_settings("lite0"), preset("scenes").objective, TINY_AMC, training, training,
        scenes=SceneSettings(size=96, referring_b=3),
    )  # fmt: skip
    tokenizer = Tokenizer([*SPECIAL, *(f"w{i}" for i in range(35))], 12)
    return save_checkpoint(folder, tiny_model(torch.float32, seed, trunk="lite0"), tokenizer, settings, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="module")
def grounder(folder) -> Grounder:
    return Grounder.load(folder)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Wider than high; a bright ramp with a dark block, so that no two corners look alike."""
    ramp = np.linspace(0, 255, WIDTH)[None, :, None] * np.array([1.0, 0.5, 0.2]) + np.zeros((HEIGHT, 1, 1))
    ramp[25:35, 5:20] = 20
    return Image.fromarray(ramp.astype(np.uint8))


def equal(first: Grounding, second: Grounding) -> bool:
    return (first.point, first.score) == (second.point, second.score) and (first.heatmap == second.heatmap).all()


def refused(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


# ------------------------------------------------------------------------------------------------------ what comes back


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (33, 33), (1, 1), (7, 200)])
def test_answer_is_in_the_pixels_of_the_picture(grounder, picture, size):
    answer = grounder.ground(picture.resize(size), "w1 w2")
    width, height = size
    assert answer.heatmap.shape == (height, width) and answer.heatmap.dtype == np.float32
    assert answer.heatmap.min() >= 0 and answer.heatmap.max() <= 1
    assert 0 <= answer.point[0] < width and 0 <= answer.point[1] < height
    assert 0 <= answer.score <= 1 and isinstance(answer.score, float)
    assert answer.image.size == answer.overlay().size == size


def test_answer_is_that_of_the_evaluation(grounder, picture):
    model, tokenizer = grounder.checkpoint.model, grounder.checkpoint.tokenizer
    raw, scores = ground_phrases(model, tokenizer, pixels(picture, 64)[None], ["w1 w2"], [0], grounder.layer)
    answer = grounder.ground(picture, "w1 w2")
    x, y = answer.point
    assert [x, y] == peak(raw, (HEIGHT, WIDTH))[0].tolist()
    assert answer.heatmap[y, x] == answer.heatmap.max() > 0.99 and answer.heatmap.min() == 0
    assert answer.score == scores[0].item()
    warm = gradcam.upsample(raw, (HEIGHT, WIDTH), "bicubic").clamp(min=0)[0]
    np.testing.assert_allclose(answer.heatmap, (warm / warm.max()).numpy(), atol=1e-3)


def test_phrases_and_pictures_change_the_answer(grounder, picture):
    first, other = grounder.ground(picture, ["w1 w2", "w3"])
    assert not equal(first, other)
    mirrored = grounder.ground(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "w1 w2")
    assert not np.allclose(mirrored.heatmap, first.heatmap, atol=1e-3)


def test_list_equals_one_by_one(grounder, picture):
    answers = grounder.ground(picture, PHRASES)
    assert [answer.phrase for answer in answers] == PHRASES
    for phrase, answer in zip(PHRASES, answers, strict=True):
        alone = grounder.ground(picture, phrase)
        assert alone.point == answer.point
        assert alone.score == pytest.approx(answer.score, abs=1e-5)
        np.testing.assert_allclose(alone.heatmap, answer.heatmap, atol=1e-3)


def test_picture_is_encoded_once_for_all_phrases(grounder, picture, monkeypatch):
    model, seen = grounder.checkpoint.model, []
    encode = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda images: seen.append(len(images)) or encode(images))
    grounder.ground(picture, PHRASES)
    assert seen == [1]
    assert grounder.ground(picture, []) == []


def test_layer_can_be_chosen(folder, grounder, picture):
    assert grounder.layer == TINY_AMC.layer
    other = Grounder.load(folder, layer=2)
    assert not equal(other.ground(picture, "w1 w2"), grounder.ground(picture, "w1 w2"))
    with refused("layer 0 has no cross-attention; fusion layers are 2-4"):
        Grounder.load(folder, layer=0).ground(picture, "w1 w2")


def test_overlay_marks_the_point_and_leaves_the_picture(grounder, picture):
    answer = grounder.ground(picture, "w1 w2")
    before = np.asarray(answer.image).copy()
    overlay = np.asarray(answer.overlay())
    x, y = answer.point
    assert overlay[y, x].tolist() == [255, 255, 255]
    assert (np.asarray(answer.image) == before).all()


# ------------------------------------------------------------------------------------------------ pictures of all kinds


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_any_mode_is_read_as_rgb(grounder, picture, mode):
    answer = grounder.ground(picture.convert("L").convert(mode) if mode == "LA" else picture.convert(mode), "w1 w2")
    assert answer.image.mode == "RGB" and answer.heatmap.shape == (HEIGHT, WIDTH)


def test_path_text_and_picture_are_the_same_question(grounder, picture, tmp_path):
    picture.save(path := tmp_path / "picture.png")
    answers = [grounder.ground(source, "w1 w2") for source in (picture, path, str(path))]
    assert equal(answers[0], answers[1]) and equal(answers[0], answers[2])


def test_picture_is_turned_upright_as_its_exif_says(picture, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned clockwise by a quarter
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.size == (HEIGHT, WIDTH)
    assert (np.asarray(upright) == np.asarray(picture.transpose(Image.Transpose.ROTATE_270))).all()


# ------------------------------------------------------------------------------------------------------ what is refused


def test_missing_picture_is_named(grounder, tmp_path):
    with refused(f"{tmp_path / 'none.png'}: no such image"):
        grounder.ground(tmp_path / "none.png", "w1")
    with refused("an image must be a PIL image or a path, got int"):
        grounder.ground(7, "w1")


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_truncated_picture_is_named(grounder, picture, tmp_path, kind):
    picture.resize((600, 400)).save(buffer := io.BytesIO(), format=kind)
    path = tmp_path / f"half.{kind}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with refused(f"{path}: cannot be read as an image"):
        grounder.ground(path, "w1")


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"P5 99999 99999 255\n"])
def test_file_that_is_no_picture_is_named(grounder, tmp_path, data):
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with refused(f"{path}: cannot be read as an image"):
        grounder.ground(path, "w1")


@pytest.mark.parametrize("phrase", ["", " ", "?!"])
def test_phrase_of_no_words_is_refused_alone_and_in_a_list(grounder, picture, phrase):
    for asked in (phrase, ["w1", phrase]):
        with refused(f"the phrase {phrase!r} has no words"):
            grounder.ground(picture, asked)


@pytest.mark.parametrize(("layer", "shown"), [(0, "0"), (5, "5"), ("top", "'top'"), (None, "None")])
def test_checkpoint_that_names_no_layer_of_its_own_is_refused(folder, layer, shown):
    checkpoint = Grounder.load(folder).checkpoint
    checkpoint.about["layer"] = layer
    with refused(f"this checkpoint names the layer {shown}; its fusion layers are 2-4"):
        Grounder(checkpoint)


@pytest.mark.parametrize("phrase", [7, None, 1.5])
def test_phrase_that_is_no_text_is_refused(grounder, picture, phrase):
    with refused(f"a phrase must be text, got {phrase}"):
        grounder.ground(picture, phrase)


def test_picture_without_pixels_is_refused(grounder):
    with refused("it has 0 x 5 pixels"):
        grounder.ground(Image.new("RGB", (0, 5)), "w1")
