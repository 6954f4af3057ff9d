"""Deletion and insertion: which cells go in which order, curves against a loop, a model whose answer is known."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from reference_cases import tiny_model
from test_evaluation import WORDS, Blank

from amc_lib.checkpoints import Checkpoint
from amc_lib.evaluate import ground_phrases, point_at
from amc_lib.presets import preset
from amc_lib.regions import Region
from amc_lib.tokens import SPECIAL, Tokenizer
from amc_study.explain.faithfulness import (
    CURVES,
    ORDERS,
    SHARES,
    area_table,
    box_cells,
    curve_table,
    erased,
    faithfulness,
    hottest_first,
    own_orders,
)
from amc_study.explain.fills import COARSE, FILLS, NOISE

LAYER, GRID, SIDE = 3, 4, 16
DELETION, INSERTION = range(2)


def region(number: int, box=(0.0, 0.0, 20.0, 12.0), phrase: str = "w1 w2") -> Region:
    return Region(f"r{number}", "val", Blank(64, 48), f"image-{number}", phrase, (box,))


def tiny(seed: int = 0, trunk: str = "none") -> Checkpoint:
    model = tiny_model(torch.float32, seed, trunk)
    return Checkpoint(model, Tokenizer([*SPECIAL, *WORDS], max_tokens=12), preset("scenes"), {"seed": seed}, "")


@dataclass
class Pictures:
    """A split of random pixels."""

    regions: list[Region]

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
    return [tiny(seed) for seed in range(2)]


@pytest.mark.parametrize("grid", [1, 4, 5])
def test_deleted_and_inserted_cells_complete_each_other(grid):
    order = np.random.default_rng(0).permutation(grid * grid)
    image = torch.ones(3, 12, 12)

    def black(image: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
        return image * ~gone[:, None]

    deleted, inserted = erased(image, black, order, SHARES)
    assert (deleted + inserted == 1).all()
    if 12 % grid == 0:
        expected = [round(share * grid**2) / grid**2 for share in SHARES]
        assert inserted.mean((1, 2, 3)).tolist() == pytest.approx(expected)


def test_hottest_cells_come_first_and_ties_in_their_own_order():
    values = np.array([[0.1, 0.9], [0.1, 0.5]])
    assert hottest_first(values, np.array([0, 1, 2, 3])).tolist() == [1, 3, 0, 2]
    assert hottest_first(values, np.array([3, 2, 1, 0])).tolist() == [1, 3, 2, 0]


def test_orders_of_a_heatmap():
    heatmap = torch.zeros(5, 5)
    heatmap[0, 4], heatmap[3, 1], heatmap[3, 2], heatmap[2, 1] = 1.0, 0.9, 0.8, 0.7  # a lone peak, and a patch
    ties = np.random.default_rng(0).permutation(25)
    hottest, coldest, blurred = own_orders(heatmap, ties)
    assert hottest[:4].tolist() == [4, 16, 17, 11] and coldest[-4:].tolist() == [11, 17, 16, 4]
    assert hottest[4:].tolist() == coldest[:-4].tolist()  # ties in one order
    assert blurred[0] == 16 and sorted(blurred) == list(range(25))


def test_cells_of_a_box_are_shares_of_its_pixels():
    cells = box_cells(region(0, (0.0, 0.0, 24.0, 12.0)), (48, 64), 4)  # cells of 16 x 12 pixels
    assert cells.tolist() == [[1, 0.5, 0, 0]] + [[0.0] * 4] * 3


def test_fills():
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    image[:, :, 16:] += 2
    everything = torch.ones(1, 32, 32, dtype=torch.bool)
    flat, soft = FILLS["mean colour"](image, everything)[0], FILLS["blur"](image, everything)[0]
    torch.testing.assert_close(flat, image.mean((1, 2))[:, None, None].expand(3, 32, 32))
    assert soft.shape == image.shape and soft.std(dim=1).max() < 0.05  # no detail is left
    assert (soft[:, :, -1] - soft[:, :, 0]).min() > 1  # large areas are


@pytest.mark.parametrize("name", FILLS)
def test_a_fill_leaves_what_is_there(name):
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    gone = torch.zeros(3, 32, 32, dtype=torch.bool)
    gone[1, 8:16, 16:24], gone[2] = True, True
    filled = FILLS[name](image, gone)
    assert filled.shape == (3, 3, 32, 32)
    kept = ~gone[:, None].expand_as(filled)
    assert filled[kept].equal(image.expand_as(filled)[kept]) and (filled[~kept] != image.expand_as(filled)[~kept]).all()


def test_imputation_is_the_mean_of_eight_neighbours():
    """Where the picture is a slope each pixel is that mean, so what was erased comes back."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    image = torch.stack((x, y, x - 2 * y)) / 32
    gone = torch.zeros(1, 32, 32, dtype=torch.bool)
    gone[0, 8:20, 12:28] = True
    filled = FILLS["imputation"](image, gone)[0]
    torch.testing.assert_close(filled, image, atol=6 * NOISE, rtol=0)
    detail = image.clone()
    detail[:, 10:14, 16:20] += 5  # erased, so it must not show
    torch.testing.assert_close(FILLS["imputation"](detail, gone)[0][:, gone[0]], filled[:, gone[0]])
    corner = torch.zeros(1, 32, 32, dtype=torch.bool)
    corner[0, :COARSE, :COARSE] = True  # one block, whose neighbours are three: weights 1/6, 1/6 and 1/12
    at = [
        image[:, i : i + COARSE, j : j + COARSE].mean((1, 2)) for i, j in ((0, COARSE), (COARSE, 0), (COARSE, COARSE))
    ]
    expected = (2 * at[0] + 2 * at[1] + at[2]) / 5
    assert FILLS["imputation"](image, corner)[0, :, 0, 0].tolist() == pytest.approx(expected.tolist(), abs=5 * NOISE)


