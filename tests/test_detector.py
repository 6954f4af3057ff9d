"""The detector on drawn scenes: how it is measured, what it reads, learns, proposes, leaves and refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from refusal import refused
from tiny_scenes import keep_in
from torchvision.ops import box_iou

from amc_lib.checkpoints import SHIPPED, CheckpointError
from amc_lib.config import SceneSettings, VisionSettings
from amc_lib.model.trunk import FrozenTrunk, load_pyramid, normalise, pixels
from amc_study.rival import detector_runs, detector_training
from amc_study.rival.detection import measure
from amc_study.rival.detector import UNKNOWN, Detector, Proposals, Target
from amc_study.rival.detector_runs import load_detector, save_detector, train_detector
from amc_study.rival.detector_training import learning_rate, target_of, train, vocabulary_of
from amc_study.rival.objects import open_objects, trunk_levels
from amc_study.rival.proposals import open_proposals
from amc_study.rival.settings import DetectorSettings
from amc_study.scenes import cache
from amc_study.scenes.concepts import CONCEPTS
from amc_study.scenes.scene import draw
from amc_study.scenes.splits import open_scenes

NO_BOXES, NO_LABELS = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
SIDE = 64
SCENES = SceneSettings(
    size=SIDE, train_objects=(2, 3), objects=(3, 3), object_width=(0.3, 0.4), train=12, val=4, phrases=3
)
SETTINGS = DetectorSettings(
    SIDE, channels=16, anchors=(0.2, 0.3, 0.4), width=32, candidates=40, boxes=8, steps=4, batch_size=4, warmup_steps=1
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Scenes are drawn once for this file, without processes; runs go to a folder that goes away."""
    folder = tmp_path_factory.mktemp("detector")
    with pytest.MonkeyPatch.context() as patch:
        keep_in(folder, patch.setattr)
        patch.setattr(detector_runs, "SHIPPED", folder / "shipped")
        yield folder


@pytest.fixture(scope="module")
def objects():
    return open_objects(SCENES, SETTINGS, "train")


@pytest.fixture(scope="module")
def trained():
    return train_detector(SETTINGS, data=SCENES)


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(SETTINGS, vocabulary_of(SCENES))


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(detector_runs, "train", None)  # whoever trains now fails


def test_levels_are_the_trunks_own_read_out_of_what_albef_reads():
    image = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        plain = load_pyramid("lite0").eval()(image)
    levels = trunk_levels(FrozenTrunk("lite0")(image), "lite0")
    for level, expected in zip(levels, plain, strict=True):
        torch.testing.assert_close(level, normalise(expected), atol=2e-4, rtol=1e-3)


def test_split_holds_what_the_scenes_show(objects):
    assert len(objects) == SCENES.train
    for index in (0, 11):
        scene = draw(SCENES, "train", index)
        shown = [(t.box, t.concept.name, t.colour, t.pattern, t.concept.annotated) for t in scene.objects]
        kept = [(t.box, t.concept, t.colour, t.pattern, t.annotated) for t in objects.objects[index]]
        assert kept == shown
        fresh = trunk_levels(FrozenTrunk("lite0")(pixels(scene.image, SIDE)[None]), "lite0")
        for level, expected in zip(objects.levels([index]), fresh, strict=True):
            torch.testing.assert_close(level, expected, atol=4e-3, rtol=2e-3)  # float16


def test_only_annotated_things_are_labelled(objects):
    vocabulary = vocabulary_of(SCENES)
    assert set(vocabulary.classes) == {concept.name for concept in CONCEPTS if concept.annotated}
    for things in objects.objects:
        target = target_of(things, vocabulary, scale=0.5)
        labelled = [thing for thing in things if thing.annotated]
        assert [vocabulary.classes[label - 1] for label in target.labels] == [thing.concept for thing in labelled]
        assert target.boxes.tolist() == [[edge / 2 for edge in thing.box] for thing in labelled]
        named = [vocabulary.colours[index] if index != UNKNOWN else "" for index in target.colours]
        assert named == [thing.colour for thing in labelled]
    assert not all(thing.annotated for things in objects.objects for thing in things)


