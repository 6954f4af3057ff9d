"""Cascading randomisation: what changes at which stage, and correlations against scipy's own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from test_evaluation import Blank
from test_faithfulness import LAYER, Pictures, tiny

from amc_lib.checkpoints import Checkpoint
from amc_lib.evaluate import point_at
from amc_lib.regions import Region
from amc_study.explain.randomisation import (
    FIRST_SEED,
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


@pytest.fixture(scope="module")
def bank() -> Pictures:
    first, second = (0.0, 0.0, 20.0, 12.0), (30.0, 20.0, 64.0, 48.0)
    asked = [(0, first, "w1"), (0, second, "w2 w3"), (1, first, "w4"), (0, first, "w5 w6"), (2, second, "w7")]
    return Pictures([Region(f"{n}-{text}", "val", Blank(64, 48), f"image-{n}", text, (box,)) for n, box, text in asked])


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny()


@pytest.fixture(scope="module")
def randomised(checkpoint, bank) -> pd.DataFrame:
    return randomise(checkpoint, LAYER, bank.regions, bank, draws=2)


def test_no_draw_gives_a_model_the_weights_that_its_own_training_began_with(checkpoint):
    torch.manual_seed(0)
    model = type(checkpoint.model)(checkpoint.settings.model)
    _, after = next(cascade(model, seed=0))
    assert (after.itm_head.weight - model.itm_head.weight).abs().min() > 0


@pytest.mark.parametrize(("trunk", "alone"), [("none", False), ("lite0", False), ("none", True)])
def test_every_stage_changes_its_own_weights_and_keeps_those_below(trunk, alone):
    model = tiny(trunk=trunk).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(FIRST_SEED + 5)
    untrained, state = type(model)(model.settings).state_dict(), torch.get_rng_state()
    parts, changed = stages(model.settings.text), set()
    assert list(parts) == STAGES
    for (name, after), (expected, beginnings) in zip(cascade(model, 5, alone), parts.items(), strict=True):
        assert name == expected
        own = {parameter for parameter in before if parameter.startswith(beginnings)}
        if "text_encoder.bert.embeddings.word_embeddings.weight" in own:
            own.add(TIED)
        changed = own if alone else changed | own
        for parameter, tensor in after.state_dict().items():
            source = untrained if parameter in changed else before
            assert tensor.equal(source[parameter]), (name, parameter)
    changed = changed if not alone else set().union(*({n for n in before if n.startswith(b)} for b in parts.values()))
    used = {n for n in before if n.startswith(("itm_head.", "text_encoder.bert.", "visual_encoder."))}
    assert changed - {TIED} == used  # all that the heatmap comes from, but a frozen trunk
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("digits", [1, 8])
def test_correlation_is_scipys_and_constant_maps_have_none(digits):
    maps = torch.from_numpy(np.random.default_rng(0).random((2, 20, 3, 3)).round(digits))  # with ties, and without
    expected = [spearmanr(one.ravel(), other.ravel()).statistic for one, other in zip(*maps.numpy(), strict=True)]
    np.testing.assert_allclose(rank_correlations(*maps), expected)
    np.testing.assert_allclose(rank_correlations(maps[0], -maps[0].exp() * 1e-6), -1)
    assert rank_correlations(maps[0], torch.zeros(20, 3, 3)).tolist() == [0] * 20


def test_heatmaps_of_each_stage_are_compared(checkpoint, bank, randomised):
    assert randomised["stage"].unique().tolist() == [TRAINED, *STAGES, OTHER_PHRASE, OTHER_PICTURE]

    def ask(model):
        return point_at(model, checkpoint.tokenizer, bank.regions, bank.load, LAYER)

    trained = ask(checkpoint.model)
    assert randomised[randomised["stage"] == TRAINED]["hit"].tolist() == trained.hits.tolist()
    for draw in range(2):
        for name, model in cascade(checkpoint.model, draw):
            after = ask(model)
            rows = randomised[(randomised["stage"] == name) & (randomised["draw"] == draw)]
            np.testing.assert_allclose(rows["correlation"], rank_correlations(trained.heatmaps, after.heatmaps))
            assert rows["hit"].tolist() == after.hits.tolist()
    assert randomised[randomised["stage"] == "image tower"]["correlation"].abs().mean() < 0.6
    found = randomised.set_index(["stage", "phrase_id"])["correlation"]
    partners = {OTHER_PHRASE: (1, 3, None, 1, None), OTHER_PICTURE: (2, 2, 3, 4, 0)}  # the next that fits
    for stage, others in partners.items():
        for p, other in enumerate(others):
            if other is None:
                assert np.isnan(found[stage, bank.regions[p].id])
            else:
                expected = spearmanr(*(trained.heatmaps[q].numpy().ravel() for q in (p, other))).statistic
                assert found[stage, bank.regions[p].id] == pytest.approx(expected, abs=1e-4)


def test_table_has_a_row_for_each_stage(randomised):
    both = pd.concat([randomised.assign(system="AMC", seed=seed) for seed in range(2)])
    table = randomisation_table(both).set_index("stage")
    assert table.index.tolist() == [TRAINED, *STAGES, OTHER_PHRASE, OTHER_PICTURE]
    assert table["order"].tolist() == list(range(9)) and set(table["seeds"]) == {2} and set(table["phrases"]) == {5}
    means = randomised.groupby("stage", sort=False)[["correlation", "hit"]].mean()
    np.testing.assert_allclose(table["correlation"], means["correlation"], atol=1e-4)  # NaN: what is trained
    np.testing.assert_allclose(table["pointing"], 100 * means["hit"], atol=0.01)  # NaN: other phrases and pictures
