"""Proposals of any detector as a file: its formats and what is wrong with them, and VMRM in the tiers that read one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mini_paper
import numpy as np
import pandas as pd
import paper_data
import pytest
import torch
from PIL import Image
from tiny_scenes import run_notebook
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from amc_lib.checkpoints import paper_tokenizer, save_checkpoint
from amc_lib.config import Settings
from amc_lib.model import ALBEF
from amc_lib.presets import preset
from amc_study import comparison
from amc_study.comparison import answer
from amc_study.photos.album import open_album
from amc_study.rival import proposal_file, propose
from amc_study.rival.proposal_file import is_proposal_file, open_proposal_file
from amc_study.rival.region_answers import oracle
from amc_study.rival.region_tower import open_checkpoint
from amc_study.rival.settings import detector_based
from amc_study.runs import finetune, pretrain
from amc_study.tiers import tier_of

K, F = 5, 6
BOXES = np.zeros((2, K, 4), np.float32)
BOXES[0, :2] = [[0, 0, 10, 20], [5, 5, 30, 40]]
BOXES[1, 0] = [1, 2, 3, 4]
GOOD = {
    "image": np.array(["folder/one.jpg", "two.png"]),
    "size": np.array([[40, 30], [8, 16]]),
    "boxes": BOXES,
    "scores": np.zeros((2, K), np.float32),
    "features": np.arange(2 * K * F, dtype=np.float16).reshape(2, K, F),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(proposal_file, "CACHE", tmp_path / "cache")


def write(path: Path, **changes: np.ndarray) -> Path:
    np.savez(path, **GOOD | changes)
    return path


def test_boxes_become_shares_of_the_picture(tmp_path):
    file = open_proposal_file(write(tmp_path / "some.npz"))
    assert (file.row("one.jpeg"), file.row("elsewhere/two.jpg"), file.feature_width) == (0, 1, F)
    first = file.inputs[0]
    assert first[:, :F].tolist() == GOOD["features"][0].tolist()
    np.testing.assert_allclose(first[0, F:], [0, 0, 1 / 3, 0.5, 1 / 6], rtol=1e-6)  # corners, and their area
    assert (first[2:, F:] == 0).all()  # no proposal
    np.testing.assert_allclose(file.inputs[1][0, F:-1], [1 / 16, 2 / 8, 3 / 16, 4 / 8], rtol=1e-6)


def test_a_file_that_was_opened_is_found_by_its_hash_and_folder_and_a_changed_one_is_another(tmp_path):
    path = write(tmp_path / "some.npz")
    file = open_proposal_file(path)
    path.unlink()
    for source in (file.sha256, file.folder):
        assert is_proposal_file(source) and open_proposal_file(source).sha256 == file.sha256
    assert not is_proposal_file(tmp_path) and not is_proposal_file("detector-scenes") and not is_proposal_file("0" * 64)
    other = open_proposal_file(write(path, features=GOOD["features"] + 1))
    assert other.sha256 != file.sha256 and other.inputs[0][0, 0] == file.inputs[0][0, 0] + 1


def test_a_parquet_file_holds_the_same(tmp_path):
    rows = [
        {"image": image, "size": GOOD["size"][n].tolist(), "boxes": BOXES[n, :k].tolist(), "scores": [0.0] * k}
        | {"features": GOOD["features"][n, :k].tolist()}
        for n, (image, k) in enumerate(zip(GOOD["image"], (2, 1), strict=True))
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "some.parquet")
    file, same = open_proposal_file(tmp_path / "some.parquet"), open_proposal_file(write(tmp_path / "some.npz"))
    assert file.rows == same.rows
    for n, k in enumerate((2, 1)):
        assert file.inputs[n][:k].equal(same.inputs[n][:k]) and (file.inputs[n][k:] == 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": BOXES[:, 0].tolist()}, "boxes must be a list of lists in a row of each picture"),
        ({"boxes": [0.0, 1.0]}, "boxes must be a list of lists in a row of each picture"),
        ({"boxes": BOXES[:, :3].tolist()}, "folder/one.jpg has another number of boxes than of features"),
        ({"features": (1e6 * np.ones((2, K, F))).tolist()}, "features of folder/one.jpg hold NaN or infinity"),
    ],
)
def test_parquet_of_another_form_is_named(tmp_path, changes, message):
    arrays = {name: array.tolist() for name, array in GOOD.items()} | changes
    pd.DataFrame(arrays).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match=rf"bad\.parquet: .*{message}"):
        open_proposal_file(tmp_path / "bad.parquet")
    pd.DataFrame(arrays)[:0].to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match="holds no picture"):
        open_proposal_file(tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.array(["a/one.jpg", "b/one.png"])}, "holds the picture one twice"),
        ({"size": np.array([40, 30])}, r"size has the shape \[2\], which does not fit 2 pictures"),
        ({"boxes": BOXES[:, :3]}, r"features has the shape \[2, 5, 6\]"),
        ({"boxes": BOXES[..., :3]}, r"boxes has the shape \[2, 5, 3\]"),
        ({"boxes": BOXES * 2}, "boxes of folder/one.jpg lie outside of its size"),
        ({"boxes": BOXES * np.nan}, "boxes of folder/one.jpg lie outside"),
        ({"size": np.array([[40, 30], [0, 0]]), "boxes": BOXES * [[[1]], [[0]]]}, "boxes of two.png lie outside"),
        ({"boxes": BOXES / 40}, "boxes look like shares of the sides"),
        (
            {"size": GOOD["size"] * 20, "boxes": BOXES * 2.5},
            r"boxes look like percent of the sides \(0 to 100\), and must be pixels of size",
        ),
        ({"boxes": BOXES[..., [2, 3, 0, 1]]}, "boxes of folder/one.jpg must be x1, y1, x2, y2"),
        ({"size": GOOD["size"][:, ::-1]}, "size must be height, width"),
        ({"features": np.where(np.arange(2)[:, None, None], np.nan, GOOD["features"])}, "features of two.png hold NaN"),
        ({name: array[:0] for name, array in GOOD.items()}, "holds no picture"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"bad\.npz: {message}"):
        open_proposal_file(write(tmp_path / "bad.npz", **changes))
    assert not list((tmp_path / "cache").iterdir())  # nothing half unpacked remains


def test_missing_damaged_and_incomplete_files(tmp_path):
    with pytest.raises(ValueError, match=r"none\.npz: cannot be read: No such file"):
        open_proposal_file(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"bad\.npz: cannot be read"):
        open_proposal_file(tmp_path / "bad.npz")
    for name in ("page.npz", "page.parquet"):
        (tmp_path / name).write_text("<!DOCTYPE html><html>")
        with pytest.raises(ValueError, match=rf"{name}: is a web page, not the file itself"):
            open_proposal_file(tmp_path / name)
    np.savez(tmp_path / "less.npz", **{name: array for name, array in GOOD.items() if name != "size"})
    with pytest.raises(ValueError, match=r"less\.npz: lacks .*size"):
        open_proposal_file(tmp_path / "less.npz")
    file = open_proposal_file(write(tmp_path / "some.npz"))
    with pytest.raises(ValueError, match=r"no proposals of 2 of the 3 pictures of val, the first is three\.jpg"):
        file.require(["one.jpg", "three.jpg", "four.jpg"], "val")


def test_faster_rcnn_writes_a_file_of_its_boxes_and_features(tmp_path):
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, min_size=64, max_size=96)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "pictures" / "one.png")
    Image.fromarray(pixels[:, :40]).save(tmp_path / "pictures" / "deep" / "two.png")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    output = tmp_path / "made.npz"
    propose.main([str(tmp_path / "pictures"), str(output), "--weights", str(tmp_path / "weights.pth"), "--boxes", "4"])
    file = open_proposal_file(output)
    assert set(file.rows) == {"one", "two"} and file.feature_width == 1024
    with np.load(output) as arrays:
        assert arrays["size"].tolist() == [[48, 40], [48, 80]]  # by name: deep/two.png, one.png
        assert (np.diff(arrays["scores"], axis=1) <= 0).all() and arrays["scores"][:, 0].min() > 0
        boxes = arrays["boxes"][1]
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 80).all() and (boxes[:, 3] <= 48).all() and boxes.any()
    assert file.inputs[0][:, :1024].abs().max() > 0


@pytest.mark.parametrize("arguments", [["nowhere", "made.npz"], [".", "made.csv"]])
def test_faster_rcnn_says_what_it_cannot_do(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"no pictures at nowhere|made\.csv: must end in \.npz"):
        propose.main(arguments)


def proposals_of(root: Path, regions: list, output: Path) -> Path:
    """A file with the boxes of each picture's regions, features at random."""
    boxes: dict[str, list] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for region in regions:
        name = region.image.path.name
        boxes.setdefault(name, []).extend(region.boxes)
        sizes[name] = region.image.size()
    most, rng = 4, np.random.default_rng(0)
    filled = np.zeros((len(boxes), most, 4), np.float32)
    for row, own in enumerate(boxes.values()):
        filled[row, : min(most, len(own))] = own[:most]
    features = rng.normal(size=(len(boxes), most, F)).astype(np.float16)
    scores = np.ones((len(boxes), most), np.float32)
    np.savez(output, image=list(boxes), size=list(sizes.values()), boxes=filled, scores=scores, features=features)
    return output


