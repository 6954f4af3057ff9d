"""The detector-based system on a mini copy of the photographs: what it reads, learns, proposes and answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paper_data
import pytest
import torch
from tiny_scenes import TEXT, TRAINING, keep_in, run_notebook

from amc_lib import presets
from amc_lib.config import Settings
from amc_lib.model.trunk import FrozenTrunk, pixels
from amc_lib.presets import preset
from amc_study import runs
from amc_study.comparison import Answers, answer
from amc_study.photos.album import open_album
from amc_study.rival import detector_runs
from amc_study.rival import settings as rival
from amc_study.rival.detector import UNKNOWN
from amc_study.rival.detector_runs import TrainedDetector, train_detector
from amc_study.rival.detector_training import ENTITY_TYPES, target_of
from amc_study.rival.objects import open_objects, trunk_levels
from amc_study.rival.region_answers import choose_regions, oracle
from amc_study.rival.region_grounder import RegionGrounder
from amc_study.rival.settings import DetectorSettings, detector_based, detector_preset
from amc_study.run_folder import Run
from amc_study.runs import finetune, pretrain
from amc_study.tiers import tier_of
from amc_study.wrong_phrases import KINDS

SIDE, PICTURE = 64, paper_data.SIDE
OF_PHOTOGRAPHS = detector_preset("photos")
USUAL = preset("photos")
PHOTOS = replace(USUAL.photos, never_boxed=0.5, least_seen=1)
SMALL = replace(
    USUAL,
    model=replace(USUAL.model, vision=replace(USUAL.model.vision, width=32, heads=2), text=TEXT, embed_dim=16),
    amc=replace(USUAL.amc, map_size=16),
    pretraining=replace(TRAINING, batch_size=2),
    finetuning=replace(TRAINING, batch_size=2),
    photos=PHOTOS,
)
DETECTOR = DetectorSettings(
    SIDE,
    channels=16,
    anchors=(0.2, 0.3, 0.4),
    anchor_growth=1.2,
    grids=(3, 2, 1),
    width=32,
    trunk_features=True,
    candidates=40,
    boxes=8,
    steps=4,
    batch_size=4,
    warmup_steps=1,
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """The mini copy is read from, caches and runs go to, a folder that goes away."""
    folder = tmp_path_factory.mktemp("photos")
    paper_data.write_paper_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMC_PHOTOS", str(folder / "flickr30k"))
        keep_in(folder, patch.setattr)
        patch.setattr(detector_runs, "SHIPPED", folder / "shipped")
        patch.setattr(runs, "shipped", lambda: [])
        patch.setattr(rival, "_PHOTOS", DETECTOR)
        open_album.cache_clear()
        yield folder
        open_album.cache_clear()


@pytest.fixture(scope="module")
def detector() -> TrainedDetector:
    return train_detector(DETECTOR, data=PHOTOS)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return detector_based(SMALL)


@pytest.fixture(scope="module")
def tuned(detector, settings) -> Run:
    pretraining = pretrain(settings, detector=detector.folder)
    return finetune(settings, pretraining.folder, detector=detector.folder)


@pytest.fixture(scope="module")
def answers(tuned) -> Answers:
    return answer(tuned.checkpoint(), {}, wrong={"test": KINDS})


def album(split: str):
    return open_album(PHOTOS, DETECTOR.vision, split)


def test_levels_are_those_of_the_photograph_and_then_of_its_mirror_image():
    objects, split = open_objects(PHOTOS, DETECTOR, "train"), album("train")
    assert len(objects) == 2 * len(split.rows) == 2 * len(split.captions)
    region = split.all_regions()[-1]
    row, picture = split.rows[region.image_id], pixels(region.image.open(), SIDE)[None]
    for index, image in ((row, picture), (len(split.rows) + row, picture.flip(-1))):
        fresh = trunk_levels(FrozenTrunk("lite0")(image), "lite0")
        for level, expected in zip(objects.levels([index]), fresh, strict=True):
            torch.testing.assert_close(level, expected, atol=0.01, rtol=0.01)  # float16
    assert len(open_objects(PHOTOS, DETECTOR, "val")) == len(album("val").rows)


def test_every_box_of_a_photograph_is_one_thing_labelled_if_finetuning_sees_it():
    objects, split = open_objects(PHOTOS, DETECTOR, "train"), album("train")
    vocabulary = detector_runs.vocabulary_of(PHOTOS)
    assert vocabulary.classes == ENTITY_TYPES
    withheld = 0
    for image_id, row in split.rows.items():
        regions = [region for region in split.all_regions() if region.image_id == image_id]
        seen = {box for region in regions if region.annotated for box in region.boxes}
        boxes = {box for region in regions for box in region.boxes}
        things, mirrored = objects.objects[row], objects.objects[len(split.rows) + row]
        assert len(things) == len(boxes) and {thing.concept for thing in things} == {"other"}
        target, of_mirror = (target_of(these, vocabulary, objects.scale) for these in (things, mirrored))
        expected = torch.tensor([box for box in boxes if box in seen]).reshape(-1, 4) * SIDE / PICTURE
        assert sorted(target.boxes.tolist()) == [pytest.approx(box) for box in sorted(expected.tolist())]
        flipped = torch.stack((SIDE - target.boxes[:, 2], target.boxes[:, 1], SIDE - target.boxes[:, 0]), dim=1)
        torch.testing.assert_close(of_mirror.boxes[:, :3], flipped)
        assert (target.labels == 1 + ENTITY_TYPES.index("other")).all() and (target.colours == UNKNOWN).all()
        withheld += len(things) - len(target.boxes)
    assert withheld > 0


def test_every_parameter_of_the_detector_learns(detector):
    objects = open_objects(PHOTOS, DETECTOR, "train")
    targets = [target_of(things, detector.detector.vocabulary, objects.scale) for things in objects.objects]
    losses = detector.detector.train().losses(objects.levels(list(range(len(objects)))), targets)
    sum(losses.values()).backward()
    parameters = dict(detector.detector.named_parameters())
    silent = [name for name, p in parameters.items() if p.grad is None or not p.grad.abs().sum() > 0]
    detector.detector.zero_grad()
    detector.detector.eval()
    assert silent == [] and losses["attribute"] == 0


def test_run_says_how_well_it_proposes_and_is_opened_again(detector, monkeypatch):
    numbers = detector.metrics["validation"]
    assert {"map50", "recall30", "label"} <= set(numbers) and "colour" not in numbers
    monkeypatch.setattr(detector_runs, "train", None)
    assert train_detector(DETECTOR, data=replace(PHOTOS, flip=0.1)).sha256 == detector.sha256  # which it does not read
    with pytest.raises(ValueError, match="holds a detector of other settings"):
        train_detector(DETECTOR, detector.folder, replace(PHOTOS, never_boxed=0.2))


def test_cached_proposals_are_those_of_the_photographs_and_their_mirror_images(detector, settings):
    split = tier_of(settings, detector.folder).split("train")
    region = split.all_regions()[-1]
    row, picture = split.rows[region.image_id], region.image.open()
    (fresh,), K = detector.propose([picture]), DETECTOR.boxes
    assert split.inputs.features.shape == (len(split.rows), K, 32 + 40 + 112 + 320)
    found = split.boxes(region)[: len(fresh.boxes)]
    torch.testing.assert_close(found, fresh.boxes, atol=0.5, rtol=0.01)
    torch.testing.assert_close(split.inputs.features[row, : len(found)].float(), fresh.features, atol=0.1, rtol=0.05)
    (flipped,) = detector.propose([picture.transpose(0)])  # left and right
    of_mirror = split.mirrored.boxes[row, : len(flipped.boxes)] * PICTURE / SIDE
    torch.testing.assert_close(of_mirror, flipped.boxes, atol=0.5, rtol=0.01)
    assert tier_of(settings, detector.folder).split("val").mirrored is None


def test_trunk_features_are_means_over_the_box(detector):
    """Of a box that is the whole picture: at every stride the mean of all places."""
    levels = open_objects(PHOTOS, DETECTOR, "val").levels([0])
    features = detector.detector._features(levels, [torch.tensor([[0.0, 0.0, SIDE, SIDE]])])
    expected = torch.cat([level.mean((2, 3)) for level in levels], dim=1)
    torch.testing.assert_close(features[:, DETECTOR.width :], expected, atol=1e-3, rtol=1e-3)


def test_training_sees_proposals_of_either_side_with_the_phrases_of_that_side(detector, settings):
    tier = tier_of(settings, detector.folder)
    for flip in (0.0, 1.0):
        flipped = replace(tier, settings=replace(settings, photos=replace(PHOTOS, flip=flip)))
        visit, split = flipped.training_pairs("finetuning")[1], tier.split("train")
        assert visit.image.equal((split.mirrored if flip else split.inputs)[1]) and visit.phrases


def test_answers_are_of_all_phrases_own_and_wrong_and_never_better_than_the_oracle(answers, tuned, settings, detector):
    split = tier_of(settings, detector.folder).split("test")
    of_split, best = answers.pointing["test"], oracle(split)
    assert [region.id for region in of_split.regions] == [region.id for region in album("test").all_regions()]
    assert (of_split.boxes[:, 2:] <= PICTURE + 1e-3).all() and of_split.boxes.max() > SIDE
    assert (best.hits | ~of_split.hits).all()
    assert set(answers.wrong["test"]) == {"hit_random", "hit_other", "hit_absent", "score_absent"}
    assert len(answers.wrong["test"]["hit_random"]) == len(of_split.regions)
    assert tuned.metrics["detector_sha256"] == detector.sha256


def test_any_picture_is_answered_as_the_cached_one(answers, tuned, settings, detector):
    grounder = RegionGrounder.load(tuned.folder, answers.layer)
    split = tier_of(settings, detector.folder).split("test")
    regions = split.all_regions()[:3]
    model, tokenizer = grounder.checkpoint.model, grounder.checkpoint.tokenizer
    cached = choose_regions(model, tokenizer, regions, split, [answers.layer])[answers.layer]
    for region, score in zip(regions, cached.scores, strict=True):
        grounding = grounder.ground(region.image.open(), region.phrase)
        assert np.isclose(grounding.scores[0], score, atol=0.1, rtol=0.02)


def test_notebook_runs_on_photographs_and_opens_what_is_trained(tuned, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(presets, "_PRESETS", presets._PRESETS | {"photos": lambda: SMALL})
    left = run_notebook("09_detector", tier="photos", figures=str(tmp_path))
    assert left["run"].folder == tuned.folder and "finetuning: up to date" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "photos").iterdir()} == {"detector.csv", "detector.json"}
    assert left["shares"]["oracle"]["pointing"] >= left["shares"]["similarity"]["pointing"]


def test_presets_fit_each_other(monkeypatch):
    """One width of features, and one frozen trunk for all systems; the paper tier has no detector."""
    monkeypatch.setattr(rival, "_PHOTOS", OF_PHOTOGRAPHS)
    based, usual = detector_based(USUAL), detector_preset("photos", seed=2)
    assert based.model.vision.region_width == usual.feature_width and usual.seed == 2
    assert (usual.trunk, usual.image_size) == (USUAL.model.vision.trunk, USUAL.model.vision.image_size)
    assert detector_preset("scenes", seed=2) == DetectorSettings(seed=2)
    assert detector_based(replace(USUAL, finetuning=replace(USUAL.finetuning, seed=2))).pretraining.seed == 2
    with pytest.raises(ValueError, match="give it a file of proposals"):
        detector_based(preset("paper"))
