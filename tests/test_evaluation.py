"""Pointing: the peak against a bicubic written out, the rule of a hit, and that batches change nothing."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from paper_data import write_paper_data
from PIL import Image
from reference_cases import tiny_model
from torch import Tensor

from amc_lib.datasets import flickr30k
from amc_lib.evaluate import Pointing, ground_phrases, peak, point_at, point_hits
from amc_lib.grounder import Grounder
from amc_lib.model import ALBEF
from amc_lib.regions import Region
from amc_lib.score import main, summary
from amc_lib.tokens import SPECIAL, Tokenizer

LAYER = 3
WORDS = [f"w{i}" for i in range(35)]
PHRASES = ["w1 w2", "w3", "w4 w5 w6 w7 w8", "w9 w1", "w30 w31 w32"]
BOX = (10.0, 20.0, 30.0, 40.0)


@dataclass(frozen=True)
class Blank:
    """A white picture of some size."""

    width: int
    height: int

    def open(self) -> Image.Image:
        return Image.new("RGB", (self.width, self.height), "white")


def region(*boxes, phrase: str = "w1", image_id: str = "a", image: Blank = Blank(64, 48)) -> Region:
    return Region(f"{image_id}-{phrase}", "val", image, image_id, phrase, boxes or (BOX,))


def cubic(distance: float, a: float = -0.75) -> float:
    """Keys' kernel."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def weights(small: int, large: int) -> np.ndarray:
    """[large, small]: what each small pixel gives to each large one; beyond the border the border is repeated."""
    matrix = np.zeros((large, small))
    for out in range(large):
        centre = (out + 0.5) * small / large - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[out, min(max(tap, 0), small - 1)] += cubic(centre - tap)
    return matrix


@pytest.mark.parametrize("size", [(48, 64), (97, 31), (5, 5), (320, 320)])
def test_peak_is_that_of_a_bicubic_written_out(size):
    height, width = size
    maps = np.random.default_rng(0).random((20, 5, 5))
    points = peak(torch.from_numpy(maps), size)
    assert points.shape == (20, 2)
    for heatmap, (x, y) in zip(maps, points, strict=True):
        large = weights(5, height) @ heatmap @ weights(5, width).T
        assert large[y, x] >= large.max() - 1e-6
        assert (large > large.max() - 1e-9).sum() > 1 or (y, x) == divmod(large.argmax(), width)


def test_first_maximum_in_row_major_order_is_the_point():
    tie = torch.zeros(1, 4, 4)
    tie[0, 1, 3] = tie[0, 2, 0] = 1
    assert peak(tie, (4, 4)).tolist() == [[3, 1]]
    assert peak(tie.transpose(1, 2), (4, 4)).tolist() == [[2, 0]]
    assert peak(torch.ones(1, 4, 4), (4, 4)).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("point", "hit"),
    [
        ((20, 30), True),
        ((11, 21), True),
        ((29, 39), True),
        ((10, 30), False),
        ((30, 30), False),
        ((20, 20), False),
        ((20, 40), False),
        ((10.001, 39.999), True),
        ((30, 20), False),
    ],
)
def test_point_must_lie_strictly_inside(point, hit):
    assert point_hits(np.array([point]), [region()]).tolist() == [hit]


def test_any_box_is_a_hit():
    two = region((0.0, 0.0, 10.0, 10.0), (40.0, 0.0, 50.0, 10.0))
    points = np.array([(5, 5), (45, 5), (25, 5), (5, 25)])
    assert point_hits(points, [two] * 4).tolist() == [True, True, False, False]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer([*SPECIAL, *WORDS], max_tokens=12)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def single_model() -> ALBEF:
    return tiny_model(torch.float32).eval()


