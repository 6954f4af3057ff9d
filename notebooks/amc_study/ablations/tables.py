"""Records as tables: the accuracy of every setting, paired differences, and whether schedules rank alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from amc_lib.presets import preset
from amc_study.ablations.experiments import Ablation, Grid, experiment, experiments
from amc_study.ablations.records import Records
from amc_study.identity import run_identity
from amc_study.statistics import holm
from amc_study.table import accuracy, answer_rows, paired
from amc_study.tiers import Split

DIFFERENCE = {"difference": "difference", "ci_low": "difference_low", "ci_high": "difference_high", "p": "p"}
COLUMNS = ["setting", "system", "split", "concepts", "accuracy", "ci_low", "ci_high", "phrases", "seeds"]
COLUMNS += DIFFERENCE.values()
GAIN = ["gain", "gain_low", "gain_high", "gain_difference", "gain_difference_low", "gain_difference_high"]
ROUNDING = dict.fromkeys(("accuracy", "ci_low", "ci_high", *DIFFERENCE.values(), *GAIN), 2) | {"p": 4}


def hits_table(ablation: Ablation, records: Records, splits: Mapping[str, Split], tier: str) -> pd.DataFrame:
    """The tidy table (`amc_study.table`) of an ablation's runs on record, each setting as a system of its own."""
    parts = [
        answer_rows(
            label,
            seed,
            split.title,
            split.all_regions(),
            records[key]["hits"][name],
            hit_random=records[key]["random"].get(name, np.nan),
        )
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
    difference_low, difference_high, p (after Holm, over the settings of that split and group). Where a random phrase
    was asked too, `gain` is what the own phrase adds to it ("own − random"), with its interval and, as gain_difference,
    that of its paired difference.
    """
    hits, panels = hits_table(ablation, records, splits, tier), []
    for _, part in hits.groupby("split", sort=False) if len(hits) else ():
        groups = {"all": part, "boxed": part[part["annotated"]], "unboxed": part[~part["annotated"]]}
        for concepts, group in groups.items():
            if concepts == "all" or 0 < len(group) < len(part):
                panels.append(_panel(group, ablation.against).assign(concepts=concepts))
    if not panels:
        return pd.DataFrame()
    table = pd.concat(panels, ignore_index=True)
    table["system"] = [system(ablation.settings[label]) for label in table["setting"]]
    return table[[*COLUMNS, *(column for column in GAIN if column in table)]]


def _panel(answers: pd.DataFrame, against: str) -> pd.DataFrame:
    """The rows of one split and group of concepts."""
    rows = accuracy(answers, by=["system", "split"]).rename(columns={"system": "setting"})
    labels = list(rows["setting"])
    others = [label for label in labels if label != against and against in labels]
    found = pd.DataFrame([paired(answers, label, against) for label in others], others, list(DIFFERENCE))
    found["p"] = holm(found["p"])
    asked = answers.dropna(subset="hit_random").assign(gain=lambda table: table["hit"] - table["hit_random"])
    rows = rows.join(found.rename(columns=DIFFERENCE), on="setting")
    return rows.join(_gains(asked, against), on="setting") if len(asked) else rows


def _gains(asked: pd.DataFrame, against: str) -> pd.DataFrame:
    """GAIN by setting, of one split and group of concepts, for the runs that were asked random phrases too."""
    rows = accuracy(asked, by=["system"], column="gain").set_index("system")[["accuracy", "ci_low", "ci_high"]]
    others = [label for label in rows.index if label != against and against in rows.index]
    found = [paired(asked, label, against, "gain") for label in others]
    found = pd.DataFrame(found, others, ["difference", "ci_low", "ci_high"]).set_axis(GAIN[3:], axis=1)
    return rows.set_axis(GAIN[:3], axis=1).join(found)


def system(changes: Mapping[str, Any]) -> str:
    """The system that a setting is a form of: without L_amc, or without boxes, it is the control."""
    no_loss = changes.get("lambda1") == changes.get("lambda2") == 0
    return "ALBEF finetuned" if no_loss or changes.get("box_share") == 0 else "AMC"


def rank_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How alike the light and the full schedule order the settings named "NAME, light" and "NAME, full".

    A row for each split and group of concepts: spearman (rank correlation of the accuracies, which `table` must hold
    unrounded), light and full (settings from worst to best).
    """
    names, rows = table["setting"].str.rpartition(", "), []
    table = table.assign(name=names[0], length=names[2])
    for (split, concepts), part in table.groupby(["split", "concepts"], sort=False):
        wide = part.pivot(index="name", columns="length", values="accuracy").dropna()
        if {"light", "full"} <= set(wide) and len(wide) > 1:
            row = {"split": split, "concepts": concepts, "settings": len(wide)}
            row["spearman"] = float(spearmanr(wide["light"], wide["full"]).statistic)
            rows.append(row | {length: " < ".join(wide[length].sort_values().index) for length in ("light", "full")})
    return pd.DataFrame(rows)


def _trainings(ablation: Ablation, records: Records, tier: str) -> list[dict[str, Any]]:
    """What the records say of the training of an ablation's runs."""
    return [records[one.key]["training"] for one in experiments({"": ablation}, tier) if one.key in records]


def overview(grid: Grid, tier: str, records: Records) -> pd.DataFrame:
    """For each ablation its settings, seeds, runs, those on record, and how many of these other code has trained."""
    rows, code = [], run_identity("finetuning", preset(tier), None)["code"]
    for name, ablation in grid.items():
        trained = _trainings(ablation, records, tier)
        row = {"ablation": name, "settings": len(ablation.settings), "seeds": ablation.seeds}
        row |= {"runs": len(experiments({name: ablation}, tier)), "on record": len(trained)}
        rows.append(row | {"by other code": sum(training.get("code") != code for training in trained)})
    return pd.DataFrame(rows)


def ablation_provenance(ablation: Ablation, records: Records, tier: str) -> dict[str, Any]:
    """Question and comparison of an ablation, the commits that trained its runs, and their seconds."""
    trained = _trainings(ablation, records, tier)
    return {
        "question": ablation.question,
        "against": ablation.against,
        "runs": len(trained),
        "training_commits": sorted({str(training["commit"]) for training in trained}),
        "training_seconds": round(sum(training["seconds"] for training in trained)),
    }
