"""All losses: against plain-Python loops written from the papers, and the properties that they must have."""

from __future__ import annotations

import math
from itertools import chain, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from torch.nn.functional import normalize

from amc_lib.losses import (
    APART,
    amc_loss,
    contrastive_loss,
    draw_negatives,
    masked_language_loss,
    matching_loss,
    max_loss,
    mean_loss,
    other_loss,
    pooled_mean_loss,
)
from amc_lib.tokens import IGNORED

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
MARGINS = st.floats(0, 2)
PROPERTY = settings(deadline=None, max_examples=25)  # no deadline: other work may share the cores
FORMS = pytest.mark.parametrize("form", ["paper", "official"])


@st.composite
def heatmaps_and_masks(draw) -> tuple[Tensor, Tensor]:
    """A heatmap in [0, 1] and a mask of 0 and 1, any of which may be empty, full, or constant."""
    shape = draw(SHAPES)
    heatmap = draw(arrays.arrays(np.float64, shape, elements=st.floats(0, 1)))
    mask = draw(arrays.arrays(np.bool_, shape))
    return torch.from_numpy(heatmap), torch.from_numpy(mask).double()


def pixels(heatmap: Tensor, mask: Tensor) -> tuple[list[float], list[float]]:
    """Values inside and outside the boxes of one sample [H, W]."""
    values = list(zip(heatmap.flatten().tolist(), mask.flatten().tolist(), strict=True))
    return [value for value, inside in values if inside], [value for value, inside in values if not inside]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def peak(values: list[float]) -> float:
    return max(values, default=0.0)


def naive_loss(reduce, inside: list[float], outside: list[float], margin: float) -> float:
    """Equation 1 where values are reduced to their mean, equation 2 where to their peak."""
    return max(0.0, reduce(outside) - reduce(inside) + margin)


def naive_amc_loss(heatmap: Tensor, mask: Tensor, lambda1, lambda2, delta1, delta2, form: str) -> float:
    samples = [pixels(a, m) for a, m in zip(heatmap, mask, strict=True)]
    l_max = mean([naive_loss(peak, *sample, delta2) for sample in samples])
    if form == "official":  # the values of all samples together
        inside, outside = (list(chain(*values)) for values in zip(*samples, strict=True))
        return lambda1 * naive_loss(mean, inside, outside, delta1) + lambda2 * l_max
    return lambda1 * mean([naive_loss(mean, *sample, delta1) for sample in samples]) + lambda2 * l_max


@PROPERTY
@given(heatmaps_and_masks(), MARGINS)
def test_per_sample_losses_are_the_naive_ones(sample, margin):
    heatmap, mask = sample
    split = [pixels(a, m) for a, m in zip(heatmap, mask, strict=True)]
    for loss, reduce in ((mean_loss, mean), (max_loss, peak)):
        expected = [naive_loss(reduce, *sample, margin) for sample in split]
        assert loss(heatmap, mask, margin).tolist() == pytest.approx(expected)


@FORMS
@PROPERTY
@given(heatmaps_and_masks(), st.tuples(MARGINS, MARGINS, MARGINS, MARGINS))
def test_equation_3_is_the_naive_one(form, sample, constants):
    value = amc_loss(*sample, *constants, mean_form=form)
    assert value.shape == ()
    assert value.item() == pytest.approx(naive_amc_loss(*sample, *constants, form))


def naive_other_loss(heatmap: Tensor, mask: Tensor, rows: list[int], margin: float) -> float:
    def inside(a: Tensor, m: Tensor) -> float:
        return mean(pixels(a, m)[0])

    found = []
    for p, q in permutations(range(len(rows)), 2):
        union = int((mask[p] | mask[q]).sum())
        if rows[p] == rows[q] and int((mask[p] & mask[q]).sum()) < APART * union:
            found.append(max(0.0, inside(heatmap[q], mask[p]) - inside(heatmap[p], mask[p]) + margin))
    return mean(found)


@PROPERTY
@given(heatmaps_and_masks(), MARGINS, st.data())
def test_other_loss_is_the_naive_one(sample, margin, data):
    heatmap, mask = sample
    rows = data.draw(st.lists(st.integers(0, 1), min_size=len(mask), max_size=len(mask)))
    value = other_loss(heatmap, mask, torch.tensor(rows), margin)
    assert value.item() == pytest.approx(naive_other_loss(heatmap, mask.bool(), rows, margin))