def scores(measured: pd.DataFrame, system: str = "AMC", seed: int = 0) -> np.ndarray:
    """Probabilities [phrase, curve, order, share]."""
    mine = measured[(measured["system"] == system) & (measured["seed"] == seed)]
    return mine["probability"].to_numpy().reshape(-1, len(CURVES), len(ORDERS), len(SHARES))


def test_curves_are_those_of_a_plain_loop(bank, checkpoints):
    fill, asked = "mean colour", bank.regions[1]
    found = faithfulness({"AMC": [(one, LAYER) for one in checkpoints]}, bank.regions[:2], bank, fill)
    image = bank.load(asked)[0]
    blank = FILLS[fill](image, torch.ones(1, SIDE, SIDE, dtype=torch.bool))[0]
    for seed, checkpoint in enumerate(checkpoints):

        def ground(picture: torch.Tensor, checkpoint: Checkpoint = checkpoint) -> tuple:
            return ground_phrases(checkpoint.model, checkpoint.tokenizer, picture[None], [asked.phrase], [0], LAYER)

        cells = sorted(range(GRID**2), key=(-ground(image)[0].flatten()).__getitem__)
        for k, share in enumerate(SHARES):
            mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
            for cell in cells[: round(share * GRID**2)]:
                y, x = divmod(cell, GRID)
                mask[4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = True
            for curve, (there, gone) in enumerate(((image, blank), (blank, image))):
                score = ground(torch.where(mask, gone, there))[1].item()
                assert scores(found, seed=seed)[1, curve, 0, k] == pytest.approx(score, abs=1e-5)


def test_orders_share_their_ends_and_hits_are_those_of_pointing(bank, checkpoints):
    model = checkpoints[0].model.train()
    found = faithfulness({"AMC": [(checkpoints[0], LAYER)]}, bank.regions, bank, "blur")
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    values = scores(found)
    assert np.ptp(values[..., 0], axis=2).max() == 0
    np.testing.assert_array_equal(values[:, DELETION, :, 0], values[:, INSERTION, :, -1])
    np.testing.assert_array_equal(values[:, DELETION, :, -1], values[:, INSERTION, :, 0])
    pointing = point_at(model, checkpoints[0].tokenizer, bank.regions, bank.load, LAYER)
    assert found.drop_duplicates("phrase_id")["hit"].tolist() == pointing.hits.tolist()
    assert len({tuple(order) for order in values[0, DELETION].tolist()}) == len(ORDERS)


def test_systems_lose_the_same_cells_at_random_and_another_seed_draws_others(bank, checkpoints):
    same = {"ALBEF": [(checkpoints[0], LAYER)], "AMC": [*((one, LAYER) for one in checkpoints[::-1])]}
    found, other = (faithfulness(same, bank.regions[:2], bank, "mean colour", seed) for seed in range(2))
    np.testing.assert_allclose(scores(found, "ALBEF"), scores(found, seed=0), atol=1e-6)
    own, random = ORDERS.index("heatmap"), ORDERS.index("random")
    np.testing.assert_allclose(scores(other)[:, :, own], scores(found)[:, :, own], atol=1e-6)
    assert np.abs(scores(other)[:, :, random] - scores(found)[:, :, random]).max() > 1e-3


def made(jumps: list[list[float]], hits: list[list[bool]]) -> pd.DataFrame:
    """Curves of [seed][phrase]: hottest first the probability drops (deletion) or rises (insertion) at a share.

    The other orders are straight lines.
    """
    line, rows = np.array(SHARES), []
    for seed, of_phrases in enumerate(jumps):
        for n, jump in enumerate(of_phrases):
            step = (line > jump).astype(float)
            for curve, values, straight in (("deletion", 1 - step, 1 - line), ("insertion", step, line)):
                for order in ORDERS:
                    probability = values if order == "heatmap" else straight
                    columns = {"fill": "blur", "system": "AMC", "seed": seed, "phrase_id": f"r{n}"}
                    columns |= {"image_id": f"image-{n}", "hit": hits[seed][n], "curve": curve, "order": order}
                    rows.append(pd.DataFrame(columns | {"share": SHARES, "probability": probability}))
    return pd.concat(rows)


def test_areas_and_gains_where_heatmaps_hit_and_where_they_miss():
    table = area_table(made([[0.32, 0.64], [0.64, 0.32]], [[True, False], [True, True]]))
    mine = table[(table["curve"] == "deletion") & (table["order"] == "heatmap")].set_index("where")
    early, late = 0.5 - 0.48, 0.5 - 0.82  # area of a straight line minus area up to the middle of the jump
    assert mine["gain"].to_dict() == {
        "all": pytest.approx((early + late) / 2, abs=1e-4),
        "hit": pytest.approx((2 * early + late) / 3, abs=1e-4),
        "miss": pytest.approx(late, abs=1e-4),
    }
    assert mine.loc["miss", "area"] == pytest.approx(0.82, abs=1e-4)
    assert mine["answers"].to_dict() == {"all": 4, "hit": 3, "miss": 1} and set(mine["seeds"][:2]) == {2}
    insertion = table[(table["curve"] == "insertion") & (table["order"] == "heatmap") & (table["where"] == "miss")]
    assert insertion["gain"].item() == pytest.approx(0.18 - 0.5, abs=1e-4)
    assert (table[table["order"] != "heatmap"]["gain"] == 0).all()
    assert (mine["gain_low"] <= mine["gain"]).all() and (mine["gain"] <= mine["gain_high"]).all()
    assert set(area_table(made([[0.5]], [[True]]))["where"]) == {"all", "hit"}


def test_curve_table_has_the_means():
    table = curve_table(made([[0.32, 0.64]], [[True, True]]))
    assert len(table) == len(CURVES) * len(ORDERS) * len(SHARES)
    row = table.query("curve == 'deletion' and order == 'heatmap' and share == 0.64").iloc[0]
    assert (row.probability, row.ci_low, row.ci_high) == (0.5, 0, 1)
