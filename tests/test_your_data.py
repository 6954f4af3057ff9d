"""Own data from table to finetuned checkpoint: splits, what the model reads, runs, notebook 07 through papermill."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import mini_paper
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from refusal import refused
from tiny_blip import save_blip
from tiny_scenes import TINY, code_cells, run_notebook, untrained

from amc_lib import presets
from amc_lib.checkpoints import load_checkpoint, weights_hash
from amc_lib.config import Settings
from amc_lib.data import box_mask
from amc_lib.evaluate import point_at, point_hits
from amc_lib.files import SHIPPED_DATA
from amc_lib.grounder import model_input
from amc_lib.model.trunk import FrozenTrunk, pixels
from amc_study import runs
from amc_study.own_data import OwnData, SplitSettings, fitted, open_data, starting_checkpoint
from amc_study.photos.splits import PhotoSplit
from amc_study.runs import finetune
from amc_study.scenes import scene as scenes

CELLS = code_cells("07_your_data")
IMAGES = 12
PHOTOGRAPHS = SHIPPED_DATA / "photographs"
CLOSE = {"atol": 5e-3, "rtol": 5e-3}  # features are kept in float16
SHARES = SplitSettings(val_share=0.2, test_share=0.25, seed=3)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """The example as notebook 07 draws it, at a tiny size; one picture is half as high, one word is unknown."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "RUNS", folder)
        (cell,) = (source for source in CELLS if "drawing an example" in source)
        namespace = {"csv": None, "settings": TINY, "replace": replace}
        exec(cell.replace("phrases=160", f"phrases={IMAGES}"), namespace)
    rows = pd.read_csv(path := namespace["table"])
    name = rows["image"][0]
    picture = Image.open(path.parent / name)
    assert picture != scenes.draw(TINY.scenes, "phrases", 0).image  # it is no scene of the study
    picture.resize((picture.width, picture.height // 2)).save(path.parent / name)
    rows[["y1", "y2"]] = rows[["y1", "y2"]].astype(float)
    rows.loc[rows["image"] == name, ["y1", "y2"]] /= 2
    rows.loc[len(rows)] = [name, "a purple zeppelin", 3, 4, 30, 40]
    rows.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def data(table) -> OwnData:
    return open_data(table, shares=SHARES)


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("start") / "start")


def tiny(**training: object) -> Settings:
    return replace(TINY, finetuning=replace(TINY.finetuning, **training))


def test_splits_are_by_image_and_of_the_shares(data, table):
    images = {split: {region.image_id for region in regions} for split, regions in data.splits.items()}
    assert {split: len(names) for split, names in images.items()} == {"train": 7, "val": 2, "test": 3}
    assert len(set.union(*images.values())) == IMAGES  # none in two splits
    boxes = sum(len(region.boxes) for regions in data.splits.values() for region in regions)
    assert boxes == len(pd.read_csv(table))


def test_division_depends_on_the_names_of_images_and_the_seed_alone(table, data, tmp_path):
    pd.read_csv(table).sample(frac=1, random_state=0).to_csv(path := tmp_path / "shuffled.csv", index=False)
    other = open_data(path, table.parent, SHARES)
    for split, regions in data.splits.items():
        assert {(r.image_id, r.phrase) for r in other.splits[split]} == {(r.image_id, r.phrase) for r in regions}


def test_other_seed_or_picture_is_other_data(table, data, tmp_path):
    assert data.sha256 == open_data(table, shares=SHARES).sha256
    other = open_data(table, shares=replace(SHARES, seed=4))
    assert {r.image_id for r in other.splits["test"]} != {r.image_id for r in data.splits["test"]}
    assert other.sha256 != data.sha256
    shutil.copytree(table.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / table.name
    assert open_data(copy, shares=SHARES).sha256 == data.sha256
    picture = next((tmp_path / "copy" / "images").iterdir())
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
    assert open_data(copy, shares=SHARES).sha256 != data.sha256


def test_same_pixels_under_two_names_stay_in_one_split(table, tmp_path, capsys):
    rows = pd.read_csv(table)
    shutil.copytree(table.parent, tmp_path / "own")
    copies = {name: f"{name.removesuffix('.png')}-copy.png" for name in rows["image"].unique()}
    for name, copy in copies.items():
        Image.open(table.parent / name).save(tmp_path / "own" / copy, compress_level=0)
    both = pd.concat([rows, rows.assign(image=rows["image"].map(copies))])
    both.to_csv(path := tmp_path / "own" / "own.csv", index=False)
    split_of = {r.image_id: split for split, regions in open_data(path, shares=SHARES).splits.items() for r in regions}
    assert all(split_of[name] == split_of[copy] for name, copy in copies.items()) and len(set(split_of.values())) == 3
    assert f"{IMAGES} pictures are there twice, and stay in one split" in capsys.readouterr().out
    both["split"] = np.where(both["image"].str.endswith("-copy.png"), "test", "train")
    both.to_csv(path, index=False)
    with refused("show the same pixels, but are in the splits"):
        open_data(path)


def test_split_column_goes_before_the_shares(table, tmp_path):
    rows = pd.read_csv(table)
    rows["split"] = np.where(rows["image"] < "images/scene-004", "test", "train")
    rows.to_csv(path := tmp_path / "own.csv", index=False)
    own = open_data(path, table.parent, SHARES)
    assert list(own.splits) == ["train", "test"] and len({r.image_id for r in own.splits["test"]}) == 4
    assert own.validation_split(TINY) is None
    rows["split"] = "train"
    rows.to_csv(path, index=False)
    with refused(f"{path}: no image is in the split test"):
        open_data(path, table.parent)


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (0.1, 0.0), (0.5, 0.5)])
def test_impossible_shares_are_refused(val, test):
    with refused(f"both must leave images to train on; got {val} and {test}"):
        SplitSettings(val, test)


