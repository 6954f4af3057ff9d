"""Retrieval and matching against loops over single pairs, and the choice of wrong captions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_faithfulness import tiny

from amc_lib.checkpoints import Checkpoint
from amc_lib.config import SceneSettings, TrainingSettings
from amc_lib.evaluate import ground_phrases
from amc_lib.regions import Region
from amc_study.explain.claims import RETRIEVAL
from amc_study.explain.retrieval import (
    RECALLS,
    Captioned,
    Retrieval,
    base_table,
    itm_in_training,
    kept_tasks,
    reranked_ranks,
    retrieval_table,
    retrieve,
    right_ranks,
    told_apart,
    told_by_halves,
    wrong_captions,
)
from amc_study.scenes.splits import SceneSplit

LAYER, COUNT, RERANKED = 3, 7, 3
PICTURE, CAPTION = "picture to caption", "caption to picture"


@pytest.fixture(scope="module")
def pairs() -> Captioned:
    images = torch.randn(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    captions = [f"w{n} w{n + 7} w{3 * n}" + " w1" * (n % 3) for n in range(COUNT)]
    return Captioned(images, captions, [f"image-{n}" for n in range(COUNT)])


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny()


@pytest.fixture(scope="module")
def scores(checkpoint, pairs) -> tuple[np.ndarray, np.ndarray]:
    """Similarity and match probability [picture, caption], pair by pair."""
    model = checkpoint.model.eval()
    similarity, probability = np.zeros((COUNT, COUNT)), np.zeros((COUNT, COUNT))
    with torch.no_grad():
        for i, t in itertools.product(range(COUNT), repeat=2):
            image_feat = model.image_features(model.encode_image(pairs.images[i : i + 1]))
            text_feat = model.text_features(model.encode_text(*checkpoint.tokenizer([pairs.captions[t]])))
            similarity[i, t] = float(image_feat @ text_feat.T)
            image, caption = pairs.images[i : i + 1], [pairs.captions[t]]
            probability[i, t] = ground_phrases(model, checkpoint.tokenizer, image, caption, [0], LAYER)[1]
    return similarity, probability


def naive_rank(query: int, similarity: np.ndarray, probability: np.ndarray | None) -> int:
    order = sorted(range(COUNT), key=lambda other: -similarity[query, other])
    if probability is not None:
        best = sorted(order[:RERANKED], key=lambda other: -probability[query, other])
        order = best + order[RERANKED:]
    return order.index(query)


def test_ranks_and_matches_are_those_of_single_pairs(checkpoint, pairs, scores):
    found = retrieve(checkpoint, pairs, reranked=RERANKED)
    for task, (similarity, probability) in {PICTURE: scores, CAPTION: [one.T for one in scores]}.items():
        for score, again in {"contrast": None, "match": probability}.items():
            expected = [naive_rank(query, similarity, again) for query in range(COUNT)]
            assert found.ranks[task, score].tolist() == expected
    assert len({tuple(ranks) for ranks in found.ranks.values()}) > 2
    _, probability = scores
    np.testing.assert_allclose(found.right, probability.diagonal(), atol=1e-5)
    for kind, wrong in wrong_captions(pairs.captions, seed=0).items():
        np.testing.assert_allclose(found.wrong[kind], probability[np.arange(COUNT), wrong], atol=1e-5)


def test_base_is_reported_with_the_loss_of_right_and_wrong_captions(checkpoint, pairs, scores):
    probability, rows = scores[1], wrong_captions(pairs.captions, seed=0)
    table = base_table(retrieve(checkpoint, pairs), pairs.image_ids)
    losses = table[table["measure"] == "ITM loss"].set_index("task")
    for kind, wrong in rows.items():
        each = [-np.log(probability[n, n]) - np.log(1 - probability[n, wrong[n]]) for n in range(COUNT)]
        assert losses.loc[f"right or {kind} caption", "value"] == pytest.approx(sum(each) / (2 * COUNT), abs=1e-3)
    assert (losses["chance"] == 0.693).all() and (losses["pictures"] == COUNT).all()
    sure = Retrieval({}, np.ones(COUNT), {"random": np.ones(COUNT)})  # float32 rounds so
    found = base_table(sure, pairs.image_ids).set_index("measure")["value"]
    assert np.isfinite(found["ITM loss"]) and found["matching"] == 50


def test_loss_before_hard_negatives_stands_beside_that_of_the_prior():
    """Of the last line at which negatives were uniform; without one there is no row."""
    schedule = TrainingSettings(epochs=4, fuse_from=1, hard_negatives_from=3)
    history = pd.DataFrame({"epoch": [1.0, 2.0, 3.0, 3.5, 4.0], "itm": [0.0, 0.6, 0.4, 0.7, 0.5]})
    (row,) = itm_in_training(history, schedule).to_dict("records")
    assert row["value"] == 0.4 and row["measure"] == "ITM loss"
    logits = torch.tensor([1.0, 2.0]).log()[None]  # one right in three, whatever is asked
    losses = [torch.nn.functional.cross_entropy(logits, torch.tensor([right])).item() for right in (0, 1, 1)]
    assert row["chance"] == pytest.approx(sum(losses) / 3, abs=1e-3)
    assert itm_in_training(history[:1], schedule).empty
    assert itm_in_training(history, replace(schedule, hard_negatives_from=4)).empty


def test_shifted_head_is_told_from_one_that_cannot_tell():
    """Right captions at 0.1 to 0.2 and wrong ones below: not at even odds, but by a threshold they are told apart."""
    rng = np.random.default_rng(0)
    right, wrong = rng.uniform(0.1, 0.2, 200), rng.uniform(0.0, 0.09, 200)
    assert told_apart(right, wrong).mean() == 0.5 and told_by_halves(right, wrong).mean() > 0.98
    assert told_by_halves(wrong, wrong.copy()).mean() == pytest.approx(0.5, abs=0.02)


def test_ties_count_against_the_right_one():
    similarity = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.5, 0.2], [0.9, 0.9, 0.9]])
    assert right_ranks(similarity).tolist() == [1, 0, 2]


def test_right_one_that_was_not_ranked_again_keeps_its_rank():
    best = torch.tensor([[1, 0], [0, 2]])
    again = reranked_ranks(np.array([1, 2]), best, torch.tensor([[0.3, 0.9], [0.1, 0.2]]))
    assert again.tolist() == [0, 2]


def test_ranking_all_again_leaves_the_first_score_no_say():
    similarity, probability = torch.rand(2, 40, 40, generator=torch.Generator().manual_seed(0))
    best = similarity.argsort(descending=True)
    again = reranked_ranks(right_ranks(similarity), best, probability.gather(1, best))
    assert again.tolist() == right_ranks(probability).tolist()


def test_wrong_captions_are_never_the_own_one():
    captions = [f"a w{n} and a w{n % 4}" for n in range(12)]
    for seed in range(20):
        for rows in wrong_captions(captions, seed).values():
            assert (rows != np.arange(12)).all() and ((rows >= 0) & (rows < 12)).all()
    assert (wrong_captions(captions, 0)["random"] != wrong_captions(captions, 1)["random"]).any()


def test_similar_caption_shares_most_words_and_is_not_the_same():
    captions = ["a red cup and a dog", "a dog and a red cup", "a red cup and a cat", "two blue whales"]
    similar = wrong_captions(captions, 0)["similar"]
    assert similar[[0, 1]].tolist() == [2, 2]  # the other order of the same words would be right too
    assert similar[2] in (0, 1)


def test_pictures_come_with_their_longest_caption():
    regions = [[Region(f"{s}-0", "val", None, f"val-{s}", "cat", ((0.0, 0.0, 1.0, 1.0),))] for s in range(2)]
    features = torch.rand(2, 3, 2, 2)
    bank = SceneSplit(SceneSettings(), "val", features, [["a cat", "a cat and a dog"], ["a cup"]], regions)
    pairs = Captioned.longest(bank)
    assert (pairs.captions, pairs.image_ids) == (["a cat and a dog", "a cup"], ["val-0", "val-1"])
    assert pairs.images is features


def made(ranks: list[int], right: list[float], wrong: list[float]) -> Retrieval:
    of_task = {(task, score): np.array(ranks) for task in (PICTURE, CAPTION) for score in ("contrast", "match")}
    return Retrieval(of_task, np.array(right), {"random": np.array(wrong), "similar": np.array(wrong[::-1])})


def test_measures_of_known_answers():
    one = made([0, 4, 5, 12], [0.9, 0.2, 0.6, 0.4], [0.1, 0.1, 0.7, 0.6])
    rows = pd.concat([one.rows("AMC", seed, list("abcd")) for seed in range(2)])
    pair = rows[(rows["split"] == "right or random caption") & (rows["seed"] == 0)]
    assert pair[pair["measure"] == "matching"]["hit"].tolist() == [1, 0.5, 0.5, 0]
    assert pair[pair["measure"] == "choice"]["hit"].tolist() == [1, 1, 0, 0]
    table = retrieval_table(rows)
    recalls = table[(table["task"] == PICTURE) & (table["score"] == "match")].set_index("measure")
    assert recalls["value"].to_dict() == {"recall@1": 25, "recall@5": 50, "recall@10": 75}
    assert recalls["chance"].to_dict() == {"recall@1": 25, "recall@5": 100, "recall@10": 100}
    pair = table[table["task"] == "right or random caption"].set_index("measure")
    assert pair["value"].to_dict() == {"matching": 50, "choice": 50} and set(pair["chance"]) == {50}
    assert set(table["seeds"]) == {2} and set(table["pictures"]) == {4} and len(table) == 4 * len(RECALLS) + 4


def test_kept_tasks_hold_what_the_claims_compare():
    one = made([0, 9, 4, 10], [0.9, 0.2, 0.6, 0.4], [0.1, 0.1, 0.7, 0.6])
    tasks = kept_tasks(one.rows("AMC", 0, list("abcd")))
    assert list(tasks) == list(RETRIEVAL)
    assert [set(part["split"]) for part in tasks.values()] == [{CAPTION}, {PICTURE}, {"right or similar caption"}]
    assert tasks["recall@10 of pictures"]["hit"].tolist() == [1, 1, 1, 0]
    assert set(tasks[RETRIEVAL[0]]["score"]) == {"match"} and set(tasks[RETRIEVAL[2]]["measure"]) == {"matching"}