def test_other_loss_asks_which_phrase_means_which_of_two_boxes():
    """Heat in both boxes for both phrases, of a map that knows where things lie, costs the margin; apart, nothing."""
    mask = torch.zeros(2, 1, 4)
    mask[0, 0, :2], mask[1, 0, 2:] = 1, 1
    rows = torch.tensor([0, 0])
    assert other_loss(torch.ones(2, 1, 4), mask, rows).item() == pytest.approx(0.1)
    assert other_loss(mask, mask, rows).item() == 0
    assert other_loss(1 - mask, mask, rows).item() == pytest.approx(1.1)
    assert other_loss(1 - mask, mask, torch.tensor([0, 1])).item() == 0  # phrases of two pictures


def test_defaults_are_the_authors_constants():
    torch.manual_seed(0)
    heatmap, mask = torch.rand(3, 4, 4), torch.rand(3, 4, 4) > 0.5
    assert amc_loss(heatmap, mask).item() == pytest.approx(naive_amc_loss(heatmap, mask, 0.2, 0.8, 0.1, 0.5, "paper"))
    assert mean_loss(heatmap, mask).equal(mean_loss(heatmap, mask, 0.1))
    assert max_loss(heatmap, mask).equal(max_loss(heatmap, mask, 0.5))


def test_pooled_form_differs_from_the_paper_for_unequal_boxes():
    heatmap = torch.tensor([[[1.0, 0.0, 0.0, 0.0]], [[0.5, 0.5, 0.0, 1.0]]])
    mask = torch.tensor([[[1, 0, 0, 0]], [[1, 1, 0, 0]]])
    assert pooled_mean_loss(heatmap, mask).item() == 0  # outside 1/5, inside 2/3
    assert mean_loss(heatmap, mask).tolist() == pytest.approx([0, 0.1])


@FORMS
@pytest.mark.parametrize("fill", [0, 1], ids=["empty mask", "full mask"])
@pytest.mark.parametrize("heat", [0.0, 0.6, 1.0])
def test_degenerate_masks_stay_finite(form, fill, heat):
    heatmap = torch.full((2, 3, 3), heat, requires_grad=True)
    mask = torch.full((2, 3, 3), fill)
    value = amc_loss(heatmap, mask, mean_form=form)
    inside, outside = (heat, 0) if fill else (0, heat)
    expected = 0.2 * max(0, outside - inside + 0.1) + 0.8 * max(0, outside - inside + 0.5)
    assert value.item() == pytest.approx(expected)
    value.backward()
    assert heatmap.grad.isfinite().all()


@FORMS
def test_no_samples_cost_nothing_and_keep_a_graph(form):
    heatmap = torch.zeros(0, 3, 3, requires_grad=True)
    value = amc_loss(heatmap, torch.zeros(0, 3, 3), mean_form=form)
    assert value.item() == 0
    value.backward()
    assert heatmap.grad.shape == (0, 3, 3)


