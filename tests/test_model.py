"""ALBEF's state and objectives: gradients reach every parameter, and each formula against plain loops."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from reference_cases import (
    TINY_AMC,
    TINY_OBJECTIVE,
    reference_folder,
    tiny_batch,
    tiny_model,
    tiny_settings,
)
from torch import Tensor

from amc_lib.config import AmcSettings, ObjectiveSettings
from amc_lib.losses import contrastive_loss, draw_negatives, masked_language_loss, matching_loss
from amc_lib.model import ALBEF
from amc_lib.model.albef import MOMENTUM_PAIRS
from amc_lib.presets import preset
from amc_lib.step import Batch, Losses, training_losses
from amc_lib.tokens import IGNORED

TRUNKS = pytest.mark.parametrize("trunk", ["none", "lite0"])


def step(model: ALBEF, batch: Batch, **changes) -> Losses:
    settings = {"objective": TINY_OBJECTIVE, "amc": TINY_AMC, "alpha": 0.4}
    return training_losses(model, batch, **(settings | changes))


def scaled_batch(trunk: str, dtype: torch.dtype, size: int = 3) -> Batch:
    """The tiny batch with pictures as large as the tower wants them."""
    batch = tiny_batch(size, dtype)
    side = tiny_settings(trunk).vision.image_size
    batch.image = torch.nn.functional.interpolate(batch.image, size=(side, side))
    return batch


def draws(size: int, *shape: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(size)]


# ------------------------------------------------------------------------------------------------------- who learns


@TRUNKS
@pytest.mark.parametrize("form", ["vocabulary", "official"])
@pytest.mark.parametrize("boxed", [True, False], ids=["boxed", "no box"])
def test_every_trainable_parameter_receives_a_gradient(trunk, form, boxed):
    model, batch = tiny_model(trunk=trunk), scaled_batch(trunk, torch.float64)
    batch.has_box[:] = boxed
    step(model, batch, objective=ObjectiveSettings(mlm_distillation=form)).total.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    still = [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    assert still == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@TRUNKS
def test_what_is_trainable_is_all_but_momentum_and_trunk(trunk):
    model = tiny_model(trunk=trunk)
    frozen = (*(f"{name}_m." for name in MOMENTUM_PAIRS), "trunk.")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad is not name.startswith(frozen), name


@TRUNKS
def test_momentum_and_trunk_never_receive_gradients(trunk):
    model, batch = tiny_model(trunk=trunk), scaled_batch(trunk, torch.float64)
    for _ in range(2):
        step(model, batch).total.backward()
    assert [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None] == []


@pytest.mark.parametrize("size", [1, 2])
def test_small_batches_work(size):
    model = tiny_model()
    losses = step(model, tiny_batch(size))
    assert all(getattr(losses, name).isfinite() for name in ("mlm", "itc", "itm", "amc"))
    assert int(model.queue_ptr_img) == size


def test_batch_of_one_has_no_negatives():
    model, batch = tiny_model(), tiny_batch(1)
    memory = model.text_encoder.remember(model.encode_image(batch.image))
    text_embeds = model.encode_text(batch.input_ids, batch.attention_mask)
    logits = model.match(model.text_encoder.fuse(text_embeds, batch.attention_mask, memory))
    expected = math.log(1 + math.exp((logits[0, 0] - logits[0, 1]).item()))
    assert step(model, batch).itm.item() == pytest.approx(expected)


def test_trunk_features_computed_earlier_give_the_same_losses():
    batch = scaled_batch("lite0", torch.float64)
    from_pixels = step(tiny_model(trunk="lite0"), batch, generator=torch.Generator().manual_seed(0))
    model = tiny_model(trunk="lite0")
    batch.image = model.read_image(batch.image)
    assert batch.image.shape[1:] == (model.trunk.channels, 4, 4)
    from_features = step(model, batch, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(from_features.total, from_pixels.total)


def test_trunk_stays_in_evaluation_mode():
    model = tiny_model(trunk="lite0").train()
    assert model.training
    assert not any(module.training for module in model.trunk.modules())


# ----------------------------------------------------------------------------------------------------- momentum, queues


def test_momentum_moves_by_the_formula():
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.update_momentum()
    for name, parameter in model.named_parameters():
        if name.split(".")[0].endswith("_m"):
            online = before[name.replace("_m.", ".", 1)]
            torch.testing.assert_close(parameter, 0.995 * before[name] + (1 - 0.995) * online)
            assert not parameter.equal(before[name])
        else:
            assert parameter.equal(before[name])


def test_momentum_moves_before_it_teaches():
    """The step moves the momentum model once, and what enters the queue comes from the model after its move."""
    model, batch = tiny_model(), tiny_batch(3)
    with torch.no_grad():
        model.vision_proj.weight.normal_()
    moved = tiny_model()
    moved.load_state_dict(model.state_dict())
    moved.update_momentum()
    step(model, batch)
    for name in MOMENTUM_PAIRS:
        for one, other in zip(
            getattr(model, f"{name}_m").parameters(), getattr(moved, f"{name}_m").parameters(), strict=True
        ):
            torch.testing.assert_close(one, other)
    with torch.no_grad():
        features = moved.vision_proj_m(moved.visual_encoder_m(batch.image)[:, 0])
    torch.testing.assert_close(model.image_queue[:, :3].T, features / features.norm(dim=1, keepdim=True))


def test_copy_to_momentum():
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.copy_to_momentum()
    state = model.state_dict()
    twins = [name for name in state if name.split(".")[0].endswith("_m")]
    assert twins
    assert all(state[name].equal(state[name.replace("_m.", ".", 1)]) for name in twins)


@pytest.mark.parametrize("sizes", [[3], [4, 4, 4], [7, 7], [10], [1] * 11, [9, 1, 5]], ids=str)
def test_queues_are_rings(sizes):
    """Against a list that is written one feature at a time."""
    model = tiny_model()
    images, texts = model.image_queue.T.tolist(), model.text_queue.T.tolist()
    place = 0
    for seed, size in enumerate(sizes):
        image_feat, text_feat = draws(2, size, 8, seed=seed)
        model.enqueue(image_feat, text_feat)
        for image, text in zip(image_feat.tolist(), text_feat.tolist(), strict=True):
            images[place], texts[place] = image, text
            place = (place + 1) % 10
    assert model.image_queue.T.tolist() == images
    assert model.text_queue.T.tolist() == texts
    assert (int(model.queue_ptr_img), int(model.queue_ptr_txt)) == (place, place)


@pytest.mark.parametrize(("start", "clamped"), [(0.07, 0.07), (0.9, 0.5), (-1.0, 0.001)])
def test_temperature_is_clamped(start, clamped):
    model = tiny_model()
    with torch.no_grad():
        model.temp.fill_(start)
    step(model, tiny_batch(2))
    assert model.temp.item() == pytest.approx(clamped)
    assert model.temp.requires_grad


# ----------------------------------------------------------------------------------------------------------- objectives


def softmax(values: list[float]) -> list[float]:
    highest = max(values)
    exponentials = [math.exp(v - highest) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive_direction(feat, feat_m, candidates: list[list[float]], temperature: float, alpha: float) -> float:
    """One half of ITC: cross-entropy against soft targets, averaged over the batch."""
    total = 0.0
    for row in range(len(feat)):
        student = softmax([dot(feat[row], c) / temperature for c in candidates])
        teacher = softmax([dot(feat_m[row], c) / temperature for c in candidates])
        for column in range(len(candidates)):
            target = alpha * teacher[column] + (1 - alpha) * (row == column)
            total -= target * math.log(student[column])
    return total / len(feat)


@pytest.mark.parametrize("alpha", [0, 0.4, 1])
@pytest.mark.parametrize("size", [1, 3])
def test_contrastive_loss_is_the_naive_one(alpha, size):
    features = [torch.nn.functional.normalize(t, dim=-1) for t in draws(4, size, 5)]
    queues = [torch.nn.functional.normalize(t, dim=0) for t in draws(2, 5, 7, seed=1)]
    temperature = torch.tensor(0.2, dtype=torch.float64)
    loss, sim_i2t, sim_t2i = contrastive_loss(*features, *queues, temperature, alpha)
    image, text, image_m, text_m = (f.tolist() for f in features)
    images, texts = image_m + queues[0].T.tolist(), text_m + queues[1].T.tolist()
    i2t = naive_direction(image, image_m, texts, 0.2, alpha)
    t2i = naive_direction(text, text_m, images, 0.2, alpha)
    assert loss.item() == pytest.approx((i2t + t2i) / 2)
    assert sim_i2t.tolist() == [pytest.approx([dot(i, t) / 0.2 for t in text_m]) for i in image]
    assert sim_t2i.tolist() == [pytest.approx([dot(t, i) / 0.2 for i in image_m]) for t in text]


def test_temperature_learns_from_the_online_similarity_alone():
    features, queues = draws(4, 3, 5), draws(2, 5, 7, seed=1)
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    contrastive_loss(*features, *queues, temperature, 1.0)[0].backward()
    step_size = 1e-6
    up, down = (
        fixed_target_loss(features, queues, 0.5 + sign * step_size, teacher_temperature=0.5) for sign in (1, -1)
    )
    assert temperature.grad.item() == pytest.approx((up - down) / (2 * step_size), rel=1e-6)


def fixed_target_loss(features, queues, temperature: float, teacher_temperature: float) -> float:
    """ITC at alpha 1 with the targets of another temperature: scaling the teacher's features scales its logits."""
    image, text, image_m, text_m = (f.tolist() for f in features)
    images, texts = image_m + queues[0].T.tolist(), text_m + queues[1].T.tolist()
    scale = temperature / teacher_temperature
    image_m, text_m = ([[scale * x for x in row] for row in rows] for rows in (image_m, text_m))
    halves = [
        naive_direction(image, image_m, texts, temperature, 1),
        naive_direction(text, text_m, images, temperature, 1),
    ]
    return sum(halves) / 2


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


