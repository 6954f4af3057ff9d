"""Answers in parts are those of one go, nothing is asked twice, and the fast form is the one written out."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import mini_paper
import numpy as np
import pytest
import torch
from plain_pointing import one_by_one
from torch import Tensor

from amc_lib.checkpoints import Checkpoint, load_checkpoint, official_albef
from amc_lib.datasets.records import Regions
from amc_lib.evaluate import Pointing, peak, point_at
from amc_lib.presets import preset
from amc_lib.regions import Region
from amc_study import answers
from amc_study.answers import ask, ask_in_parts, ask_wrong
from amc_study.photos.splits import PhotoSplit, evaluation_splits
from amc_study.wrong_phrases import wrong_questions

LAYER = mini_paper.LAYER


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMC_DATA", "")  # undone afterwards, as is what `install` sets
        mini_paper.write(root)
        mini_paper.install(root, patch.setattr)
        yield root


@pytest.fixture(scope="module")
def banks(root) -> dict[str, PhotoSplit]:
    return evaluation_splits(preset("paper"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Where answers are kept."""
    monkeypatch.setattr(answers, "ANSWERS", tmp_path)
    return tmp_path


def opened() -> Checkpoint:
    """The tiny official file, with weights so large that peaks are clear."""
    checkpoint = load_checkpoint(official_albef())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in checkpoint.model.parameters() if p.ndim > 1):
            parameter.normal_(std=0.3, generator=generator)
    return checkpoint


@pytest.fixture
def checkpoint(root) -> Checkpoint:
    return opened()


@pytest.fixture
def asked(monkeypatch) -> list[list[str]]:
    """The images of every part that is asked, one image a part."""
    parts: list[list[str]] = []

    def counted(model, tokenizer, regions, *rest, **whole):
        if "progress" not in whole:
            parts.append(images(regions))
        return point_at(model, tokenizer, regions, *rest, explanation=whole["explanation"])

    monkeypatch.setattr(answers, "IMAGES_A_PART", 1)
    monkeypatch.setattr(answers, "point_at", counted)
    return parts


def images(regions: list[Region]) -> list[str]:
    return list(dict.fromkeys(region.image_id for region in regions))


def assert_same(found: Pointing, expected: Pointing) -> None:
    """Equal answers in the same order; heatmaps up to their scale, which depends on the padding."""
    assert found.regions == expected.regions
    np.testing.assert_array_equal(found.points, expected.points)
    np.testing.assert_array_equal(found.hits, expected.hits)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    torch.testing.assert_close(normalised(found.heatmaps), normalised(expected.heatmaps), rtol=0, atol=1e-4)


def normalised(heatmaps: Tensor) -> Tensor:
    return heatmaps / heatmaps.amax((1, 2), keepdim=True)


