"""What is to be run: every setting of the grid with every seed, each training once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from amc_lib.checkpoints import weights_hash
from amc_lib.config import Settings
from amc_lib.parameters import resolve, unknown_name
from amc_lib.presets import preset
from amc_study.ablations.grid import Ablation, Read, Variant, ablations
from amc_study.provenance import settings_hash
from amc_study.runs import finetuning_settings, pretrained, run_identity

LIGHT = 3  # a light schedule has the tier's epochs divided by this


@dataclass(frozen=True)
class Experiment:
    """One finetuning and how it is read; `parameters` are flat names of 03."""

    parameters: Mapping[str, Any]
    read: Read = "gradcam"

    @property
    def settings(self) -> Settings:
        given = dict(self.parameters)
        settings = resolve(given.pop("tier"), "finetuning", given)
        return finetuning_settings(settings, pretrained(settings))

    @property
    def identity(self) -> dict[str, Any]:
        """What tells its training run from others."""
        return _identity(self.settings)

    @property
    def training_key(self) -> str:
        return settings_hash(self.identity)

    @property
    def key(self) -> str:
        """Experiments of the same key give the same answers."""
        return settings_hash(self.identity | {"read": self.read})


@cache
def _identity(settings: Settings) -> dict[str, Any]:
    return run_identity("finetuning", settings, weights_hash(pretrained(settings)))


def experiment(variant: Variant, seed: int, tier: str) -> Experiment:
    """The variant's run of one seed. Changes that say what the preset says already make no other run of it."""
    epochs = preset(tier).finetuning.epochs
    light = {"epochs": max(1, epochs // LIGHT)} if variant.light else {}
    return Experiment({"tier": tier, "seed": seed, **light, **variant.changes}, variant.read)


def experiments(grid: Iterable[Ablation], tier: str, seeds: int | None = None) -> list[Experiment]:
    """All runs of some ablations, each once, all settings of one seed before any of the next; at most `seeds` seeds."""
    grid = list(grid)
    most = max(ablation.seeds for ablation in grid)
    found: dict[str, Experiment] = {}
    for seed in range(most if seeds is None else min(most, seeds)):
        for ablation in grid:
            if seed < ablation.seeds:
                for variant in ablation.variants:
                    one = experiment(variant, seed, tier)
                    found.setdefault(one.key, one)
    return list(found.values())


def chosen(names: str | Sequence[str] | None, tier: str) -> tuple[Ablation, ...]:
    """The ablations of some names (a list, or one text with blanks between), in the grid's order; all for None."""
    grid = ablations(tier)
    if names is None:
        return grid
    wanted = names.split() if isinstance(names, str) else list(names)
    known = [ablation.name for ablation in grid]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(unknown_name(unknown[0], known).replace("parameter", "ablation", 1))
    return tuple(ablation for ablation in grid if ablation.name in wanted)


def overview(grid: Iterable[Ablation], tier: str, done: set[str]) -> pd.DataFrame:
    """For each ablation its question, settings, runs, and how many of those are on record (keys `done`)."""
    rows = []
    for ablation in grid:
        keys = {one.key for one in experiments([ablation], tier)}
        rows.append(
            {
                "ablation": ablation.name,
                "question": ablation.question,
                "settings": len(ablation.variants),
                "seeds": ablation.seeds,
                "runs": len(keys),
                "on record": len(keys & done),
            }
        )
    return pd.DataFrame(rows)