def test_pictures_go_through_the_trunk_and_boxes_become_shares(table, data):
    pairs = data.training_pairs(tiny(phrases_per_image=32, batch_size=1))
    regions = data.splits["train"]
    images = list(dict.fromkeys(region.image_id for region in regions))
    trunk, side = FrozenTrunk("lite0"), TINY.model.vision.image_size
    assert len(pairs) == len(images) and pairs.about["regions"] == len(regions)
    for row, image_id in enumerate(images):
        own = [region for region in regions if region.image_id == image_id]
        picture = Image.open(table.parent / image_id).convert("RGB")
        torch.testing.assert_close(pairs[row].image, trunk(pixels(picture, side)[None])[0].half(), atol=2e-3, rtol=2e-3)
        expected = {region.phrase: [tuple(np.divide(box, picture.size * 2)) for box in region.boxes] for region in own}
        boxes = {phrase.text: list(phrase.boxes) for phrase in pairs[row].phrases}
        assert boxes.keys() == expected.keys()
        for text in boxes:
            np.testing.assert_allclose(boxes[text], expected[text], atol=1e-9)
            assert box_mask(boxes[text], 16).any()


def test_small_sets_get_a_batch_that_they_fill_and_a_short_warm_up(data):
    preset = replace(TINY.finetuning, batch_size=32, warmup_steps=50, epochs=20)
    training = fitted(replace(TINY, finetuning=preset), data).finetuning
    assert (training.batch_size, training.warmup_steps) == (7, 2)
    training = fitted(replace(TINY, finetuning=replace(preset, batch_size=2, accumulation=2)), data).finetuning
    assert (training.batch_size, training.warmup_steps) == (2, 2)  # 1 update an epoch
    assert fitted(tiny(batch_size=1, warmup_steps=1, epochs=9), data) == tiny(batch_size=1, warmup_steps=1, epochs=9)