def test_batch_equals_phrase_by_phrase(tokenizer, images):
    model, rows = single_model(), [0, 2, 1, 0, 2]
    raw, scores = ground_phrases(model, tokenizer, images, PHRASES, rows, LAYER)
    assert raw.shape == (5, 4, 4) and scores.shape == (5,)
    assert ((scores > 0) & (scores < 1)).all() and scores.std() > 0.01
    for p, (phrase, row) in enumerate(zip(PHRASES, rows, strict=True)):
        one, score = ground_phrases(model, tokenizer, images[row : row + 1], [phrase], [0], LAYER)
        lengths = [len(tokenizer.tokens(text)) for text in (phrase, max(PHRASES, key=len))]
        assert raw[p].max() > 1e-3  # padded words count in the mean: the same map, flatter by the ratio of lengths
        torch.testing.assert_close(raw[p], one[0] * lengths[0] / lengths[1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(scores[p], score[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_gradients_stay_as_they_were(tokenizer, images, training):
    model = single_model().train(training)
    model.itm_head.weight.grad = (kept := torch.randn_like(model.itm_head.weight)).clone()
    ground_phrases(model, tokenizer, images, PHRASES, [0, 0, 1, 2, 2], LAYER)
    with pytest.raises(ValueError, match="no words"):
        ground_phrases(model, tokenizer, images, ["?"], [0], LAYER)
    assert all(module.training is training for module in model.modules())
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["itm_head.weight"]
    assert model.itm_head.weight.grad.equal(kept)


@pytest.mark.parametrize("images_at_once", [1, 2, 32])
def test_point_at_keeps_the_order_of_interleaved_images_and_sizes(tokenizer, images, images_at_once):
    model, sizes = single_model(), [(48, 64), (97, 31), (48, 64)]  # (height, width)
    rows, opened = [0, 2, 1, 0, 2], []
    regions = [
        region(phrase=phrase, image_id=str(row), image=Blank(*reversed(sizes[row])))
        for phrase, row in zip(PHRASES, rows, strict=True)
    ]

    def load_image(asked: Region) -> tuple[Tensor, tuple[int, int]]:
        opened.append(asked.image_id)
        return images[int(asked.image_id)], sizes[int(asked.image_id)]

    answers = point_at(model, tokenizer, regions, load_image, LAYER, images_at_once)
    assert answers.regions == regions
    assert sorted(opened) == ["0", "1", "2"]  # each image once
    for p, (phrase, row) in enumerate(zip(PHRASES, rows, strict=True)):
        raw, score = ground_phrases(model, tokenizer, images[row : row + 1], [phrase], [0], LAYER)
        assert answers.scores[p] == pytest.approx(score.item(), abs=1e-5)
        assert answers.points[p].tolist() == peak(raw, sizes[row])[0].tolist()
        heatmap = answers.heatmaps[p] / answers.heatmaps[p].max()  # padding changes the magnitude, not the shape
        torch.testing.assert_close(heatmap, raw[0] / raw.max(), rtol=1e-4, atol=1e-5)
    assert len({tuple(point) for point in answers.points}) > 2


def test_all_zero_map_is_a_miss_wherever_the_box_is():
    heatmaps = torch.ones(3, 4, 4)
    heatmaps[2] = 0
    answers = Pointing([region()] * 3, heatmaps, np.array([(20, 30), (0, 0), (20, 30)]), np.zeros(3))
    assert answers.hits.tolist() == [True, False, False]


def test_command_scores_a_folder_of_flickr30k_entities(tmp_path, capsys):
    write_paper_data(tmp_path)
    root, grounder = tmp_path / "flickr30k", Grounder.load("amc-scenes")
    regions = flickr30k.read(root, "test")
    answers = [grounder.ground(region.image.open(), region.phrase) for region in regions]
    points = np.array([answer.point for answer in answers])
    main(["amc-scenes", str(root), "test", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["phrases"] == len(regions) > 3 and found["hits"] == point_hits(points, regions).sum() > 0
    assert found["accuracy"] == pytest.approx(100 * found["hits"] / found["phrases"])
    assert sum(of_type["hits"] for of_type in found["by_type"].values()) == found["hits"]
    assert found["unknown"] == sum(answer.unknown for answer in answers) > 0
    low, high = found["interval"]
    assert 0 <= low < found["accuracy"] < high <= 100 and found["photographs"] == len({r.image_id for r in regions})
    main(["amc-scenes", str(root), "test"])
    text = capsys.readouterr().out
    assert (
        f"{found['accuracy']:.2f} % [{low:.1f}, {high:.1f}]" in text and f"{found['photographs']} photographs" in text
    )
    assert f"of {found['unknown']} phrases the checkpoint knows no word" in text
    centre = point_hits([(r.image.size()[1] / 2, r.image.size()[0] / 2) for r in regions], regions)
    assert found["centre"]["hits"] == centre.sum() and f"{100 * centre.mean():.2f} %" in text
    with pytest.raises(SystemExit, match=r"all\.txt: no such file; the lists that are there: test"):
        main(["amc-scenes", str(root), "all"])


def test_command_scores_what_can_be_read_of_a_list_of_any_name(tmp_path, capsys):
    write_paper_data(tmp_path)
    root = tmp_path / "flickr30k"
    first, *others = flickr30k.image_ids(root, "test")
    picture = flickr30k.pictures(root)[first].path
    (root / "unseen.txt").write_text("\n".join(f"{i}.jpg" for i in [first, *others, others[0]]), encoding="utf-8")
    main(["amc-scenes", str(tmp_path), "unseen", "--json"])  # the folder above is as good
    whole = json.loads(capsys.readouterr().out)
    assert whole["phrases"] == len(flickr30k.read(root, "test")) and whole["first_skipped"] == []
    picture.write_bytes(picture.read_bytes()[:-200])
    main(["amc-scenes", str(root), "unseen", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["photographs"] == whole["photographs"] - 1 and found["skipped"] == 1
    assert found["first_skipped"][0].startswith(f"image {first}: {picture}: ")
    main(["amc-scenes", str(root), "unseen"])
    assert f"image {first}: {picture}: " in capsys.readouterr().out
    with Image.open(flickr30k.pictures(root)[others[0]].path) as file:
        exif = file.getexif()
        exif[0x0112] = 6  # a quarter turn: the annotation's size says that its boxes count stored pixels all the same
        file.save(file.filename, exif=exif)
    sentence_file = root / "Sentences" / f"{others[1]}.txt"
    marked = sentence_file.read_text(encoding="utf-8")
    sentence_file.write_text(marked.replace("other A ", f"other {'big ' * 50}", 1), encoding="utf-8")
    main(["amc-scenes", str(root), "unseen", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["photographs"] == whole["photographs"] - 1 and found["cut"] == 1
    (root / "unseen.txt").write_text(first, encoding="utf-8")
    with pytest.raises(SystemExit, match=f"that can be read; the first record that was left out: image {first}"):
        main(["amc-scenes", str(root), "unseen"])


def test_interval_is_of_photographs_with_all_their_phrases():
    """Ten phrases of one photograph, hit together, vary as two photographs do, not as twenty phrases."""
    regions = [replace(region(), image_id=str(p // 10)) for p in range(20)]
    hits = np.arange(20) < 10
    assert summary(hits, regions)["interval"] == [0.0, 100.0]
    alone = [replace(region(), image_id=str(p)) for p in range(20)]
    low, high = summary(hits, alone)["interval"]
    assert 25 <= low <= 35 and 65 <= high <= 75
    assert summary(hits[:10], regions[:10])["interval"] is None
