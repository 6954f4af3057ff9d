"""Own data from table to finetuned checkpoint: splits, what the model reads, runs, notebook 07 through papermill."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import mini_paper
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_notebooks import STARTUP
from test_runs import TINY

from amc_lib import presets
from amc_lib.checkpoints import load_checkpoint, save_checkpoint
from amc_lib.config import Settings
from amc_lib.data import box_mask
from amc_lib.datasets.image_files import ImageFile
from amc_lib.datasets.photos import PhotoSplit
from amc_lib.datasets.records import Regions
from amc_lib.evaluate import Pointing, ground_phrases, peak, point_hits
from amc_lib.model import ALBEF
from amc_lib.model.trunk import Lite0Trunk, pixels
from amc_lib.regions import Region
from amc_lib.tokens import Tokenizer, word_vocabulary
from amc_study import own_data, runs
from amc_study.own_data import OwnData, SplitSettings, fitted, open_data
from amc_study.own_report import ask, comparison, starting_checkpoint, unknown_words
from amc_study.runs import finetune
from amc_study.scenes import scene as scenes
from amc_study.scenes.language import vocabulary
from amc_study.scenes.own_example import example_table
from amc_study.statistics import accuracy_interval

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "07_your_data.ipynb"
IMAGES = 12
SHARES = SplitSettings(val_share=0.2, test_share=0.25, seed=3)
UNKNOWN = ("a purple zeppelin", ["##" + letter for letter in "eppelin"])


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """The example at a tiny size, made harder: one picture is half as high, and one phrase has words of its own."""
    folder = tmp_path_factory.mktemp("own")
    table = example_table(TINY.scenes, folder, IMAGES)
    rows = pd.read_csv(table)
    name = rows["image"][0]
    picture = Image.open(folder / name)
    picture.resize((picture.width, picture.height // 2)).save(folder / name)
    rows[["y1", "y2"]] = rows[["y1", "y2"]].astype(float)
    rows.loc[rows["image"] == name, ["y1", "y2"]] /= 2
    rows.loc[len(rows)] = [name, UNKNOWN[0], 3, 4, 30, 40]
    rows.to_csv(table, index=False)
    return table


@pytest.fixture(scope="module")
def data(table) -> OwnData:
    return open_data(table, shares=SHARES)


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """An untrained checkpoint of the tiny tier; beside it the folders that kernels use."""
    folder = tmp_path_factory.mktemp("start")
    startup = folder / "ipython" / "profile_default" / "startup" / "00-tiny.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(STARTUP.format(tests=str(ROOT / "tests"), cache=str(folder / "cache")))
    torch.manual_seed(0)
    tokenizer = Tokenizer(word_vocabulary(vocabulary()), TINY.model.text.max_tokens)
    return save_checkpoint(folder / "start", ALBEF(TINY.model), tokenizer, TINY, {})


def tiny(**training: object) -> Settings:
    return replace(TINY, finetuning=replace(TINY.finetuning, **training))


def refused(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


# -------------------------------------------------------------------------------------------------------------- splits


def test_example_is_drawn_once_and_holds_no_scene_of_the_study(tmp_path):
    path = example_table(TINY.scenes, tmp_path, 2)
    first = path.read_bytes()
    path.write_bytes(first + b"images/scene-000.png,my own phrase,1,2,30,40\n")
    assert example_table(TINY.scenes, tmp_path, 2).read_bytes() != first  # what a person wrote into it stays
    study = {np.asarray(scenes.draw(TINY.scenes, "phrases", index).image).tobytes() for index in range(8)}
    assert not {np.asarray(Image.open(p)).tobytes() for p in (tmp_path / "images").iterdir()} & study


def test_splits_are_by_image_and_of_the_shares(data, table):
    images = {split: {region.image_id for region in regions} for split, regions in data.splits.items()}
    assert {split: len(names) for split, names in images.items()} == {"train": 7, "val": 2, "test": 3}
    assert len(set.union(*images.values())) == IMAGES
    rows = pd.read_csv(table)
    assert sum(len(region.boxes) for regions in data.splits.values() for region in regions) == len(rows)
    expected = rows.groupby("image").size()
    for row in data.summary().to_dict("records"):
        names = sorted(images[row["split"]])
        assert (row["images"], row["boxes"]) == (len(names), expected[names].sum())


@given(
    names=st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=30),
    val=st.floats(0, 0.4), test=st.floats(0.05, 0.5), seed=st.integers(0, 5), shuffled=st.randoms(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_division_depends_on_names_and_seed_alone(names, val, test, seed, shuffled):
    regions = [Region(f"{name}-{n}", "", None, name, "cat", ()) for name in sorted(names) for n in range(2)]
    shares = SplitSettings(val, test, seed)
    split_of = {region.id: region.split for region in own_data._divided(Regions(regions), shares)}
    assert all(split_of[f"{name}-0"] == split_of[f"{name}-1"] for name in names)
    counts = Counter(split_of.values())
    assert counts["test"] == 2 * max(1, round(test * len(names))) and counts["val"] <= 2 * round(val * len(names))
    shuffled.shuffle(regions)
    assert {r.id: r.split for r in own_data._divided(Regions(regions), shares)} == split_of


def test_seed_changes_the_division(table, data):
    other = open_data(table, shares=replace(SHARES, seed=4))
    assert {r.image_id for r in other.splits["test"]} != {r.image_id for r in data.splits["test"]}
    assert other.sha256 != data.sha256 == open_data(table, shares=SHARES).sha256


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"val_share": -0.1}, "val_share must lie in [0, 1), got -0.1"),
        ({"test_share": 1.0}, "test_share must lie in [0, 1), got 1.0"),
        ({"test_share": 0.0}, "test_share must be positive"),
        ({"val_share": 0.5, "test_share": 0.5}, "leave, with val_share, images to train on"),
    ],
    ids=str,
)
def test_impossible_shares_are_refused(values, message):
    with refused(message):
        SplitSettings(**values)


def test_another_picture_is_another_run(table, data, tmp_path):
    shutil.copytree(table.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / table.name
    assert open_data(copy, shares=SHARES).sha256 == data.sha256
    picture = next((tmp_path / "copy" / "images").iterdir())
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
    assert open_data(copy, shares=SHARES).sha256 != data.sha256


# ------------------------------------------------------------------------------------------------ what the model reads


def test_pictures_go_through_the_trunk_and_boxes_become_shares(table, data):
    pairs = data.training_pairs(tiny(phrases_per_image=32, batch_size=1))
    regions = data.splits["train"]
    images = list(dict.fromkeys(region.image_id for region in regions))
    trunk, side = Lite0Trunk(), TINY.model.vision.image_size
    assert len(pairs) == len(images) and pairs.about["regions"] == len(regions)
    for row, image_id in enumerate(images):
        own = [region for region in regions if region.image_id == image_id]
        picture = Image.open(table.parent / image_id).convert("RGB")
        torch.testing.assert_close(pairs[row].image, trunk(pixels(picture, side)[None])[0].half(), atol=2e-3, rtol=2e-3)
        expected = {region.phrase: [tuple(np.divide(box, picture.size * 2)) for box in region.boxes] for region in own}
        found = {phrase.text: list(phrase.boxes) for phrase in pairs[row].phrases}
        assert found.keys() == expected.keys()
        for text, boxes in found.items():
            np.testing.assert_allclose(boxes, expected[text], atol=1e-9)
            assert box_mask(boxes, 16).any()


def test_answers_are_those_of_one_phrase_at_a_time_in_the_pixels_of_the_picture(data, start):
    checkpoint = load_checkpoint(start)
    everything = OwnData("all", data.root, {"test": Regions(r for s in data.splits.values() for r in s)}, "")
    bank = everything.bank("test", checkpoint.settings)
    asked = ask(checkpoint, bank)
    trunk, side, layer = Lite0Trunk(), TINY.model.vision.image_size, TINY.amc.layer
    sizes = set()
    for region, point in list(zip(asked.regions, asked.points, strict=True))[::5]:
        picture = region.image.open()
        sizes.add(picture.size)
        features = trunk(pixels(picture, side)[None]).half().float()
        raw, _ = ground_phrases(checkpoint.model, checkpoint.tokenizer, features, [region.phrase], [0], layer)
        assert point.tolist() == peak(raw, (picture.height, picture.width))[0].tolist()
    assert sizes == {(96, 96), (96, 48)}


def test_words_without_a_token_are_counted_and_shown(data, start):
    words = unknown_words(load_checkpoint(start).tokenizer, data)
    assert list(words["word"][:-1]) == ["zeppelin"] and words["phrases"].tolist() == [1, 1]
    assert words["read as"][0] == " ".join(["z", *UNKNOWN[1]])
    every = {word for regions in data.splits.values() for region in regions for word in region.phrase.lower().split()}
    assert words["word"].iloc[-1] == f"1 of {len(every)} words"


def test_phrases_that_training_cuts_are_counted(table, start):
    tokenizer = load_checkpoint(start).tokenizer
    picture, phrases = ImageFile(table), ["big cat " * 11, "big cat " * 12, "zeppelin " * 3]  # 24, 26 and 26 tokens
    regions = Regions(Region(str(n), "test", picture, "a", phrase, ()) for n, phrase in enumerate(phrases))
    last = unknown_words(tokenizer, OwnData("own", table, {"test": regions}, "")).iloc[-1]
    assert (last["word"], last["phrases"]) == ("longer than 25 tokens", 2)


def test_small_sets_get_a_batch_that_they_fill_and_a_short_warm_up(data):
    preset = replace(TINY.finetuning, batch_size=32, warmup_steps=50, epochs=20)
    training = fitted(replace(TINY, finetuning=preset), data).finetuning
    assert (training.batch_size, training.warmup_steps) == (7, 2)
    training = fitted(replace(TINY, finetuning=replace(preset, batch_size=2, accumulation=2)), data).finetuning
    assert (training.batch_size, training.warmup_steps) == (2, 2)  # 1 update an epoch
    assert fitted(tiny(batch_size=1, warmup_steps=1, epochs=9), data) == tiny(batch_size=1, warmup_steps=1, epochs=9)


def test_change_is_paired():
    regions = [Region(str(n), "test", None, f"image {n // 2}", "cat", ((0.0, 0.0, 5.0, 5.0),)) for n in range(8)]
    heat = torch.ones(8, 2, 2)
    points = {"before": [1, 9, 1, 9, 9, 9, 1, 9], "after": [1, 1, 1, 9, 1, 9, 9, 9]}
    answers = [Pointing(regions, heat, np.array([[x, 1] for x in of]), np.zeros(8)) for of in points.values()]
    found = comparison(*answers).set_index("system")
    assert found["accuracy"].tolist() == [37.5, 50.0, 12.5] and set(found["images"]) == {4}
    interval = accuracy_interval(np.array([0, 1, 0, 0, 1, 0, -1, 0]), [region.image_id for region in regions])
    assert found.loc["change", ["ci_low", "ci_high"]].tolist() == [round(interval.low, 2), round(interval.high, 2)]


# ---------------------------------------------------------------------------------------------------------------- runs


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


def test_checkpoint_that_own_data_cannot_start_from_is_named(start):
    with refused("is a checkpoint of the tier 'scenes', not of 'paper'"):
        starting_checkpoint(start, "paper")
    with refused("no checkpoint at 'nowhere'"):
        starting_checkpoint("nowhere", "scenes")


def test_photographs_train_from_an_official_checkpoint(table, tmp_path, monkeypatch):
    mini_paper.write(tmp_path)
    monkeypatch.setenv("AMC_DATA", str(tmp_path))
    mini_paper.install(tmp_path, monkeypatch.setattr)
    official = tmp_path / "checkpoints" / "ALBEF.pth"
    own = open_data(table, shares=SHARES)
    settings = fitted(presets.preset("paper"), own)
    before = starting_checkpoint(official, "paper")
    bank = own.bank("test", before.settings)
    assert isinstance(bank, PhotoSplit) and ask(before, bank).points.shape == (len(own.splits["test"]), 2)
    run = finetune(settings, official, tmp_path / "run", own)
    pairs = own.training_pairs(settings)
    assert len(pairs) == 7 and {len(pairs.choices(row)) for row in range(7)} == {
        Counter(r.image_id for r in own.splits["train"])[pairs.table.image(row)] for row in range(7)
    }  # fmt: skip
    assert run.history["step"].iloc[-1] == 2 and run.metrics["final"]["amc"] > 0  # 4 of 7 images a batch, 2 epochs
    assert run.metrics["data"] == pairs.about and run.metrics["data"]["regions"] == len(own.splits["train"])


# ------------------------------------------------------------------------------------------------------------ notebook


def cells() -> list[str]:
    return [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


def test_notebook_finetunes_and_says_what_changed(data, table, start, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(start.parent / "ipython"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    parameters = {"csv": str(table), "val_share": 0.2, "seed": 3, "epochs": 2, "init": str(start)}
    parameters["output"] = str(tmp_path / "run")
    papermill.execute_notebook(
        NOTEBOOK, tmp_path / "out.ipynb", parameters, cwd=ROOT, progress_bar=False, start_timeout=600
    )
    outputs = [o for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells for o in cell.get("outputs", [])]
    assert "".join(o.get("text", "") for o in outputs).rstrip().endswith("The run is in run")
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 3  # sheet, curves, examples
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["data_sha256"], metrics["init_sha256"]) == (data.sha256, load_checkpoint(start).sha256)
    accuracy = pd.read_csv(tmp_path / "run" / "own_data.csv").set_index("system")["accuracy"]
    for name, folder in (("before", start), ("after", tmp_path / "run")):
        checkpoint = load_checkpoint(folder)
        asked = ask(checkpoint, data.bank("test", checkpoint.settings))
        assert accuracy[name] == round(100 * point_hits(asked.points, asked.regions).mean(), 2)
    assert accuracy["change"] == pytest.approx(accuracy["after"] - accuracy["before"], abs=0.011)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epoch": 3}, "unknown parameter 'epoch'; did you mean 'epochs'?"),
        ({"tier": "photos"}, "unknown tier 'photos'"),
        ({"epochs": 0}, "epochs must be positive"),
        ({"seed": "one"}, "seed must be a whole number, got 'one'"),
        ({"test_share": "half"}, "test_share must be a number, got 'half'"),
        ({"val_share": 0.9}, "leave, with val_share, images to train on"),
        ({"init": "nowhere"}, "no checkpoint at 'nowhere'"),
        ({"csv": "nowhere.csv"}, "nowhere.csv: no such file"),
        ({"csv": 5}, "csv must be a path, got 5"),
        ({"csv": "{table}", "images": "/nowhere"}, "/nowhere: no such folder of pictures"),
    ],
    ids=str,
)
def test_wrong_parameter_stops_before_anything_is_drawn_or_trained(start, table, monkeypatch, tmp_path, wrong, message):
    monkeypatch.setitem(presets._PRESETS, "scenes", lambda: TINY)
    monkeypatch.setattr(runs, "RUNS", tmp_path)
    wrong = {name: str(table) if value == "{table}" else value for name, value in wrong.items()}
    parameters, *others = cells()
    namespace: dict[str, object] = {}
    exec(parameters, namespace)
    namespace |= {"init": str(start)} | wrong
    with refused(message):
        for source in others[:3]:
            exec(source, namespace)
    assert not list(tmp_path.iterdir())