@FORMS
@pytest.mark.parametrize("seed", range(3))
def test_gradient_is_the_slope(form, seed):
    """Random heatmaps have no ties, so the loss is smooth around them; both hinges are open."""
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.rand(3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(3, 4, 5, generator=generator) > 0.5
    assert torch.autograd.gradcheck(lambda a: amc_loss(a, mask, delta1=2, delta2=2, mean_form=form), heatmap, eps=1e-8)


def draws(size: int, *shape: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(size)]


def softmax(values: list[float]) -> list[float]:
    highest = max(values)
    exponentials = [math.exp(v - highest) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive_direction(feat, feat_m, candidates: list[list[float]], temperature: float, alpha: float, rows) -> float:
    """One half of ITC: cross-entropy against soft targets, averaged over the batch; `rows` is the image of each row."""
    total = 0.0
    for row in range(len(feat)):
        student = softmax([dot(feat[row], c) / temperature for c in candidates])
        teacher = softmax([dot(feat_m[row], c) / temperature for c in candidates])
        for column in range(len(candidates)):
            right = column < len(rows) and rows[column] == rows[row]
            target = alpha * teacher[column] + (1 - alpha) * right / rows.count(rows[row])
            total -= target * math.log(student[column])
    return total / len(feat)


@pytest.mark.parametrize("alpha", [0, 0.4, 1])
@pytest.mark.parametrize("rows", [[0], [0, 1, 2], [0, 0, 1]], ids=str)
def test_contrastive_loss_is_the_naive_one(alpha, rows):
    features = [normalize(t, dim=-1) for t in draws(4, len(rows), 5)]
    queues = [normalize(t, dim=0) for t in draws(2, 5, 7, seed=1)]
    temperature, images = torch.tensor(0.2, dtype=torch.float64), torch.tensor(rows)
    matching = images[:, None] == images if rows.count(0) > 1 else None  # by default each row matches itself alone
    loss, sim_i2t, sim_t2i = contrastive_loss(*features, *queues, temperature, alpha, matching)
    image, text, image_m, text_m = (f.tolist() for f in features)
    i2t = naive_direction(image, image_m, text_m + queues[1].T.tolist(), 0.2, alpha, rows)
    t2i = naive_direction(text, text_m, image_m + queues[0].T.tolist(), 0.2, alpha, rows)
    assert loss.item() == pytest.approx((i2t + t2i) / 2)
    assert sim_i2t.tolist() == [pytest.approx([dot(i, t) / 0.2 for t in text_m]) for i in image]
    assert sim_t2i.tolist() == [pytest.approx([dot(t, i) / 0.2 for i in image_m]) for t in text]


@pytest.mark.parametrize("positives", [0, 1, 2, 6])
def test_matching_loss_is_the_naive_one(positives):
    (logits,) = draws(1, 6, 2)
    chances = [softmax(row)[1 if i < positives else 0] for i, row in enumerate(logits.tolist())]
    assert matching_loss(logits, positives).item() == pytest.approx(-sum(map(math.log, chances)) / 6)


def naive_mlm(logits, teacher, labels, alpha: float, form: str) -> float:
    """logits and teacher [B][L][V], labels [B][L]."""
    hard, soft, count = 0.0, 0.0, 0
    for b, row in enumerate(labels):
        for position, label in ((i, x) for i, x in enumerate(row) if x != IGNORED):
            count += 1
            student = softmax(logits[b][position])
            hard -= math.log(student[label])
            for word, weight in enumerate(softmax(teacher[b][position])):
                along_the_text = softmax([scores[word] for scores in logits[b]])
                soft -= weight * math.log(along_the_text[position] if form == "official" else student[word])
    return (1 - alpha) * hard / count + alpha * soft / count


@pytest.mark.parametrize("form", ["vocabulary", "official"])
@pytest.mark.parametrize("alpha", [0, 0.4, 1])
def test_masked_language_loss_is_the_naive_one(form, alpha):
    logits, teacher = draws(2, 2, 4, 6)
    labels = torch.tensor([[IGNORED, 3, IGNORED, 0], [IGNORED, IGNORED, 5, IGNORED]])
    expected = naive_mlm(logits.tolist(), teacher.tolist(), labels.tolist(), alpha, form)
    assert masked_language_loss(logits, teacher, labels, alpha, form).item() == pytest.approx(expected)


def frequencies(sim_i2t: Tensor, sim_t2i: Tensor, times: int, *, hard: bool) -> tuple[Tensor, Tensor]:
    """Share of draws by row and column, of images for texts and of texts for images."""
    generator, own = torch.Generator().manual_seed(0), torch.arange(len(sim_i2t))
    counts = torch.zeros_like(sim_i2t), torch.zeros_like(sim_t2i)
    for _ in range(times):
        for count, rows in zip(counts, draw_negatives(sim_i2t, sim_t2i, hard=hard, generator=generator), strict=True):
            count[own, rows] += 1
    return counts[0] / times, counts[1] / times


@pytest.mark.parametrize("hard", [True, False])
def test_negatives_follow_the_softmax(hard):
    sim_i2t, sim_t2i = draws(2, 4, 4)
    times = 3000
    found = frequencies(sim_i2t, sim_t2i, times, hard=hard)
    for share, similarities in zip(found, (sim_t2i, sim_i2t), strict=True):  # images for texts come from sim_t2i
        for row, values in enumerate(similarities.tolist()):
            weights = softmax(values) if hard else [1.0] * 4
            weights[row] = 0.0
            for column, weight in enumerate(weights):
                chance = weight / sum(weights)
                deviation = math.sqrt(chance * (1 - chance) / times)
                assert abs(share[row, column].item() - chance) <= 5 * deviation


@pytest.mark.parametrize("hard", [True, False])
def test_negatives_are_of_other_images(hard):
    rows = torch.tensor([0, 0, 0, 1, 2, 2])
    similarities, generator = 100.0 * (rows[:, None] == rows), torch.Generator().manual_seed(0)
    for _ in range(20):
        for drawn in draw_negatives(similarities, similarities, rows[:, None] == rows, hard=hard, generator=generator):
            assert (rows[drawn] != rows).all()


def test_phrases_of_one_image_have_no_negatives():
    images, texts = draw_negatives(torch.zeros(2, 2), torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))
    assert images.shape == texts.shape == (0,)
