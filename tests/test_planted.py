"""A planted reason: the background alone decides, in the pairs, in their negatives and in what is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_scenes import TINY, install, run_notebook, ship

from amc_lib.checkpoints import load_checkpoint
from amc_lib.presets import preset
from amc_study.explain import planted
from amc_study.explain.planted import MEASURES, NOTHING, PAINTINGS, PlantedCollator, planted_losses, planted_pairs
from amc_study.scenes.scene import draw

SCENES, PICTURES = 24, 4


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        install(root, patch.setattr)
        ship(root, "albef-scenes")
        yield root


def test_paintings_differ_in_the_background_or_in_one_thing_alone():
    scene = draw(TINY.scenes, "phrases", 0)
    green, violet = (np.asarray(planted.paint(scene, hue, (0, 0))).astype(int) for hue in (0, 1))
    thing = scene.objects[-1]
    without = np.asarray(planted.paint(scene, 0, (0, 0), without=thing)).astype(int)
    painted = np.zeros(green.shape[:2], dtype=bool)
    for placement in scene.placements:
        (x, y), alpha = placement.corner, np.asarray(placement.sprite().getchannel("A"))
        painted[y : y + alpha.shape[0], x : x + alpha.shape[1]] |= alpha == 255
    assert (green == violet).all(2)[painted].all() and (green != violet).any(2)[~painted].mean() > 0.9
    assert np.median(green[~painted], axis=0).argmax() == 1 and np.median(violet[~painted], axis=0).argmax() == 2
    ys, xs = np.nonzero((green != without).any(2))
    x1, y1, x2, y2 = thing.box
    assert len(xs) and x1 - 2 <= xs.min() and xs.max() <= x2 + 1 and y1 - 2 <= ys.min() and ys.max() <= y2 + 1


def test_a_negative_is_the_other_painting_of_the_same_scene(root, monkeypatch):
    pairs, tokenizer = planted_pairs(TINY, SCENES), load_checkpoint("albef-scenes").tokenizer
    batch = PlantedCollator(tokenizer, 0.15, 16)([pairs[i] for i in range(len(pairs))])
    assert len(batch.image) == 2 * len(pairs)
    hues = [phrase.text == NOTHING for i in range(len(pairs)) for phrase in pairs[i].phrases]
    assert (batch.image_rows % 2).tolist() == hues and set(batch.image_rows.tolist()) == set(range(2 * len(pairs)))
    assert (batch.image_rows[batch.has_box] % 2 == 0).all() and batch.has_box.any()  # L_amc sees green paintings alone
    given = {}
    monkeypatch.setattr(planted, "training_losses", lambda *_, negatives, **options: given.update(negatives=negatives))
    planted_losses(None, batch, None, None, generator=torch.Generator().manual_seed(0), alpha=0.0)
    for drawn in given["negatives"]:
        assert batch.image_rows[drawn].tolist() == (batch.image_rows ^ 1).tolist()


def test_the_same_phrases_are_drawn_at_every_visit_of_an_epoch_and_others_in_the_next(root):
    pairs = planted_pairs(replace(TINY, finetuning=replace(TINY.finetuning, phrases_per_image=2)), SCENES)
    first = [pairs[i].phrases for i in range(len(pairs))]
    assert all(len(phrases) == 2 and phrases[0].boxes and phrases[1].text == NOTHING for phrases in first)
    assert [pairs[i].phrases for i in range(len(pairs))] == first
    pairs.start_epoch(1)
    assert [pairs[i].phrases for i in range(len(pairs))] != first


def test_the_table_says_by_how_much_a_change_lowers_the_score():
    scores = np.array([[0.9, 0.1, 0.8], [0.9, 0.2, 0.95], [0.5, 0.6, 0.4], [0.5, 0.1, 0.9]])
    answers = pd.DataFrame(scores, columns=list(PAINTINGS)).assign(
        phrase_id=list("abcd"), image_id=list("abcd"), hit=[1, 0, 0, 1], energy=0.25, system="AMC", seed=0
    )
    values = planted.planted_table([answers]).set_index("measure")["value"]
    assert values[list(MEASURES)].tolist() == pytest.approx([50.0, 25.0, 45.0, -6.25])
    assert values["other background"] == 25.0


def test_notebook_writes_the_table_of_both_trainings(root):
    names = run_notebook("08_planted", scenes=SCENES, pictures=PICTURES, epochs=1, figures=str(root / "figures"))
    table = pd.read_csv(root / "figures" / "planted.csv")
    assert table["system"].unique().tolist() == ["ALBEF", "ALBEF finetuned", "AMC"]
    assert set(table["measure"]) == {*MEASURES, *PAINTINGS} and (table["phrases"] == PICTURES).all()
    before, control, amc = (answers["right background"].to_numpy() for answers in names["answers"])
    assert not np.allclose(before, control) and not np.allclose(control, amc)  # both were trained, apart
    assert json.loads((root / "figures" / "planted.json").read_text(encoding="utf-8"))["scenes"] == SCENES


def test_photographs_cannot_be_painted():
    with pytest.raises(ValueError, match="the tier is 'photos', not 'scenes'"):
        planted_pairs(preset("photos"), SCENES)