def test_paper_tier_trains_and_scores_vmrm_on_a_file(tmp_path, monkeypatch):
    mini_paper.write(tmp_path)
    mini_paper.install(tmp_path, monkeypatch.setattr)
    monkeypatch.setenv("AMC_DATA", str(tmp_path))
    plain = tier_of(mini_paper.settings(tmp_path))
    splits = [plain.validation_split(), *plain.evaluation_splits().values()]
    pairs = plain.training_pairs("finetuning")
    regions = [region for split in splits for region in split.all_regions()]
    with pytest.raises(ValueError, match=r"proposals\.npz: cannot be read"):
        tier_of(detector_based(mini_paper.settings(tmp_path), F)).validation_split()
    proposals_of(tmp_path, regions, tmp_path / "proposals.npz")
    with pytest.raises(ValueError, match="has no proposals of any picture to train on"):
        tier_of(detector_based(mini_paper.settings(tmp_path), F)).training_pairs("finetuning")
    names = [pairs.table.image(row) for row in range(len(pairs))]
    held = {region.image.path.stem for region in regions}
    kept = [name for name in names if name != names[0] or Path(name).stem in held]
    trained_on = [pairs.root / name for name in dict.fromkeys(kept)]
    extra = [replace(regions[0], image=replace(regions[0].image, path=path)) for path in trained_on]
    proposals_of(tmp_path, [*regions, *extra], tmp_path / "proposals.npz")

    home = tmp_path / "runs" / "paper"
    output = home / "seed-0" / "vmrm"
    ran = run_notebook("09_detector", tier="paper", output=str(output), figures=str(tmp_path / "figures"))
    assert ran["run"].metrics["data"]["rows without proposals"] == len(names) - len(kept) > 0
    assert ran["run"].metrics["final"]["mrm"] > 0
    checkpoint = open_checkpoint(output)
    assert checkpoint.tokenizer.vocabulary == paper_tokenizer(ran["settings"]).vocabulary
    splits = tier_of(checkpoint.settings).evaluation_splits()
    answers = answer(checkpoint, {}, wrong={name: ["random"] for name in splits})
    assert set(answers.pointing) == set(plain.evaluation_splits())
    for name, split in splits.items():
        assert len(answers.pointing[name].hits) == len(split.all_regions()) == len(answers.wrong[name]["hit_random"])
        assert oracle(split).hits.mean() > 0.9  # the file holds the true boxes, four a picture

    settings = mini_paper.settings(tmp_path)
    for name in ("albef-finetuned", "amc"):
        save_checkpoint(home / "seed-0" / name, ALBEF(settings.model), paper_tokenizer(settings), settings, {})
    monkeypatch.setattr(comparison, "RUNS", tmp_path / "runs")
    run_notebook("04_evaluate", tier="paper", figures=str(tmp_path / "figures"))
    table = pd.read_csv(tmp_path / "figures" / "paper" / "table1.csv").set_index(["system", "split", "concepts"])
    for name, pointing in answers.pointing.items():
        title = plain.evaluation_splits()[name].title
        assert table.loc[("VMRM", title, "all"), "accuracy"] == pytest.approx(100 * pointing.hits.mean(), abs=0.01)