def test_vocabulary_form_needs_the_labelled_positions_only():
    logits, teacher = draws(2, 2, 4, 6)
    labels = torch.tensor([[IGNORED, 3, IGNORED, 0], [IGNORED, IGNORED, 5, IGNORED]])
    chosen = labels != IGNORED
    alone = masked_language_loss(logits[chosen], teacher[chosen], labels[chosen], 0.4)
    torch.testing.assert_close(alone, masked_language_loss(logits, teacher, labels, 0.4))


@pytest.mark.parametrize("form", ["vocabulary", "official"])
def test_no_labelled_position_costs_nothing(form):
    logits, teacher = draws(2, 2, 4, 6)
    logits.requires_grad_()
    loss = masked_language_loss(logits, teacher, torch.full((2, 4), IGNORED), 0.4, form)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad.count_nonzero() == 0


@pytest.mark.parametrize("form", ["vocabulary", "official"])
def test_step_without_labelled_positions_is_finite(form):
    model, batch = tiny_model(), tiny_batch(2)
    batch.mlm_labels[:] = IGNORED
    losses = step(model, batch, objective=ObjectiveSettings(mlm_distillation=form))
    assert losses.mlm.item() == 0
    losses.total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# ------------------------------------------------------------------------------------------------------------ negatives


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("spread", [0.0, 5.0, 1000.0])
def test_negatives_are_never_ones_own(hard, spread):
    """Also where the own pair is so similar that all other weights underflow."""
    generator = torch.Generator().manual_seed(0)
    for size in (2, 3, 8):
        similarities = torch.randn(size, size, generator=generator) + spread * torch.eye(size)
        for _ in range(20):
            for rows in draw_negatives(similarities, similarities, hard=hard, generator=generator):
                assert rows.shape == (size,) and rows.min() >= 0 and rows.max() < size
                assert (rows != torch.arange(size)).all()


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
def test_one_sample_has_no_negatives(hard):
    images, texts = draw_negatives(torch.zeros(1, 1), torch.zeros(1, 1), hard=hard)
    assert images.shape == texts.shape == (0,)
    assert images.dtype == texts.dtype == torch.long


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


