"""Numerical truth: what the authors' code gave for the stored cases, values and gradients, comes out here too.

float64 is held to a few times the rounding noise of the authors' own float32 run, name by name; float32, which every
processor rounds in its own way, to 1e-5 more. Every stored value is compared, but for random draws, which are replayed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_cases import Case, case_params, load_case
from torch import Tensor

from amc_lib import gradcam
from amc_lib.config import AmcSettings, ObjectiveSettings
from amc_lib.losses import contrastive_loss, max_loss, mean_loss, pooled_mean_loss
from amc_lib.model import ALBEF
from amc_lib.step import Batch, training_losses

REPLAYED = {"negatives_image_idx", "negatives_text_idx", "mlm_input_ids", "mlm_labels"}  # random draws, inputs here
NOISE_FACTOR = 4
NOISE_FLOOR = 1e-12  # for names whose noise is 0

CASES = pytest.mark.parametrize("folder", case_params())
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])

Values = dict[str, Tensor]


def gradients(loss: Tensor, model: ALBEF, names: Iterable[str]) -> Values:
    """Gradient of `loss` by parameter name, zeros where the loss does not depend on the parameter."""
    parameters = dict(model.named_parameters())
    wanted = [parameters[name] for name in names]
    found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def encoders(model: ALBEF, batch: Batch) -> Values:
    image_embeds = model.encode_image(batch.image)
    text_embeds = model.encode_text(batch.input_ids, batch.attention_mask)
    return {
        "image_embeds": image_embeds,
        "text_embeds": text_embeds,
        "image_feat": model.image_features(image_embeds),
        "text_feat": model.text_features(text_embeds),
    }


def matching(case: Case, model: ALBEF, batch: Batch, encoded: Values) -> Values:
    """The fusion passes of matching and drawn pairs, and the attention of the GradCAM layer with its gradient."""
    text_embeds, mask = encoded["text_embeds"], batch.attention_mask
    memory = model.text_encoder.remember(encoded["image_embeds"])
    image_rows, text_rows = case.negatives
    with gradcam.watch_attention(model.text_encoder, case.amc_settings().layer, twice=True) as watch:
        fused = model.text_encoder.fuse(text_embeds, mask, memory)
    positive = model.match(fused)
    other_image = model.match(model.text_encoder.fuse(text_embeds, mask, memory.rows(image_rows)))
    other_text = model.match(model.text_encoder.fuse(text_embeds[text_rows], mask[text_rows], memory))
    (gradient,) = torch.autograd.grad(positive[:, 1].sum(), watch.probabilities, retain_graph=True)
    return {
        "fusion_embeds": fused,
        "itm_logits": torch.cat((positive, other_image, other_text)),
        "itm_logits_positive": positive,
        "attention_map": watch.probabilities,
        "attention_grad": gradient,
        "cam_raw": gradcam.heatmap(watch, positive, mask, create_graph=True),
    }


def amc_terms(case: Case, batch: Batch, raw: Tensor) -> Values:
    """Normalised and upsampled heatmaps of the boxed samples, and both terms in both forms."""
    amc, mask = case.amc_settings(), batch.box_mask[batch.has_box]
    normalised = gradcam.normalise(raw[batch.has_box])
    upsampled = gradcam.upsample(normalised, mask.shape[-2:], "bilinear")
    return {
        "cam_normalised": normalised,
        "cam_upsampled": upsampled,
        "cam_mean": pooled_mean_loss(upsampled, mask, amc.delta1),
        "cam_max": max_loss(upsampled, mask, amc.delta2).mean(),
        "paper_l_mean_per_sample": mean_loss(upsampled, mask, amc.delta1),
        "paper_l_max_per_sample": max_loss(upsampled, mask, amc.delta2),
    }


def contrast_halves(case: Case, model: ALBEF, moved: ALBEF, batch: Batch, encoded: Values) -> Values:
    """Both directions of ITC; `moved` is the model after the step, whose momentum model made the targets.

    A direction whose online features are zero has equal similarities and costs log(candidates), whatever its targets.
    """
    image_feat_m = normalised_class_token(moved.vision_proj_m, moved.visual_encoder_m(batch.image))
    text_embeds_m = moved.text_encoder_m.encode(batch.input_ids, batch.attention_mask)
    text_feat_m = normalised_class_token(moved.text_proj_m, text_embeds_m)
    image_feat, text_feat = encoded["image_feat"], encoded["text_feat"]
    rest = image_feat_m, text_feat_m, model.image_queue, model.text_queue, model.temp, case.config["model"]["alpha"]
    equal = math.log(len(image_feat) + model.image_queue.shape[1])
    return {
        "loss_ita_i2t": 2 * contrastive_loss(image_feat, torch.zeros_like(text_feat), *rest)[0] - equal,
        "loss_ita_t2i": 2 * contrastive_loss(torch.zeros_like(image_feat), text_feat, *rest)[0] - equal,
    }


def normalised_class_token(projection: torch.nn.Module, embeds: Tensor) -> Tensor:
    return torch.nn.functional.normalize(projection(embeds[:, 0]), dim=-1)


def amc_step(case: Case, model: ALBEF, batch: Batch) -> Values:
    """One step of the AMC repository: its losses, its gradients, and the state that it leaves behind."""
    losses = training_losses(
        model,
        batch,
        ObjectiveSettings(mlm_distillation="official"),
        case.amc_settings(),
        alpha=case.config["model"]["alpha"],
        negatives=case.negatives,
    )
    names, parameters = case.config["grad_names"], dict(model.named_parameters())
    assert model.queue_ptr_img.equal(model.queue_ptr_txt)
    return {
        "loss_mlm": losses.mlm,
        "loss_ita": losses.itc,
        "loss_itm": losses.itm,
        "amc": losses.amc,
        "total": losses.total,
        "image_queue_after": model.image_queue,
        "text_queue_after": model.text_queue,
        "queue_ptr_after": model.queue_ptr_img,
        "momentum_sample": parameters[case.config["momentum_sample_name"]],
        "momentum_sample_text": parameters[case.config["momentum_sample_text_name"]],
        **{f"grad/{name}": value for name, value in gradients(losses.total, model, names).items()},
        **{f"grad_amc/{name}": value for name, value in gradients(losses.amc, model, names).items()},
    }


def albef_step(case: Case, model: ALBEF, batch: Batch) -> Values:
    """One step of the ALBEF repository: no AMC, distillation over the vocabulary."""
    losses = training_losses(
        model,
        batch,
        ObjectiveSettings(mlm_distillation="vocabulary"),
        AmcSettings(lambda1=0, lambda2=0),
        alpha=case.config["model"]["alpha"],
        negatives=case.negatives,
    )
    return {
        "albef/loss_mlm": losses.mlm,
        "albef/loss_ita": losses.itc,
        "albef/loss_itm": losses.itm,
        "albef/total": losses.total,
        **{f"albef/grad/{n}": g for n, g in gradients(losses.total, model, case.config["grad_names"]).items()},
    }


def evaluation(case: Case, model: ALBEF, dtype: torch.dtype) -> Values:
    """Heatmaps and points of the evaluation phrases, each image encoded once."""
    settings = case.config["eval"]
    height, width = settings["out_h"], settings["out_w"]
    ids, mask = case.input("eval/input_ids", dtype), case.input("eval/attention_mask", dtype)
    memory = model.text_encoder.remember(model.encode_image(case.input("image", dtype)))
    memory = memory.rows(case.input("eval/image_index", dtype))
    with gradcam.watch_attention(model.text_encoder, settings["block_num"], twice=False) as watch:
        logits = model.match(model.text_encoder.fuse(model.encode_text(ids, mask), mask, memory))
    raw = gradcam.heatmap(watch, logits, mask, create_graph=False)
    upsampled = gradcam.upsample(raw, (height, width), "bicubic")
    y, x = np.divmod(upsampled.flatten(1).numpy().argmax(axis=1), width)  # the first maximum in row-major order
    return {
        "eval/itm_logits": logits,
        "eval/gradcam": raw,
        f"eval/upsampled_{height}x{width}": upsampled,
        "eval/argmax_xy": torch.from_numpy(np.stack((x, y), axis=1)),
    }


@cache
def reproduce(folder: Path, dtype: torch.dtype) -> Values:
    """Everything that this code gives for a case, under the stored names."""
    case = load_case(folder)
    batch, model, moved = case.batch(dtype), case.model(dtype), case.model(dtype)
    step = amc_step(case, moved, batch)
    encoded = encoders(model, batch)
    matched = matching(case, model, batch, encoded)
    values = {
        **step,
        **encoded,
        **matched,
        **amc_terms(case, batch, matched["cam_raw"]),
        **contrast_halves(case, model, moved, batch, encoded),
        **albef_step(case, case.model(dtype), batch),
        **evaluation(case, model.eval(), dtype),
    }
    return {name: value.detach() for name, value in values.items()}


def tolerance(case: Case, name: str, dtype: torch.dtype) -> float:
    return NOISE_FACTOR * case.noise[name] + (NOISE_FLOOR if dtype == torch.float64 else 1e-5)


@CASES
@DTYPES
def test_values_and_gradients_are_the_authors(folder, dtype):
    case, values = load_case(folder), reproduce(folder, dtype)
    wrong = []
    for name, value in values.items():
        stored = case.outputs[name]
        assert value.shape == stored.shape, name
        difference = (value - stored).abs().max().item()
        if not difference <= tolerance(case, name, dtype):
            wrong.append(f"{name}: off by {difference:.2e}, allowed {tolerance(case, name, dtype):.2e}")
    assert not wrong, "\n".join(wrong)


@CASES
def test_every_stored_value_is_compared_or_replayed(folder):
    assert set(reproduce(folder, torch.float64)) | REPLAYED == set(load_case(folder).outputs)
