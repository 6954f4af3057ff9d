"""The detector-based system: proposals as tokens, the pairs that it finds, and its four terms against naive forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from reference_cases import TINY_AMC, TINY_OBJECTIVE, tiny_batch, tiny_settings

from amc_lib.config import SceneSettings
from amc_lib.regions import Region
from amc_lib.step import Batch, training_losses
from amc_lib.tokens import SPECIAL, Tokenizer
from amc_lib.train import parameter_groups
from amc_study.rival import vmrm
from amc_study.rival.proposals import ProposalSplit, RegionInputs, SceneProposalSplit
from amc_study.rival.region_answers import RegionAnswers, choose_regions, oracle
from amc_study.rival.region_tower import VMRM
from amc_study.rival.vmrm import WAYS, is_proposal, pair_losses, region_features, score_regions, similarities
from amc_study.scenes.scene import SceneImage

WIDTH, PROPOSALS = 6, 5
TOKENIZER = Tokenizer([*SPECIAL, *(f"w{i}" for i in range(35))], 12)


def region_model() -> VMRM:
    tiny = tiny_settings()
    torch.manual_seed(0)
    vision = dataclasses.replace(tiny.vision, trunk="regions", region_width=WIDTH)
    model = VMRM(dataclasses.replace(tiny, vision=vision, queue_size=0))
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad and p.ndim > 1):
            parameter.normal_(std=0.3)
    return model.double().train()


def some_regions(images: int) -> torch.Tensor:
    """[I, K, F + 5]; the last proposal of image 0 is padding."""
    generator = torch.Generator().manual_seed(0)
    regions = torch.rand(images, PROPOSALS, WIDTH + 5, generator=generator, dtype=torch.float64)
    regions[0, -1] = 0
    return regions


def batch_of(rows: list[int]) -> Batch:
    """A phrase of each of these images' rows."""
    batch = tiny_batch(len(rows))
    return dataclasses.replace(batch, image=some_regions(max(rows) + 1), image_rows=torch.tensor(rows))


def losses_of(model: VMRM, batch: Batch, softness: float = 0.0, **options) -> vmrm.PairLosses:
    objective = dataclasses.replace(TINY_OBJECTIVE, region_softness=softness)
    return pair_losses(model, batch, objective, TINY_AMC, generator=torch.Generator().manual_seed(0), **options)