def test_phrases_of_an_image_share_the_target():
    """Rows 0 and 1 are one image: each of its rows has both of its texts as target, half and half."""
    image, text, image_m, text_m = (torch.nn.functional.normalize(t, dim=-1) for t in draws(4, 3, 5))
    rows, no_queue = torch.tensor([0, 0, 1]), torch.zeros(5, 0, dtype=torch.float64)
    temperature = torch.tensor(0.2, dtype=torch.float64)
    found, *_ = contrastive_loss(
        image, text, image_m, text_m, no_queue, no_queue, temperature, 0.0, rows[:, None] == rows
    )
    expected = 0.0
    for feats, candidates in ((image, text_m), (text, image_m)):
        for row, feat in enumerate(feats.tolist()):
            share = softmax([dot(feat, candidate) / 0.2 for candidate in candidates.tolist()])
            own = [j for j in range(3) if rows[j] == rows[row]]
            expected -= sum(math.log(share[j]) for j in own) / len(own) / 3
    assert found.item() == pytest.approx(expected / 2)


def test_draw_is_repeatable():
    sim_i2t, sim_t2i = draws(2, 8, 8)
    first, second = (draw_negatives(sim_i2t, sim_t2i, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))


def test_phrases_of_one_image_are_the_pairs_that_a_repeated_image_makes():
    """MLM and AMC do not look across pairs: there, three phrases of two images equal three images with one each."""
    batch = tiny_batch(3)
    batch.image[1] = batch.image[0]
    shared = dataclasses.replace(batch, image=batch.image[[0, 2]], image_rows=torch.tensor([0, 0, 1]))
    apart, together = (step(tiny_model(), b, alpha=0.0) for b in (batch, shared))
    for name in ("mlm", "amc"):
        torch.testing.assert_close(getattr(together, name), getattr(apart, name))
    assert together.itm.isfinite() and together.itc.isfinite()


