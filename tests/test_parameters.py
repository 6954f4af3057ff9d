"""Flat names and plain values become typed settings; what does not fit is refused with a sentence that names it."""

from __future__ import annotations

import dataclasses
import json
import re
import types

import pytest

from amc_lib.config import AmcSettings, SceneSettings, Settings, TrainingSettings, VisionSettings
from amc_lib.files import plain
from amc_lib.parameters import from_mapping, notebook_parameters, replace, resolve, typed, unknown_name
from amc_lib.presets import preset

TIERS = pytest.mark.parametrize("tier", ["scenes", "paper"])
KNOWN = ("tier", "seed", "lambda1", "output")


def refused(message: str):
    return pytest.raises(ValueError, match=re.escape(message))


# ------------------------------------------------------------------------------------------------------------ resolve


@TIERS
def test_no_parameters_give_the_preset(tier):
    assert resolve(tier, "finetuning", {}) == preset(tier)


@TIERS
def test_none_keeps_the_preset(tier):
    names = ("lambda1", "alpha", "epochs", "learning_rate")
    assert resolve(tier, "finetuning", dict.fromkeys(names)) == preset(tier)


def test_each_name_reaches_its_place_and_nothing_else_moves():
    values = {"lambda1": 1.5, "layer": 4, "mlm_probability": 0.3, "epochs": 2, "seed": 7}
    settings, before = resolve("scenes", "finetuning", values), preset("scenes")
    assert settings.amc == dataclasses.replace(before.amc, lambda1=1.5, layer=4)
    assert settings.objective == dataclasses.replace(before.objective, mlm_probability=0.3)
    assert settings.finetuning == dataclasses.replace(before.finetuning, epochs=2, seed=7)
    assert (settings.pretraining, settings.model, settings.scenes) == (before.pretraining, before.model, before.scenes)


@pytest.mark.parametrize("more", [{"layer": 4, "box_share": 0.1}, '{"layer": 4, "box_share": 0.1}'])
def test_more_holds_further_names(more):
    settings = resolve("scenes", "finetuning", {"seed": 3, "layer": None, "more": more})
    assert (settings.amc.layer, settings.boxes.box_share, settings.finetuning.seed) == (4, 0.1, 3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("{", "more must be a mapping of names to values, got '{'"),
        ("[1]", "more must be a mapping of names to values, got [1]"),
        (3, "more must be a mapping of names to values, got 3"),
        ({"layr": 4}, "unknown parameter 'layr'; did you mean 'layer'?"),
        ({"seed": 4}, "'seed' is given twice, the second time in more"),
        ({"box_share": 2}, "box_share must lie in [0, 1], got 2"),
    ],
)
def test_more_that_does_not_fit_is_refused(more, message):
    with refused(message):
        resolve("scenes", "finetuning", {"seed": 3, "more": more})


def test_the_stage_decides_which_training_is_meant():
    settings = resolve("scenes", "pretraining", {"epochs": 3})
    assert settings.pretraining.epochs == 3
    assert settings.finetuning == preset("scenes").finetuning


@pytest.mark.parametrize(
    ("name", "meant"),
    [("lamda1", "lambda1"), ("lambda_1", "lambda1"), ("epoch", "epochs"), ("learningrate", "learning_rate")],
)
def test_misspelt_name_is_refused_with_the_one_that_was_meant(name, meant):
    with refused(f"unknown parameter {name!r}; did you mean {meant!r}? (known: "):
        resolve("scenes", "finetuning", {name: 1})


@pytest.mark.parametrize("name", ["model", "tier", "size", "object_width"])
def test_only_the_stage_and_the_losses_can_be_set_by_flat_names(name):
    with refused(f"unknown parameter {name!r}"):
        resolve("scenes", "finetuning", {name: None})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lambda1": "abc"}, "lambda1 must be a number, got 'abc'"),
        ({"lambda1": "1.0"}, "lambda1 must be a number, got '1.0'"),
        ({"lambda1": True}, "lambda1 must be a number, got True"),
        ({"lambda1": float("nan")}, "lambda1 must be a number, got nan"),
        ({"lambda2": -1}, "lambda2 must not be negative, got -1"),
        ({"delta1": [0.1]}, "delta1 must be a number, got [0.1]"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"epochs": "2"}, "epochs must be a whole number, got '2'"),
        ({"epochs": False}, "epochs must be a whole number, got False"),
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"seed": -3}, "seed must not be negative, got -3"),
        ({"learning_rate": 0}, "learning_rate must be positive, got 0"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"layer": 2}, "layer 2 has no cross-attention; fusion layers are 3-5"),
        ({"mean_form": "mean"}, "mean_form must be one of 'paper', 'official', got 'mean'"),
    ],
    ids=str,
)
def test_value_that_does_not_fit_is_refused_by_name(values, message):
    with refused(message):
        resolve("scenes", "finetuning", values)


def test_unknown_tier_is_refused():
    with refused("unknown tier 'photos'; known: scenes, paper"):
        resolve("photos", "finetuning", {})


# ---------------------------------------------------------------------------------------------------- replace and typed


def test_replace_checks_types_and_leaves_the_original():
    settings = AmcSettings()
    assert replace(settings, lambda1=1).lambda1 == 1.0
    assert settings == AmcSettings()
    with refused("layer must be a whole number, got 'top'"):
        replace(settings, layer="top")