def features(model: VMRM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    text_embeds = model.encode_text(batch.input_ids, batch.attention_mask)
    return model.text_features(text_embeds), region_features(model, model.encode_image(batch.image))


def test_order_of_proposals_does_not_matter_and_places_do():
    model, regions = region_model().eval(), some_regions(2)
    order = torch.tensor([3, 0, 4, 2, 1])
    embeds, shuffled = model.encode_image(regions), model.encode_image(regions[:, order])
    torch.testing.assert_close(shuffled[:, 0], embeds[:, 0])
    torch.testing.assert_close(shuffled[:, 1:], embeds[:, 1:][:, order])
    moved = regions.clone()
    moved[1, 0, -5:] += 0.1
    assert not torch.allclose(model.encode_image(moved)[1], embeds[1], atol=1e-4)


def test_pretraining_losses_take_proposals_as_they_take_patches():
    model = region_model()
    without_amc = dataclasses.replace(TINY_AMC, lambda1=0.0, lambda2=0.0)
    losses = training_losses(model, batch_of([0, 0, 1, 2]), TINY_OBJECTIVE, without_amc, alpha=0.1)
    losses.total.backward()
    assert all(loss.item() > 0 for loss in (losses.mlm, losses.itc, losses.itm))
    assert model.visual_encoder.feature[1].weight.grad.abs().sum() > 0


def test_similarities_are_cosines_and_padding_is_never_matched():
    model, batch = region_model(), batch_of([0, 1])
    text_feat, region_feat = features(model, batch)
    expected = torch.stack([(region_feat @ text).masked_fill(~is_proposal(batch.image), -1) for text in text_feat])
    torch.testing.assert_close(similarities(text_feat, region_feat, batch.image), expected)
    assert is_proposal(batch.image).tolist() == [[True] * 4 + [False], [True] * 5]


@pytest.mark.parametrize("softness", [0.0, 0.2])
def test_contrast_is_the_naive_one(softness):
    """Phrases 0 and 1 belong to image 0, phrase 2 to image 1; each image answers with its most similar region, or
    softly with all of them."""
    model, batch = region_model(), batch_of([0, 0, 1])
    cosines = similarities(*features(model, batch), batch.image)
    best = cosines.amax(-1) if not softness else softness * (cosines / softness).exp().sum(-1).log()  # [3, 2]
    sim = best / model.temp
    phrases, images = sim.log_softmax(1), sim.log_softmax(0)
    text_term = -(phrases[0, 0] + phrases[1, 0] + phrases[2, 1]) / 3
    image_term = -((images[0, 0] + images[1, 0]) / 2 + images[2, 1]) / 2
    assert losses_of(model, batch, softness).itc.item() == pytest.approx((text_term + image_term).item() / 2)


def test_before_fusion_the_contrast_stands_alone_and_is_the_same():
    model, batch = region_model(), batch_of([0, 0, 1])
    alone, all_terms = (losses_of(model, batch, softness=0.07, fuse=fuse) for fuse in (False, True))
    assert (alone.mlm, alone.mrm, alone.itm) == (0, 0, 0) and alone.total.item() == alone.itc.item()
    assert alone.itc.item() == pytest.approx(all_terms.itc.item())


def test_matching_and_language_see_the_matched_region_alone():
    """Features of regions that nobody matches reach the fusion layers through the tower alone; with no mixing
    blocks in the tower they do not reach them at all."""
    model, batch = region_model(), batch_of([0, 1])
    model.visual_encoder.blocks = torch.nn.Sequential()
    matched = similarities(*features(model, batch), batch.image).argmax(-1)  # [B, I]
    loose = next(k for k in range(PROPOSALS) if k not in matched[:, 1].tolist())
    before = losses_of(model, batch)
    batch.image[1, loose, 2] += 1e-3  # too little to become the most similar
    after = losses_of(model, batch)
    assert after.itm.item() == before.itm.item() and after.mlm.item() == before.mlm.item()
    assert after.mrm.item() != before.mrm.item()  # region modelling sees the whole image
    batch.image[1, matched[1, 1], 2] += 1e-3
    assert losses_of(model, batch).itm.item() != after.itm.item()


def test_every_parameter_that_takes_part_learns():
    model = region_model()
    losses_of(model, batch_of([0, 0, 1, 2])).total.backward()
    (decayed, spared) = parameter_groups(model, 0.1)
    lost = {id(p) for group in (decayed, spared) for p in group["params"] if p.grad is None or not p.grad.any()}
    names = [name for name, p in model.named_parameters() if id(p) in lost]
    # one visible token takes all attention: queries and keys of cross-attention learn from region modelling alone
    assert all(".key.bias" in name for name in names), names
    alone = losses_of(model, batch_of([0, 0]))  # one image has no pairs that do not match
    assert math.isfinite(alone.total.item()) and alone.itc.item() > 0


def test_scores_have_three_ways_of_which_each_can_be_asked_alone_and_none_for_padding():
    model = region_model().float().eval()
    regions, phrases, rows = some_regions(2).float(), ["w1 w2", "w3", "w4 w5 w6"], [0, 1, 1]
    scores = score_regions(model, TOKENIZER, regions, phrases, rows)
    torch.testing.assert_close(scores["both"][1:], (scores["similarity"] + scores["matching"])[1:])
    for way in WAYS:
        assert scores[way].shape == (3, PROPOSALS)
        assert scores[way][0, -1] == -math.inf and scores[way].isfinite().sum() == 3 * PROPOSALS - 1
        assert torch.equal(score_regions(model, TOKENIZER, regions, phrases, rows, [way])[way], scores[way])
        alone = score_regions(model, TOKENIZER, regions[1:], ["w3"], [0], [way])[way]
        torch.testing.assert_close(alone[0], scores[way][1], rtol=1e-4, atol=1e-4)


SIDE = 100
LEFT, RIGHT, NOTHING = (0.0, 0.0, 40.0, 40.0), (50.0, 50.0, 90.0, 90.0), (0.0, 0.0, 0.0, 0.0)


@pytest.fixture
def split() -> ProposalSplit:
    """Two scenes with three phrases; scene 0 has one proposal fewer than scene 1."""
    settings = SceneSettings(size=SIDE)

    def region(scene: int, number: int, *boxes) -> Region:
        image = SceneImage(settings, "val", scene)
        return Region(f"val-{scene}-{number}", "val", image, f"val-{scene}", f"w{scene} w{number}", boxes)

    regions = [[region(0, 0, LEFT), region(0, 1, RIGHT)], [region(1, 0, (45.0, 45.0, 75.0, 75.0), LEFT)]]
    boxes = torch.tensor(
        [[LEFT, (60.0, 60.0, 100.0, 100.0), NOTHING], [RIGHT, (20.0, 0.0, 60.0, 40.0), (0.0, 60.0, 9.0, 99.0)]]
    )
    features = torch.rand(2, 3, WIDTH, generator=torch.Generator().manual_seed(0)).half()
    return SceneProposalSplit(settings, "val", RegionInputs(boxes, features, SIDE), [[], []], regions)


def test_inputs_are_features_and_places(split):
    inputs, size = split.load(split.all_regions()[0])
    assert size == (SIDE, SIDE) and inputs.shape == (3, WIDTH + 5) and inputs.dtype == torch.float32
    torch.testing.assert_close(inputs[1, -5:], torch.tensor([0.6, 0.6, 1.0, 1.0, 0.16]))
    assert is_proposal(inputs).tolist() == [True, True, False]
    assert split.detections["val-0"] == (LEFT, (60.0, 60.0, 100.0, 100.0)) and len(split.detections["val-1"]) == 3


def test_centres_are_points_and_boxes_are_right_at_half_the_union():
    regions = [Region(str(n), "val", None, "a", "cat", (LEFT,)) for n in range(3)]
    boxes = np.array([(20.0, 0.0, 58.0, 40.0), (0.0, 0.0, 40.0, 20.0), (0.0, 0.0, 40.0, 19.0)])
    answers = RegionAnswers(regions, boxes, np.zeros(3))
    assert answers.points.tolist() == [[39, 20], [20, 10], [20, 9.5]]
    assert answers.hits.tolist() == [True, True, True]
    assert answers.iou.tolist() == pytest.approx([800 / 2320, 0.5, 0.475])
    assert answers.right_boxes.tolist() == [False, True, False]


def test_best_scored_proposal_is_chosen_by_every_way(split):
    model, regions = region_model().float(), split.all_regions()
    answers = choose_regions(model, TOKENIZER, regions, split)
    inputs = torch.stack([split.inputs[0], split.inputs[1]])
    scores = score_regions(model, TOKENIZER, inputs, [region.phrase for region in regions], [0, 0, 1])
    for way, of_way in answers.items():
        for p, region in enumerate(regions):
            k = max(range(3), key=lambda k, p=p, way=way: scores[way][p, k].item())
            assert of_way.boxes[p].tolist() == split.boxes(region)[k].tolist() != list(NOTHING)
            assert of_way.scores[p] == pytest.approx(scores[way][p, k].item(), rel=1e-4)


def test_oracle_takes_a_proposal_that_hits(split):
    best = oracle(split)
    assert best.boxes.tolist() == [list(LEFT), [60, 60, 100, 100], list(RIGHT)]
    assert best.hits.tolist() == [True, True, True]
    assert best.right_boxes.tolist() == [True, False, False]
