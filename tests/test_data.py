"""Training pairs: masks of boxes, which phrase an image meets in which epoch, and batches made of them."""

from __future__ import annotations

import dataclasses
import itertools
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amc_lib.config import BoxSettings
from amc_lib.data import Collator, EpochBatches, FixedPairs, Pairs, Phrase, box_mask
from amc_lib.tokens import Tokenizer, word_vocabulary
from amc_study.ablations.seen_boxes import seen_boxes, seen_phrases

WORDS = ("red", "cat", "dog", "on", "grass", "tree")
SIDE = 8


def naive_mask(boxes, side: int) -> np.ndarray:
    """Pixel by pixel: an edge goes to the nearest pixel border, and a box has one pixel at least."""
    mask = np.zeros((side, side))
    for x1, y1, x2, y2 in boxes:
        for y, x in itertools.product(range(side), repeat=2):
            columns = round(x1 * side) <= x < round(x2 * side) or x == min(round(x1 * side), side - 1)
            rows = round(y1 * side) <= y < round(y2 * side) or y == min(round(y1 * side), side - 1)
            mask[y, x] = max(mask[y, x], columns and rows)
    return mask


@st.composite
def a_box(draw) -> tuple[float, float, float, float]:
    edges = st.floats(0, 1, width=32)
    (x1, x2), (y1, y2) = (sorted((draw(edges), draw(edges))) for _ in range(2))
    return x1, y1, x2, y2


@given(st.lists(a_box(), max_size=3), st.integers(1, 9))
def test_mask_is_the_naive_one(boxes, side):
    mask = box_mask(boxes, side)
    assert mask.shape == (side, side) and mask.dtype == torch.float32
    np.testing.assert_array_equal(mask.numpy(), naive_mask(boxes, side))


def dataset(images: int = 12, phrases: int = 5, seed: int = 0, per_image: int = 1) -> FixedPairs:
    """Image i is a constant i; its phrases are told apart by their number, which is also how many things they name."""
    pictures = [torch.full((3, 2, 2), float(i)) for i in range(images)]
    texts = [[Phrase(f"cat {n}", things=n + 1) for n in range(phrases)] for _ in range(images)]
    return FixedPairs(pictures, texts, seed, per_image)


def choices(data: FixedPairs, epoch: int = 0) -> list[str]:
    data.start_epoch(epoch)
    return [data[i].phrases[0].text for i in range(len(data))]


def test_pair_belongs_to_its_image():
    data = dataset(seed=4)
    data.start_epoch(2)
    pair = data[3]
    assert pair.key == (4, 2, 3)
    assert pair.image.equal(torch.full((3, 2, 2), 3.0))
    assert len(pair.phrases) == 1 and pair.phrases[0] in data.phrases[3]


def test_choice_depends_on_seed_epoch_and_image_alone():
    data = dataset()
    backwards = [data[i].phrases[0].text for i in reversed(range(len(data)))]
    assert choices(data) == backwards[::-1] == choices(dataset(images=12)) == choices(dataset(images=20))[:12]
    np.random.seed(7)
    torch.manual_seed(7)
    assert choices(data) == backwards[::-1]
    assert choices(data, 0) != choices(data, 1) != choices(data, 2)
    assert choices(data, 0) != choices(dataset(seed=1), 0)


def test_phrases_that_name_more_things_wait():
    data = dataset(images=40)
    data.start_epoch(0, most_things=2)
    assert {data[i].phrases[0].things for i in range(40)} == {1, 2}
    data.start_epoch(1)
    assert {data[i].phrases[0].things for i in range(40)} == {1, 2, 3, 4, 5}
    only_long = FixedPairs([torch.zeros(1)], [[Phrase("cat and dog", things=2)]], seed=0)
    only_long.start_epoch(0, most_things=1)
    assert only_long[0].phrases[0].text == "cat and dog"


