"""Photographs on a mini copy of the data: what evaluation and validation ask of the model."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path

import mini_paper
import pytest

from amc_lib.config import Settings
from amc_lib.datasets.photos import evaluation_splits, validation_split
from amc_lib.datasets.transforms import to_input
from amc_lib.evaluate import ground_phrases
from amc_lib.presets import preset
from amc_lib.sources import official_albef, open_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("original")
    mini_paper.write(root)
    return root


@pytest.fixture
def root(original, tmp_path, monkeypatch) -> Path:
    """A data root of the test's own, which the library reads."""
    monkeypatch.setenv("AMC_DATA", "")  # undone afterwards, as is what `install` sets
    shutil.copytree(original, tmp_path / "data")
    mini_paper.install(tmp_path / "data", monkeypatch.setattr)
    return tmp_path / "data"


@pytest.fixture
def settings(root) -> Settings:
    return preset("paper")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def refused(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


def test_banks_are_the_splits_of_the_table_at_the_sizes_of_the_authors(settings):
    banks = evaluation_splits(settings)
    found = {name: (b.title, len(b.all_regions()), b.image_size, b.resize) for name, b in banks.items()}
    assert found == {
        "flickr30k": ("Flickr30k test", 4 * 5, 32, "bilinear"),
        "refcoco+ A": ("RefCOCO+ testA", 3 * 3, 48, "bicubic"),
        "refcoco+ B": ("RefCOCO+ testB", 3 * 3, 48, "bicubic"),
        "refclef": ("RefCLEF test", 2 * 3, 48, "bicubic"),
    }
    assert [name for name, bank in banks.items() if bank.detections] == ["refcoco+ A", "refcoco+ B"]
    for bank in banks.values():
        region = bank.all_regions()[-1]
        image, size = bank.load(region)
        assert size == bank.size(region) == (96, 96)
        assert image.equal(to_input(region.image.open(), bank.image_size, bank.resize))


def test_validation_shares_no_image_with_what_is_reported(settings):
    validation, banks = validation_split(settings), evaluation_splits(settings)
    assert validation.title == "Flickr30k val" and len(validation.all_regions()) == 20
    images = {region.image_id for bank in banks.values() for region in bank.all_regions()}
    assert not images & {region.image_id for region in validation.all_regions()}


def test_phrases_are_cut_to_words(root, settings):
    words = [f"w{n}" for n in range(60)]
    image_id = (root / "flickr30k" / "test.txt").read_text().split()[0]
    sentence = f"[/EN#1/other {' '.join(words)}] stands .\n"
    (root / "flickr30k" / "Sentences" / f"{image_id}.txt").write_text(sentence, encoding="utf-8")
    path = root / "refer" / "refcoco+" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    refs[0]["sentences"][0]["sent"] = " ".join(words)
    path.write_bytes(pickle.dumps(refs, protocol=2))
    banks = evaluation_splits(settings)
    longest = {n: max((r.phrase.split() for r in banks[n].all_regions()), key=len) for n in ("flickr30k", "refcoco+ A")}
    assert longest == {"flickr30k": words[:50], "refcoco+ A": words[:30]}


def test_phrases_are_not_cut_to_the_tokens_of_training(settings):
    checkpoint, bank = open_checkpoint(official_albef()), validation_split(settings)
    image, _ = bank.load(bank.all_regions()[0])
    phrases = ["a " * 29 + last for last in ("b", "c")]
    ids, _ = checkpoint.tokenizer(phrases)
    assert ids[0].equal(ids[1]) and ids.shape[1] == 25
    _, scores = ground_phrases(checkpoint.model, checkpoint.tokenizer, image[None], phrases, [0, 0], 2)
    assert scores[0] != scores[1]


def test_set_that_is_missing_is_left_out_aloud(root, settings, capsys):
    shutil.rmtree(root / "refer" / "refclef")
    assert list(evaluation_splits(settings)) == ["flickr30k", "refcoco+ A", "refcoco+ B"]
    assert capsys.readouterr().out == f"refclef: left out, there is no {root / 'refer' / 'refclef'}\n"


def test_without_any_set_there_is_nothing_to_evaluate(root, settings):
    for folder in ("flickr30k", "refer"):
        shutil.rmtree(root / folder)
    with refused(f"{root}: holds none of the evaluation sets; data/README.md says what goes where"):
        evaluation_splits(settings)


def test_picture_that_cannot_be_asked_is_named_with_its_region(settings):
    bank = evaluation_splits(settings)["refclef"]
    region = bank.all_regions()[0]
    truncate(region.image.path)
    with refused(f"RefCLEF test, region {region.id}: {region.image.path}: cannot be read as an image"):
        bank.load(region)
