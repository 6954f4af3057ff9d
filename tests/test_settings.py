"""Settings: presets that hold together; every name or value that does not fit refused in one sentence that names it."""

from __future__ import annotations

import dataclasses
import json

import pytest
from refusal import refused

from amc_lib.config import (
    AmcSettings,
    BoxSettings,
    ModelSettings,
    ObjectiveSettings,
    PhotoSettings,
    SceneSettings,
    Settings,
    TextSettings,
    TrainingSettings,
    VisionSettings,
)
from amc_lib.files import plain
from amc_lib.parameters import from_mapping, replace, resolve
from amc_lib.presets import preset, with_own_words

TIERS = pytest.mark.parametrize("tier", ["scenes", "paper"])


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (VisionSettings, {"image_size": 100}, "image_size 100 is no multiple of patch_size 16"),
        (VisionSettings, {"patch_size": 0}, "patch_size must be positive, got 0"),
        (TextSettings, {"width": 100}, "text width 100 is no multiple of its 12 heads"),
        (TextSettings, {"fusion_from": 12}, "fusion_from 12 must lie inside the 12 text encoder layers"),
        (TextSettings, {"max_tokens": 513}, "max_tokens must lie in 3 to 512 (positions), got 513"),
        (TextSettings, {"trunk": "minilm", "vocab_size": 40}, "vocab_size must be MiniLM's 30522, got 40"),
        (ModelSettings, {"momentum": 1.01}, "momentum must lie in [0, 1], got 1.01"),
        (ObjectiveSettings, {"mlm_probability": 1}, "mlm_probability must lie in (0, 1), got 1"),
        (AmcSettings, {"lambda1": -1}, "lambda1 must not be negative, got -1"),
        (AmcSettings, {"delta2": float("nan")}, "delta2 must not be negative, got nan"),
        (TrainingSettings, {"epochs": 0}, "epochs must be positive, got 0"),
        (PhotoSettings, {"flip": 1.5}, "flip must lie in [0, 1], got 1.5"),
        (BoxSettings, {"box_shift": 1.0}, "box_shift must lie in [0, 1), got 1.0"),
    ],
)
def test_impossible_value_is_refused_by_name(part, values, message):
    with refused(message):
        part(**values)


@TIERS
def test_preset_has_the_authors_constants_and_room_for_its_batches(tier):
    settings = preset(tier)
    assert settings.tier == tier
    amc = settings.amc
    assert (amc.lambda1, amc.delta1, amc.lambda2, amc.delta2) == (0.2, 0.1, 0.8, 0.5)
    assert settings.model.vision.grid == {"paper": 16, "scenes": 10}[tier]
    with refused("exceeds queue_size 3"):
        dataclasses.replace(settings, model=dataclasses.replace(settings.model, queue_size=3))


@pytest.mark.parametrize("tier", ["", "Paper", None, ["scenes"]])
def test_unknown_tier_is_refused(tier):
    with refused(f"unknown tier {tier!r}; known: scenes, photos, paper"):
        resolve(tier, "finetuning", {})


def test_scenes_are_counted_by_split():
    assert SceneSettings(referring_a=17).count("referring_a") == 17
    with refused("unknown scenes split 'seed'; known: pretrain, train, val, phrases, referring_a, referring_b"):
        SceneSettings().count("seed")


@TIERS
@pytest.mark.parametrize("parameters", [{}, dict.fromkeys(("lambda1", "alpha", "epochs", "more"))])
def test_no_value_keeps_the_preset(tier, parameters):
    assert resolve(tier, "finetuning", parameters) == preset(tier)


@pytest.mark.parametrize("stage", ["pretraining", "finetuning"])
def test_each_name_reaches_its_place_and_nothing_else_moves(stage):
    values = {"lambda1": 1, "layer": 4, "mlm_probability": 0.3, "epochs": 2, "box_share": 0.5}
    settings, before = resolve("scenes", stage, values), preset("scenes")
    expected = dataclasses.replace(
        before,
        amc=dataclasses.replace(before.amc, lambda1=1.0, layer=4),
        objective=dataclasses.replace(before.objective, mlm_probability=0.3),
        boxes=BoxSettings(box_share=0.5),
        **{stage: dataclasses.replace(getattr(before, stage), epochs=2)},
    )
    assert settings == expected and type(settings.amc.lambda1) is float


