"""The mini copy of the paper tier's data: what the readers find in it, and what is held out of finetuning."""

from __future__ import annotations

import json

import pytest
from paper_data import coco_id, flickr_id, write_paper_data

from amc_lib.datasets import flickr30k, refer, visual_genome
from amc_lib.tokens import clean


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("paper")
    write_paper_data(root)
    return root


def test_boxes_lie_inside_pictures_that_open_and_the_vocabulary_knows_every_word(root):
    regions = [*visual_genome.read(root / "visual_genome")]
    regions += [region for split in flickr30k.SPLITS for region in flickr30k.read(root / "flickr30k", split)]
    for dataset, splits in (("refcoco+", ("train", "val", "testA", "testB")), ("refclef", ("train", "val", "test"))):
        regions += [region for split in splits for region in refer.read(root / "refer", dataset, "unc", split)]
    for region in regions:
        width, height = region.image.open().size
        assert all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for x1, y1, x2, y2 in region.boxes)
    vocabulary = (root / "bert-base-uncased" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert {word for region in regions for word in clean(region.phrase).split()} <= set(vocabulary)


def test_pictures_of_evaluation_are_held_out_of_visual_genome(root, tmp_path):
    """The first has the COCO id of a testA picture, the second the Flickr id of a test picture."""
    genome = root / "visual_genome"
    held_out = visual_genome.held_out_ids(genome, root / "flickr30k", root / "refer")
    assert held_out == {"2315353", "2315354"}
    swapped = {"image_id": 1, "coco_id": flickr_id(0), "flickr_id": coco_id(0)}  # ids of the other data set
    (tmp_path / "image_data.json").write_text(json.dumps([swapped]))
    assert not visual_genome.held_out_ids(tmp_path, root / "flickr30k", root / "refer")
    regions = visual_genome.read(genome, held_out=held_out)
    assert regions.held_out == 2
    assert {r.image_id for r in visual_genome.read(genome)} - {r.image_id for r in regions} == held_out


def test_held_out_ids_must_be_numbers(root, tmp_path):
    for split in ("val", "test"):
        (tmp_path / f"{split}.txt").write_text("12\nx7\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"val\.txt: .*'x7'"):
        visual_genome.held_out_ids(root / "visual_genome", tmp_path, root / "refer")


def test_detections_are_of_the_images_and_hold_the_right_boxes(root):
    detections = refer.read_detections(root / "refer" / "refcoco+" / "dets.json")
    for region in refer.read(root / "refer", "refcoco+", "unc", "testA"):
        assert region.boxes[0] in detections[region.image_id]
