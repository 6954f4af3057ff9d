"""Records as tables: the accuracy of every setting, paired differences, and whether schedules rank alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from scipy.stats import spearmanr

from amc_lib.presets import preset
from amc_study.ablations.experiments import Ablation, Grid, experiment, experiments
from amc_study.ablations.records import Records
from amc_study.runs import run_identity
from amc_study.statistics import holm
from amc_study.table import accuracy, answer_rows, paired
from amc_study.tiers import Split

ROUNDING = dict.fromkeys(("accuracy", "ci_low", "ci_high", "difference", "difference_low", "difference_high"), 2) | {
    "p": 4
}
COLUMNS = ["setting", "system", "split", "concepts", "accuracy", "ci_low", "ci_high", "phrases", "seeds"]
COLUMNS += ["difference", "difference_low", "difference_high", "p"]


def hits_table(ablation: Ablation, records: Records, splits: Mapping[str, Split], tier: str) -> pd.DataFrame:
    """The tidy table (`amc_study.table`) of an ablation's runs on record, each setting as a system of its own."""
    parts = [
        answer_rows(label, seed, split.title, split.all_regions(), records[key]["hits"][name])
        for label, changes in ablation.settings.items()
        for seed in range(ablation.seeds)
        if (key := experiment(changes, seed, tier).key) in records
        for name, split in splits.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def ablation_table(ablation: Ablation, records: Records, splits: Mapping[str, Split], tier: str) -> pd.DataFrame:
    """A row for each setting, split and group of concepts, over the seeds on record; empty where there is none.

    Columns: setting, system, split, concepts, accuracy, ci_low, ci_high (percent), phrases, seeds, and the paired
    difference from the setting `ablation.against` over the seeds that both have, in points: difference,
    difference_low, difference_high, p (after Holm, over the settings of that split and group).
    """
    hits, panels = hits_table(ablation, records, splits, tier), []
    for split in hits["split"].unique() if len(hits) else ():
        part = hits[hits["split"] == split]
        groups = {"all": part, "boxed": part[part["annotated"]], "unboxed": part[~part["annotated"]]}
        for concepts, group in groups.items():
            if len(group) and not (concepts == "boxed" and len(group) == len(part)):
                panels.append(_panel(group, ablation.against).assign(concepts=concepts))
    if not panels:
        return pd.DataFrame()
    table = pd.concat(panels, ignore_index=True).rename(columns={"system": "setting"})
    table["system"] = [system(ablation.settings[label]) for label in table["setting"]]
    return table[COLUMNS]


def _panel(answers: pd.DataFrame, against: str) -> pd.DataFrame:
    """The rows of one split and group of concepts, still with the setting as `system`."""
    rows = accuracy(answers, by=["system", "split"])
    found = {
        label: paired(answers, label, against)
        for label in rows["system"]
        if label != against and against in set(rows["system"])
    }
    corrected = dict(zip(found, holm([difference["p"] for difference in found.values()]), strict=True))
    for column, name in (("difference", "difference"), ("difference_low", "ci_low"), ("difference_high", "ci_high")):
        rows[column] = rows["system"].map({label: difference[name] for label, difference in found.items()})
    return rows.assign(p=rows["system"].map(corrected))


def system(changes: Mapping[str, Any]) -> str:
    """The system that a setting is a form of: without L_amc, or without boxes, it is the control."""
    no_loss = changes.get("lambda1") == changes.get("lambda2") == 0
    return "ALBEF finetuned" if no_loss or changes.get("box_share") == 0 else "AMC"


def rank_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How alike the light and the full schedule order the settings named "NAME, light" and "NAME, full".

    A row for each split and group of concepts: spearman (rank correlation of the accuracies, which `table` must hold
    unrounded), light and full (settings from worst to best).
    """
    table = table.assign(name=table["setting"].str.rpartition(", ")[0], length=table["setting"].str.rpartition(", ")[2])
    rows = []
    for (split, concepts), part in table.groupby(["split", "concepts"], sort=False):
        wide = part.pivot(index="name", columns="length", values="accuracy").dropna()
        if {"light", "full"} <= set(wide) and len(wide) > 1:
            orders = {length: " < ".join(wide[length].sort_values().index) for length in ("light", "full")}
            correlation = float(spearmanr(wide["light"], wide["full"]).statistic)
            rows.append(
                {"split": split, "concepts": concepts, "settings": len(wide), "spearman": correlation, **orders}
            )
    return pd.DataFrame(rows)


def overview(grid: Grid, tier: str, records: Records) -> pd.DataFrame:
    """For each ablation its settings, seeds, runs, those on record, and how many of these other code has trained."""
    rows, code = [], run_identity("finetuning", preset(tier), None)["code"]
    for name, ablation in grid.items():
        keys = {one.key for one in experiments({name: ablation}, tier)}
        found = [records[key]["training"] for key in keys if key in records]
        counts = {"settings": len(ablation.settings), "seeds": ablation.seeds, "runs": len(keys)}
        other = sum(training.get("code") != code for training in found)
        rows.append({"ablation": name, **counts, "on record": len(found), "by other code": other})
    return pd.DataFrame(rows)


def ablation_provenance(ablation: Ablation, records: Records, tier: str) -> dict[str, Any]:
    """Question and comparison of an ablation, the commits that trained its runs, and their seconds."""
    keys = {one.key for one in experiments({"": ablation}, tier)}
    training = [records[key]["training"] for key in keys if key in records]
    return {
        "question": ablation.question,
        "against": ablation.against,
        "runs": len(training),
        "training_commits": sorted({str(one["commit"]) for one in training}),
        "training_seconds": round(sum(one["seconds"] for one in training)),
    }
