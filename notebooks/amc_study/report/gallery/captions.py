"""What the figures of the study show and what can be read off them. Each function gives sentences for one of them."""

from __future__ import annotations

import pandas as pd

from amc_study.explain.claims import CONFIRMED, NOT_TESTABLE, THE_POSTER
from amc_study.report.gallery.results import Results, across, listed, markdown, sentences, with_interval
from amc_study.report.readme import COLUMNS, accuracy_block

SPLITS = ("phrases", "referring A", "referring B")
POINTED = ("ALBEF", "ALBEF finetuned", "AMC", "VMRM")


def introduction(results: Results) -> str:
    """The study in a few paragraphs, for somebody who has read nothing else."""
    pretraining = results.settings("accuracy", "scenes").get("scenes", {}).get("pretrain")
    seen = f"{pretraining:,} drawn scenes with captions" if pretraining else "drawn scenes with captions"
    return f"""\
A vision-language model that tells whether a phrase matches a picture can be asked to *explain* its answer: the
gradient of the match score with respect to its attention is a heatmap over the picture. Here such a model (ALBEF) is
finetuned so that this heatmap lies inside the box of what the phrase means: the loss is **AMC**, *Attention Map
Consistency*. The question is whether its heatmaps then point at the right thing more often. *Pointing accuracy* is
the share of phrases for which the heatmap's peak lies strictly inside one of the phrase's boxes.

- **ALBEF**: the pretrained model, {seen}, no boxes.
- **ALBEF finetuned**: the control, finetuned on the same region phrases, steps and seeds as AMC, without the boxes.
- **AMC**: the same with the boxes.
- **VMRM**: a rival that takes a detector's proposals and matches them with the phrase; the centre of the best is its
  point.

Pictures are scenes drawn from pictograms (OpenMoji, CC BY-SA 4.0), so the numbers say what the loss does at this
scale, not what it does on photographs. The splits: `phrases` (noun phrases out of captions), `referring A` (people
and animals beside another of their kind) and `referring B` (the same with everything else). Some concepts are *never
boxed*: no box of theirs is seen in finetuning. Intervals in brackets are 95 % intervals, bootstrap over images.
{certainty(results)}

{in_short(results)}""".rstrip()


def certainty(results: Results) -> str:
    """How a difference between two systems is judged, by what is there."""
    if results.table("claims") is None:
        return "Two numbers are *apart* if their intervals have no point in common."
    return """\
A difference between two systems is *paired*: both answer the same phrases, so its own 95 % interval can be above 0
while the intervals of the two accuracies overlap."""


def in_short(results: Results) -> str:
    """The questions of the study with the numbers that answer them."""
    asked = {
        "Does the loss make the heatmaps point better than the same finetuning without boxes?": ("ALBEF finetuned",),
        "Does it also for things that never had a box?": ("ALBEF finetuned", "phrases", "unboxed"),
        "Is that better than the way with a detector?": ("VMRM",),
    }
    said = [
        f"- {question} **{results.better('AMC', *of_rival)}**: AMC is {results.lead('AMC', *of_rival)}."
        for question, of_rival in asked.items()
        if results.lead("AMC", *of_rival)
    ]
    head = f"**In short**: on `phrases`, AMC points at the right thing for {results.accuracy('AMC')} of the phrases."
    return "\n".join([head, "", *said]) if said else ""


def two_ways(results: Results) -> str:
    account = results.account("two_ways") or {}
    where = f" on {account['processor']}, {account['threads']} threads" if "processor" in account else ""
    return (
        "One phrase answered both ways, with real outputs. Above, the detector-based system: all proposals, the "
        "scores of the best, the centre of the first. Below, the explanation: the heatmap of the match score, how "
        f"sharp it is, its peak. Dark outlines are what the phrase means; times are measured{where}. The phrase is "
        "one that all systems answer, the second of the examples below: this shows how the two ways differ, not which "
        "is better. That is in table 1."
    )


def method(results: Results) -> str:
    amc = results.settings("method").get("amc", {})
    values = (
        f" Here λ1 = {amc['lambda1']:g}, λ2 = {amc['lambda2']:g}, Δ1 = {amc['delta1']:g}, Δ2 = {amc['delta2']:g}."
        if amc
        else ""
    )
    return (
        "The method with a real picture and heatmap. Picture and phrase are encoded and fused; the match score, "
        "differentiated with respect to the cross-attention, gives the heatmap *A* (GradCAM). Two terms correct it: "
        "*L_mean* asks for more heat inside the mask *M* of the box than outside, *L_max* for the peak to be inside. "
        "ALBEF's own three losses stay: *L_itc* (a picture and its phrase get similar vectors), *L_itm* (does this "
        f"phrase match this picture?) and *L_mlm* (which word is hidden?).{values}"
    )


def scenes(results: Results) -> str:
    table = results.table("scenes_splits")
    counted = ""
    if table is not None:
        rows = table.set_index("split")
        asked = rows.drop(index=["train", "val"])
        counted = (
            f"Finetuning reads {rows.images['train']:,} pictures with {rows.phrases['train']:,} phrases. Evaluation "
            f"asks {asked.phrases.sum():,} phrases of {asked.images.sum():,} pictures, {asked.unboxed.sum():,} of "
            "them about concepts that never had a box."
        )
    return sentences(
        "Pictures of the evaluation splits with numbered boxes, and the phrases that the numbers stand for; dashed "
        "boxes belong to concepts that are never boxed in finetuning. Things vary in size, rotation and colour, "
        "cover each other, and stand among shapes that nothing names.",
        counted,
        "In the table, phrases by what they mean: one object, a group, a part of an object; *unboxed*: of concepts "
        "that never had a box; *left out*: records that could not be read."
        if counted
        else "",
    )


