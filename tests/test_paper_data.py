"""The mini copy of the paper tier's data: what the readers find in it, and that it is the same every time."""

from __future__ import annotations

import pytest
from paper_data import coco_id, flickr_id, write_paper_data

from amc_lib.datasets import flickr30k, refer, visual_genome
from amc_lib.tokens import SPECIAL, clean


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("paper")
    write_paper_data(root)
    return root


def everything(root):
    return [
        *visual_genome.read(root / "visual_genome", sources=tuple(visual_genome.FILES)),
        *(region for split in flickr30k.SPLITS for region in flickr30k.read(root / "flickr30k", split)),
        *(
            r
            for split in ("train", "val", "testA", "testB")
            for r in refer.read(root / "refer", "refcoco+", "unc", split)
        ),
        *(
            region
            for split in ("train", "val", "test")
            for region in refer.read(root / "refer", "refclef", "unc", split)
        ),
    ]


def test_boxes_lie_inside_pictures_that_open(root):
    for region in everything(root):
        width, height = region.image.open().size
        assert all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for x1, y1, x2, y2 in region.boxes)


def test_chains_with_several_boxes_without_a_box_and_not_visual(root):
    marked = [
        (f"{image_id}-{number}", chain, words)
        for image_id in flickr30k.image_ids(root / "flickr30k", "test")
        for number, (chain, words) in enumerate(flickr30k.phrases(root / "flickr30k" / "Sentences" / f"{image_id}.txt"))
    ]
    regions = {region.id: region for region in flickr30k.read(root / "flickr30k", "test")}
    assert {name: words for name, _, words in marked if name in regions} == {r.id: r.phrase for r in regions.values()}
    assert {words for name, _, words in marked if name not in regions} == {"a wall", "nothing"}
    assert {chain for name, chain, words in marked if words == "nothing"} == {"0"}
    assert {r.kind for r in regions.values()} == {"object", "group"}


def test_two_pictures_of_visual_genome_are_held_out(root):
    held_out = visual_genome.held_out_images(root / "flickr30k", root / "refer")
    assert held_out.flickr == {flickr_id(number) for number in range(12) if number % 3 != 2}
    assert held_out.coco == {coco_id(number) for number in range(12) if number % 4 != 3}
    everything = visual_genome.read(root / "visual_genome")
    regions = visual_genome.read(root / "visual_genome", held_out=held_out)
    assert regions.held_out == 2
    assert {r.image_id for r in everything} - {r.image_id for r in regions} == {"2315353", "2315354"}


def test_held_out_ids_must_be_numbers(root, tmp_path):
    for split in ("val", "test"):
        (tmp_path / f"{split}.txt").write_text("12\nx7\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"val\.txt: the image id 'x7' is no number"):
        visual_genome.held_out_images(tmp_path, root / "refer")


def test_detections_are_of_the_images_and_hold_the_right_boxes(root):
    detections = refer.read_detections(root / "refer" / "refcoco+" / "dets.json")
    for region in refer.read(root / "refer", "refcoco+", "unc", "testA"):
        assert region.boxes[0] in detections[region.image_id]


def test_vocabulary_knows_every_word(root):
    vocabulary = (root / "bert-base-uncased" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(vocabulary[: len(SPECIAL)]) == SPECIAL
    assert {word for region in everything(root) for word in clean(region.phrase).split()} <= set(vocabulary)


def test_numbers_are_as_asked_and_every_byte_is_the_same_again(tmp_path):
    for name in "ab":
        write_paper_data(tmp_path / name, visual_genome=3, flickr30k=4, refcoco=5, refclef=2)
    files = {name: sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in "ab"}
    assert [p.read_bytes() for p in files["a"]] == [p.read_bytes() for p in files["b"]]
    assert len([p for p in files["a"] if p.suffix == ".jpg"]) == 3 + 4 + 5 + 2
