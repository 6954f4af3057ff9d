"""ALBEF: who learns, momentum, queues, the memory of images, and the names of the official checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from reference_cases import TINY_AMC, TINY_OBJECTIVE, reference_folder, tiny_batch, tiny_model, tiny_settings
from torch import Tensor

from amc_lib.config import ObjectiveSettings, TextSettings
from amc_lib.model import ALBEF
from amc_lib.model.albef import MOMENTUM_PAIRS
from amc_lib.model.attention import Attention
from amc_lib.model.memory import Seats, take_rows
from amc_lib.model.trunk import NETWORKS
from amc_lib.presets import preset
from amc_lib.step import Batch, Losses, training_losses


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


@pytest.mark.parametrize("trunk", ["none", "lite0"])
@pytest.mark.parametrize("form", ["vocabulary", "official"])
@pytest.mark.parametrize("boxed", [True, False], ids=["boxed", "no box"])
def test_all_but_momentum_and_trunk_learns(trunk, form, boxed):
    model, batch = tiny_model(trunk=trunk), scaled_batch(trunk, torch.float64)
    batch.has_box[:] = boxed
    step(model, batch, objective=ObjectiveSettings(mlm_distillation=form)).total.backward()
    frozen = (*(f"{name}_m." for name in MOMENTUM_PAIRS), "trunk.")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad is not name.startswith(frozen), name
        learns = parameter.grad is not None and bool(parameter.grad.any() and parameter.grad.isfinite().all())
        assert learns is parameter.requires_grad, name


def test_trunk_features_computed_earlier_give_the_same_losses():
    batch = scaled_batch("lite0", torch.float64)
    from_pixels = step(tiny_model(trunk="lite0"), batch, generator=torch.Generator().manual_seed(0))
    model = tiny_model(trunk="lite0")
    batch.image = model.read_image(batch.image)
    assert batch.image.shape[1:] == (NETWORKS["lite0"].width, 4, 4)
    from_features = step(model, batch, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(from_features.total, from_pixels.total)


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


@pytest.mark.parametrize("tokens", [2, 40])  # fewer than the words, so that keys are copied; more: read in place
def test_attention_to_images_equals_that_to_copies(tokens):
    generator, rows = torch.Generator().manual_seed(0), torch.tensor([2, 0, 2, 2, 0])  # nobody looks at image 1
    settings = TextSettings(width=8, heads=2, layers=2, fusion_from=1, ffn_width=8, dropout=0.0)
    attention = Attention(settings, source_width=6).double()
    hidden = torch.randn(5, 3, 8, generator=generator, dtype=torch.float64)
    images = torch.randn(3, tokens, 6, generator=generator, dtype=torch.float64)
    seats, found = Seats.of(rows, images=3), []
    for one_by_one in (True, False):
        inputs = [tensor.clone().requires_grad_() for tensor in (hidden, images)]
        key, value = attention.keys_and_values(inputs[1])
        copied = inputs[0], key[rows], value[rows]
        seen = attention(*copied) if one_by_one else attention.to_images(inputs[0], key, value, seats)
        found.append((seen, *torch.autograd.grad(seen.square().sum(), inputs)))
    torch.testing.assert_close(*found)
    assert found[0][2][1].eq(0).all()


def test_paper_preset_has_the_names_and_shapes_of_the_official_checkpoint():
    folder = reference_folder()
    if folder is None or not (folder / "albef_base_keys.json").exists():
        pytest.skip("no albef_base_keys.json in the reference folder (AMC_REFERENCE_DIR, ../shared/reference)")
    official = json.loads((folder / "albef_base_keys.json").read_text(encoding="utf-8"))
    positions = {name for name in official if name.endswith("embeddings.position_ids")}
    assert len(positions) == 2  # 0, 1, 2, ...: a buffer of the library of that time, not a weight
    with torch.device("meta"):
        state = ALBEF(preset("paper").model).state_dict()
    expected = {name: shape for name, shape in official.items() if name not in positions}
    assert {name: list(tensor.shape) for name, tensor in state.items()} == expected


def test_gradients_of_shared_rows_do_not_depend_on_threads():
    """Added up in one order; plain indexing of this size is added up by whichever thread comes first."""
    generator, before, found = torch.Generator().manual_seed(0), torch.get_num_threads(), []
    keys = torch.randn(2, 4, 64, 32, generator=generator)
    weights = torch.randn(64, 4, 64, 32, generator=generator)
    try:
        for threads in (1, 2, 2, 2):
            torch.set_num_threads(threads)
            leaf = keys.clone().requires_grad_()
            (take_rows(leaf, torch.arange(64) % 2) * weights).sum().backward()
            found.append(leaf.grad)
    finally:
        torch.set_num_threads(before)
    assert all(gradient.equal(found[0]) for gradient in found)
