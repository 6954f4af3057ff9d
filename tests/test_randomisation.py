"""Cascading randomisation: what changes at which stage, and correlations against scipy's own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_cases import tiny_model
from scipy.stats import spearmanr
from test_evaluation import WORDS, Blank
from test_faithfulness import LAYER, Pictures

from amc_lib.checkpoints import Checkpoint
from amc_lib.evaluate import point_at
from amc_lib.presets import preset
from amc_lib.regions import Region
from amc_lib.tokens import SPECIAL, Tokenizer
from amc_study.explain.randomisation import (
    OTHER_PHRASE,
    OTHER_PICTURE,
    TRAINED,
    cascade,
    randomisation_table,
    randomise,
    rank_correlations,
    stages,
)

STAGES = ["match head", "fusion layer 4", "fusion layer 3", "fusion layer 2", "text layers", "image tower"]
TIED = "text_encoder.cls.predictions.decoder.weight"  # to the word embeddings
PROPERTY = settings(deadline=None, max_examples=60)  # no deadline: other work may share the cores


def region(picture: int, box, phrase: str) -> Region:
    return Region(f"{picture}-{phrase}", "val", Blank(64, 48), f"image-{picture}", phrase, (box,))


@pytest.fixture(scope="module")
def bank() -> Pictures:
    first, second = (0.0, 0.0, 20.0, 12.0), (30.0, 20.0, 64.0, 48.0)
    asked = [(0, first, "w1"), (0, second, "w2 w3"), (1, first, "w4"), (0, first, "w5 w6"), (2, second, "w7")]
    return Pictures([region(*one) for one in asked])


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(tiny_model(torch.float32), Tokenizer([*SPECIAL, *WORDS], max_tokens=12), preset("scenes"), {}, "")


@pytest.fixture(scope="module")
def randomised(checkpoint, bank) -> pd.DataFrame:
    return randomise(checkpoint, LAYER, bank.regions, bank, draws=2)


# -------------------------------------------------------------------------------------------------------------- cascade


def test_stages_go_from_the_output_downwards(checkpoint):
    assert list(stages(checkpoint.model.settings.text)) == STAGES


def test_every_stage_changes_its_own_weights_and_keeps_those_below(checkpoint):
    model = checkpoint.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    untrained = type(model)(model.settings).state_dict()
    changed: set[str] = set()
    for (name, after), (expected, beginnings) in zip(
        cascade(model, seed=5), stages(model.settings.text).items(), strict=True
    ):
        assert name == expected
        changed |= {parameter for parameter in before if parameter.startswith(beginnings)}
        if "text_encoder.bert.embeddings.word_embeddings.weight" in changed:
            changed.add(TIED)
        for parameter, tensor in after.state_dict().items():
            source = untrained if parameter in changed else before
            assert tensor.equal(source[parameter]), (name, parameter)
    used = {n for n in before if n.startswith(("itm_head.", "text_encoder.bert.", "visual_encoder."))}
    assert changed - {TIED} == used  # all that the heatmap comes from
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_frozen_trunk_stays():
    model = tiny_model(torch.float32, trunk="lite0")
    *_, (_, last) = cascade(model, seed=0)
    for name, tensor in model.trunk.state_dict().items():
        assert last.trunk.state_dict()[name].equal(tensor)


def test_random_state_is_left_alone(checkpoint):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    list(cascade(checkpoint.model, seed=0))
    assert torch.rand(3).equal(expected)


# --------------------------------------------------------------------------------------------------------- correlations


@PROPERTY
@given(st.integers(0, 10_000), st.booleans())
def test_correlation_is_scipys(seed, with_ties):
    maps = np.random.default_rng(seed).random((2, 4, 3, 3))
    maps = np.round(maps, 1) if with_ties else maps
    found = rank_correlations(*torch.from_numpy(maps))
    for n in range(4):
        assert found[n] == pytest.approx(spearmanr(maps[0, n].ravel(), maps[1, n].ravel()).statistic)


def test_only_the_order_counts_and_constant_maps_have_none():
    maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(rank_correlations(maps, maps.exp() * 1e-6), 1)
    np.testing.assert_allclose(rank_correlations(maps, -maps), -1)
    assert rank_correlations(maps, torch.zeros(3, 4, 4)).tolist() == [0, 0, 0]


# -------------------------------------------------------------------------------------------------------------- measure


def test_heatmaps_of_each_stage_are_compared(checkpoint, bank, randomised):
    assert randomised["stage"].unique().tolist() == [TRAINED, *STAGES, OTHER_PHRASE, OTHER_PICTURE]

    def ask(model):
        return point_at(model, checkpoint.tokenizer, bank.regions, bank.load, LAYER)

    trained = ask(checkpoint.model)
    assert randomised[randomised["stage"] == TRAINED]["hit"].tolist() == trained.hits.tolist()
    for draw in range(2):
        for name, model in cascade(checkpoint.model, draw):
            after = ask(model)
            expected = [
                spearmanr(a.ravel(), b.ravel()).statistic if b.any() else 0
                for a, b in zip(trained.heatmaps.numpy(), after.heatmaps.numpy(), strict=True)
            ]
            rows = randomised[(randomised["stage"] == name) & (randomised["draw"] == draw)]
            np.testing.assert_allclose(rows["correlation"], np.nan_to_num(expected), atol=1e-4)
            assert rows["hit"].tolist() == after.hits.tolist()
    assert randomised[randomised["stage"] == "image tower"]["correlation"].abs().mean() < 0.6


def test_other_phrases_mean_other_boxes_of_the_same_picture(checkpoint, bank, randomised):
    maps = point_at(checkpoint.model, checkpoint.tokenizer, bank.regions, bank.load, LAYER).heatmaps.numpy()
    found = randomised.set_index(["stage", "phrase_id"])["correlation"]
    ids = [region.id for region in bank.regions]
    partners = {OTHER_PHRASE: (1, 3, None, 1, None), OTHER_PICTURE: (2, 2, 3, 4, 0)}  # the next that fits
    for stage, others in partners.items():
        for p, other in enumerate(others):
            if other is None:
                assert np.isnan(found[stage, ids[p]])
            else:
                expected = spearmanr(maps[p].ravel(), maps[other].ravel()).statistic
                assert found[stage, ids[p]] == pytest.approx(expected, abs=1e-4)


def test_table_has_a_row_for_each_stage(randomised):
    both = pd.concat([randomised.assign(system="AMC", seed=seed) for seed in range(2)])
    table = randomisation_table(both).set_index("stage")
    assert table.index.tolist() == [TRAINED, *STAGES, OTHER_PHRASE, OTHER_PICTURE]
    assert table["order"].tolist() == list(range(9)) and set(table["seeds"]) == {2} and set(table["phrases"]) == {5}
    means = randomised.groupby("stage")[["correlation", "hit"]].mean()
    for stage in ("match head", OTHER_PHRASE):
        assert table.loc[stage, "correlation"] == pytest.approx(means.loc[stage, "correlation"], abs=1e-4)
    assert table.loc["match head", "pointing"] == pytest.approx(100 * means.loc["match head", "hit"], abs=0.01)
    assert table["correlation"].isna().tolist() == [True] + [False] * 8
    assert table["pointing"].isna().tolist() == [False] * 7 + [True] * 2
