"""Settings out of notebooks, command lines and files: typed settings that a run can use, or one sentence."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from typing import Any

import pytest
from hostile import JUNK, NASTY_TEXT, RUNS, drive, mutated, outcome
from hypothesis import strategies as st

from amc_lib.config import AmcSettings, ObjectiveSettings, Settings, TrainingSettings
from amc_lib.files import plain
from amc_lib.parameters import FINETUNING_PARAMETERS, from_mapping, resolve
from amc_lib.presets import preset
from amc_study import finetune as launch
from amc_study.notebook import start
from amc_study.provenance import settings_hash

FLAT = [field.name for kind in (AmcSettings, ObjectiveSettings, TrainingSettings) for field in dataclasses.fields(kind)]
VALUES = JUNK | st.floats() | st.integers() | st.sampled_from(["paper", "official", "bf16", "float32", "epoch"])


def check_settings(settings: Settings) -> None:
    """All numbers are finite and of their types, and the settings are what their own JSON says."""
    text = json.dumps(plain(settings), allow_nan=False)
    assert from_mapping(Settings, json.loads(text)) == settings and len(settings_hash(settings)) == 12
    for training in (settings.pretraining, settings.finetuning):
        assert training.epochs > 0 < training.batch_size and 0 < training.learning_rate < math.inf
        assert 0 <= training.seed < 2**32 and training.warmup_steps >= 0 <= training.weight_decay < math.inf
    assert all(0 <= getattr(settings.amc, name) < math.inf for name in ("lambda1", "lambda2", "delta1", "delta2"))
    assert settings.model.text.fusion_from <= settings.amc.layer < settings.model.text.layers


@RUNS
def test_flat_parameters(inputs):
    def law(tier: str, stage: str, parameters: dict[Any, Any]) -> None:
        settings, error = outcome(lambda: resolve(tier, stage, parameters))
        if settings is not None:
            check_settings(settings)
            set_ones = {name: value for name, value in parameters.items() if value is not None}
            flat = plain(settings.amc) | plain(settings.objective) | plain(getattr(settings, stage))
            assert {name: flat[name] for name in set_ones} == set_ones
        else:
            assert "tier" in error or any(str(name) in error or not str(name).isprintable() for name in FLAT)

    names = st.sampled_from(FLAT) | st.sampled_from(FLAT) | NASTY_TEXT | st.integers()
    parameters = st.dictionaries(names, VALUES, min_size=1, max_size=2)
    tiers = st.sampled_from(["scenes", "scenes", "paper", "", "SCENES", ["scenes"], None, 3])
    drive(inputs, law, tiers, st.sampled_from(["finetuning", "pretraining"]), parameters)


@RUNS
@pytest.mark.parametrize("tier", ["scenes", "paper"])
def test_settings_out_of_files(inputs, tier):
    def law(values: Any) -> None:
        settings, _ = outcome(lambda: from_mapping(Settings, values), "settings", *FLAT, *SIZES)
        if settings is not None:
            check_settings(settings)

    drive(inputs, law, mutated(plain(preset(tier)), VALUES))


SIZES = (
    "vision",
    "text",
    "patch_size",
    "fusion_from",
    "queue_size",
    "embed_dim",
    "positions",
    "temperature",
    "dropout",
)
SIZES += ("flip", "gray", "jitter", "mlp_ratio", "heads", "depth", "width", "momentum", "region_width", "drop_path")
SIZES += ("layers", "max_tokens", "vocab_size", "image_size", "objects")


@RUNS
def test_parameters_of_a_notebook(inputs):
    def law(namespace: dict[str, Any]) -> None:
        parameters, _ = outcome(lambda: start(namespace, "tier seed lambda1 output"))
        if parameters is not None:
            assert parameters["tier"] in ("scenes", "paper")

    names = st.sampled_from(["seed", "lambda1", "output", "tier", "lamda1", "x y", "\ud800", "é"])
    drive(inputs, law, st.dictionaries(names, VALUES, max_size=3).map(lambda values: {"tier": "scenes"} | values))


@RUNS
def test_options_of_a_command_line(inputs, monkeypatch, capsys):
    run: list[Settings] = []

    def finetune(settings: Settings, init: str | None, output: str | None) -> Any:
        run.append(settings)
        raise ValueError("stopped before it began")

    monkeypatch.setattr(launch, "finetune", finetune)

    def law(options: dict[str, str]) -> None:
        run.clear()
        with pytest.raises(SystemExit) as stopped:
            launch.main([f"--{name}={value}" for name, value in options.items()])
        assert stopped.value.code == "stopped before it began" if run else stopped.value.code
        for settings in run:
            check_settings(settings)

    texts = NASTY_TEXT | VALUES.map(_written) | st.sampled_from(["(" * 300, "[" * 10_000, "{[]: 1}", "1" * 5000, "1j"])
    drive(inputs, law, st.dictionaries(st.sampled_from([*FINETUNING_PARAMETERS, "lamda1"]), texts, max_size=2))


def _written(value: Any) -> str:
    return "9" * 401 if isinstance(value, int) and abs(value) > 10**300 else str(value)


def test_law_would_notice_a_setting_that_cannot_be():
    settings = copy.deepcopy(preset("scenes"))
    object.__setattr__(settings.finetuning, "seed", 2**32)
    with pytest.raises((AssertionError, ValueError)):
        check_settings(settings)