def accuracy(results: Results) -> str:
    table = results.table("table1")
    if table is None:
        return "Pointing accuracy by system, split and group of concepts, with intervals."
    asked = [(split, "all") for split in SPLITS] + [("phrases", "unboxed")]
    parts = [_read_off(results, *of_asked) for of_asked in asked if results.accuracy("AMC", *of_asked)]
    return "\n".join(
        [
            "Table 1 as a picture: a panel for each group of concepts, a row for each system, whiskers for the "
            "intervals. *chance* is the share of the picture that the boxes cover, *centre* points at the middle, "
            "*oracle* takes the best of the detector's proposals: the bound of any system that chooses among them. In "
            "the table also what a system costs: *weights* in millions, and milliseconds (*ms*) for a picture's first "
            "phrase + for each further one. What can be read off:",
            "",
            *parts,
        ]
    )


def _read_off(results: Results, split: str, concepts: str) -> str:
    """How AMC stands to the other systems on a split."""
    leads = [results.lead("AMC", system, split, concepts) for system in ("ALBEF", "ALBEF finetuned", "VMRM")]
    those = " of concepts that never had a box" if concepts == "unboxed" else ""
    return f"- `{split}`{those}: AMC {listed([str(results.accuracy('AMC', split, concepts)), *filter(None, leads)])}."


def table1(results: Results) -> str:
    table, costs = results.table("table1"), results.table("costs")
    costs = pd.DataFrame(columns=["system"]) if costs is None else costs
    return accuracy_block(table, costs)


def kinds(results: Results) -> str:
    wide = results.table("kinds").pivot(index="system", columns="kind", values="accuracy")
    hardest = wide.idxmin(axis=1).unique()
    low = wide[hardest[0]]
    common = (
        f"Hardest for every system: {hardest[0]}s, {low.min():.1f} to {low.max():.1f} % right."
        if len(hardest) == 1
        else f"What is hardest differs: {listed(hardest)}."
    )
    return sentences("Accuracy on `phrases` by what a phrase means: one object, a group, a part of a thing.", common)


def kinds_rows(results: Results) -> str:
    table = results.table("kinds")
    return markdown(across(table, ["system"], "kind", table["accuracy"].map("{:.1f}".format)))


def qualitative(results: Results) -> str:
    return (
        "Phrases of `referring B`, drawn by lot in equal parts from those that AMC alone answers, that all answer, "
        "and that AMC misses. Dark outline: what the phrase means; cross: the point. The figure shows how the "
        "systems differ; it is no sample from which to read accuracies."
    )


def box_ranking(results: Results) -> str:
    table = results.table("box_ranking").set_index(["system", "split"])["accuracy"]
    systems = [system for system in POINTED if (system, "phrases") in table.index]
    numbers = listed([f"{system} {table[system, 'phrases']:.1f} %" for system in systems])
    return (
        "A second metric: the detector's boxes are ranked by the heat in them, and the best one is right if it "
        f"overlaps the true box by half of their union. On `phrases`: {numbers}."
    )


def box_ranking_rows(results: Results) -> str:
    table = results.table("box_ranking")
    return markdown(across(table, ["system"], "split", with_interval(table, "accuracy")))


def claims(results: Results) -> str:
    table = results.table("claims")
    said = []
    for of, part in table.groupby("of", sort=False):
        tested = part[part["verdict"] != NOT_TESTABLE]
        missing = len(part) - len(tested)
        without = f" ({missing} more cannot be tested)" if missing else ""
        verb = "are reproduced" if of == THE_POSTER else "hold"
        said.append(f"of {of}, {tested['verdict'].isin(CONFIRMED).sum()} of {len(tested)} {verb}{without}")
    return (
        "Each claim as a paired comparison on the same phrases, with the interval of the difference; open marks are "
        "the poster's own numbers, measured on photographs. (*The poster* is the one of AMC's authors.) p is corrected "
        "after Holm over all comparisons. "
        f"By the rule that `amc_lib/certainty.py` states: {'; '.join(said)}."
    )


def claims_rows(results: Results) -> str:
    table = results.table("claims")
    shown = table[["claim", "of", "verdict"]].assign(points=with_interval(table, "difference"))
    shown["the poster"] = ["" if pd.isna(value) else f"{value:+.1f}" for value in table["poster"]]
    if "p_holm" in table:
        shown["corrected p"] = ["" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" for p in table["p_holm"]]
    return markdown(shown)


def splits_of(table: pd.DataFrame, rows: list[str]) -> pd.DataFrame:
    """An accuracy table with the columns of the README's table 1, for each combination of `rows`."""
    cells = table.assign(cell=with_interval(table, "accuracy"))
    wide = table[rows].drop_duplicates()
    for name, (split, concepts) in COLUMNS.items():
        part = cells[(cells["split"] == split) & (cells["concepts"] == concepts)]
        if len(part):
            wide = wide.merge(part[[*rows, "cell"]].rename(columns={"cell": name}), on=rows, how="left")
    return wide.fillna("–")
