"""The detector on a handful of drawn scenes: what it reads, learns, proposes, leaves behind and refuses."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from amc_lib.checkpoints import SHIPPED, CheckpointError, shipped
from amc_lib.config import SceneSettings, VisionSettings
from amc_lib.model.trunk import load_lite0, pixels
from amc_study.rival import detector_runs, proposals
from amc_study.rival.detector import UNKNOWN, Detector, Proposals, Target
from amc_study.rival.detector_runs import load_detector, open_detector_run, train_detector
from amc_study.rival.detector_training import evaluate, learning_rate, named_rightly, scene_vocabulary, target_of, train
from amc_study.rival.objects import open_objects
from amc_study.rival.proposals import open_proposals
from amc_study.rival.pyramid import Lite0Pyramid, pack, shapes, unpack
from amc_study.rival.settings import DetectorSettings
from amc_study.scenes import cache
from amc_study.scenes import scene as scenes
from amc_study.scenes.concepts import CONCEPTS
from amc_study.scenes.splits import open_scenes

SIDE = 96
SCENES = SceneSettings(
    size=96, train_objects=(2, 4), objects=(3, 4), object_width=(0.3, 0.4), train=12, val=6, phrases=3
)
SETTINGS = DetectorSettings(
    image_size=SIDE, channels=16, anchors=(0.2, 0.3, 0.4), width=32, candidates=40, boxes=8, steps=4, batch_size=4,
    warmup_steps=1,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def in_a_folder_of_its_own(tmp_path_factory):
    """Scenes are drawn once for this file, without processes; runs go to a folder that goes away."""
    folder = tmp_path_factory.mktemp("detector")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "WORKERS", 1)
        patch.setattr(cache, "CACHE", folder / "cache")
        patch.setattr(detector_runs, "RUNS", folder / "runs")
        patch.setattr(detector_runs, "SHIPPED", folder / "shipped")
        yield folder


@pytest.fixture(scope="module")
def bank():
    return open_objects(SCENES, SIDE, "train")


@pytest.fixture(scope="module")
def run():
    return train_detector(SETTINGS, scenes=SCENES)


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return Detector(SETTINGS, scene_vocabulary())


@pytest.fixture
def no_training(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(detector_runs, "train", forbidden)


def refused(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


# ------------------------------------------------------------------------------------------------- what the bank holds


def test_pyramid_equals_the_trunk_that_it_was_folded_from():
    image = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        plain = load_lite0().eval()(image)
    for level, expected, shape in zip(Lite0Pyramid()(image), plain, shapes(64), strict=True):
        centred = expected - expected.mean(1, keepdim=True)
        normal = centred / (expected.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        assert level.shape == (5, *shape)
        torch.testing.assert_close(level, normal, atol=2e-4, rtol=1e-3)


def test_levels_survive_packing():
    levels = [torch.randn(2, *shape).half().float() for shape in shapes(64)]
    for level, again in zip(levels, unpack(pack(levels), 64), strict=True):
        assert torch.equal(level, again)


def test_bank_holds_what_the_scenes_show(bank):
    assert len(bank) == SCENES.train
    for index in (0, 4, 5, 11):
        scene = scenes.draw(SCENES, "train", index)
        expected = [
            (thing.box, thing.concept.name, thing.colour, thing.pattern, thing.concept.annotated)
            for thing in scene.objects
        ]
        assert [
            (thing.box, thing.concept, thing.colour, thing.pattern, thing.annotated) for thing in bank.objects[index]
        ] == expected
        for kept, fresh in zip(bank.levels([index]), Lite0Pyramid()(pixels(scene.image, SIDE)[None]), strict=True):
            torch.testing.assert_close(kept, fresh, atol=4e-3, rtol=2e-3)  # float16


def test_bank_is_read_again_not_drawn_again(bank, monkeypatch):
    def forbidden(*args):
        raise AssertionError("drawn again")

    monkeypatch.setattr(cache, "_fill", forbidden)
    again = open_objects(SCENES, SIDE, "train")
    assert again.objects == bank.objects
    assert torch.equal(again.rows, bank.rows)
    with pytest.raises(AssertionError, match="drawn again"):
        open_objects(replace(SCENES, seed=1), SIDE, "train")


# ------------------------------------------------------------------------------------------------------------- learning


def test_only_annotated_things_are_labelled(bank):
    vocabulary = scene_vocabulary()
    seen = 0
    for things in bank.objects:
        target = target_of(things, vocabulary, scale=0.5)
        labelled = [thing for thing in things if thing.annotated]
        assert [vocabulary.classes[label - 1] for label in target.labels] == [thing.concept for thing in labelled]
        assert target.boxes.tolist() == [[edge / 2 for edge in thing.box] for thing in labelled]
        named = [vocabulary.colours[index] if index != UNKNOWN else "" for index in target.colours]
        assert named == [thing.colour for thing in labelled]
        seen += len(things) - len(labelled)
    assert seen > 0


def test_no_unannotated_concept_is_a_class():
    known = set(scene_vocabulary().classes)
    assert known == {concept.name for concept in CONCEPTS if concept.annotated}
    assert len(known) < len(CONCEPTS)


def test_every_parameter_learns(detector, bank):
    targets = [target_of(things, detector.vocabulary, SIDE / SCENES.size) for things in bank.objects]
    assert any((target.patterns != UNKNOWN).any() for target in targets)
    detector.train().losses(bank.levels(list(range(len(bank)))), targets).total.backward()
    silent = [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_picture_with_nothing_labelled_teaches_background(detector, bank):
    nothing = torch.zeros(0, dtype=torch.int64)
    losses = detector.train().losses(bank.levels([0]), [Target(torch.zeros(0, 4), nothing, nothing, nothing)])
    assert losses.label > 0 and losses.objectness > 0
    assert losses.box == losses.attribute == losses.anchor_box == 0


def test_loss_falls(bank):
    torch.manual_seed(0)
    history = train(Detector(replace(SETTINGS, steps=100), scene_vocabulary()), bank)
    first, last = history[0]["total"], history[-1]["total"]
    assert [row["step"] for row in history] == [50, 100]
    assert last < 0.8 * first


def test_rate_warms_up_and_cools_down():
    settings = replace(SETTINGS, steps=100, warmup_steps=10)
    rates = [learning_rate(settings, step) for step in range(1, 101)]
    assert rates[9] == max(rates) == settings.learning_rate
    assert rates[0] == pytest.approx(settings.learning_rate / 10)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0)


# ------------------------------------------------------------------------------------------------------------ proposals


def test_proposals_are_as_promised(detector, bank):
    found = detector.eval().propose_levels(bank.levels([0, 1, 2]))
    assert len(found) == 3
    for of_picture in found:
        K = len(of_picture.boxes)
        assert 0 < K <= SETTINGS.boxes
        assert of_picture.features.shape == (K, SETTINGS.width)
        assert of_picture.scores.shape == of_picture.labels.shape == (K,)
        assert (of_picture.scores.diff() <= 0).all()
        assert (of_picture.boxes >= 0).all() and (of_picture.boxes <= SIDE).all()
        overlaps = box_iou(of_picture.boxes, of_picture.boxes).fill_diagonal_(0)
        assert overlaps.max() <= SETTINGS.overlap + 1e-6


def test_a_picture_is_seen_alike_alone_and_among_others(detector, bank):
    among = detector.eval().propose_levels(bank.levels([3, 1, 2]))[1]
    alone = detector.propose_levels(bank.levels([1]))[0]
    torch.testing.assert_close(alone.boxes, among.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(alone.features, among.features, atol=1e-4, rtol=1e-3)


def test_more_proposals_begin_with_the_same_ones(detector, bank):
    few, many = (detector.eval().propose_levels(bank.levels([0]), count)[0] for count in (3, 20))
    assert len(few.boxes) == 3 < len(many.boxes)
    assert torch.equal(few.boxes, many.boxes[:3])


def test_resized_boxes_keep_their_place():
    proposals_ = Proposals(torch.tensor([[10.0, 20, 30, 40]]), *(torch.zeros(1) for _ in range(3)), (100, 50))
    wide = proposals_.resized((200, 200))
    assert wide.boxes.tolist() == [[40.0, 40, 120, 80]]
    assert wide.size == (200, 200)


def test_pictures_of_other_sizes_have_boxes_in_their_own_pixels(run):
    detector, image = run.detector(), scenes.draw(SCENES, "val", 0).image
    large = image.resize((2 * SIDE, 3 * SIDE))
    small, tall = detector.propose([image])[0], detector.propose([large])[0]
    assert (small.size, tall.size) == ((SIDE, SIDE), (3 * SIDE, 2 * SIDE))
    edges = tall.boxes / torch.tensor([2.0, 3, 2, 3])
    assert (edges <= SIDE).all() and tall.boxes[:, 3].max() > SIDE
    assert box_iou(edges, small.boxes).amax(1).mean() > 0.8


# ---------------------------------------------------------------------------------------------------------- measurement


class Clairvoyant:
    """In place of a detector: finds the annotated things exactly, scores and names them as told."""

    def __init__(self, bank, right: bool) -> None:
        self.bank, self.right, self.asked = bank, right, 0
        self.vocabulary = scene_vocabulary()

    def eval(self):
        return self

    def propose_levels(self, levels, count):
        start, self.asked = self.asked, self.asked + len(levels[0])
        found = []
        for things in self.bank.objects[start : self.asked]:
            target = target_of(things, self.vocabulary, 1.0)
            labels = target.labels - 1 if self.right else (target.labels % len(self.vocabulary.classes))
            found.append(Proposals(target.boxes, torch.ones(len(labels)), labels, target.boxes, (SIDE, SIDE)))
        return found


def test_perfect_and_misnaming_detectors_are_measured_as_such(bank):
    perfect, wrong = (evaluate(Clairvoyant(bank, right), bank) for right in (True, False))
    assert perfect["map50"] == pytest.approx(1)
    assert wrong["map50"] < 0.2
    assert perfect["recall10"] == wrong["recall10"] == perfect["recall100"] == pytest.approx(1)
    assert perfect["recall100_unboxed"] < 0.5


def test_names_count_where_there_is_something_to_name(bank):
    """Always the first class, colour and pattern: right as often as these occur among the annotated things."""
    things = [thing for scene in bank.objects for thing in scene if thing.annotated]
    vocabulary = scene_vocabulary()

    class Monotonous(Clairvoyant):
        def name(self, levels, boxes):
            return tuple(torch.zeros(sum(map(len, boxes)), dtype=torch.int64) for _ in range(3))

    coloured = [thing.colour for thing in things if thing.colour]
    patterned = [thing.pattern for thing in things if thing.pattern]
    assert coloured and patterned
    assert named_rightly(Monotonous(bank, right=True), bank) == {
        "label": pytest.approx(np.mean([thing.concept == vocabulary.classes[0] for thing in things])),
        "colour": pytest.approx(np.mean([colour == vocabulary.colours[0] for colour in coloured])),
        "pattern": pytest.approx(np.mean([pattern == vocabulary.patterns[0] for pattern in patterned])),
    }


# ----------------------------------------------------------------------------------------------------------------- runs


def test_run_leaves_weights_history_and_numbers(run, in_a_folder_of_its_own):
    names = {"detector.json", "weights.safetensors", "history.csv", "metrics.json"}
    assert {path.name for path in run.folder.iterdir()} == names
    assert run.folder.parent == in_a_folder_of_its_own / "runs"
    assert run.history["step"].tolist() == [SETTINGS.steps]
    assert set(run.metrics["validation"]) == {
        "map50", "label", "colour", "pattern", *(f"recall{n}{of}" for n in (10, 30, 50, 100) for of in ("", "_unboxed"))
    }  # fmt: skip
    assert run.metrics["provenance"]["settings"]["detector"]["channels"] == SETTINGS.channels


def test_trunk_is_not_stored(run):
    detector = run.detector()
    stored = sum(p.numel() for p in detector.detector.state_dict().values()) * 4
    assert stored < (run.folder / "weights.safetensors").stat().st_size < stored + 20_000


def test_second_call_opens_what_is_there(run, no_training):
    again = train_detector(SETTINGS, scenes=SCENES)
    assert (again.folder, again.metrics) == (run.folder, run.metrics)
    assert train_detector(SETTINGS, scenes=replace(SCENES, phrases=7)).folder == run.folder  # which it does not read
    with refused(f"{run.folder}: holds a detector of other settings"):
        train_detector(replace(SETTINGS, seed=1), run.folder, SCENES)
    with refused(f"{run.folder}: holds a detector of other settings"):
        train_detector(SETTINGS, run.folder, replace(SCENES, seed=1))


def test_same_seed_gives_the_same_weights(run, tmp_path):
    torch.manual_seed(5)
    assert train_detector(SETTINGS, tmp_path / "same", SCENES).detector().sha256 == run.detector().sha256
    other = train_detector(replace(SETTINGS, seed=1), tmp_path / "other", SCENES)
    assert other.detector().sha256 != run.detector().sha256


def test_loaded_detector_is_the_one_that_was_measured(run, in_a_folder_of_its_own):
    validation = open_objects(SCENES, SIDE, "val")
    detector = run.detector().detector
    assert evaluate(detector, validation) | named_rightly(detector, validation) == run.metrics["validation"]


def test_detector_of_other_code_or_bytes_is_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match=r"no detector at 'nowhere'; shipped ones: none"):
        load_detector("nowhere")
    with refused("no finished run of a detector"):
        open_detector_run(tmp_path)
    for name in ("weights.safetensors", "detector.json"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    about = json.loads((tmp_path / "detector.json").read_text(encoding="utf-8"))
    (tmp_path / "detector.json").write_text(json.dumps(about | {"settings": {**about["settings"], "width": 16}}))
    with pytest.raises(CheckpointError, match="size mismatch"):
        load_detector(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(CheckpointError, match=r"the hash of weights\.safetensors is not the one in detector\.json"):
        load_detector(tmp_path)


def test_weights_that_are_no_numbers_are_refused(run, tmp_path):
    detector = run.detector().detector
    with torch.no_grad():
        next(detector.parameters()).fill_(torch.nan)
    detector_runs.save_detector(tmp_path, detector, {})
    with pytest.raises(CheckpointError, match="has weights that are no finite numbers"):
        load_detector(tmp_path)


def test_shipped_run_is_opened_for_its_settings_alone(run, in_a_folder_of_its_own, no_training):
    shipped_folder = in_a_folder_of_its_own / "shipped" / detector_runs.TRAINED
    shutil.copytree(run.folder, shipped_folder)
    assert train_detector(SETTINGS, scenes=SCENES).folder == shipped_folder
    assert load_detector().sha256 == run.detector().sha256
    with pytest.raises(AssertionError, match="trained again"):
        train_detector(replace(SETTINGS, steps=3), scenes=SCENES)
    shutil.rmtree(shipped_folder)


def test_shipped_detector_fits_the_code():
    """The one in the repository, found by its name as users find it."""
    detector = load_detector(SHIPPED / detector_runs.TRAINED)
    assert detector.settings == DetectorSettings()
    assert detector.classes == scene_vocabulary().classes


def test_shipped_detector_is_no_checkpoint_of_a_model():
    assert detector_runs.TRAINED not in shipped()


# ------------------------------------------------------------------------------------------------- proposals of a split


def test_cached_proposals_are_those_of_the_pictures(run, monkeypatch):
    detector, split = run.detector(), open_scenes(SCENES, VisionSettings(image_size=64), "val")
    kept = open_proposals(split, detector)
    assert kept.inputs.boxes.shape == (SCENES.val, SETTINGS.boxes, 4)
    assert kept.inputs.features.shape == (SCENES.val, SETTINGS.boxes, SETTINGS.width)
    for index in (0, 5):
        (fresh,) = detector.propose([scenes.draw(SCENES, "val", index).image])
        K = len(fresh.boxes)
        torch.testing.assert_close(kept.inputs.boxes[index, :K], fresh.boxes, atol=0.05, rtol=0)
        torch.testing.assert_close(kept.inputs.features[index, :K].float(), fresh.features, atol=0.02, rtol=0.01)
        assert not kept.inputs.boxes[index, K:].any()

    monkeypatch.setattr(cache, "_fill", None)
    assert torch.equal(open_proposals(split, detector).inputs.features, kept.inputs.features)
    with pytest.raises(TypeError):  # others are found anew
        detector.sha256 = "0" * 64
        open_proposals(split, detector)


def test_weights_that_change_meanwhile_are_noticed(run):
    proposals._detector.cache_clear()
    with refused("its weights changed"):
        proposals._detector(run.folder, "0" * 64)