def test_every_parameter_learns(detector, objects):
    targets = [target_of(things, detector.vocabulary, 1.0) for things in objects.objects]
    assert any((target.patterns != UNKNOWN).any() for target in targets)
    losses = detector.train().losses(objects.levels(list(range(len(objects)))), targets)
    sum(losses.values()).backward()
    silent = [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_picture_with_nothing_labelled_teaches_background(detector, objects):
    losses = detector.train().losses(objects.levels([0]), [Target(NO_BOXES, NO_LABELS, NO_LABELS, NO_LABELS)])
    assert losses["label"] > 0 and losses["objectness"] > 0
    assert losses["box"] == losses["attribute"] == losses["anchor_box"] == 0


def test_loss_falls(objects, monkeypatch):
    monkeypatch.setattr(detector_training, "LOG_EVERY", 20)
    torch.manual_seed(0)
    history = train(Detector(replace(SETTINGS, steps=40), vocabulary_of(SCENES)), objects)
    assert [row["step"] for row in history] == [20, 40]
    assert history[-1]["total"] < 0.8 * history[0]["total"]


def test_rate_warms_up_and_cools_down():
    settings = replace(SETTINGS, steps=100, warmup_steps=10)
    rates = [learning_rate(settings, step) for step in range(1, 101)]
    assert rates[9] == max(rates) == settings.learning_rate
    assert rates[0] == pytest.approx(settings.learning_rate / 10) and rates[-1] == pytest.approx(0)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_proposals_are_as_promised(detector, objects):
    found = detector.eval().propose(objects.levels([0, 1, 2]))
    for proposals in found:
        K = len(proposals.boxes)
        assert 0 < K <= SETTINGS.boxes and proposals.features.shape == (K, SETTINGS.width)
        assert proposals.scores.shape == proposals.labels.shape == (K,) and (proposals.scores.diff() <= 0).all()
        assert (proposals.boxes >= 0).all() and (proposals.boxes <= SIDE).all()
        assert box_iou(proposals.boxes, proposals.boxes).fill_diagonal_(0).max() <= SETTINGS.overlap + 1e-6
    alone = detector.propose(objects.levels([1]))[0]
    torch.testing.assert_close(alone.boxes, found[1].boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(alone.features, found[1].features, atol=1e-4, rtol=1e-3)
    few = detector.propose(objects.levels([1]), 3)[0]
    assert torch.equal(few.boxes, alone.boxes[:3]) and len(alone.boxes) > 3


def test_pictures_of_other_sizes_have_boxes_in_their_own_pixels(trained):
    image = draw(SCENES, "val", 0).image
    small, tall = trained.propose([image])[0], trained.propose([image.resize((2 * SIDE, 3 * SIDE))])[0]
    assert (small.size, tall.size) == ((SIDE, SIDE), (3 * SIDE, 2 * SIDE))
    edges = tall.boxes / torch.tensor([2.0, 3, 2, 3])
    assert (edges <= SIDE).all() and tall.boxes[:, 3].max() > SIDE
    assert box_iou(edges[:2], small.boxes).amax(1).min() > 0.8  # the best two


def test_cached_proposals_are_those_of_the_pictures(trained, monkeypatch):
    split = open_scenes(SCENES, VisionSettings(image_size=64), "val")
    kept = open_proposals(split, trained)
    assert kept.inputs.boxes.shape == (SCENES.val, SETTINGS.boxes, 4)
    assert kept.inputs.features.shape == (SCENES.val, SETTINGS.boxes, SETTINGS.width)
    for index in (0, 3):
        (fresh,) = trained.propose([draw(SCENES, "val", index).image])
        K = len(fresh.boxes)
        torch.testing.assert_close(kept.inputs.boxes[index, :K], fresh.boxes, atol=0.05, rtol=0)
        torch.testing.assert_close(kept.inputs.features[index, :K].float(), fresh.features, atol=0.02, rtol=0.01)
        assert not kept.inputs.boxes[index, K:].any()  # padding has no area

    monkeypatch.setattr(cache, "_fill", None)
    assert torch.equal(open_proposals(split, trained).inputs.features, kept.inputs.features)
    monkeypatch.setattr(trained, "sha256", "0" * 64)
    with pytest.raises(TypeError):  # those of another detector are found anew
        open_proposals(split, trained)


class Clairvoyant(torch.nn.Module):
    """In place of a detector: finds the annotated things exactly, always names the first colour and pattern."""

    def __init__(self, objects, right: bool) -> None:
        super().__init__()
        self.vocabulary, self.right = vocabulary_of(SCENES), right
        self.targets = iter([target_of(things, self.vocabulary, 1.0) for things in objects.objects])

    def propose(self, levels, count):
        found = []
        for _, target in zip(levels[0], self.targets, strict=False):
            labels = target.labels - 1 if self.right else (target.labels % len(self.vocabulary.classes))
            found.append(Proposals(target.boxes, torch.ones(len(labels)), labels, target.boxes, (SIDE, SIDE)))
        return found

    def name(self, levels, boxes):
        return (torch.zeros(sum(map(len, boxes)), dtype=torch.int64),) * 3


def test_perfect_and_misnaming_detectors_are_measured_as_such(objects):
    perfect, wrong = (measure(Clairvoyant(objects, right), objects) for right in (True, False))
    assert perfect["map50"] == pytest.approx(1) and wrong["map50"] < 0.2
    assert perfect["recall10"] == wrong["recall10"] == perfect["recall100"] == pytest.approx(1)
    assert perfect["recall100_unboxed"] < 0.5
    things = [thing for scene in objects.objects for thing in scene if thing.annotated]
    for name, first in (("colour", vocabulary_of(SCENES).colours[0]), ("pattern", "plain")):
        values = [getattr(thing, name) for thing in things if getattr(thing, name)]
        assert perfect[name] == pytest.approx(sum(value == first for value in values) / len(values))


def test_run_leaves_what_it_measured_and_is_opened_again(trained, folder, no_training):
    names = {"detector.json", "weights.safetensors", "history.csv", "metrics.json"}
    assert {path.name for path in trained.folder.iterdir()} == names
    assert trained.folder.parent == folder / "runs"
    again = load_detector(trained.sha256)  # the hash of its weights names it
    assert again.folder == trained.folder
    assert measure(again.detector, open_objects(SCENES, SETTINGS, "val")) == trained.metrics["validation"]
    assert train_detector(SETTINGS, data=SCENES).sha256 == trained.sha256
    of_the_same = train_detector(SETTINGS, data=replace(SCENES, phrases=7))  # which it does not read
    assert of_the_same.folder == trained.folder
    with refused("holds a detector of other settings or code"):
        train_detector(SETTINGS, trained.folder, replace(SCENES, seed=1))


def test_same_seed_gives_the_same_weights(trained, tmp_path):
    torch.manual_seed(5)
    assert train_detector(SETTINGS, tmp_path / "same", SCENES).sha256 == trained.sha256


def test_damaged_detectors_are_refused(trained, tmp_path):
    folder, detector = shutil.copytree(trained.folder, tmp_path / "run"), load_detector(trained.folder).detector
    with refused("no detector at 'nowhere'", CheckpointError):
        load_detector("nowhere")
    about = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
    (folder / "detector.json").write_text(json.dumps(about | {"settings": about["settings"] | {"width": 16}}))
    with refused("size mismatch", CheckpointError):
        load_detector(folder)
    (folder / "weights.safetensors").write_bytes(b"0" * 100)
    with refused("the hash of weights.safetensors is not the one in detector.json", CheckpointError):
        load_detector(folder)
    torch.nn.init.constant_(detector.colour.bias, torch.nan)
    save_detector(folder, detector, {})
    with refused("weights that are not finite", CheckpointError):
        load_detector(folder)


def test_shipped_run_is_opened_for_its_settings_alone(trained, tmp_path, no_training, monkeypatch):
    monkeypatch.setattr(detector_runs, "SHIPPED", tmp_path)
    shutil.copytree(trained.folder, tmp_path / detector_runs.TRAINED)
    assert train_detector(SETTINGS, data=SCENES).folder == load_detector().folder == tmp_path / "detector-scenes"
    for other in ({"steps": 3}, {"seed": 1}):
        with pytest.raises(TypeError):
            train_detector(replace(SETTINGS, **other), data=SCENES)
    shutil.copytree(trained.folder, further := tmp_path / "detector-scenes-1")
    account = json.loads((further / "metrics.json").read_text())
    account["provenance"]["settings"]["detector"]["seed"] = 1
    (further / "metrics.json").write_text(json.dumps(account))
    assert train_detector(replace(SETTINGS, seed=1), data=SCENES).folder == further


def test_shipped_detector_fits_the_code():
    detector = load_detector(SHIPPED / detector_runs.TRAINED)
    assert detector.settings == DetectorSettings() and detector.classes == vocabulary_of(SCENES).classes