def test_run_on_own_data_is_its_own_and_is_not_repeated(data, table, start, tmp_path, capsys):
    settings = fitted(tiny(epochs=2), data)
    run = finetune(settings, start, tmp_path / "run", data)
    assert run.metrics["data_sha256"] == data.sha256 and run.metrics["data"]["images"] == 7
    assert run.history["step"].iloc[-1] == 2 and 0 <= run.metrics["final"]["pointing"] <= 100
    assert run.metrics["final"]["amc"] > 0
    finetune(settings, start, tmp_path / "run", data)
    assert "up to date" in capsys.readouterr().out
    with refused("holds a run with other settings"):
        finetune(settings, start, tmp_path / "run", open_data(table, shares=replace(SHARES, seed=4)))


def test_photographs_train_from_an_official_checkpoint(table, tmp_path, monkeypatch):
    mini_paper.write(tmp_path)
    monkeypatch.setenv("AMC_DATA", str(tmp_path))
    mini_paper.install(tmp_path, monkeypatch.setattr)
    official = tmp_path / "checkpoints" / "ALBEF.pth"
    own = open_data(table, shares=SHARES)
    settings = fitted(presets.preset("paper"), own)
    before = starting_checkpoint(official, "paper")
    split = own.split("test", before.settings)
    assert type(split) is PhotoSplit
    run = finetune(settings, official, tmp_path / "run", own)
    pairs = own.training_pairs(settings)
    phrases = Counter(region.image_id for region in own.splits["train"])
    assert {pairs.image_name(row): len(pairs.choices(row)) for row in range(7)} == phrases
    assert run.history["step"].iloc[-1] == 2 and run.metrics["final"]["amc"] > 0  # 4 of 7 images a batch, 2 epochs
    assert run.metrics["data"] == pairs.about and run.metrics["data"]["regions"] == len(own.splits["train"])
    with refused("is a checkpoint of the tier 'paper', not of 'scenes'"):
        starting_checkpoint(official, "scenes")


