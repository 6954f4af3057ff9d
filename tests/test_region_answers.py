"""The detector-based system's answers on hand-made proposals, and the figure that shows them beside a heatmap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from test_vmrm import WIDTH, region_model

from amc_lib.config import SceneSettings
from amc_lib.regions import Region
from amc_lib.tokens import SPECIAL, Tokenizer
from amc_study.figures.two_ways import TwoWays, two_ways_figure
from amc_study.rival.proposals import ProposalSplit, RegionInputs
from amc_study.rival.region_answers import RegionAnswers, choose_regions, oracle
from amc_study.rival.vmrm import is_proposal, score_regions
from amc_study.scenes.scene import SceneImage

SIDE = 100
LEFT, RIGHT, NOTHING = (0.0, 0.0, 40.0, 40.0), (50.0, 50.0, 90.0, 90.0), (0.0, 0.0, 0.0, 0.0)


@pytest.fixture
def bank() -> ProposalSplit:
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
    return ProposalSplit(settings, "val", RegionInputs(boxes, features, SIDE), [[], []], regions)


def test_inputs_are_features_and_places(bank):
    inputs, size = bank.load(bank.all_regions()[0])
    assert size == (SIDE, SIDE) and inputs.shape == (3, WIDTH + 5) and inputs.dtype == torch.float32
    torch.testing.assert_close(inputs[1, -5:], torch.tensor([0.6, 0.6, 1.0, 1.0, 0.16]))
    assert is_proposal(inputs).tolist() == [True, True, False]
    assert bank.detections["val-0"] == (LEFT, (60.0, 60.0, 100.0, 100.0)) and len(bank.detections["val-1"]) == 3


def test_centres_are_points_and_boxes_are_right_at_half_the_union():
    regions = [Region(str(n), "val", None, "a", "cat", (LEFT,)) for n in range(3)]
    boxes = np.array([(20.0, 0.0, 58.0, 40.0), (0.0, 0.0, 40.0, 20.0), (0.0, 0.0, 40.0, 19.0)])
    answers = RegionAnswers(regions, boxes, np.zeros(3))
    assert answers.points.tolist() == [[39, 20], [20, 10], [20, 9.5]]
    assert answers.hits.tolist() == [True, True, True]
    assert answers.iou.tolist() == pytest.approx([800 / 2320, 0.5, 0.475])
    assert answers.right_boxes.tolist() == [False, True, False]


def test_best_scored_proposal_is_chosen_by_every_way(bank):
    model, tokenizer = region_model().float(), Tokenizer([*SPECIAL, *(f"w{i}" for i in range(35))], 12)
    regions = bank.all_regions()
    answers = choose_regions(model, tokenizer, regions, bank)
    inputs = torch.stack([bank.inputs[0], bank.inputs[1]])
    scores = score_regions(model, tokenizer, inputs, [region.phrase for region in regions], [0, 0, 1])
    for way, of_way in answers.items():
        for p, region in enumerate(regions):
            k = max(range(3), key=lambda k, p=p, way=way: scores[way][p, k].item())
            assert of_way.boxes[p].tolist() == bank.boxes(region)[k].tolist() != list(NOTHING)
            assert of_way.scores[p] == pytest.approx(scores[way][p, k].item(), rel=1e-4)


def test_oracle_takes_a_proposal_that_hits(bank):
    best = oracle(bank)
    assert best.boxes.tolist() == [list(LEFT), [60, 60, 100, 100], list(RIGHT)]
    assert best.hits.tolist() == [True, True, True]
    assert best.right_boxes.tolist() == [True, False, False]


def test_figure_says_who_hits_and_how_long_it_took():
    heatmap = np.zeros((SIDE, SIDE), dtype=np.float32)
    heatmap[20, 30] = 1
    example = TwoWays(
        Image.new("RGB", (SIDE, SIDE), "grey"), "red cup", [LEFT], [RIGHT, LEFT], [2.0, 1.0], heatmap, (30, 20),
        {"detect": 0.021, "match": 0.0042, "explain": 0.013},
    )  # fmt: skip
    figure = two_ways_figure(example)
    texts = [text.get_text() for text in figure.texts]
    assert "“red cup”" in texts and "detector 21 ms, matching 4 ms" in texts
    verdicts = [axes.get_title(loc="right") for axes in figure.axes]
    assert verdicts == ["", "", "", "✗ miss", "", "", "", "✓ hit"]
    bars = [bar.get_width() for bar in figure.axes[2].patches]
    assert sum(bars) == pytest.approx(1) and bars[0] / bars[1] == pytest.approx(np.e)