def photos(tmp_path: Path) -> Settings:
    """The photos tier, tiny, on the mini copy."""
    usual, paper = preset("photos"), mini_paper.settings(tmp_path)
    text = replace(paper.model.text, vocab_size=2000)
    model = replace(usual.model, vision=replace(usual.model.vision, width=24, heads=2), text=text, embed_dim=8)
    training = replace(paper.finetuning, batch_size=2, epochs=1)
    known = replace(usual.photos, least_seen=1)
    return replace(usual, model=model, amc=paper.amc, pretraining=training, finetuning=training, photos=known)


def test_photos_tier_reads_a_file_in_place_of_its_own_detector(tmp_path, monkeypatch):
    paper_data.write_paper_data(tmp_path)
    mini_paper.install(tmp_path, monkeypatch.setattr)
    monkeypatch.setenv("AMC_PHOTOS", str(tmp_path / "flickr30k"))
    open_album.cache_clear()
    settings = photos(tmp_path)
    regions = [r for split in ("train", "val", "test") for r in open_album(settings.photos, None, split).regions]
    path = proposals_of(tmp_path, regions, tmp_path / "mine.npz")
    based = detector_based(settings, F)
    based = replace(based, pretraining=replace(based.pretraining, epochs=2, fuse_from=1, hard_negatives_from=1))
    base = pretrain(based, tmp_path / "base", detector=path)
    run = finetune(based, base.folder, tmp_path / "vmrm", detector=path)
    checkpoint = run.checkpoint()
    assert checkpoint.about["detector_sha256"] == open_proposal_file(path).sha256
    answers = answer(checkpoint, {})
    assert len(answers.pointing["test"].hits) == len(open_album(settings.photos, None, "test").regions)
    open_album.cache_clear()