@pytest.mark.parametrize("more", [{"layer": 4, "box_share": 0.1}, '{"layer": 4, "box_share": 0.1}'])
def test_more_holds_further_names(more):
    settings = resolve("scenes", "finetuning", {"seed": 3, "layer": None, "more": more})
    assert (settings.amc.layer, settings.boxes.box_share, settings.finetuning.seed) == (4, 0.1, 3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lamda1": 1}, "unknown parameter 'lamda1'; did you mean 'lambda1'? (known: "),
        ({"lambda1": "1.0"}, "lambda1 must be a number, got '1.0'"),
        ({"lambda1": True}, "lambda1 must be a number, got True"),
        ({"lambda1": float("nan")}, "lambda1 must be a number, got nan"),
        ({"learning_rate": 10**400}, "learning_rate must be a number, got 1000"),
        ({"delta1": [0.1]}, "delta1 must be a number, got [0.1]"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"layer": 2}, "layer 2 has no cross-attention; fusion layers are 3-5"),
        ({"mean_form": "mean"}, "mean_form must be one of 'paper', 'official', got 'mean'"),
        ({"checkpointing": 1}, "checkpointing must be a truth value, got 1"),
        ({"more": "{"}, "more must be a mapping of names to values, got '{'"),
        ({"more": {"layr": 4}}, "unknown parameter 'layr'; did you mean 'layer'?"),
        ({"seed": 3, "more": {"seed": 4}}, "'seed' is given twice, the second time in more"),
    ],
    ids=str,
)
def test_parameter_that_does_not_fit_is_refused_by_name(parameters, message):
    with refused(message):
        resolve("scenes", "finetuning", parameters)


@TIERS
def test_settings_survive_json(tier):
    settings = replace(preset(tier), amc=AmcSettings(lambda1=1 / 3, layer=preset(tier).amc.layer))
    again = from_mapping(Settings, json.loads(json.dumps(plain(settings))))
    assert again == settings
    assert type(again.scenes.objects) is tuple and type(again.model.temperature_range) is tuple


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "vision", "widht"), 1, "settings.model.vision: unknown parameter 'widht'; did you mean 'width'?"),
        (("model", "vision", "trunk"), "vgg", "settings.model.vision.trunk must be one of 'none', 'lite0'"),
        (("model", "text", "layers"), "six", "settings.model.text.layers must be a whole number, got 'six'"),
        (("scenes", "objects"), [1], "settings.scenes.objects must be 2 numbers, got [1]"),
        (("amc",), [1, 2], "settings.amc must be a mapping, got [1, 2]"),
        (("tier",), "photo", "settings.tier must be one of 'scenes', 'photos', 'paper', got 'photo'"),
        (("objective", "alpha"), 2, "alpha must lie in [0, 1], got 2"),
    ],
)
def test_what_is_wrong_inside_is_named_with_its_place(path, value, message):
    values = plain(preset("scenes"))
    inner = values
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with refused(message):
        from_mapping(Settings, values)


def test_missing_fields_are_named():
    values = plain(preset("scenes"))
    del values["amc"], values["tier"]
    with refused("settings lacks tier, amc"):
        from_mapping(Settings, values)


def test_own_words_stand_in_for_minilm_below_as_many_fusion_layers():
    photos = preset("photos")
    own = with_own_words(photos)
    assert (own.model.text.trunk, own.model.text.layers, own.model.text.fusion_from) == ("none", 6, 3)
    fusion = [s.model.text.layers - s.model.text.fusion_from for s in (photos, own)]
    assert fusion[0] == fusion[1]
    raised = [s.amc.layer - s.model.text.fusion_from for s in (photos, own)]
    assert raised[0] == raised[1]
    assert replace(own, model=photos.model, amc=photos.amc) == photos
    with pytest.raises(ValueError, match="the tier 'scenes' does not read"):
        with_own_words(preset("scenes"))
