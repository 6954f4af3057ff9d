"""Deletion and insertion: which cells go in which order, curves against a loop, a model whose answer is known."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_cases import tiny_model
from test_evaluation import WORDS, Blank

from amc_lib.checkpoints import Checkpoint
from amc_lib.evaluate import ground_phrases, point_at
from amc_lib.presets import preset
from amc_lib.regions import Region
from amc_lib.tokens import SPECIAL, Tokenizer
from amc_study.explain.faithfulness import (
    CURVES,
    FILLS,
    ORDERS,
    SHARES,
    Faithfulness,
    box_cells,
    erased,
    faithfulness,
    hottest_first,
    one_an_image,
)
from amc_study.explain.faithfulness_tables import area_table, curve_table

LAYER, GRID, SIDE = 3, 4, 16
DELETION, INSERTION = range(2)
PROPERTY = settings(deadline=None, max_examples=60)  # no deadline: other work may share the cores


def region(number: int, box=(0.0, 0.0, 20.0, 12.0), phrase: str = "w1 w2") -> Region:
    return Region(f"r{number}", "val", Blank(64, 48), f"image-{number}", phrase, (box,))


@dataclass
class Pictures:
    """A bank of random pixels, one picture a region."""

    regions: list[Region]

    def all_regions(self) -> list[Region]:
        return self.regions

    def load(self, asked: Region):
        generator = torch.Generator().manual_seed(int(asked.image_id.split("-")[1]))
        return torch.randn(3, SIDE, SIDE, generator=generator), self.size(asked)

    def size(self, asked: Region) -> tuple[int, int]:
        return 48, 64

    def fit(self, model):
        return nullcontext()


@pytest.fixture(scope="module")
def bank() -> Pictures:
    boxes = [(0.0, 0.0, 20.0, 12.0), (30.0, 20.0, 64.0, 48.0), (10.0, 10.0, 50.0, 40.0)]
    return Pictures([region(n, box, f"w{n + 1} w{n + 9}") for n, box in enumerate(boxes)])


@pytest.fixture(scope="module")
def checkpoints() -> list[Checkpoint]:
    tokenizer = Tokenizer([*SPECIAL, *WORDS], max_tokens=12)
    return [Checkpoint(tiny_model(torch.float32, seed), tokenizer, preset("scenes"), {}, "") for seed in range(2)]


# ---------------------------------------------------------------------------------------------------------------- cells


def test_cells_are_replaced_in_their_order():
    image, blank = torch.arange(48.0).view(3, 4, 4), torch.full((3, 4, 4), -1.0)
    order = np.array([3, 0, 1, 2])  # of a 2 x 2 grid: lower right first
    deleted, inserted = erased(image, blank, order, [0.25, 0.5])
    gone = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]).bool()
    more = gone | torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    for at, mask in enumerate((gone, more)):
        torch.testing.assert_close(deleted[at], torch.where(mask, blank, image))
        torch.testing.assert_close(inserted[at], torch.where(mask, image, blank))


@PROPERTY
@given(st.integers(1, 6), st.integers(0, 1000), st.floats(0, 1))
def test_deleted_and_inserted_cells_complete_each_other(grid, seed, share):
    order = np.random.default_rng(seed).permutation(grid * grid)
    image, blank = torch.ones(3, 12, 12), torch.zeros(3, 12, 12)
    deleted, inserted = erased(image, blank, order, [share])
    assert (deleted + inserted == 1).all()
    if 12 % grid == 0:
        assert inserted.mean().item() == pytest.approx(round(share * grid**2) / grid**2)


def test_hottest_cells_come_first_and_ties_in_their_own_order():
    values = np.array([[0.1, 0.9], [0.1, 0.5]])
    assert hottest_first(values, np.array([0, 1, 2, 3])).tolist() == [1, 3, 0, 2]
    assert hottest_first(values, np.array([3, 2, 1, 0])).tolist() == [1, 3, 2, 0]


def test_cells_of_a_box_are_shares_of_its_pixels():
    cells = box_cells(region(0, (0.0, 0.0, 24.0, 12.0)), (48, 64), 4)  # cells of 16 x 12 pixels
    assert cells.tolist() == [[1, 0.5, 0, 0]] + [[0.0] * 4] * 3


def test_fills():
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    image[:, :, 16:] += 2
    flat, soft = FILLS["mean colour"](image), FILLS["blur"](image)
    torch.testing.assert_close(flat, image.mean((1, 2))[:, None, None].expand(3, 32, 32))
    assert soft.shape == image.shape and soft.std(dim=1).max() < 0.05  # no detail is left
    assert (soft[:, :, -1] - soft[:, :, 0]).min() > 1  # large areas are


# --------------------------------------------------------------------------------------------------------------- curves


def test_curves_are_those_of_a_plain_loop(bank, checkpoints):
    fill = "mean colour"
    asked_twice = {"AMC": [(one, LAYER) for one in checkpoints]}
    found = faithfulness(asked_twice, bank.regions[:2], bank, fill)["AMC"]
    for checkpoint, one in zip(checkpoints, found, strict=True):
        model, tokenizer = checkpoint.model, checkpoint.tokenizer
        for n, asked in enumerate(bank.regions[:2]):
            image = bank.load(asked)[0]
            blank = FILLS[fill](image)
            raw, _ = ground_phrases(model, tokenizer, image[None], [asked.phrase], [0], LAYER)
            cells = sorted(range(GRID**2), key=(-raw[0].flatten()).__getitem__)
            for k, share in enumerate(SHARES):
                mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
                for cell in cells[: round(share * GRID**2)]:
                    y, x = divmod(cell, GRID)
                    mask[4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = True
                for curve, (there, gone) in enumerate(((image, blank), (blank, image))):
                    picture = torch.where(mask, gone, there)
                    _, score = ground_phrases(model, tokenizer, picture[None], [asked.phrase], [0], LAYER)
                    assert one.scores[curve, 0, n, k] == pytest.approx(score.item(), abs=1e-5)


def test_ends_orders_and_hits(bank, checkpoints):
    (one,) = faithfulness({"AMC": [(checkpoints[0], LAYER)]}, bank.regions, bank, "blur")["AMC"]
    assert one.scores.shape == (len(CURVES), len(ORDERS), 3, len(SHARES))
    assert np.ptp(one.scores[:, :, :, 0], axis=1).max() == 0  # all orders begin with the same picture
    np.testing.assert_array_equal(one.scores[DELETION, :, :, 0], one.scores[INSERTION, :, :, -1])
    np.testing.assert_array_equal(one.scores[DELETION, :, :, -1], one.scores[INSERTION, :, :, 0])
    pointing = point_at(checkpoints[0].model, checkpoints[0].tokenizer, bank.regions, bank.load, LAYER)
    assert one.hits.tolist() == pointing.hits.tolist()
    assert len({tuple(of_order) for of_order in one.scores[DELETION, :, 0].tolist()}) == 3


def test_systems_lose_the_same_cells_at_random_and_every_call_is_the_same(bank, checkpoints):
    same = {"ALBEF": [(checkpoints[0], LAYER)], "AMC": [(checkpoints[1], LAYER), (checkpoints[0], LAYER)]}
    found = faithfulness(same, bank.regions, bank, "mean colour")
    np.testing.assert_allclose(found["ALBEF"][0].scores, found["AMC"][1].scores, atol=1e-6)
    again = faithfulness(same, bank.regions, bank, "mean colour")
    np.testing.assert_array_equal(again["AMC"][0].scores, found["AMC"][0].scores)
    other = faithfulness(same, bank.regions, bank, "mean colour", seed=1)["AMC"][0].scores
    np.testing.assert_allclose(other[:, 0], found["AMC"][0].scores[:, 0], atol=1e-6)
    assert np.abs(other[:, 1] - found["AMC"][0].scores[:, 1]).max() > 1e-3


def test_mode_and_gradients_stay_as_they_were(bank, checkpoints):
    model = checkpoints[0].model.train()
    faithfulness({"AMC": [(checkpoints[0], LAYER)]}, bank.regions[:1], bank, "blur")
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------------------------- areas


def made(heatmap: list[float], hits=(True, False)) -> Faithfulness:
    """A score that falls to 0 by the share `heatmap[n]`, and at random as a straight line from 1 to 0."""
    shares = np.array(SHARES)
    scores = np.zeros((2, 3, len(heatmap), len(SHARES)))
    for n, end in enumerate(heatmap):
        scores[DELETION, 0, n] = np.clip(1 - shares / end, 0, None)
        scores[INSERTION, 0, n] = np.clip(shares / end, None, 1)
    scores[DELETION, 1:], scores[INSERTION, 1:] = 1 - shares, shares
    return Faithfulness(scores, np.array(hits))


def test_areas_and_gains_of_known_curves():
    one = made([0.32, 0.64])
    np.testing.assert_allclose(one.areas[:, 0], [[0.16, 0.32], [0.84, 0.68]])
    np.testing.assert_allclose(one.areas[:, 1:], 0.5)
    np.testing.assert_allclose(one.gains[:, 0], [[0.34, 0.18], [0.34, 0.18]])
    assert (one.gains[:, 1:] == 0).all()


def test_area_table_tells_hits_from_misses():
    regions = [region(0), region(1)]
    table = area_table({"blur": {"AMC": [made([0.32, 0.64]), made([0.64, 0.32], hits=(True, True))]}}, regions)
    own = table[(table["curve"] == "deletion") & (table["order"] == "heatmap")].set_index("where")
    assert own["gain"].to_dict() == {
        "all": pytest.approx(0.26),
        "hit": pytest.approx((0.34 + 0.18 + 0.34) / 3, abs=1e-4),
        "miss": pytest.approx(0.18),
    }
    assert own["answers"].to_dict() == {"all": 4, "hit": 3, "miss": 1}
    assert (own["gain_low"] <= own["gain"]).all() and (own["gain"] <= own["gain_high"]).all()


def test_where_nothing_is_missed_there_is_no_row():
    table = area_table({"blur": {"AMC": [made([0.5, 0.5], hits=(True, True))]}}, [region(0), region(1)])
    assert set(table["where"]) == {"all", "hit"}


def test_curve_table_has_the_means():
    table = curve_table({"blur": {"AMC": [made([0.32, 0.64])]}}, [region(0), region(1)])
    assert len(table) == len(CURVES) * len(ORDERS) * len(SHARES)
    row = table.query("curve == 'deletion' and order == 'heatmap' and share == 0.16").iloc[0]
    assert (row.probability, row.ci_low, row.ci_high) == (0.625, 0.5, 0.75)


def test_one_phrase_an_image_drawn_at_random():
    regions = [region(n) for n in range(6) for _ in range(3)]
    drawn = one_an_image(regions, 4)
    assert len({one.image_id for one in drawn}) == 4
    assert drawn == one_an_image(regions, 4) != one_an_image(regions, 4, seed=1)
    assert len(one_an_image(regions, 100)) == 6