@pytest.mark.parametrize("per_image", [3, 9])
def test_several_phrases_of_an_image_differ(per_image):
    data = dataset(images=6, per_image=per_image)
    for i in range(6):
        texts = [phrase.text for phrase in data[i].phrases]
        assert len(texts) == len(set(texts)) == min(per_image, 5)
    assert choices(data) == choices(dataset(images=6))  # more of them do not change the first


def batches(length: int, epoch: int = 0, **part: int) -> list[list[int]]:
    sampler = EpochBatches(length, **{"batch_size": 4, "seed": 0} | part)
    sampler.start_epoch(epoch)
    cut = list(sampler)
    assert len(cut) == len(sampler)
    sampler.start_epoch(epoch, first=2)
    assert list(sampler) == cut[2:]
    return cut


def test_batches_are_a_permutation_of_seed_and_epoch():
    assert sorted(i for batch in batches(48) for i in batch) == list(range(48)) and batches(48) == batches(48)
    orders = {str(batches(48, epoch, seed=seed)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4 and str([list(range(i, i + 4)) for i in range(0, 48, 4)]) not in orders


@given(st.integers(0, 60), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_parts_of_the_processes_make_up_the_whole_batch(length, world, size, whole):
    together = batches(length, batch_size=size * world, whole=whole)
    parts = [batches(length, batch_size=size, rank=rank, world=world, whole=whole) for rank in range(world)]
    assert [list(chain(*of_ranks)) for of_ranks in zip(*parts, strict=True)] == together
    assert len(together) % whole == 0 and length - len(together) * size * world < size * world * whole


@pytest.fixture(scope="module")
def collator() -> Collator:
    return Collator(Tokenizer(word_vocabulary(WORDS), max_tokens=10), mlm_probability=0.4, map_size=SIDE)


def pairs(epoch: int = 0) -> list[Pairs]:
    box, whole = (0.0, 0.0, 0.5, 0.25), (0.0, 0.0, 1.0, 1.0)
    phrases = [Phrase("red cat on grass", (box,)), Phrase("dog"), Phrase("dog on tree", (box, whole))]
    return [Pairs((0, epoch, i), torch.full((3, 2, 2), float(i)).half(), (p,)) for i, p in enumerate(phrases)]


def test_phrases_of_one_image_share_its_row(collator):
    first, second, third = pairs()
    both = dataclasses.replace(first, phrases=first.phrases + second.phrases)
    batch = collator([both, third])
    assert batch.image.shape[0] == 2 and batch.image_rows.tolist() == [0, 0, 1]
    assert batch.has_box.tolist() == [True, False, True]


def test_batch_keeps_image_phrase_and_boxes_together(collator):
    batch = collator(pairs())
    assert batch.image[:, 0, 0, 0].tolist() == [0, 1, 2]
    words = [[collator.tokenizer.vocabulary[i] for i in row if i] for row in batch.input_ids]
    assert [" ".join(row[1:-1]) for row in words] == ["red cat on grass", "dog", "dog on tree"]
    assert batch.attention_mask.sum(1).tolist() == [6, 3, 5]
    assert batch.has_box.tolist() == [True, False, True]
    assert batch.box_mask.sum((1, 2)).tolist() == [4 * 2, 0, SIDE * SIDE]


def test_corruption_depends_on_the_pairs_alone(collator):
    torch.manual_seed(0)
    first = collator(pairs())
    torch.manual_seed(1)
    again, later = collator(pairs()), collator(pairs(epoch=1))
    assert all(tensor.equal(getattr(again, name)) for name, tensor in vars(first).items())
    assert not first.mlm_labels.equal(later.mlm_labels)
    assert first.input_ids.equal(later.input_ids)


CAT = Phrase("red cat", ((0.4, 0.5, 0.6, 0.9),))


def annotated(images: int = 1, seed: int = 0, **settings: float) -> list[Phrase]:
    """What training sees of the cat in each image."""
    pairs = seen_boxes(FixedPairs([torch.zeros(1)] * images, [[CAT]] * images, seed), BoxSettings(**settings))
    first = [pairs[i].phrases[0] for i in range(images)]
    pairs.start_epoch(1)
    assert [pairs[i].phrases[0] for i in range(images)] == first  # the same at every visit
    return first


def test_share_of_pictures_keeps_its_boxes_and_a_larger_share_keeps_them_too():
    seen = {share: annotated(2000, box_share=share) for share in (0.05, 0.3, 1.0)}
    kept = {share: {i for i, phrase in enumerate(phrases) if phrase.boxes} for share, phrases in seen.items()}
    assert kept[0.05] < kept[0.3] and len(kept[1.0]) == 2000
    assert 70 < len(kept[0.05]) < 130 and 530 < len(kept[0.3]) < 670  # 100 and 600, five deviations around
    assert seen[0.05] != annotated(2000, seed=1, box_share=0.05)
    assert {phrase.text for phrase in annotated(5, box_share=0.0)} == {CAT.text}


@given(st.floats(0, 0.99))
def test_shift_is_bounded_by_the_box(shift):
    ((x1, y1, x2, y2),) = annotated(1, box_shift=shift, box_scale=0.9999)[0].boxes
    assert abs((x1 + x2) / 2 - 0.5) <= shift * 0.2 + 1e-9
    assert abs((y1 + y2) / 2 - 0.7) <= shift * 0.4 + 0.1 + 1e-9  # cut at the lower edge
    assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1


@pytest.mark.parametrize(
    ("scale", "box"), [(0.5, (0.45, 0.6, 0.55, 0.8)), (1.5, (0.35, 0.4, 0.65, 1.0)), (2.0, (0.3, 0.3, 0.7, 1.0))]
)
def test_scale_is_about_the_centre_and_cut_at_the_edges(scale, box):
    assert annotated(box_scale=scale)[0].boxes[0] == pytest.approx(box)


LOW, HIGH, WHOLE = ((0.25, 0.5, 0.5, 1.0),), ((0.0, 0.0, 0.5, 0.25),), ((0.0, 0.0, 1.0, 1.0),)


def with_box_of(box_of: str, boxes: list[tuple], seed: int = 0) -> list[tuple]:
    """The boxes that phrases of one picture get."""
    phrases = [Phrase(f"phrase {i}", own) for i, own in enumerate(boxes)]
    seen = seen_phrases(phrases, BoxSettings(box_of=box_of), seed, "picture")
    assert [phrase.text for phrase in seen] == [phrase.text for phrase in phrases]
    return [phrase.boxes for phrase in seen]


def test_the_box_of_another_phrase_is_another_box():
    for seed in range(20):
        assert with_box_of("other", [LOW, HIGH, LOW, ()], seed) == [HIGH, LOW, HIGH, ()]
    assert with_box_of("other", [LOW, LOW]) == [(), ()]  # no other box is there
    assert {with_box_of("other", [LOW, HIGH, WHOLE], seed)[0] for seed in range(20)} == {HIGH, WHOLE}


def test_a_box_anywhere_keeps_its_size_and_stays_inside():
    places = set()
    for seed in range(50):
        ((x1, y1, x2, y2),) = with_box_of("anywhere", [LOW], seed)[0]
        assert (x2 - x1, y2 - y1) == pytest.approx((0.25, 0.5)) and x1 >= 0 <= y1 and x2 <= 1 >= y2
        places.add((round(4 * x1), round(4 * y1)))
    assert len(places) > 8  # of the 12 that there are


def test_boxes_of_mirrored_photographs_are_changed_before_they_are_mirrored():
    """The pairs stay what they are, and with them how they are viewed."""

    class Mirrored(FixedPairs):
        def view(self, row, phrases, rng):
            return self.images[row], [dataclasses.replace(phrase, text=f"mirrored {phrase.text}") for phrase in phrases]

    pairs = seen_boxes(Mirrored([torch.zeros(1)], [[CAT]], seed=0), BoxSettings(box_scale=0.5))
    assert pairs[0].phrases[0].text == "mirrored red cat"
    assert pairs[0].phrases[0].boxes[0] == pytest.approx((0.45, 0.6, 0.55, 0.8))