def test_whole_numbers_become_floats_and_lists_tuples():
    settings = replace(SceneSettings(), object_width=[0, 1], rotation_degrees=10)
    assert settings.object_width == (0.0, 1.0)
    assert all(type(value) is float for value in (*settings.object_width, settings.rotation_degrees))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "objects must be 2 numbers, got [1]"),
        ([1, 2, 3], "objects must be 2 numbers, got [1, 2, 3]"),
        ("12", "objects must be 2 numbers, got '12'"),
        ([1, 2.5], "objects must be a whole number, got 2.5"),
    ],
)
def test_pair_that_is_none_is_refused(value, message):
    with refused(message):
        replace(SceneSettings(), objects=value)


@pytest.mark.parametrize(("value", "hint"), [(3, int), (0.5, float), ("a", str), (False, bool), (None, int | None)])
def test_a_value_of_its_type_passes_unchanged(value, hint):
    assert typed(value, hint, "name") == value


@pytest.mark.parametrize(("value", "hint"), [(1, bool), (1, str), ("a", float), (None, int), ("True", bool)])
def test_a_value_of_another_type_is_refused(value, hint):
    with refused(f"name must be a {'number' if hint is float else ''}"):
        typed(value, hint, "name")


# ------------------------------------------------------------------------------------------------------- from_mapping


@TIERS
def test_settings_survive_json(tier):
    settings = replace(preset(tier), amc=AmcSettings(lambda1=1 / 3, layer=preset(tier).amc.layer))
    again = from_mapping(Settings, json.loads(json.dumps(plain(settings))))
    assert again == settings
    assert type(again.scenes.objects) is tuple and type(again.model.temperature_range) is tuple


def test_fields_with_a_default_may_be_left_out():
    assert from_mapping(TrainingSettings, {"epochs": 2}) == TrainingSettings(epochs=2)


def test_missing_fields_are_named():
    values = plain(preset("scenes"))
    del values["amc"], values["tier"]
    with refused("settings lacks tier, amc"):
        from_mapping(Settings, values)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "vision", "widht"), 1, "settings.model.vision: unknown parameter 'widht'; did you mean 'width'?"),
        (
            ("model", "vision", "trunk"),
            "vgg",
            "settings.model.vision.trunk must be one of 'none', 'lite0', 'regions', got 'vgg'",
        ),
        (("model", "text", "layers"), "six", "settings.model.text.layers must be a whole number, got 'six'"),
        (("model", "vision", "width"), None, "settings.model.vision.width must be a whole number, got None"),
        (("amc",), [1, 2], "settings.amc must be a mapping, got [1, 2]"),
        (("tier",), "photos", "settings.tier must be one of 'scenes', 'paper', got 'photos'"),
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


@pytest.mark.parametrize("values", [None, 3, "text", [1]])
def test_something_that_is_no_mapping_is_refused(values):
    with refused(f"settings must be a mapping, got {values!r}"):
        from_mapping(VisionSettings, values)


# -------------------------------------------------------------------------------------------------------- unknown names


def test_unknown_name_lists_what_is_known_in_order():
    assert unknown_name("zzz", ["b", "a"]) == "unknown parameter 'zzz' (known: a, b)"
    assert unknown_name("seeds", {"seed": 0, "tier": 1}) == (
        "unknown parameter 'seeds'; did you mean 'seed'? (known: seed, tier)"
    )


def shell_namespace(**values: object) -> dict[str, object]:
    """What `globals()` looks like in a notebook before anything but its parameters has been set."""
    shell = {"In": [""], "Out": {}, "exit": object(), "quit": object(), "open": open, "get_ipython": lambda: None}
    hidden = {"__name__": "__main__", "_": "", "_i1": "x = 1", "__builtins__": types}
    return hidden | shell | {"json": json, "start": test_none_keeps_the_preset} | values


def test_notebook_parameters_are_what_the_first_cell_set():
    namespace = shell_namespace(tier="scenes", lambda1=0.5, output=None)
    assert notebook_parameters(namespace, KNOWN) == {"tier": "scenes", "lambda1": 0.5, "output": None}


@pytest.mark.parametrize(("name", "meant"), [("lamda1", "lambda1"), ("seeds", "seed")])
def test_stray_name_in_a_notebook_is_refused(name, meant):
    with refused(f"unknown parameter {name!r}; did you mean {meant!r}? (known: lambda1, output, seed, tier)"):
        notebook_parameters(shell_namespace(tier="scenes", **{name: 1}), KNOWN)


def test_names_may_come_from_a_generator():
    namespace = shell_namespace(tier="scenes", seed=1)
    assert notebook_parameters(namespace, (name for name in KNOWN)) == {"tier": "scenes", "seed": 1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lambda1": float("inf")}, "lambda1 must be a number, got inf"),
        ({"learning_rate": 10**400}, "learning_rate must be a number, got <whole number of more than 40 digits>"),
        ({"epochs": -(10**5000)}, "epochs must be a whole number, got <whole number of more than 40 digits>"),
        ({"seed": 2**32}, "seed must not exceed 4294967295, got 4294967296"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative, got -0.1"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative, got -1"),
        ({"map_size": 0}, "map_size must lie in 1 to 16384"),
        ({"precision": ["bf16"]}, "precision must be one of 'float32', 'bf16', got ['bf16']"),
        ({7: 1}, "unknown parameter 7"),
    ],
    ids=range(9),
)
def test_value_that_no_run_could_use_is_refused(values, message):
    with refused(message):
        resolve("scenes", "finetuning", values)


@pytest.mark.parametrize("name", ["patch_size", "heads", "width", "image_size"])
def test_size_of_nothing_is_refused(name):
    with refused(f"{name} must be positive, got 0"):
        VisionSettings(**{name: 0})


def test_tier_that_is_no_text_is_refused():
    with refused("unknown tier ['scenes']; known: scenes, paper"):
        resolve(["scenes"], "finetuning", {})
