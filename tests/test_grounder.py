"""Grounder with a tiny checkpoint: the answers for pictures of every kind, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from reference_cases import TINY_AMC
from refusal import refused
from tiny_grounder import HEIGHT, PHRASES, WIDTH, ramp

import amc_lib
import amc_lib.grounder as grounder_module
from amc_lib import Grounder, Grounding, gradcam
from amc_lib.datasets.image_files import UnreadableImageError
from amc_lib.evaluate import ground_phrases, peak
from amc_lib.model.trunk import pixels
from amc_lib.phrases import unknown_words
from amc_lib.tokens import SPECIAL, Tokenizer, word_vocabulary


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return ramp()


def equal(first: Grounding, second: Grounding) -> bool:
    return (first.point, first.score) == (second.point, second.score) and (first.heatmap == second.heatmap).all()


@pytest.mark.parametrize("size", [(60, 40), (33, 33), (1, 1), (7, 200)])
def test_answer_is_in_the_pixels_of_the_picture(grounder, picture, size):
    answer = grounder.ground(picture.resize(size), "w1 w2")
    width, height = size
    assert answer.heatmap.shape == (height, width) and answer.heatmap.dtype == np.float32
    assert answer.heatmap.min() >= 0 and answer.heatmap.max() <= 1
    assert 0 <= answer.point[0] < width and 0 <= answer.point[1] < height
    assert answer.image.size == answer.overlay().size == size


def test_answer_is_that_of_the_evaluation(grounder, picture):
    model, tokenizer = grounder.checkpoint.model, grounder.checkpoint.tokenizer
    raw, scores = ground_phrases(model, tokenizer, pixels(picture, 64)[None], ["w1 w2"], [0], grounder.layer)
    answer = grounder.ground(picture, "w1 w2")
    x, y = answer.point
    assert [x, y] == peak(raw, (HEIGHT, WIDTH))[0].tolist()
    assert answer.heatmap[y, x] == answer.heatmap.max() > 0.99 and answer.heatmap.min() == 0
    assert answer.score == scores[0].item() and 0 < answer.score < 1
    warm = gradcam.upsample(raw, (HEIGHT, WIDTH), "bicubic").clamp(min=0)[0]
    np.testing.assert_allclose(answer.heatmap, (warm / warm.max()).numpy(), atol=1e-3)


def test_list_equals_one_by_one_and_encodes_the_picture_once(grounder, picture, monkeypatch):
    alone = [grounder.ground(picture, phrase) for phrase in PHRASES]
    model, seen = grounder.checkpoint.model, []
    encode = model.encode_image
    monkeypatch.setattr(model, "encode_image", lambda images: seen.append(len(images)) or encode(images))
    for phrase, single, answer in zip(PHRASES, alone, grounder.ground(picture, PHRASES), strict=True):
        assert answer.phrase == phrase and answer.point == single.point
        assert answer.score == pytest.approx(single.score, abs=1e-5)
        np.testing.assert_allclose(answer.heatmap, single.heatmap, atol=1e-3)
    assert seen == [1] and not equal(alone[0], alone[1])


def test_several_pictures_are_asked_one_after_the_other(grounder, picture):
    other = picture.transpose(Image.Transpose.ROTATE_90)
    answers = grounder.ground([picture, other], PHRASES)
    for image, row in zip((picture, other), answers, strict=True):
        assert all(equal(found, alone) for found, alone in zip(row, grounder.ground(image, PHRASES), strict=True))
    assert equal(grounder.ground([picture], "w1")[0], grounder.ground(picture, "w1")) and not grounder.ground([], "w1")


def test_generators_and_series_are_lists_of_pictures_and_of_phrases(grounder, picture):
    expected = [[grounder.ground(picture, phrase) for phrase in PHRASES]] * 2
    for pictures in ([picture, picture], (picture for _ in range(2)), pd.Series([picture, picture])):
        answers = grounder.ground(pictures, (phrase for phrase in PHRASES))
        assert [[answer.point for answer in row] for row in answers] == [[one.point for one in row] for row in expected]
    assert equal(*grounder.ground(iter([picture]), "w1"), grounder.ground(picture, "w1"))


def test_answers_about_files_hold_no_picture_and_an_iterator_is_asked_as_it_is_read(grounder, picture, tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(2)]
    for path in paths:
        picture.save(path)
    waiting = iter(paths)
    answers = grounder.ground(waiting, "w1")
    first = next(answers)
    assert next(waiting) == paths[1] and first.picture == paths[0] and first.size == picture.size
    assert (np.asarray(first.image) == np.asarray(picture)).all()
    assert (np.asarray(first.overlay()) == np.asarray(grounder.ground(picture, "w1").overlay())).all()
    picture.resize((30, 20)).save(paths[0])
    with refused(
        f"{paths[0]}: is another picture than the one that was asked about: it had 60 x 40 pixels and now has"
    ):
        first.overlay()
    paths[0].unlink()
    assert first.box() and first.heatmap.any()
    with refused(f"{paths[0]}: no such image"):
        first.overlay()


def test_a_bad_picture_among_several_is_named_and_an_iterator_goes_on_behind_it(
    tiny_folder, grounder, picture, tmp_path
):
    missing = tmp_path / "none.png"
    other = Grounder.load(tiny_folder).encode(picture)
    answers = grounder.ground(iter([picture, missing, other, picture]), "w1")
    assert equal(next(answers), grounder.ground(picture, "w1"))
    for number, sentence in ((1, f"{missing}: no such image"), (2, "this image was encoded by another checkpoint")):
        with refused(f"picture {number}: {sentence}"):
            next(answers)
    assert equal(*answers, grounder.ground(picture, "w1"))  # the one that is left
    with pytest.raises(UnreadableImageError, match=rf"picture 0: {missing}: no such image"):
        grounder.ground([missing, picture], "w1")


def test_the_end_of_a_long_phrase_that_is_not_read_is_told(grounder, picture):
    words = [f"w{k % 35}" for k in range(60)]
    long, whole, short = grounder.ground(picture, [" ".join(words[:n]) for n in (60, 50, 2)])
    positions = grounder.checkpoint.model.settings.text.positions
    assert long.unread_words == tuple(words[min(50, positions - 2) :]) and long.tokens == whole.tokens
    assert len(long.tokens) == min(52, positions) and short.unread_words == ()


def test_marks_of_other_keyboards_change_no_answer(grounder, picture):
    for asked, typed in (("w1 – w2…", "w1 - w2..."), ("“w1’s” w2", '"w1\'s" w2'), ("x,y", "x y"), ("w1;w2", "w1;w2")):
        found, expected = grounder.ground(picture, asked), grounder.ground(picture, typed)
        assert equal(found, expected) and found.phrase == asked and found.tokens == expected.tokens
        assert found.unknown is expected.unknown


def test_answer_does_not_depend_on_the_phrases_beside_it(grounder, picture):
    alone, (beside, longer) = grounder.ground(picture, "w1"), grounder.ground(picture, ["w1", "w2 w3 w4 w5 w6"])
    torch.testing.assert_close(beside.raw, alone.raw, rtol=1e-5, atol=1e-7)  # of maps up to 0.008
    for answer in (alone, beside, longer):
        torch.testing.assert_close(answer.token_maps.sum(0), answer.raw, rtol=1e-5, atol=1e-7)
    assert len({alone, beside, alone}) == 2 and alone != beside
    assert grounder.encode(np.asarray(picture)) != grounder.encode(np.asarray(picture))


def test_what_is_no_checkpoint_no_layer_no_phrase_and_no_picture_is_said(tiny_folder, grounder, picture, tmp_path):
    with refused("a checkpoint is a path or a name, got None"):
        Grounder.load(None)
    for layer, sentence in (("3", "layer '3' has no cross-attention"), (True, "the layer must be a number, got True")):
        with refused(sentence):
            Grounder.load(tiny_folder, layer=layer)
    of_numpy = Grounder.load(tiny_folder, layer=np.int64(grounder.layer))
    assert equal(of_numpy.ground(picture, "w1"), grounder.ground(picture, "w1"))
    for phrase in ("caf\udce9", "\ud800"):
        with refused("holds bytes that are no text: write it in UTF-8"):
            grounder.ground(picture, phrase)
    (tmp_path / "a.txt").write_text("w1")
    with open(tmp_path / "a.txt") as text, refused("a file open for bytes, got TextIOWrapper"):
        grounder.ground(text, "w1")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)])
def test_the_answer_is_the_same_in_every_mode_of_torch(tiny_folder, grounder, picture, mode):
    expected = grounder.ground(picture, "w1 w2")
    with mode():
        encoded, loaded = grounder.encode(picture), Grounder.load(tiny_folder)
        assert all(equal(one.ground(picture, "w1 w2"), expected) for one in (grounder, loaded))
    assert equal(grounder.ground(encoded, "w1 w2"), expected) and equal(loaded.ground(picture, "w1 w2"), expected)


def test_many_phrases_are_asked_in_parts_and_answers_hold_no_map_of_the_pictures_size(grounder, picture, monkeypatch):
    asked, whole = [], grounder_module.ground_remembered
    monkeypatch.setattr(grounder_module, "PHRASES_AT_ONCE", 3)
    monkeypatch.setattr(grounder_module, "ground_remembered", lambda *args: asked.append(len(args[3])) or whole(*args))
    phrases = [f"w{i}" for i in range(8)]
    answers = grounder.ground(picture.resize((900, 600)), phrases)
    assert asked == [3, 3, 2] and [answer.phrase for answer in answers] == phrases
    for answer in answers:
        held = [tensor.untyped_storage().nbytes() for tensor in (answer.raw, answer.token_maps)]
        assert sum(held) < 10_000 and answer.heatmap.shape == (600, 900)


def test_home_is_expanded_and_a_missing_picture_named_with_its_folder(grounder, picture, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    picture.save(tmp_path / "a.png")
    for path in ("~/a.png", Path("~/a.png"), "a.png"):
        assert equal(grounder.ground(path, "w1 w2"), grounder.ground(tmp_path / "a.png", "w1 w2"))
    with refused(f"{tmp_path / 'none.png'}: no such image"):
        grounder.ground("none.png", "w1")


def test_layer_can_be_chosen(tiny_folder, grounder, picture):
    assert grounder.layer == TINY_AMC.layer
    assert not equal(Grounder.load(tiny_folder, layer=2).ground(picture, "w1 w2"), grounder.ground(picture, "w1 w2"))
    with refused("layer 0 has no cross-attention; fusion layers are 2-4"):
        Grounder.load(tiny_folder, layer=0)


def test_device_that_is_not_here_is_named(tiny_folder):
    for device in ("cud", "mps" if torch.cuda.is_available() else "cuda"):
        with refused(f"the device {device!r} cannot be used: "):
            Grounder.load(tiny_folder, device=device)


def test_words_outside_the_vocabulary_are_named(grounder, picture):
    assert grounder.ground(picture, "w1 zebra w2").unknown_words == ("zebra",)
    spelling = Tokenizer(word_vocabulary(["red", "cat", "helicopter"]), 12)
    assert unknown_words(spelling, "a red cat, zebras and cats") == ("zebras", "and")
    pieces = Tokenizer([*SPECIAL, "ground", "##er", "the"], 12)
    assert unknown_words(pieces, "the grounder grounds") == ("grounds",)
    assert unknown_words(pieces, "the \x00") == ("\x00",)  # a word of no token at all


def test_a_picture_is_the_same_question_in_whatever_form_it_comes(grounder, picture, tmp_path):
    picture.save(path := tmp_path / "picture.png")
    data = path.read_bytes()
    as_datasets_gives_them = {"bytes": data, "path": "elsewhere.png"}, {"bytes": None, "path": str(path)}
    forms = picture, path, str(path), np.asarray(picture), path.open("rb"), data, bytearray(data), memoryview(data)
    first, *others = (grounder.ground(form, "w1 w2") for form in (*forms, *as_datasets_gives_them))
    assert all(equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "no such image"),
        (b"", "cannot be read as an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "cannot be read"),
    ],
)
def test_missing_or_broken_picture_is_named(grounder, tmp_path, data, sentence):
    path = tmp_path / "picture.png"
    if data is not None:
        path.write_bytes(data)
    with refused(f"{path}: {sentence}"):
        grounder.ground(path, "w1")


@pytest.mark.parametrize(
    ("picture", "phrase", "sentence"),
    [
        (7, "w1", "an image must be a PIL image, an array, a path or a file open for bytes, got int"),
        (
            torch.zeros(3, 5, 5),
            "w1",
            "an image must be a PIL image, an array, a path or a file open for bytes, got Tensor",
        ),
        (b"GIF", "w1", "cannot be read as an image of BMP"),
        (Image.new("RGB", (0, 5)), "w1", "it has 0 x 5 pixels"),
        (Image.new("RGB", (5, 5)), "?!", "the phrase '?!' has no words"),
        (Image.new("RGB", (5, 5)), ["w1", ""], "the phrase '' has no words"),
        (Image.new("RGB", (5, 5)), 1.5, "a phrase must be text, got 1.5"),
        (Image.new("RGB", (5, 5)), b"dog", "a phrase must be text, got b'dog'"),
    ],
)
def test_wrong_question_is_refused_with_one_sentence(grounder, picture, phrase, sentence):
    with refused(sentence):
        grounder.ground(picture, phrase)


def test_importing_the_grounder_loads_nothing_that_it_does_not_need():
    heavy = {"accelerate", "matplotlib", "pandas", "scipy", "transformers"}
    code = f"import sys, amc_lib; amc_lib.Grounder; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_library_loads_no_torch_and_all_it_exports_is_there():
    subprocess.run([sys.executable, "-c", "import sys, amc_lib; assert 'torch' not in sys.modules"], check=True)
    assert all(callable(getattr(amc_lib, name)) for name in amc_lib.__all__)
