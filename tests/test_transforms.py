"""Pictures as the model reads them: resizing against a form written out; picture, boxes and words changed together."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from amc_lib.config import PhotoSettings
from amc_lib.data import Phrase, box_mask
from amc_lib.datasets.transforms import Augment, swap_sides, to_input

SIDE = 20
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # PROTOCOL, Finetuning
PLAIN = PhotoSettings(flip=0, gray=0, jitter=0, jitter_probability=0)
BOXES = ((0.0, 0.0, 10.0, 10.0), (20.0, 5.0, 30.0, 35.0), (45.0, 30.0, 60.0, 40.0))  # in the noise of 60 x 40


def noise(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def levels(image: Tensor) -> np.ndarray:
    """What stood before normalisation, [S, S, 3] in 0 to 255."""
    return (image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]).permute(1, 2, 0).numpy() * 255


def augmented(picture: Image.Image, *phrases: Phrase, seed: int = 0, **changed: object) -> tuple[Tensor, list[Phrase]]:
    return Augment(replace(PLAIN, **changed), SIDE)(picture, phrases, np.random.default_rng(seed))


def naive_bilinear(picture: np.ndarray, side: int) -> np.ndarray:
    """Pixel by pixel with half-pixel centres; beyond the border the border is repeated."""
    height, width = picture.shape[:2]
    result = np.zeros((side, side, 3))
    for row, column in itertools.product(range(side), repeat=2):
        y = min(max((row + 0.5) * height / side - 0.5, 0), height - 1)
        x = min(max((column + 0.5) * width / side - 0.5, 0), width - 1)
        for j, i in itertools.product((int(y), int(y) + 1), (int(x), int(x) + 1)):
            share = (1 - abs(y - j)) * (1 - abs(x - i))
            result[row, column] += share * picture[min(j, height - 1), min(i, width - 1)]
    return result


@pytest.mark.parametrize("size", [(133, 71), (1, 50)])
def test_bilinear_is_the_naive_one_within_one_level(size):
    picture = noise(*size)
    image = levels(to_input(picture, SIDE, "bilinear"))
    assert np.abs(image - naive_bilinear(np.asarray(picture, dtype=float), SIDE)).max() <= 1


@pytest.mark.parametrize("size", [(60, 40), (300, 2)])
def test_bicubic_is_that_of_pillow(size):
    picture = noise(*size)
    expected = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(levels(to_input(picture, SIDE, "bicubic")).round(), expected)


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
def test_colours_are_normalised_as_clip_does(resize):
    colour = (255, 0, 102)
    image = to_input(Image.new("RGB", (9, 4), colour), SIDE, resize)
    expected = [(c / 255 - mean) / std for c, mean, std in zip(colour, MEAN, STD, strict=True)]
    torch.testing.assert_close(image, torch.tensor(expected)[:, None, None].expand(3, SIDE, SIDE))


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("man on the left", "man on the right"),
        ("leftmost cup, righthand drawer", "rightmost cup, lefthand drawer"),
        ("RIGHT, or Left-hand side?", "left, or right-hand side?"),
        ("top-left/bottom right", "top-right/bottom left"),
        *[(word, word) for word in ("copyright", "bright leftover", "upright cleft", "rights")],
    ],
)
def test_sides_change_places_and_no_other_word_does(text, mirrored):
    assert swap_sides(text) == mirrored
    assert swap_sides(swap_sides(text.lower())) == text.lower()


def test_result_depends_on_the_generator_alone():
    augment, phrases = Augment(PhotoSettings(), SIDE), [Phrase("cup on the left", BOXES)]

    def results() -> list[tuple[str, str]]:
        pairs = [augment(noise(), phrases, np.random.default_rng(seed)) for seed in range(30)]
        return [(str(image.tolist()), str(moved)) for image, moved in pairs]

    def global_states() -> list[str]:
        return [repr(random.getstate()), str(np.random.get_state()), str(torch.get_rng_state().tolist())]

    first, states = results(), global_states()
    assert results() == first and global_states() == states
    torch.manual_seed(5)
    assert results() == first
    assert len({moved for _, moved in first}) == 6  # flipped or not, one box of three


def test_flip_moves_picture_boxes_and_words_together():
    image, (phrase, other) = augmented(noise(), Phrase("Left-hand cup", BOXES[1:2]), Phrase("bright cup"), flip=1)
    assert image.equal(to_input(noise(), SIDE, "bilinear").flip(-1))
    assert (phrase.text, other) == ("right-hand cup", Phrase("bright cup"))
    np.testing.assert_allclose(phrase.boxes, [(30 / 60, 5 / 40, 40 / 60, 35 / 40)], rtol=1e-6)
    flips = [augmented(noise(4, 4), Phrase("left"), seed=seed, flip=0.25)[1][0].text for seed in range(100)]
    assert flips.count("right") == pytest.approx(25, abs=12)


@pytest.mark.parametrize("flip", [0, 1])
def test_boxes_stay_on_what_they_surround(flip):
    box = (12, 10, 30, 24)
    picture = Image.new("RGB", (60, 40))
    picture.paste((255, 255, 255), box)
    image, (phrase,) = augmented(picture, Phrase("square", (tuple(map(float, box)),)), flip=flip)
    mask = box_mask(phrase.boxes, SIDE)
    assert mask.equal(torch.from_numpy(levels(image)[..., 0] > 127).float())
    left, right = mask.split(SIDE // 2, dim=1)
    assert [left.any(), right.any()] == ([False, True] if flip else [True, False])
    assert mask.sum() == 6 * 7  # a third of 18 times a half of 14


def test_one_box_of_several_is_drawn_for_each_phrase():
    phrases = [Phrase("cup", BOXES), Phrase("plate", BOXES[:2]), Phrase("fork", BOXES[2:])]
    drawn = [augmented(noise(), *phrases, seed=seed)[1] for seed in range(60)]
    _, every = augmented(noise(), *phrases, one_box=False)
    assert [len(phrase.boxes) for phrase in every] == [3, 2, 1]
    for n, phrase in enumerate(every):
        assert all(len(moved[n].boxes) == 1 for moved in drawn)
        turns = [sum(moved[n].boxes == (box,) for moved in drawn) for box in phrase.boxes]
        assert turns == [pytest.approx(60 / len(phrase.boxes), abs=14)] * len(phrase.boxes)


def test_grey_and_jitter_change_colours_as_far_as_the_settings_say():
    grey, coloured = (levels(augmented(noise(), gray=share)[0]) for share in (1, 0))
    assert np.abs(grey - grey[..., :1]).max() < 1e-3 and grey.std() > 10
    assert np.abs(coloured - coloured[..., :1]).max() > 100
    picture = Image.new("RGB", (8, 8), (100, 100, 100))
    means = [levels(augmented(picture, seed=s, jitter=0.4, jitter_probability=1)[0]).mean() for s in range(60)]
    assert 59 <= min(means) < 70 and 130 < max(means) <= 141
    assert all(augmented(noise(), seed=s, jitter=0.4)[0].equal(to_input(noise(), SIDE, "bilinear")) for s in range(9))


def test_box_that_overruns_the_picture_is_cut_off_and_one_outside_refused():
    _, (phrase,) = augmented(noise(), Phrase("cat", ((-5.0, 20.0, 30.0, 500.0),)))
    assert phrase.boxes == ((0, 0.5, 0.5, 1),)
    with pytest.raises(ValueError, match=r"a box \(80, 2, 90, 9\) lies outside its image of 60 x 40"):
        augmented(noise(), Phrase("cat", ((80.0, 2.0, 90.0, 9.0),)))
