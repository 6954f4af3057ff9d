"""Settings: presets that hold together, and every impossible value refused with a sentence that names it."""

from __future__ import annotations

import dataclasses
import re

import pytest

from amc_lib.config import (
    AmcSettings,
    ModelSettings,
    ObjectiveSettings,
    SceneSettings,
    Settings,
    TextSettings,
    TrainingSettings,
    VisionSettings,
)
from amc_lib.presets import preset

TIERS = pytest.mark.parametrize("tier", ["scenes", "paper"])
PARTS = (
    VisionSettings,
    TextSettings,
    ModelSettings,
    ObjectiveSettings,
    AmcSettings,
    TrainingSettings,
    SceneSettings,
)

REFUSED = [
    (VisionSettings, {"image_size": 100}, "image_size 100 is no multiple of patch_size 16"),
    (VisionSettings, {"width": 100}, "vision width 100 is no multiple of its 12 heads"),
    (TextSettings, {"width": 100}, "text width 100 is no multiple of its 12 heads"),
    (TextSettings, {"fusion_from": 0}, "fusion_from 0 must lie inside the 12 text encoder layers"),
    (TextSettings, {"fusion_from": 12}, "fusion_from 12 must lie inside the 12 text encoder layers"),
    (TextSettings, {"max_tokens": 513}, "max_tokens 513 exceeds positions 512"),
    (ModelSettings, {"text": TextSettings(width=384)}, "vision width 768 and text width 384 must be equal"),
    (ModelSettings, {"momentum": 1.01}, "momentum must lie in [0, 1], got 1.01"),
    (ModelSettings, {"momentum": -0.1}, "momentum must lie in [0, 1], got -0.1"),
    (TrainingSettings, {"phrases_per_image": 0}, "phrases_per_image must be positive, got 0"),
    (ModelSettings, {"queue_size": -1}, "queue_size must not be negative, got -1"),
    (ObjectiveSettings, {"alpha": 1.5}, "alpha must lie in [0, 1], got 1.5"),
    (ObjectiveSettings, {"alpha": -0.5}, "alpha must lie in [0, 1], got -0.5"),
    (ObjectiveSettings, {"mlm_probability": 0}, "mlm_probability must lie in (0, 1), got 0"),
    (ObjectiveSettings, {"mlm_probability": 1}, "mlm_probability must lie in (0, 1), got 1"),
    (AmcSettings, {"lambda1": -1}, "lambda1 must not be negative, got -1"),
    (AmcSettings, {"lambda2": -0.1}, "lambda2 must not be negative, got -0.1"),
    (AmcSettings, {"delta1": -0.2}, "delta1 must not be negative, got -0.2"),
    (AmcSettings, {"delta2": -3}, "delta2 must not be negative, got -3"),
    (TrainingSettings, {"epochs": 0}, "epochs must be positive, got 0"),
    (TrainingSettings, {"batch_size": 0}, "batch_size must be positive, got 0"),
    (TrainingSettings, {"learning_rate": 0}, "learning_rate must be positive, got 0"),
    (TrainingSettings, {"seed": -1}, "seed must not be negative, got -1"),
    (TrainingSettings, {"snapshot_every": -1}, "snapshot_every must not be negative, got -1"),
]

ALLOWED = [
    (ModelSettings, {"momentum": 0}),
    (ModelSettings, {"momentum": 1}),
    (ModelSettings, {"queue_size": 0}),
    (ObjectiveSettings, {"alpha": 0}),
    (ObjectiveSettings, {"alpha": 1}),
    (AmcSettings, {"lambda1": 0, "lambda2": 0, "delta1": 0, "delta2": 0}),
    (TextSettings, {"max_tokens": 512}),
    (TextSettings, {"fusion_from": 11}),
    (TrainingSettings, {"seed": 0, "epochs": 1, "batch_size": 1}),
]


def _id(value: object) -> str:
    if isinstance(value, type):
        return value.__name__
    return "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) and "text" not in value else ""


@pytest.mark.parametrize(("part", "values", "message"), REFUSED, ids=_id)
def test_impossible_value_is_refused_by_name(part, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        part(**values)


@pytest.mark.parametrize(("part", "values"), ALLOWED, ids=_id)
def test_value_at_the_border_is_accepted(part, values):
    settings = part(**values)
    assert {name: getattr(settings, name) for name in values} == values


@pytest.mark.parametrize("part", PARTS)
def test_unknown_field_is_refused(part):
    with pytest.raises(TypeError, match="lamda"):
        part(lamda=1)


@TIERS
def test_preset_is_of_its_tier(tier):
    assert preset(tier).tier == tier
    assert preset(tier) == preset(tier)


@TIERS
def test_preset_has_the_authors_amc_constants(tier):
    amc = preset(tier).amc
    assert (amc.lambda1, amc.delta1, amc.lambda2, amc.delta2) == (0.2, 0.1, 0.8, 0.5)
    assert amc.active


@TIERS
def test_preset_phrases_fit_the_text_encoder(tier):
    text = preset(tier).model.text
    assert text.max_tokens <= text.positions
    assert text.fusion_from <= preset(tier).amc.layer < text.layers


@TIERS
def test_queue_holds_whole_batches(tier):
    settings = preset(tier)
    for training in (settings.pretraining, settings.finetuning):
        assert settings.model.queue_size in (0, *range(training.batch_size * training.phrases_per_image, 10**6))


@pytest.mark.parametrize(("tier", "grid"), [("paper", 16), ("scenes", 10)])
def test_grid_of_the_preset(tier, grid):
    assert preset(tier).model.vision.grid == grid


@pytest.mark.parametrize("tier", ["", "Paper", "imagenet"])
def test_unknown_tier_is_refused(tier):
    with pytest.raises(ValueError, match=re.escape(f"unknown tier {tier!r}; known: scenes, paper")):
        preset(tier)


@TIERS
@pytest.mark.parametrize("layer", ["text", "beyond"])
def test_layer_without_cross_attention_is_refused(tier, layer):
    settings = preset(tier)
    text = settings.model.text
    number = text.fusion_from - 1 if layer == "text" else text.layers
    message = f"layer {number} has no cross-attention; fusion layers are {text.fusion_from}-{text.layers - 1}"
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(settings, amc=dataclasses.replace(settings.amc, layer=number))


@pytest.mark.parametrize("part", [*PARTS, Settings])
def test_settings_are_frozen(part):
    settings = preset("paper") if part is Settings else part()
    name = dataclasses.fields(part)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, name, None)


@pytest.mark.parametrize(
    ("lambda1", "lambda2", "active"), [(0, 0, False), (0.1, 0, True), (0, 0.1, True), (0.2, 0.8, True)]
)
def test_amc_is_off_when_both_lambdas_are_zero(lambda1, lambda2, active):
    assert AmcSettings(lambda1=lambda1, lambda2=lambda2).active is active


@pytest.mark.parametrize("split", ["pretrain", "train", "val", "phrases", "referring_a", "referring_b"])
def test_scenes_are_counted_by_split(split):
    assert SceneSettings(**{split: 17}).count(split) == 17
    assert SceneSettings().count(split) > 0


@pytest.mark.parametrize("split", ["test", "seed", "count", ""])
def test_unknown_scenes_split_is_refused(split):
    message = f"unknown scenes split {split!r}; known: pretrain, train, val, phrases, referring_a, referring_b"
    with pytest.raises(ValueError, match=re.escape(message)):
        SceneSettings().count(split)