@pytest.mark.parametrize(("split", "images_a_part"), [("flickr30k", 1), ("flickr30k", 3), ("refcoco+ A", 100)])
def test_parts_together_are_the_whole(checkpoint, banks, split, images_a_part, folder, monkeypatch):
    monkeypatch.setattr(answers, "IMAGES_A_PART", images_a_part)
    bank = banks[split]
    found = ask_in_parts(checkpoint, bank, LAYER)
    assert len(list(folder.rglob("*.safetensors"))) == -(-len(images(bank.regions)) // images_a_part)
    assert_same(found, ask(checkpoint, bank, LAYER))
    assert len(np.unique(found.points, axis=0)) > 3 and found.scores.std() > 0.01


def test_wrong_phrases_are_asked_in_parts_too(checkpoint, banks):
    bank = banks["flickr30k"]
    own, questions = ask(checkpoint, bank, LAYER), wrong_questions(bank.all_regions())
    hits = ask_wrong(checkpoint, bank, own, LAYER, in_parts=True)
    whole = ask_wrong(checkpoint, bank, own, LAYER)
    assert hits.keys() == whole.keys() and all(np.array_equal(hits[c], whole[c], equal_nan=True) for c in hits)
    for kind in ("random", "other"):
        asked, there = [one for one in questions[kind] if one], [one is not None for one in questions[kind]]
        assert np.array_equal(hits[f"hit_{kind}"][there], ask(checkpoint, bank, LAYER, asked).hits)


def test_other_phrases_of_a_picture_are_not_asked_again(checkpoint, banks, asked):
    bank = banks["flickr30k"]
    own = ask(checkpoint, bank, LAYER)
    ask_wrong(checkpoint, bank, own, LAYER, in_parts=True, kinds=["other"])
    assert not asked
    ask_wrong(checkpoint, bank, own, LAYER, in_parts=True, kinds=["random"])
    assert asked


def test_regions_of_an_image_that_lie_apart_are_asked_together_and_answered_in_their_order(checkpoint, banks, asked):
    bank = banks["flickr30k"]
    mixed = replace(bank, regions=Regions(sorted(bank.regions, key=lambda region: region.phrase)))
    runs = [image_id for image_id, _ in groupby(region.image_id for region in mixed.regions)]
    assert len(runs) > len(set(runs))  # they do lie apart
    assert_same(ask_in_parts(checkpoint, mixed, LAYER), ask(checkpoint, mixed, LAYER))
    assert sorted(asked) == sorted([image_id] for image_id in images(bank.regions))


def test_parts_that_are_missing_are_asked_and_no_others(checkpoint, banks, asked, folder):
    bank = banks["flickr30k"]
    first = ask_in_parts(checkpoint, bank, LAYER)
    assert asked == [[image_id] for image_id in images(bank.regions)]
    assert_same(ask_in_parts(checkpoint, bank, LAYER), first)
    assert len(asked) == 4
    sorted(folder.rglob("*.safetensors"))[2].unlink()
    assert_same(ask_in_parts(checkpoint, bank, LAYER), first)
    assert asked[4:] == [[images(bank.regions)[2]]]


def test_asking_that_was_cut_off_goes_on_where_it_was(checkpoint, banks, asked, monkeypatch):
    bank, load = banks["flickr30k"], PhotoSplit.load
    pictures = dict.fromkeys(images(bank.regions)[:2], load)
    with monkeypatch.context() as patch, pytest.raises(KeyError, match=images(bank.regions)[2]):
        patch.setattr(PhotoSplit, "load", lambda self, region: pictures[region.image_id](self, region))
        ask_in_parts(checkpoint, bank, LAYER)
    asked.clear()
    assert_same(ask_in_parts(checkpoint, bank, LAYER), ask(checkpoint, bank, LAYER))
    assert asked == [[image_id] for image_id in images(bank.regions)[2:]]


@pytest.mark.parametrize("lost", [(), (0, 3)])
def test_processes_share_the_parts_and_each_gets_all(banks, asked, lost, folder, monkeypatch, checkpoint):
    """Two threads are the processes, each with a model of its own; `lost` are parts that are missing already."""
    bank, barrier, state = banks["flickr30k"], threading.Barrier(2, timeout=60), threading.local()
    if lost:
        ask_in_parts(checkpoint, bank, LAYER)
        for file in [sorted(folder.rglob("*.safetensors"))[number] for number in lost]:
            file.unlink()
        asked.clear()
    monkeypatch.setattr(answers, "process_state", lambda: state.of_thread)
    models = [opened(), opened()]  # before the threads begin: building two models at once is no part of this

    def process(rank: int) -> Pointing:
        of_rank = {"process_index": rank, "num_processes": 2, "is_main_process": rank == 0, "device": "cpu"}
        state.of_thread = SimpleNamespace(**of_rank, wait_for_everyone=barrier.wait)
        try:
            return ask_in_parts(models[rank], bank, LAYER)
        except BaseException:
            barrier.abort()  # the other one shall not wait for this one
            raise

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(process, range(2)):
            assert_same(found, ask(checkpoint, bank, LAYER))
    assert sorted(asked) == sorted([images(bank.regions)[number]] for number in (lost or range(4)))


def test_other_questions_have_answers_of_their_own(checkpoint, banks, folder):
    bank = banks["flickr30k"]
    first, *others = bank.all_regions()
    phrase, boxes = replace(first, phrase="a cup"), replace(first, boxes=((0.0, 0.0, 1.0, 1.0),))
    questions = [
        (checkpoint, bank, LAYER),
        (replace(checkpoint, sha256="other"), bank, LAYER),
        (checkpoint, bank, LAYER + 1),
        (checkpoint, replace(bank, regions=Regions([phrase, *others])), LAYER),
        (checkpoint, replace(bank, regions=Regions([boxes, *others])), LAYER),
        (checkpoint, replace(bank, resize="bicubic"), LAYER),
        (checkpoint, replace(bank, image_size=48), LAYER),
    ]
    for number, question in enumerate(questions, start=1):
        found = ask_in_parts(*question)
        assert len(list(folder.iterdir())) == number
        assert_same(found, ask(*question))


def test_larger_pictures_are_asked_of_the_model_as_it_is(checkpoint, banks):
    model, tower = checkpoint.model, checkpoint.model.visual_encoder
    before, own = copy.deepcopy(model.state_dict()), list(map(id, model.parameters()))
    picture = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = model.encode_image(picture)
    assert ask(checkpoint, banks["flickr30k"], LAYER).heatmaps.shape[1:] == (4, 4)
    assert ask(checkpoint, banks["refcoco+ A"], LAYER).heatmaps.shape[1:] == (6, 6)
    with pytest.raises(ValueError, match="refused"), banks["refcoco+ A"].fit(model):
        assert tower.pos_embed.shape[1] == 37
        raise ValueError("refused")
    assert list(map(id, model.parameters())) == own and model.encode_image(picture).equal(features)
    after = model.state_dict()
    assert list(after) == list(before) and all(after[name].equal(tensor) for name, tensor in before.items())
    assert tower.pos_embed.requires_grad and tower.patch_embed.img_size == (32, 32)


@pytest.mark.parametrize(("split", "layer"), [("flickr30k", LAYER), ("refcoco+ A", LAYER + 1)])
def test_fast_form_is_the_one_phrase_by_phrase(checkpoint, banks, split, layer):
    """The second at 48 pixels, of a model of 32."""
    bank, model = banks[split], copy.deepcopy(checkpoint.model).eval()
    found, words = ask(checkpoint, bank, layer), checkpoint.tokenizer
    with bank.fit(model):
        alone = [one_by_one(model, words, bank.load(r)[0][None], r.phrase, layer) for r in bank.regions]
    maps, scores = map(torch.stack, zip(*alone, strict=True))
    assert_same(found, Pointing(bank.regions, maps, peak(maps, (96, 96)), scores.numpy()))
    ratios = maps.amax((1, 2)) / found.heatmaps.amax((1, 2))  # 1 at the longest of a batch, else more
    assert ratios.min() == pytest.approx(1, abs=1e-4) and ratios.max() > 1.2
    assert (normalised(found.heatmaps) < 0.9).float().mean() > 0.5  # maps with a shape
