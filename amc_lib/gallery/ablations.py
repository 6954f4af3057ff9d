"""Ablations: one thing about AMC is changed at a time, and everything else stays."""

from __future__ import annotations

import pandas as pd

from amc_lib import ablations
from amc_lib.gallery.captions import splits_of
from amc_lib.gallery.results import Number, Results, listed, markdown, sentences

GRID = {ablation.name: ablation for ablation in ablations.ablations("scenes")}
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
    "box_use": "The same boxes and steps, used to train a head that regresses a box (as in DETR).",
    "distillation": "The soft targets of ALBEF's masked language modelling: none, or by either reading of the formula.",
    "schedule": "The light schedule of the other ablations, a third of the epochs, beside the full one.",
}
INTRODUCTION = (
    "Each ablation changes one thing of AMC's defaults and keeps the rest, phrases and seeds included. Every run "
    "is a papermill run of [03_train](../notebooks/03_train.ipynb) and leaves a record under `figures/ablations/`: "
    "which phrases it answered, with settings, commit, seed, versions and seconds. In the pictures the dotted line is "
    "the setting that the others are compared with; hollow points do not differ from it for sure (p above 0.05; images "
    "and seeds resampled, corrected over the settings)."
)
SURE = 0.05
SPLIT, ALL = "phrases", "all"
DIFFERENCE = ("difference", "difference_low", "difference_high")


def stem(name: str) -> str:
    """The name of an ablation's files."""
    return f"ablation_{name}"


def title(name: str) -> str:
    return GRID[name].question


def caption(name: str, results: Results) -> str:
    """What is changed, and how far each setting is on `phrases` from the one that it is compared with."""
    table = results.table(stem(name))
    if table is None:
        return CHANGED[name]
    part = table[(table["split"] == SPLIT) & (table["concepts"] == ALL)].set_index("setting")
    against = GRID[name].against
    if against not in part.index:
        return CHANGED[name]
    base = Number(*part.loc[against, ["accuracy", "ci_low", "ci_high"]])
    others = part.drop(index=against)
    sure = [_points(setting, row) for setting, row in others.iterrows() if row["p"] < SURE]
    same = [setting for setting, row in others.iterrows() if not row["p"] < SURE]
    said = [
        f"{listed(sure)} points from it" if sure else "",
        f"no sure difference: {listed(same)}" if same else "",
    ]
    return sentences(
        CHANGED[name], f"On `{SPLIT}`, compared with *{against}* ({base}): {'; '.join(part for part in said if part)}."
    )


def _points(setting: str, row: pd.Series) -> str:
    value, low, high = (f"{row[name]:+.1f}".replace("-", "−") for name in DIFFERENCE)
    return f"*{setting}* {value} [{low}, {high}]"


def rows(name: str, results: Results) -> str:
    """The settings with their accuracies and, of the schedules, how alike they rank."""
    table = results.table(stem(name))
    if table is None:
        return ""
    lead = ["setting", "system"] if table["system"].nunique() > 1 else ["setting"]
    shown = markdown(splits_of(table, [*lead, "seeds"]))
    ranks = results.table("ablation_ranks") if name == "schedule" else None
    if ranks is None:
        return shown
    said = "How alike the two schedules rank the settings (`spearman`: 1 is the same order), worst to best:"
    return f"{shown}\n\n{said}\n\n{markdown(ranks)}"
