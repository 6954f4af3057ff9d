"""The photos tier on a mini copy of its data: what training visits, mirrored visits, boxes that are withheld."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import paper_data
import pytest
import torch

from amc_lib.config import Settings
from amc_lib.data import Phrase
from amc_lib.datasets.image_files import ImageFile
from amc_lib.model.trunk import FrozenTrunk, pixels
from amc_lib.presets import preset
from amc_study.photos import features
from amc_study.photos.album import mirrored, open_album
from amc_study.photos.entities import head_noun
from amc_study.scenes import cache
from amc_study.tiers import tier_of

SIDE = 64


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    paper_data.write_paper_data(root)
    return root / "flickr30k"


@pytest.fixture
def settings(root, tmp_path, monkeypatch) -> Settings:
    monkeypatch.setenv("AMC_PHOTOS", str(root))
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    monkeypatch.setattr(cache, "WORKERS", 1)
    open_album.cache_clear()
    usual = preset("photos")
    vision = replace(usual.model.vision, image_size=SIDE, trunk="lite0")
    return replace(usual, model=replace(usual.model, vision=vision))


def test_features_are_those_of_picture_and_mirrored_picture(settings):
    split = tier_of(settings).split("train")
    region = split.all_regions()[-1]
    picture = pixels(region.image.open(), SIDE)
    features, size = split.load(region)
    trunk, row = FrozenTrunk("lite0"), split.rows[region.image_id]
    assert size == (paper_data.SIDE, paper_data.SIDE) and split.inputs.dtype == torch.float16
    torch.testing.assert_close(features.float(), trunk(picture[None])[0], atol=0.01, rtol=0.01)
    torch.testing.assert_close(split.mirrored[row].float(), trunk(picture.flip(-1)[None])[0], atol=0.01, rtol=0.01)
    assert tier_of(settings).split("val").mirrored is None


def test_mirrored_phrase_is_true_of_the_mirrored_picture():
    found = mirrored(Phrase("the leftmost dog", ((0.1, 0.2, 0.3, 0.9),)))
    assert found.text == "the rightmost dog" and found.boxes == (pytest.approx((0.7, 0.2, 0.9, 0.9)),)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_visits_give_picture_and_phrases_of_one_side(settings, flip):
    settings = replace(settings, photos=replace(settings.photos, flip=flip, never_boxed=0.0))
    split, pairs = tier_of(settings).split("train"), tier_of(settings).training_pairs("finetuning")
    visit, phrases = pairs[1], split.region_phrases()[1]
    expected = [mirrored(phrase) for phrase in phrases] if flip else phrases
    assert visit.image.equal((split.mirrored if flip else split.inputs)[1])
    assert len(visit.phrases) == min(4, len(phrases)) and set(visit.phrases) <= set(expected)


def test_pretraining_sees_captions_and_no_box(settings):
    split, pairs = tier_of(settings).split("train"), tier_of(settings).training_pairs("pretraining")
    visit = pairs[0]
    assert {phrase.text for phrase in visit.phrases} <= set(split.captions[0]) and len(split.captions[0]) == 5
    assert not any(phrase.boxes for phrase in visit.phrases)


def test_nouns_of_the_lot_give_no_box_and_stay_as_phrases(settings):
    settings = replace(settings, photos=replace(settings.photos, never_boxed=0.5))
    split = tier_of(settings).split("train")
    boxed = {head_noun(r.phrase) for r in split.all_regions() if r.annotated}
    unboxed = {head_noun(r.phrase) for r in split.all_regions() if not r.annotated}
    assert boxed and unboxed and not boxed & unboxed
    for phrase in (phrase for phrases in split.region_phrases() for phrase in phrases):
        assert bool(phrase.boxes) == (head_noun(phrase.text) in boxed)
    val = tier_of(settings).split("val").all_regions()
    assert all(region.annotated == (head_noun(region.phrase) not in unboxed) for region in val)


def test_boxes_are_shares_of_the_photograph(settings):
    split = tier_of(settings).split("val")
    region, phrases = split.all_regions()[0], split.region_phrases()[0]
    np.testing.assert_allclose(np.array(phrases[0].boxes) * paper_data.SIDE, np.array(region.boxes), atol=1e-6)


def test_words_of_train_where_none_come_by_pip(settings):
    text = replace(settings.model.text, trunk="none")
    model, photos = replace(settings.model, text=text), replace(settings.photos, least_seen=3)
    settings = replace(settings, model=model, photos=photos)
    vocabulary = tier_of(settings).vocabulary()
    assert "wall" in vocabulary and len(vocabulary) < 200


def test_features_are_computed_once(settings, monkeypatch):
    tier_of(settings).split("val")
    open_album.cache_clear()
    monkeypatch.setattr(features, "_read", None)
    assert isinstance(tier_of(settings).split("val").all_regions()[0].image, ImageFile)
