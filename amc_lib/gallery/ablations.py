"""Ablations: one thing about AMC is changed at a time, and everything else stays."""

from __future__ import annotations

import pandas as pd

from amc_lib.gallery.captions import splits_of
from amc_lib.gallery.results import Number, Results, listed, markdown, sentences

ABLATIONS = {
    "terms": ("Which term of the loss", "The terms of the AMC loss, each alone and together."),
    "lambdas": ("How heavy the loss", "The weights λ1 and λ2 of its terms."),
    "margins": ("How wide the margins", "The margins Δ1 and Δ2 by which inside must win over outside."),
    "layer": ("Which layer explains", "The fusion layer whose attention gives the heatmap."),
    "explanation": ("Which explanation", "What is taken as the explanation that the loss corrects."),
    "box_use": ("How boxes are used", "What the loss does with a box."),
    "box_share": ("How many boxes", "The share of finetuning phrases that come with their box."),
    "box_noise": ("How exact the boxes", "Boxes that are moved and resized at random."),
    "mean_form": (
        "A mean per sample or per batch",
        "L_mean as the paper writes it, and as the authors' code has it.",
    ),
    "distillation": ("How words are distilled", "The soft targets of ALBEF's word loss: over words or over positions."),
    "map_size": ("How fine the mask", "The side of heatmap and mask in the loss."),
    "schedule": ("How long", "The schedule of finetuning."),
}
SPLIT, ALL = "phrases", "all"


def stem(name: str) -> str:
    """The name of an ablation's files."""
    return f"ablation_{name}"


def caption(name: str, results: Results) -> str:
    """What is changed, and which settings are highest and lowest on `phrases`, for each system in the table."""
    table = results.table(stem(name))
    said = [ABLATIONS[name][1]]
    if table is not None:
        part = table[(table["split"] == SPLIT) & (table["concepts"] == ALL)]
        several = part["system"].nunique() > 1
        said += [
            _read_off(of_system, f" of {system}" if several else "")
            for system, of_system in part.groupby("system", sort=False)
            if len(of_system) > 1
        ]
    return sentences(*said)


def _read_off(table: pd.DataFrame, whose: str) -> str:
    numbers = {str(row.setting): Number(row.accuracy, row.ci_low, row.ci_high) for row in table.itertuples()}
    best, worst = (choose(numbers, key=lambda setting: numbers[setting].value) for choose in (max, min))
    near = [name for name, number in numbers.items() if name != best and not number.is_apart_from(numbers[best])]
    overlap = (
        f"intervals that overlap with the highest one's: {listed(near)}" if near else "no interval overlaps with it"
    )
    return (
        f"Pointing on `{SPLIT}`{whose} is highest with {best} ({numbers[best]}) and lowest with {worst} "
        f"({numbers[worst]}); {overlap}."
    )


def rows(name: str, results: Results) -> str:
    """The settings with their accuracies."""
    table = results.table(stem(name))
    if table is None:
        return ""
    lead = ["setting", "system"] if table["system"].nunique() > 1 else ["setting"]
    return markdown(splits_of(table, [*lead, "seeds"]))