def test_alignment_leaves_the_fusion_layers_alone():
    model, batch = tiny_model(), tiny_batch(3)
    losses = step(model, batch, fuse=False)
    torch.testing.assert_close(losses.itc, step(tiny_model(), batch).itc)
    assert losses.mlm == losses.itm == losses.amc == 0
    losses.total.backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    first = model.settings.text.fusion_from
    assert not any(f"encoder.layer.{i}." in name for name in touched for i in range(first, model.settings.text.layers))
    assert any(name.startswith("visual_encoder.") for name in touched) and "text_proj.weight" in touched


# ----------------------------------------------------------------------------------------------------- memory and names


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0, 1], [1, 1, 1], [0, 2, 2]], ids=str)
def test_rows_of_the_memory_equal_recomputation(rows):
    model, batch, index = tiny_model(), tiny_batch(3), torch.tensor(rows)
    image_embeds = model.encode_image(batch.image)
    text_embeds = model.encode_text(batch.input_ids, batch.attention_mask)
    encoder = model.text_encoder
    remembered = encoder.fuse(text_embeds, batch.attention_mask, encoder.remember(image_embeds).rows(index))
    recomputed = encoder.fuse(text_embeds, batch.attention_mask, encoder.remember(image_embeds[index]))
    torch.testing.assert_close(remembered, recomputed)
    if rows != [0, 1, 2]:
        own = encoder.fuse(text_embeds, batch.attention_mask, encoder.remember(image_embeds))
        assert not torch.allclose(remembered, own)


def test_features_are_of_unit_length():
    model, batch = tiny_model(), tiny_batch(3)
    image_feat = model.image_features(model.encode_image(batch.image))
    text_feat = model.text_features(model.encode_text(batch.input_ids, batch.attention_mask))
    for features in (image_feat, text_feat):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_vocabulary_head_is_tied_to_the_word_embeddings():
    for encoder in (tiny_model().text_encoder, tiny_model().text_encoder_m):
        decoder = encoder.cls.predictions.decoder
        assert decoder.weight is encoder.bert.embeddings.word_embeddings.weight
        assert decoder.bias is encoder.cls.predictions.bias


def test_step_moves_nothing_but_momentum_queues_and_gradients():
    model, batch = tiny_model(), tiny_batch(3)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    step(model, batch, amc=AmcSettings(layer=2)).total.backward()
    with torch.no_grad():
        model.visual_encoder.cls_token.add_(1)  # the online model moves, so that the momentum model can follow
    step(model, batch)
    changed = {name.split(".")[0] for name, t in model.state_dict().items() if not t.equal(before[name])}
    queues = {"image_queue", "text_queue", "queue_ptr_img", "queue_ptr_txt"}
    assert changed == queues | {"visual_encoder", "visual_encoder_m"}


def test_paper_preset_has_the_names_and_shapes_of_the_official_checkpoint():
    folder = reference_folder()
    if folder is None or not (folder / "albef_base_keys.json").exists():
        pytest.skip(
            "no albef_base_keys.json: it stands in the reference folder (AMC_REFERENCE_DIR, ../shared/reference)"
        )
    official = json.loads((folder / "albef_base_keys.json").read_text(encoding="utf-8"))
    positions = {name for name in official if name.endswith("embeddings.position_ids")}
    assert len(positions) == 2  # 0, 1, 2, ...: a buffer of the library of that time, not a weight
    with torch.device("meta"):
        state = ALBEF(preset("paper").model).state_dict()
    expected = {name: shape for name, shape in official.items() if name not in positions}
    assert {name: list(tensor.shape) for name, tensor in state.items()} == expected
