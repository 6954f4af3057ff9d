"""Records as tables: table 1's columns for every setting, paired differences, and whether schedules rank alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from amc_study.ablations.experiments import experiment
from amc_study.ablations.grid import Ablation, Variant
from amc_study.ablations.records import Record
from amc_study.comparison import accuracy_table
from amc_study.statistics import holm, paired_difference
from amc_study.tiers import Split

Hits = dict[int, dict[str, np.ndarray]]  # by seed and split: bool [P]

CONCEPTS = {"all": None, "boxed": True, "unboxed": False}  # -> whether such phrases' concepts have boxes in finetuning
DIFFERENCE = ("difference", "difference_low", "difference_high", "p")


def ablation_table(
    ablation: Ablation, records: Mapping[str, Record], banks: Mapping[str, Split], tier: str
) -> pd.DataFrame:
    """A row for each setting, split and group of concepts, of the seeds that are on record.

    Columns: setting, system, split, concepts, accuracy, ci_low, ci_high (percent, as in table 1), phrases, seeds, and
    the paired difference from the setting `ablation.against` in points, over the seeds that both have: difference,
    difference_low, difference_high, p (after Holm, over the settings of that split and group). A setting without any
    record is left out; the table is empty where there is none at all.
    """
    of_settings = {variant.label: _hits(variant, ablation.seeds, records, tier) for variant in ablation.variants}
    hits = {label: of_seeds for label, of_seeds in of_settings.items() if of_seeds}
    if not hits:
        return pd.DataFrame()
    stacked = {label: {split: _stacked(of_seeds, split) for split in banks} for label, of_seeds in hits.items()}
    table = accuracy_table(stacked, banks).rename(columns={"system": "setting"})
    systems = {variant.label: _system(variant.changes) for variant in ablation.variants}
    table.insert(1, "system", table["setting"].map(systems))
    names = {bank.title: name for name, bank in banks.items()}
    differences = [_difference(row, hits, ablation.against, names[row.split], banks) for row in table.itertuples()]
    table = pd.concat([table, pd.DataFrame(differences, columns=DIFFERENCE, index=table.index, dtype=float)], axis=1)
    for _, group in table.dropna(subset="p").groupby(["split", "concepts"]):
        table.loc[group.index, "p"] = holm(group["p"].tolist()).round(4)
    return table


def _hits(variant: Variant, seeds: int, records: Mapping[str, Record], tier: str) -> Hits:
    keys = {seed: experiment(variant, seed, tier).key for seed in range(seeds)}
    return {seed: records[key].hits for seed, key in keys.items() if key in records}


def _stacked(of_seeds: Hits, split: str, seeds: Iterable[int] | None = None) -> np.ndarray:
    """Hits [S, P] of a split, of all seeds or some."""
    return np.stack([of_seeds[seed][split] for seed in (of_seeds if seeds is None else seeds)])


def _system(changes: Mapping[str, Any]) -> str:
    """The system that a setting is a form of."""
    without = changes.get("lambda1") == changes.get("lambda2") == 0.0
    return "ALBEF finetuned" if without else "AMC"


def _difference(
    row: Any, hits: Mapping[str, Hits], against: str, split: str, banks: Mapping[str, Split]
) -> dict[str, float]:
    """The paired difference of a row of the table; empty where there is none to take."""
    common = [seed for seed in hits[row.setting] if seed in hits.get(against, {})]
    if row.setting == against or not common:
        return {}
    wanted, regions = CONCEPTS[row.concepts], banks[split].all_regions()
    taken = np.array([wanted is None or region.annotated == wanted for region in regions])
    ids = [region.image_id for region, take in zip(regions, taken, strict=True) if take]
    pair = (_stacked(hits[label], split, common)[:, taken] for label in (row.setting, against))
    found = paired_difference(*pair, ids)
    ends = [round(value, 2) for value in (found.value, found.low, found.high)]
    return dict(zip(DIFFERENCE, (*ends, found.p), strict=True))


def rank_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Of the ablation `schedule`: for each split, how alike the light and the full schedule order the settings.

    Columns: split, concepts, settings, spearman (rank correlation of accuracies), light and full (settings from worst
    to best).
    """
    table = table.assign(name=table["setting"].str.rpartition(", ")[0], length=table["setting"].str.rpartition(", ")[2])
    rows = []
    for (split, concepts), part in table.groupby(["split", "concepts"], sort=False):
        wide = part.pivot(index="name", columns="length", values="accuracy").dropna()
        if {"light", "full"} <= set(wide) and len(wide) > 1:
            orders = {length: " < ".join(wide[length].sort_values().index) for length in ("light", "full")}
            correlation = round(float(spearmanr(wide["light"], wide["full"]).statistic), 2)
            rows.append(
                {"split": split, "concepts": concepts, "settings": len(wide), "spearman": correlation, **orders}
            )
    return pd.DataFrame(rows)


def ablation_provenance(ablation: Ablation, records: Mapping[str, Record], tier: str) -> dict[str, Any]:
    """For each setting its runs on record: seed -> key of the record, with the commits and seconds of training."""
    runs: dict[str, dict[str, str]] = {}
    commits, seconds = set(), 0.0
    for variant in ablation.variants:
        for seed in range(ablation.seeds):
            key = experiment(variant, seed, tier).key
            if key in records:
                training = records[key].content["training"]
                runs.setdefault(variant.label, {})[str(seed)] = key
                commits.add(str(training["commit"]))
                seconds += training["seconds"]
    return {"records": runs, "training_commits": sorted(commits), "training_seconds": round(seconds)}
