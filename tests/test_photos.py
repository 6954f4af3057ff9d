"""Photographs on a mini copy of the data: what finetuning visits and what evaluation asks, also where files are bad."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import mini_paper
import numpy as np
import pytest
import torch
from paper_data import coco_id, flickr_id
from PIL import Image
from torch.utils.data import DataLoader

from amc_lib import photos
from amc_lib.config import Settings
from amc_lib.datasets.image_files import UnreadableImageError
from amc_lib.datasets.transforms import Augment, to_input
from amc_lib.evaluation import ground_phrases
from amc_lib.pairs import Collator, EpochBatches
from amc_lib.photo_table import build
from amc_lib.photos import MOST_UNREADABLE, PhotoPairs, evaluation_banks, training_pairs, validation_bank
from amc_lib.presets import preset
from amc_lib.runs import finetune
from amc_lib.sources import official_albef, open_checkpoint, paper_tokenizer
from amc_lib.step import Batch

FIRST_IDS = ("2315353", "2315354")  # of Visual Genome's pictures; evaluation needs these two


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("original")
    mini_paper.write(root)
    return root


@pytest.fixture
def root(original, tmp_path, monkeypatch) -> Path:
    """A data root of the test's own, which the library reads."""
    monkeypatch.setenv("AMC_DATA", "")  # undone afterwards, together with what `install` sets
    shutil.copytree(original, tmp_path / "data")
    mini_paper.install(tmp_path / "data", monkeypatch.setattr)
    return tmp_path / "data"


@pytest.fixture
def settings(root) -> Settings:
    return preset("paper")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def refused(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


# ---------------------------------------------------------------------------------------------------- what is visited


def test_finetuning_does_not_visit_the_images_of_evaluation(root, settings):
    pairs = training_pairs(settings)
    visited = {Path(pairs.table.image(row)).stem for row in range(len(pairs))}
    known = {path.stem for path in (root / "visual_genome").glob("VG_*/*.jpg")}
    assert known - visited == set(FIRST_IDS)
    assert (pairs.about["images"], pairs.about["held_out_images"]) == (10, 2)
    assert pairs.about["regions"] == len(pairs) and pairs.about["skipped_records"] == 0
    held = {record["coco_id"] for record in read_json(root / "visual_genome" / "image_data.json")}
    assert coco_id(0) in held and flickr_id(0) not in held


def test_rows_are_the_descriptions_and_the_attributes(root, settings):
    pairs = training_pairs(settings)
    rows = {(Path(pairs.table.image(row)).stem, pairs.choices(row)[0].text) for row in range(len(pairs))}
    described = {
        (str(record["id"]), region["phrase"])
        for record in read_json(root / "visual_genome" / "region_descriptions.json")
        for region in record["regions"]
        if str(record["id"]) not in FIRST_IDS
    }
    assert described < rows
    with_attributes = {text for _, text in rows - described}
    assert with_attributes and all(f"there is a {text} standing here" in str(described) for text in with_attributes)


def test_pair_is_the_augmented_picture_of_its_row(root, settings):
    pairs = training_pairs(settings)
    pairs.epoch = 3
    pair, again = pairs[7], training_pairs(settings)
    again.epoch = 3
    assert pair.key == (0, 3, 7) and pair.unreadable == 0 and pair.image.shape == (3, 32, 32)
    assert again[7].image.equal(pair.image) and again[7].phrases == pair.phrases
    assert not again[8].image.equal(pair.image)
    (phrase,), (box,) = pairs.choices(7), pair.phrases[0].boxes
    shares = [edge / 96 for edge in phrase.boxes[0]]
    mirrored = [1 - shares[2], shares[1], 1 - shares[0], shares[3]]
    assert any(np.allclose(box, expected, atol=1e-6) for expected in (shares, mirrored))


def test_one_phrase_of_a_record_or_several_are_visited(root, settings):
    captions = ["cup on the table", "the cup", "cup"]
    record = {"image": "VG_100K/2315355.jpg", "caption": captions, "bbox": [[1, 2, 30, 40], [5, 6, 70, 80]]}
    write_json(root / "visual_genome" / "records" / "own.json", [record] * 4)
    several = replace(settings, finetuning=replace(settings.finetuning, phrases_per_image=2))
    for asked, number in ((settings, 1), (several, 2)):
        pairs = training_pairs(asked)
        assert len(pairs) == 4 and pairs[0].key == (0, 0, 0)
        for row in range(4):
            phrases = pairs[row].phrases
            assert len({phrase.text for phrase in phrases}) == number == len(phrases)
            assert all(phrase.text in captions and len(phrase.boxes) == 1 for phrase in phrases)
