"""The runs of a grid: every setting of every ablation with every seed, each training once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from amc_lib.checkpoints import weights_hash
from amc_lib.config import Settings
from amc_lib.files import plain
from amc_lib.parameters import resolve, unknown_name
from amc_lib.presets import preset
from amc_study.identity import OLDER, read_by
from amc_study.provenance import settings_hash
from amc_study.runs import finetuning_settings, pretrained

LIGHT = 3  # the light schedule has the tier's epochs divided by this


@dataclass(frozen=True)
class Ablation:
    """A question and the settings that answer it.

    settings: label -> what it changes of AMC's defaults, by the flat names of notebook 03. Two more names may stand
    there: `read`, an `Explanation` ("gradcam" by default), is the map whose peak is the answer; `schedule` is "light"
    (default; a third of the tier's epochs) or "full". against: the label that the others are compared with.
    """

    question: str
    settings: Mapping[str, Mapping[str, Any]]
    against: str
    seeds: int = 3

    def __post_init__(self) -> None:
        if self.against not in self.settings:
            raise ValueError(f"{self.question}: no setting is named {self.against!r}")


Grid = Mapping[str, Ablation]  # by the name of its files, figures/ablation_NAME.*


@dataclass(frozen=True)
class Experiment:
    """One finetuning, and the map that is read of it; `parameters` are flat names of notebook 03."""

    parameters: Mapping[str, Any]
    read: str = "gradcam"

    @cached_property
    def settings(self) -> Settings:
        given = dict(self.parameters)
        settings = resolve(given.pop("tier"), "finetuning", given)
        return finetuning_settings(settings, pretrained(settings))

    @property
    def key(self) -> str:
        """Twelve hex digits; experiments of the same key give the same answers."""
        return _key(self.settings, self.read)

    @property
    def training_key(self) -> str:
        """The same for experiments that differ only in what is read."""
        return _key(self.settings, "")

    @property
    def title(self) -> str:
        """Its seed, what it changes, and how it is read."""
        changes = {name: value for name, value in self.parameters.items() if name not in ("tier", "seed")}
        listed = ", ".join(f"{name} {value}" for name, value in changes.items()) or "defaults"
        return f"seed {self.parameters['seed']}, {listed}, {self.read} read"


@cache
def _key(settings: Settings, read: str) -> str:
    return run_key(plain(settings), weights_hash(pretrained(settings)), read, settings)


def run_key(stored: Mapping[str, Any], init_sha256: str, read: str, today: Settings) -> str | None:
    """The key of a run whose plain settings are `stored`; names that settings no longer have do not count.

    None where `stored` lacks a name that `today`'s settings have and `OLDER` does not: that run did not know it.
    """
    known, names = OLDER | read_by("finetuning", stored), read_by("finetuning", plain(today))
    if not names.keys() <= known.keys():
        return None
    return settings_hash({"init_sha256": init_sha256, "read": read} | {name: known[name] for name in names})


def experiment(changes: Mapping[str, Any], seed: int, tier: str) -> Experiment:
    """The run of one setting and seed."""
    named = {"read": "gradcam", "schedule": "light", "tier": tier, "seed": seed} | changes
    read = named.pop("read")
    if named.pop("schedule") == "light":
        named = {"epochs": max(1, preset(tier).finetuning.epochs // LIGHT)} | named
    return Experiment(named, read)


def experiments(grid: Grid, tier: str, seeds: int | None = None) -> list[Experiment]:
    """All runs of a grid, each once, all settings of a seed before any of the next; at most `seeds` seeds."""
    most = max(ablation.seeds for ablation in grid.values())
    runs = (
        experiment(changes, seed, tier)
        for seed in range(min(most, seeds or most))
        for ablation in grid.values()
        for changes in ablation.settings.values()
        if seed < ablation.seeds
    )
    by_key: dict[str, Experiment] = {}
    for run in runs:
        by_key.setdefault(run.key, run)
    return list(by_key.values())


def select(grid: Grid, names: str | Iterable[str] | None) -> dict[str, Ablation]:
    """The ablations of some names (a list, or one text with blanks between), in the grid's order; all for None."""
    wanted = list(grid if names is None else names.split() if isinstance(names, str) else names)
    for name in wanted:
        if name not in grid:
            raise ValueError(unknown_name(name, grid).replace("parameter", "ablation", 1))
    return {name: ablation for name, ablation in grid.items() if name in wanted}
