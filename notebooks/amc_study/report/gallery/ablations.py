"""Ablations: one thing about AMC is changed at a time, and everything else stays."""

from __future__ import annotations

import json

import pandas as pd

from amc_study.ablations.records import RECORDS
from amc_study.explain.claims import SIGNIFICANT
from amc_study.figures import FOLDER
from amc_study.report.gallery.captions import splits_of
from amc_study.report.gallery.results import Number, Results, listed, markdown, sentences, signed

CHANGED = {
    "terms": "The terms of the AMC loss, each alone (with all of the weight) and both.",
    "lambdas": "The weights λ1 : λ2 of L_mean and L_max, and the weight of both.",
    "margins": "The margins by which inside must win over outside: Δ₁ of the means, Δ₂ of the peaks.",
    "mean_form": "L_mean for each sample (the paper), or over a whole batch at once (its authors' code).",
    "layer": "The fusion layer whose heatmap is trained; it is read at the best one on validation, as always.",
    "map_size": "The side to which heatmap and mask are brought before they are compared.",
    "explanation": "What is taken for the explanation: attention times its gradient (GradCAM), or attention alone.",
    "box_share": "The share of finetuning pictures that have boxes; the others are read without.",
    "box_noise": "Boxes that are moved by up to a share of their own size, shrunk, or enlarged, once for a whole run.",
    "distillation": "The soft targets of ALBEF's masked language modelling: none, or by either reading of the formula.",
    "schedule": "The light schedule of the other ablations, a third of the epochs, beside the full one.",
}
GRID = {name: json.loads((FOLDER / f"ablation_{name}.json").read_text(encoding="utf-8")) for name in CHANGED}
SPLIT, ALL = "phrases", "all"
DIFFERENCE = ("difference", "difference_low", "difference_high")


def stem(name: str) -> str:
    """The name of an ablation's files."""
    return f"ablation_{name}"


def title(name: str) -> str:
    return GRID[name]["question"]


def introduction(results: Results) -> str:
    """What all ablations share, and what their numbers are traced to."""
    held = f" All records: [{RECORDS}]({RECORDS})." if (results.folder / RECORDS).is_file() else ""
    return (
        "Each ablation changes one thing of AMC's defaults and keeps the rest, phrases and seeds included. Every run "
        "is a run of [03_train](../notebooks/03_train.ipynb) and leaves a record, which every number here is traced "
        f"to: which phrases it answered, with settings, commit, seed, versions and seconds.{held} In the pictures the "
        "dotted line is the setting that the others are compared with. A difference is *sure* if its p is below 0.05 "
        "(images and seeds resampled, corrected over the settings; with one seed the spread between trainings is "
        "not in it); in the pictures hollow points are not sure and an arrow is far off to the left, in the tables "
        "sure differences are bold."
    )


def caption(name: str, results: Results) -> str:
    """What is changed, and which settings are for sure better or worse on `phrases` than the one compared with."""
    table, against = results.table(stem(name)), GRID[name]["against"]
    part = None if table is None else table[_of_phrases(table)].set_index("setting")
    if part is None or against not in part.index or len(part) < 2:
        return CHANGED[name]
    base = Number(*part.loc[against, ["accuracy", "ci_low", "ci_high"]])
    others = part.drop(index=against)
    sure = [f"*{setting}* {_points(row)}" for setting, row in others.iterrows() if row["p"] < SIGNIFICANT]
    same = [f"*{setting}*" for setting, row in others.iterrows() if not row["p"] < SIGNIFICANT]
    found = f"sure are {listed(sure)}" if sure else "no difference is sure"
    rest = f"; not sure: {listed(same)}" if sure and same else ""
    return sentences(CHANGED[name], f"Points on `{SPLIT}` against *{against}* ({base}): {found}{rest}.")


def _of_phrases(table: pd.DataFrame) -> pd.Series:
    return (table["split"] == SPLIT) & (table["concepts"] == ALL)


def _points(row: pd.Series) -> str:
    value, low, high = (signed(row[name]) for name in DIFFERENCE)
    return f"{value} [{low}, {high}]"


def rows(name: str, results: Results) -> str:
    """The settings with their accuracies and differences and, of the schedules, how alike they rank."""
    table = results.table(stem(name))
    if table is None:
        return ""
    lead = ["setting", "system"] if table["system"].nunique() > 1 else ["setting"]
    differences = table[_of_phrases(table)].set_index("setting").apply(_difference, axis=1)
    shown = splits_of(table, [*lead, "seeds"])
    shown["difference on phrases"] = shown["setting"].map(differences)
    ranks = results.table("ablation_ranks") if name == "schedule" else None
    if ranks is None:
        return markdown(shown)
    said = "How alike the two schedules rank the settings (`spearman`: 1 is the same order), from worst to best:"
    return f"{markdown(shown)}\n\n{said}\n\n{markdown(ranks)}"


def _difference(row: pd.Series) -> str:
    if pd.isna(row["difference"]):
        return "–"
    return f"**{_points(row)}**" if row["p"] < SIGNIFICANT else _points(row)
