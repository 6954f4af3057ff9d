"""What an answer says: whether a phrase is known, the box around the peak, thresholds, and the overlay."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from refusal import refused
from tiny_grounder import HEIGHT, PHRASES, WIDTH, ramp

from amc_lib import Grounder, Grounding
from amc_lib.checkpoints import load_checkpoint
from amc_lib.grounding import Calibration
from amc_lib.model import minilm
from amc_lib.overlay import heat_overlay
from amc_lib.phrases import unknown_words
from amc_lib.tokens import Tokenizer

PICTURE = ramp()


def answer_of(heatmap: np.ndarray) -> Grounding:
    """A grounding that has this heatmap, but for its scale; nothing else in it matters."""
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    raw = torch.from_numpy(heatmap.astype(np.float32))
    return Grounding("w1", (int(x), int(y)), 0.5, (), (), heatmap.shape[::-1], None, raw, None)


@pytest.mark.parametrize(
    ("phrase", "unknown_words", "unknown"),
    [("zebra", ["zebra"], True), ("A zebra!", ["zebra"], True), ("red zebra", ["zebra"], False), ("the", [], True)],
)
def test_phrase_is_unknown_if_no_word_but_articles_is_known(phrase, unknown_words, unknown):
    answer = replace(answer_of(np.ones((2, 2))), phrase=phrase, unknown_words=tuple(unknown_words))
    assert answer.unknown is unknown


@pytest.mark.parametrize(
    ("phrase", "unknown"),
    [
        ("a dog", ()),
        ("a “dog” — café", ()),
        ("a dog собака", ("собака",)),
        ("$ 犬 🐶", ("$", "犬", "🐶")),
        ("%", ()),
        ("a dog, surfers, a pug and umbrellas", ()),
        ("dog hat❤️ 🐶cat xqzk", ("hat❤️", "🐶cat", "xqzk")),
    ],
)
def test_words_in_letters_that_captions_never_taught_are_unknown(phrase, unknown):
    """BERT's vocabulary holds them, and would spell them."""
    tokenizer = Tokenizer(minilm.vocabulary(), 20)
    assert unknown_words(tokenizer, phrase) == unknown
    calibrated = replace(answer_of(np.ones((2, 2))), calibration=Calibration(0.5, 0.1))
    answer = replace(calibrated, phrase=phrase, unknown_words=unknown)
    assert answer.unknown is ("dog" not in phrase) and answer.present is (True if "dog" in phrase else None)


def test_box_bounds_the_region_around_the_peak_and_no_other():
    heatmap = np.zeros((6, 9), np.float32)
    heatmap[1:3, 2:5] = 0.5
    heatmap[2, 4] = 0.8
    heatmap[4, 7] = 0.7  # as hot, but apart
    heatmap[3, 5] = 0.6  # touches the region at a corner alone
    answer = answer_of(heatmap)
    assert answer.box() == (2, 1, 5, 3)
    assert answer.box(1) == (4, 2, 5, 3)
    assert answer.mask().sum() == 6 + 1 + 1 and (answer.mask() == (heatmap >= 0.4)).all()
    assert all(type(edge) is int for edge in answer.box())


def test_box_of_a_flat_map_is_the_picture_and_a_threshold_outside_its_range_is_refused():
    answer = answer_of(np.zeros((6, 9), np.float32))
    assert answer.box() == (0, 0, 9, 6)
    for threshold in (0, 1.1, float("nan"), [0.5]):
        with refused(f"the threshold of a box must be a number in (0, 1], got {threshold}"):
            answer.box(threshold)


@pytest.mark.parametrize("phrase", PHRASES)
def test_box_holds_the_point_and_grows_as_the_threshold_falls(grounder, phrase):
    answer = grounder.ground(PICTURE, phrase)
    (x, y), boxes = answer.point, [answer.box(threshold) for threshold in (0.9, 0.5, 0.1)]
    for x1, y1, x2, y2 in boxes:
        assert 0 <= x1 <= x < x2 <= WIDTH and 0 <= y1 <= y < y2 <= HEIGHT
    for inner, outer in pairwise(boxes):
        assert outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def test_thresholds_are_those_of_the_checkpoint(tiny_folder, grounder):
    plain = grounder.ground(PICTURE, "w1 w2")
    assert plain.present is None and plain.calibration == Calibration()
    checkpoint = load_checkpoint(tiny_folder)
    for present in (plain.score - 0.01, plain.score + 0.01):
        checkpoint.about = {"calibration": {"box": 0.9, "present": present, "missed": 0.2, "false_alarms": 0.1}}
        answer = Grounder(checkpoint).ground(PICTURE, "w1 w2")
        assert answer.box() == plain.box(0.9) != plain.box() and answer.present is (present < plain.score)


def test_saved_it_is_an_overlay_or_all_its_numbers(grounder, tmp_path):
    answer = grounder.ground(PICTURE, "w1 w2")
    for name in ("new/where.png", "where.npz", "where.JPG"):
        answer.save(tmp_path / name)
    assert (np.asarray(Image.open(tmp_path / "new/where.png")) == np.asarray(answer.overlay())).all()
    assert Image.open(tmp_path / "where.JPG").format == "JPEG"
    numbers = np.load(tmp_path / "where.npz")
    assert (numbers["heatmap"] == answer.heatmap).all() and numbers["score"] == answer.score
    assert (*numbers["point"], *numbers["box"]) == (*answer.point, *answer.box())
    for name in ("where", "where.txt"):
        with refused(f"{tmp_path / name}: the ending must be .npz or that of a picture, such as .png"):
            answer.save(tmp_path / name)


def test_overlay_shows_the_picture_where_nothing_is_hot_and_the_peak_inside_its_ring(grounder):
    answer = grounder.ground(PICTURE, "w1 w2")
    before, heated, ringed = np.asarray(PICTURE), heat_overlay(PICTURE, answer.heatmap), np.asarray(answer.overlay())
    assert (heated == before)[answer.heatmap == 0].all()
    x, y = answer.point
    assert (ringed[y, x] == heated[y, x]).all() and (heated[y, x] != before[y, x]).any()
    assert (ringed == 255).all(axis=2).sum() > 10  # the ring is white


def test_heat_colours_are_those_of_inferno():
    colormaps = pytest.importorskip("matplotlib").colormaps
    heat = np.linspace(0, 1, 50)[None]
    found = heat_overlay(np.zeros((1, 50, 3), np.uint8), heat)
    expected = 255 * 0.8 * heat[..., None] * colormaps["inferno"](0.2 + 0.7 * heat)[..., :3]
    assert abs(found - expected).max() < 4


@pytest.mark.parametrize("heat", [np.full((2, 2), 1.5), np.full((2, 2), np.nan), np.zeros((3, 2))])
def test_heat_that_is_not_normalised_or_of_another_size_is_refused(heat):
    with pytest.raises(ValueError, match="heatmap"):
        heat_overlay(np.zeros((2, 2, 3), np.uint8), heat)
