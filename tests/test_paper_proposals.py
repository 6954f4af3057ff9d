"""Proposals of the paper tier: COCO's detector from a file, and precomputed regions, on small made-up files."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.ops import box_iou

from amc_lib.checkpoints import CheckpointError
from amc_study.rival.bottom_up import RegionFile
from amc_study.rival.coco_detector import CocoDetector, load_coco_detector
from amc_study.rival.detector import UNKNOWN

# -------------------------------------------------------------------------------------------------- precomputed regions

BOXES = np.array([[0, 0, 10, 20], [5.5, 5, 60, 40]], dtype="<f4")
FEATURES = np.arange(6, dtype="<f4").reshape(2, 3)


def encoded(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def line(image_id="7", width="64", height="48", number="2", boxes=BOXES, features=FEATURES) -> str:
    tables = [table if isinstance(table, str) else encoded(table) for table in (boxes, features)]
    return "\t".join([image_id, width, height, number, *tables])


def written(folder: Path, *lines: str) -> Path:
    path = folder / "regions.tsv"
    path.write_text("".join(f"{text}\n" for text in lines), encoding="utf-8")
    return path


def test_regions_are_read_in_any_order(tmp_path):
    one = line("9", number="1", boxes=BOXES[1:], features=FEATURES[:1, :2])
    regions = RegionFile(written(tmp_path, line(), one, line("8", height="50")))
    assert len(regions) == 3 and "8" in regions and "10" not in regions
    assert regions["9"].boxes.tolist() == BOXES[1:].tolist()
    assert regions["9"].features.tolist() == [[0, 1]]
    seven = regions["7"]
    assert (seven.size, regions["8"].size) == ((48, 64), (50, 64))
    assert seven.boxes.tolist() == BOXES.tolist() and seven.features.tolist() == FEATURES.tolist()
    assert seven.labels.tolist() == [UNKNOWN] * 2 and seven.scores.isnan().all()


def test_windows_line_ends_are_no_part_of_the_features(tmp_path):
    path = tmp_path / "regions.tsv"
    path.write_bytes(f"{line()}\r\n{line('8')}".encode())
    regions = RegionFile(path)
    assert torch.equal(regions["7"].features, regions["8"].features)


def test_picture_that_is_not_there_is_named(tmp_path):
    with pytest.raises(KeyError, match="holds no picture '10'"):
        RegionFile(written(tmp_path, line()))["10"]


def test_line_with_other_fields_is_refused_at_once(tmp_path):
    path = written(tmp_path, line(), "8\t64\t48")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: has 3 fields, not 6")):
        RegionFile(path)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"width": "0"}, "image_w '0' is no positive whole number"),
        ({"height": "4.5"}, "image_h '4.5' is no positive whole number"),
        ({"number": "x"}, "num_boxes 'x' is no positive whole number"),
        ({"boxes": "%%%%"}, "boxes are not base64"),
        ({"features": ""}, "features have 0 bytes, which is no float32 table of 2 rows"),
        ({"boxes": BOXES[:1, :3]}, "boxes have 12 bytes, which is no float32 table of 2 rows"),
        ({"boxes": BOXES[:, :3]}, "boxes have 3 numbers each, not 4"),
        ({"boxes": BOXES[:, [2, 1, 0, 3]]}, "a box has no area"),
        ({"features": np.full_like(FEATURES, np.inf)}, "features hold a number that is not finite"),
        ({"number": "5"}, "boxes have 32 bytes, which is no float32 table of 5 rows"),
    ],
)
def test_malformed_line_is_named(tmp_path, changed, sentence):
    path = written(tmp_path, line(), line("8", **changed))
    regions = RegionFile(path)
    assert len(regions["7"].boxes) == 2
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: {sentence}")):
        regions["8"]


# ----------------------------------------------------------------------------------------------------- COCO's detector


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    path = tmp_path_factory.mktemp("coco") / "weights.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def detector(weights) -> CocoDetector:
    return load_coco_detector(weights, boxes=5, short_side=64)


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_weights_of_the_file_are_the_detectors(detector, weights):
    for name, tensor in torch.load(weights, weights_only=True).items():
        assert torch.equal(detector.model.state_dict()[name], tensor), name
    assert (detector.classes[0], detector.classes[-1], len(detector.classes)) == ("person", "toothbrush", 90)


def test_coco_proposals_are_as_promised(detector):
    wide, tall = detector.propose([picture(120, 60), picture(50, 100)])
    assert (wide.size, tall.size) == ((60, 120), (100, 50))
    for found in (wide, tall):
        K = len(found.boxes)
        assert 0 < K <= 5 and found.features.shape == (K, 1024)
        assert (found.scores.diff() <= 0).all() and (found.labels >= 0).all() and (found.labels < 90).all()
        assert box_iou(found.boxes, found.boxes).fill_diagonal_(0).max() <= 0.5 + 1e-6
        height, width = found.size
        assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([width, height] * 2) + 1e-3).all()
    assert wide.boxes[:, 2].max() > 60 and tall.boxes[:, 3].max() > 50


def test_labels_and_scores_are_those_of_torchvision(detector):
    """torchvision's own path, without thresholds, holds each of our boxes with the same score and class."""
    image = picture(120, 60)
    heads = detector.model.roi_heads
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = 0.0, 1.0, 100_000
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        theirs = detector.model([tensor])[0]
    (ours,) = detector.propose([image])
    for box, score, label in zip(ours.boxes, ours.scores, ours.labels, strict=True):
        near = (theirs["boxes"] - box).abs().amax(1) < 1e-2
        assert ((theirs["scores"][near] - score).abs() < 1e-5).any()
        assert (label + 1) in theirs["labels"][near]


def test_file_that_is_no_such_detector_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_coco_detector(tmp_path / "missing.pth")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(CheckpointError, match=r"page\.pth: is no file of torchvision's Faster R-CNN on COCO"):
        load_coco_detector(tmp_path / "page.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="Missing key"):
        load_coco_detector(tmp_path / "other.pth")
    torch.save({"weight": Path("code")}, tmp_path / "objects.pth")
    with pytest.raises(CheckpointError, match=r"objects\.pth"):
        load_coco_detector(tmp_path / "objects.pth")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"width": "5", "height": "5"}, "a box lies outside the picture of 5 x 5"),
        ({"number": "1" + "0" * 12}, "num_boxes '1000000000000' is no positive whole number"),
    ],
)
def test_regions_that_cannot_be_those_of_the_picture_are_refused(tmp_path, changed, sentence):
    path = written(tmp_path, line(), line("8", **changed))
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: {sentence}")):
        RegionFile(path)["8"]


def test_regions_whose_file_is_missing_or_names_no_picture_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.tsv: cannot be read: No such file"):
        RegionFile(tmp_path / "nothing.tsv")
    (tmp_path / "a.tsv").write_bytes(b"\xff" + line().encode())
    with pytest.raises(ValueError, match=r"a\.tsv, line 1: its image_id is no UTF-8 text"):
        RegionFile(tmp_path / "a.tsv")


def test_coco_weights_that_are_not_finite_are_refused(weights, tmp_path):
    state = torch.load(weights)
    next(iter(state.values())).view(-1)[0] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match="has values that are no finite numbers"):
        load_coco_detector(tmp_path / "nan.pth")
