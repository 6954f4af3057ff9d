"""Photographs on a mini copy of the data: what finetuning visits and evaluation asks, also where files are bad."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import mini_paper
import numpy as np
import pandas as pd
import pytest
from torch.utils.data import DataLoader

from amc_lib.checkpoints import paper_tokenizer
from amc_lib.config import Settings
from amc_lib.data import Collator, EpochBatches
from amc_lib.datasets.image_files import UnreadableImageError
from amc_lib.datasets.transforms import to_input
from amc_lib.presets import preset
from amc_lib.step import Batch
from amc_study.photos import pairs as photo_pairs
from amc_study.photos import photo_table
from amc_study.photos.pairs import PhotoPairs, training_pairs
from amc_study.photos.splits import evaluation_splits, validation_split
from amc_study.runs import finetune

FIRST_IDS = ("2315353", "2315354")  # of Visual Genome's pictures; evaluation needs these two


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


def collator(settings: Settings) -> Collator:
    return Collator(paper_tokenizer(settings), 0.15, 32)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def test_finetuning_visits_descriptions_and_attributes_and_no_image_of_evaluation(root, settings):
    pairs = training_pairs(settings)
    rows = {(Path(pairs.image_name(row)).stem, pairs.choices(row)[0].text) for row in range(len(pairs))}
    described = {
        (str(record["id"]), region["phrase"])
        for record in read_json(root / "visual_genome" / "region_descriptions.json")
        for region in record["regions"]
        if str(record["id"]) not in FIRST_IDS
    }
    attributes = {text for _, text in rows - described}
    assert described < rows and all(f"there is a {text} standing here" in str(described) for text in attributes)
    assert not {image for image, _ in rows} & set(FIRST_IDS)
    assert (pairs.about["images"], pairs.about["held_out_images"]) == (10, 2)
    assert pairs.about["regions"] == len(pairs) and pairs.about["skipped_records"] == 0


def test_pair_is_the_augmented_picture_of_its_row(root, settings):
    pairs = training_pairs(settings)
    pairs.start_epoch(3)
    pair, again = pairs[7], training_pairs(settings)
    again.start_epoch(3)
    assert pair.key == (0, 3, 7) and pair.unreadable == 0 and pair.image.shape == (3, 32, 32)
    assert again[7].image.equal(pair.image) and again[7].phrases == pair.phrases
    assert not again[8].image.equal(pair.image)
    (phrase,), (box,) = pairs.choices(7), pair.phrases[0].boxes
    shares = [edge / 96 for edge in phrase.boxes[0]]
    mirrored = [1 - shares[2], shares[1], 1 - shares[0], shares[3]]
    assert any(np.allclose(box, expected, atol=1e-6) for expected in (shares, mirrored))


def test_files_of_the_authors_are_read_instead(root, settings):
    captions = ["cup on the table", "the cup", "cup"]
    record = {"image": "VG_100K/2315355.jpg", "caption": captions, "bbox": [[1, 2, 30, 40], [5, 6, 70, 80]]}
    others = [record | {"image": f"VG_100K/{name}.jpg"} for name in ("nowhere", FIRST_IDS[0])]
    write_json(root / "visual_genome" / "records" / "a.json", [record, *others])
    write_json(root / "visual_genome" / "records" / "b.json", [record | {"caption": "plate"}])
    for number in (1, 2):
        pairs = training_pairs(replace(settings, finetuning=replace(settings.finetuning, phrases_per_image=number)))
        assert [len(pairs.choices(row)) for row in range(len(pairs))] == [3, 1]
        texts = {phrase.text for phrase in pairs[0].phrases}
        assert len(texts) == number and texts < set(captions) and pairs[1].phrases[0].text == "plate"
        assert all(len(phrase.boxes) == 1 for phrase in pairs[0].phrases)  # one of two
        assert pairs.about["held_out_images"] == pairs.about["skipped_records"] == 1
        assert "nowhere.jpg" in pairs.about["first_skipped"][0]


def test_table_is_read_once_and_again_after_a_change(root, settings, monkeypatch):
    made, build = [], photo_table.build
    monkeypatch.setattr(photo_table, "build", lambda *args: made.append(args) or build(*args))
    assert training_pairs(settings).about["images"] == training_pairs(settings).about["images"] == 10 and len(made) == 1
    path = root / "visual_genome" / "region_descriptions.json"
    write_json(path, read_json(path)[:-1])
    assert training_pairs(settings).about["images"] == 10 and len(made) == 2  # attributes still name its picture
    (root / "visual_genome" / "VG_100K" / "2315355.jpg").unlink()
    assert training_pairs(settings).about["images"] == 9 and len(made) == 3


def test_set_whose_pictures_are_not_known_is_named_and_training_goes_on(root, settings, capsys):
    training_pairs(settings)
    assert capsys.readouterr().out.count("not held out from training: ") == 2  # RefCOCO and RefCOCOg
    (root / "refer" / "refcoco+" / "refs(unc).p").unlink()
    table = pd.DataFrame({"image_id": [98304], "split": ["testB"]})
    table.to_parquet(root / "refer" / "refcoco+" / "refcoco+.parquet")
    (root / "flickr30k" / "val.txt").unlink()
    pairs = training_pairs(settings)
    assert pairs.about["held_out_images"] == 2 and len(pairs.about["not_held_out"]) == 3
    assert "not held out from training: flickr30k val: " in capsys.readouterr().out
    (root / "refer" / "refcoco+" / "refcoco+.parquet").write_bytes(b"damaged")
    for _ in range(2):  # also where the table is kept
        assert training_pairs(settings).about["held_out_images"] == 1
        assert "refcoco+.parquet: cannot be read as parquet: " in capsys.readouterr().out


def rows_of(pairs: PhotoPairs, name: str) -> list[int]:
    return [row for row in range(len(pairs)) if Path(pairs.image_name(row)).name == name]


def test_next_picture_stands_in_for_one_that_cannot_be_read(root, settings):
    pairs = training_pairs(settings)
    path = root / "visual_genome" / pairs.image_name(4)
    bad = rows_of(pairs, path.name)
    after = next(row for row in range(bad[0], len(pairs)) if row not in bad)
    expected = pairs[after]
    truncate(path)
    with pytest.warns(UserWarning, match=f"left out in this epoch: {path}: cannot be read") as warned:
        pair = pairs[bad[0]]
    assert len(warned) == 1
    assert pair.unreadable == 1 and pair.key == expected.key and pair.image.equal(expected.image)
    with pytest.warns(UserWarning, match=path.name):
        batch = collator(settings)([pairs[row] for row in (bad[0], after, bad[1])])
    assert batch.unreadable == 2 and pairs[after].unreadable == 0


def test_one_picture_with_many_phrases_does_not_stop_training(root, settings, monkeypatch):
    monkeypatch.setattr(photo_pairs, "MOST_UNREADABLE", 3)
    names = ["VG_100K/2315355.jpg"] * 5 + ["VG_100K_2/2315356.jpg"]
    records = [{"image": name, "caption": "cup", "bbox": [[1, 2, 30, 40]]} for name in names]
    write_json(root / "visual_genome" / "records" / "own.json", records)
    truncate(root / "visual_genome" / names[0])
    pairs = training_pairs(settings)
    with pytest.warns(UserWarning, match="2315355.jpg"):
        assert pairs[0].key == (0, 0, len(names) - 1) and pairs[0].unreadable == 1


def test_too_many_unreadable_pictures_stop_with_one_sentence(root, settings, monkeypatch):
    monkeypatch.setattr(photo_pairs, "MOST_UNREADABLE", 3)
    pairs = training_pairs(settings)
    for path in (root / "visual_genome").glob("VG_*/*.jpg"):
        truncate(path)
    with pytest.warns(UserWarning), pytest.raises(UnreadableImageError) as raised:
        pairs[30]
    first = root / "visual_genome" / pairs.image_name(30)
    assert re.fullmatch(rf"3 pictures in a row cannot be read; the first: {first}: .*", str(raised.value))


def test_history_says_how_many_pictures_could_not_be_read(root, settings):
    settings = replace(settings, finetuning=replace(settings.finetuning, epochs=1))
    pairs = training_pairs(settings)
    name = Path(pairs.image_name(0)).name
    visited = [row for batch in EpochBatches(len(pairs), 4, seed=0) for row in batch]
    truncate(root / "visual_genome" / pairs.image_name(0))
    with pytest.warns(UserWarning, match=name):
        run = finetune(settings)
    assert run.history["unreadable"].iloc[-1] == len(set(rows_of(pairs, name)) & set(visited)) > 0
    assert run.metrics["data"] == pairs.about


def test_worker_processes_change_nothing(settings):
    def batches(workers: int) -> list[Batch]:
        pairs = training_pairs(settings)
        sampler = EpochBatches(len(pairs), 4, 0)
        loader = DataLoader(pairs, batch_sampler=sampler, collate_fn=collator(settings), num_workers=workers)
        loaded = []
        for epoch in range(2):
            sampler.start_epoch(epoch)
            pairs.start_epoch(epoch)
            loaded += list(loader)
        return loaded

    alone, with_two = batches(0), batches(2)
    assert len(alone) == len(with_two) == 2 * 10
    for one, other in zip(alone, with_two, strict=True):
        assert all(tensor.equal(getattr(other, name)) for name, tensor in vars(one).items())
    assert not alone[0].image.equal(alone[10].image)


def test_splits_are_those_of_table_1_at_the_sizes_of_the_authors(settings):
    splits, validation = evaluation_splits(settings), validation_split(settings)
    numbers = {name: (s.title, len(s.all_regions()), s.image_size, s.resize) for name, s in splits.items()}
    assert numbers == {
        "flickr30k": ("Flickr30k test", 4 * 5, 32, "bilinear"),
        "refcoco+ A": ("RefCOCO+ testA", 3 * 3, 48, "bicubic"),
        "refcoco+ B": ("RefCOCO+ testB", 3 * 3, 48, "bicubic"),
        "refclef": ("RefCLEF test", 2 * 3, 48, "bicubic"),
    }
    assert [name for name, split in splits.items() if split.detections] == ["refcoco+ A", "refcoco+ B"]
    for split in splits.values():
        region = split.all_regions()[-1]
        image, size = split.load(region)
        assert size == split.size(region) == (96, 96)
        assert image.equal(to_input(region.image.open(), split.image_size, split.resize))
    assert validation.title == "Flickr30k val" and len(validation.all_regions()) == 20


def test_phrases_are_cut_to_words(root, settings):
    words = [f"w{n}" for n in range(60)]
    image_id = (root / "flickr30k" / "test.txt").read_text().split()[0]
    sentence = f"[/EN#1/other {' '.join(words)}] stands .\n"
    (root / "flickr30k" / "Sentences" / f"{image_id}.txt").write_text(sentence, encoding="utf-8")
    path = root / "refer" / "refcoco+" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    refs[0]["sentences"][0]["sent"] = " ".join(words)
    path.write_bytes(pickle.dumps(refs, protocol=2))
    splits = evaluation_splits(settings)
    for name, number in (("flickr30k", 50), ("refcoco+ A", 30)):
        assert max((r.phrase.split() for r in splits[name].all_regions()), key=len) == words[:number]


def test_set_that_is_missing_is_left_out_aloud(root, settings, capsys):
    shutil.rmtree(root / "refer" / "refclef")
    assert list(evaluation_splits(settings)) == ["flickr30k", "refcoco+ A", "refcoco+ B"]
    lines = [
        f"{title}: left out, there is no {root / 'refer' / title.lower()}"
        for title in ("RefCOCO", "RefCOCOg", "RefCLEF")
    ]
    assert capsys.readouterr().out.splitlines() == lines
    (root / "refer" / "refcoco+" / "refs(unc).p").write_bytes(b"no pickle")
    assert list(evaluation_splits(settings)) == ["flickr30k"]
    assert "refcoco+ A: left out, " in capsys.readouterr().out
    for folder in ("flickr30k", "refer"):
        shutil.rmtree(root / folder)
    with pytest.raises(ValueError, match="holds none of the evaluation sets"):
        evaluation_splits(settings)


@pytest.mark.parametrize(
    ("detections", "line"),
    [
        ({"7": [[1, 2, 3, 4]]}, "its image ids are none of those that are asked about"),
        ({"dets": [{"image_id": 7}]}, "dets.json, detection 0: {'image_id': 7} is not an image_id and a box"),
    ],
)
def test_detections_that_are_broken_or_of_other_pictures_do_not_stop_the_set(root, settings, capsys, detections, line):
    (root / "refer" / "refcoco+" / "dets.json").write_text(json.dumps(detections), encoding="utf-8")
    splits = evaluation_splits(settings)
    assert {name: split.detections for name, split in splits.items() if name.startswith("refcoco+")} == {
        "refcoco+ A": None,
        "refcoco+ B": None,
    }
    shown = capsys.readouterr().out
    assert shown.count("boxes are not ranked: ") == 2 and line in shown


def test_pictures_without_a_detection_are_counted(root, settings, capsys):
    path = root / "refer" / "refcoco+" / "dets.json"
    asked = {region.image_id for region in evaluation_splits(settings)["refcoco+ A"].all_regions()}
    path.write_text(json.dumps({min(asked): [[1, 2, 3, 4]]}), encoding="utf-8")
    evaluation_splits(settings)
    assert f"{path}: {len(asked) - 1} of {len(asked)} pictures have no detection" in capsys.readouterr().out


def test_set_of_which_no_phrase_can_be_read_is_left_out_aloud(root, settings, capsys):
    shutil.rmtree(root / "flickr30k" / "Annotations")
    assert "flickr30k" not in evaluation_splits(settings)
    assert "flickr30k: left out, it has no phrase that can be read: " in capsys.readouterr().out


def test_picture_that_cannot_be_asked_is_named_with_its_region(settings):
    split = evaluation_splits(settings)["refclef"]
    region = split.all_regions()[0]
    truncate(region.image.path)
    with pytest.raises(ValueError, match=f"RefCLEF test, region {region.id}: {region.image.path}: cannot be read"):
        split.load(region)