def test_notebook_finetunes_and_says_what_changed_also_when_run_twice(
    data, table, start, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(presets._PRESETS, "scenes", lambda: TINY)
    monkeypatch.setattr(runs, "RUNS", tmp_path)
    parameters = {"csv": str(table), "val_share": 0.2, "seed": 3, "epochs": 2, "init": str(start)}
    namespace: dict[str, object] = {"display": lambda *_: None}
    for cells in (CELLS, [source for source in CELLS if "to_image" not in source]):  # drawing takes most of the time
        exec(cells[0], namespace)
        namespace |= parameters
        for source in cells[1:]:
            exec(source, namespace)
    text = capsys.readouterr().out
    assert "This start has seen drawn scenes of pictograms alone" in text and "take -p tier photos" in text
    assert re.search(r"^1 of \d+ words are unknown$", text, re.MULTILINE) and "finetuning: up to date" in text
    folder = next(tmp_path.glob("*/metrics.json")).parent
    assert text.endswith(f"The run is in {folder.name}\n")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["data_sha256"], metrics["init_sha256"]) == (data.sha256, load_checkpoint(start).sha256)
    accuracy = pd.read_csv(folder / "own_data.csv").set_index("system")["accuracy"]
    test = data.split("test", TINY)
    for name, source in (("before", start), ("after", folder)):
        checkpoint = load_checkpoint(source)
        layer = checkpoint.settings.amc.layer
        answers = point_at(checkpoint.model, checkpoint.tokenizer, test.all_regions(), test.load, layer)
        assert accuracy[name] == pytest.approx(100 * point_hits(answers.points, answers.regions).mean())
    assert accuracy["change"] == pytest.approx(accuracy["after"] - accuracy["before"])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A table of four of the free photographs, which lie elsewhere."""
    rows = pd.read_csv(PHOTOGRAPHS / "boxes.csv")
    names = ("camera.jpg", "cat.jpg", "coffee.jpg", "rocket.jpg")
    rows[rows["image"].isin(names)].to_csv(path := tmp_path_factory.mktemp("photographs") / "mine.csv", index=False)
    return path


@pytest.mark.parametrize("start_from", ["albef-photos", "blip"])
def test_notebook_finetunes_on_photographs_from_the_shipped_start_and_from_a_blip(
    photographs, tmp_path, monkeypatch, capsys, start_from
):
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    given = {"tier": "photos", "csv": str(photographs), "images": str(PHOTOGRAPHS), "epochs": 1}
    if start_from == "blip":
        given["init"] = start_from = save_blip(tmp_path / "blip")
    left = run_notebook("07_your_data", **given)
    run, result = left["run"], left["result"].set_index("system")
    assert run.metrics["init_sha256"] == weights_hash(start_from) and "pictograms" not in capsys.readouterr().out
    assert run.metrics["data"]["images"] == 3 and run.history["step"].tolist() == [1]
    assert np.isfinite(run.history[["itc", "itm", "amc", "total"]]).all(axis=None) and run.history["amc"].item() > 0
    assert result.index.tolist() == ["before", "after", "change"] and result["accuracy"][:2].between(0, 100).all()
    assert result["phrases"].tolist() == [len(left["data"].splits["test"])] * 3
    if "init" in given:  # whose pictures are resized as it asks
        region, test = left["data"].splits["test"][0], left["splits"]["test"]
        assert (test.load(region)[0] == model_input(region.image.open(), left["before"].model)).all()


def test_photographs_are_mirrored_with_their_boxes_in_half_of_the_visits(photographs):
    own = open_data(photographs, PHOTOGRAPHS)
    photos = presets.preset("photos")
    pairs = own.training_pairs(replace(photos, photos=replace(photos.photos, flip=1.0)))
    picture = Image.open(PHOTOGRAPHS / pairs.image_name(0)).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    seen = FrozenTrunk("lite2")(pixels(picture, photos.model.vision.image_size)[None])[0]
    torch.testing.assert_close(pairs[0].image.float(), seen, **CLOSE)
    (region,) = (r for r in own.splits["train"] if r.phrase == pairs[0].phrases[0].text)
    x1, y1, x2, y2 = np.divide(region.boxes[0], picture.size * 2)
    np.testing.assert_allclose(pairs[0].phrases[0].boxes[0], (1 - x2, y1, 1 - x1, y2))


def test_example_of_photographs_is_the_free_ones_which_may_lie_anywhere(photographs, tmp_path, monkeypatch):
    (cell,) = (source for source in CELLS if "drawing an example" in source)
    namespace = {"csv": None, "settings": presets.preset("photos"), "SHIPPED_DATA": SHIPPED_DATA}
    exec(cell, namespace)
    assert namespace["table"] == PHOTOGRAPHS / "boxes.csv" and not namespace["drawn"]
    rows = pd.read_csv(photographs)
    rows["image"] = [str(PHOTOGRAPHS / name) for name in rows["image"]]
    rows.to_csv(path := tmp_path / "whole.csv", index=False)
    pairs = open_data(path).training_pairs(presets.preset("paper"))
    assert (pairs.root / pairs.image_name(0)).parent == PHOTOGRAPHS and pairs[0].image.shape == (3, 256, 256)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be positive"),
        ({"test_share": "half"}, "test_share must be a number, got 'half'"),
        ({"val_share": 0.9}, "both must leave images to train on"),
        ({"init": "nowhere"}, "no checkpoint at 'nowhere'"),
        ({"csv": "nowhere.csv"}, "nowhere.csv: no such file"),
    ],
    ids=str,
)
def test_wrong_parameter_stops_before_anything_is_drawn_or_trained(start, monkeypatch, tmp_path, wrong, message):
    monkeypatch.setitem(presets._PRESETS, "scenes", lambda: TINY)
    monkeypatch.setattr(runs, "RUNS", tmp_path)
    parameters, *others = CELLS
    namespace: dict[str, object] = {}
    exec(parameters, namespace)
    namespace |= {"init": str(start)} | wrong
    with refused(message):
        for source in others[:4]:
            exec(source, namespace)
    assert not list(tmp_path.iterdir())
