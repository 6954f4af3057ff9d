"""Captions of how the systems were made and of what they cost."""

from __future__ import annotations

import pandas as pd

from amc_study.report.gallery.results import Results, across, listed, markdown, sentences


def learning(results: Results) -> str:
    finetuning = results.settings("learning").get("finetuning", {})
    epochs = f", {finetuning['epochs']} epochs in batches of {finetuning['batch_size']} pictures" if finetuning else ""
    return (
        f"How finetuning went (the first seed{epochs}): ALBEF's three losses (itc, itm, mlm), the AMC loss where boxes "
        "are used, and pointing (%) on validation pictures after every epoch."
    )


def training(results: Results) -> str:
    table, account = results.table("training"), results.account("training") or {}
    if table is None:
        return ""
    ends = table.sort_values("step").groupby("system", sort=False)["accuracy"].agg(["first", "last"])
    went = listed([f"{row.last:.1f} % ({name})" for name, row in ends.iterrows()])
    rule = ""
    if "film" in account:
        film = account["film"]
        rule = (
            f"The {film['phrases']} phrases are drawn by lot (seed {film['seed']}) from those of {film['pictures']} "
            f"validation pictures, one a picture. Epochs of this schedule: {film['epochs']}."
        )
    return sentences(
        "Heatmaps while the model is finetuned, from the same start: without boxes (ALBEF finetuned), and with boxes "
        f"(AMC). ✓: the point (cross) lies inside a box of the phrase. In {table['step'].max()} updates pointing on "
        f"{table['phrases'].iloc[0]:,} validation phrases goes from {ends['first'].iloc[0]:.1f} % to {went}.",
        rule,
        "The animation has more frames at the beginning." if results.has("training.gif") else "",
    )


def layers(results: Results) -> str:
    table = results.table("layers")
    of_system = table[table["chosen"]].groupby("system", sort=False)["layer"]
    taken = [f"{system} {listed(sorted(set(layer.astype(str))))}" for system, layer in of_system]
    return (
        "Accuracy on the validation split when the heatmap is read at each fusion layer (for VMRM: by each way of "
        f"scoring proposals). For every system and seed alike the best is taken (bold): {', '.join(taken)}."
    )


def layers_rows(results: Results) -> str:
    table = results.table("layers")
    numbers = table["val_accuracy"].map("{:.1f}".format)
    return markdown(across(table, ["system", "seed"], "layer", numbers.where(~table["chosen"], "**" + numbers + "**")))


def costs(results: Results) -> str:
    table = results.table("costs")
    said = [f"{row.system} {row.ms_first_phrase:.0f} ms" for row in table.itertuples()]
    return (
        f"Weights that a system needs to answer, and medians over {table['pictures'].iloc[0]} pictures that are "
        "asked of all systems in turn. A picture's first phrase, which pays for reading the picture, takes "
        f"{listed(said)}. A further phrase is the difference of two timings: about 0 is less than can be measured."
    )


def detector(results: Results) -> str:
    measured = results.table("detector").set_index("measure")["percent"]
    return (
        f"VMRM's detector on validation scenes: mean average precision {measured['map50']:.1f} % at IoU 0.5; its "
        f"first 30 boxes find {measured['recall30']:.1f} % of the things, and {measured['recall30_unboxed']:.1f} % "
        "of those whose concept it has no class for. Photographs are less kind to detectors."
    )


def detector_rows(results: Results) -> str:
    """The measures under names that say what they are."""
    table = results.table("detector")
    return markdown(table.assign(measure=table["measure"].map(_measure)))


def _measure(name: str) -> str:
    """recall30_unboxed -> things found among the first 30 boxes, ..."""
    if name == "map50":
        return "mean average precision at IoU 0.5"
    if name.startswith("recall"):
        first, _, unboxed = name.removeprefix("recall").partition("_")
        return f"things found among the first {first} boxes{', of concepts without a class' if unboxed else ''}"
    return f"{name.replace('label', 'class')} told rightly at the true boxes"


def detector_trials(results: Results) -> str:
    said = _trials(results, "detector_trials", "map50", "mean average precision")
    return sentences(said, "*map50*: that precision; *recall30*: things found among the first 30 boxes.")


def vmrm_trials(results: Results) -> str:
    said = _trials(results, "vmrm_trials", "pointing", "pointing")
    return sentences(said, "*itc*: its loss that brings phrases and boxes together.")


def _trials(results: Results, stem: str, column: str, measure: str) -> str:
    table = results.table(stem)
    taken, best = table[table["taken"]].iloc[0], table.loc[table[column].idxmax()]
    best_is = (
        "the best of them"
        if taken["changed"] == best["changed"]
        else f"the best of this short schedule: {best[column]:.1f} % ({_trial(best)})"
    )
    return (
        f"The rival's share of tuning: {len(table)} settings on a short schedule, judged on validation scenes. "
        f"Taken: {_trial(taken)}, with {measure} {taken[column]:.1f} %; {best_is}."
    )


def _trial(row: pd.Series) -> str:
    return "the start" if row["changed"] == "nothing" else f"`{row['changed']}`"


def benchmarks(results: Results) -> str:
    return (
        "What is compared runs in turn on a quiet machine; values "
        "are medians of the rounds. The *plain form* is the published computation written as a loop, which the tests "
        "keep (`tests/plain_step.py`); *base-size* is the model as large as the paper's."
    )


def benchmarks_rows(results: Results) -> str:
    return markdown(results.table("benchmarks").drop(columns="machine"))


def paper_step(results: Results) -> str:
    counts = results.table("paper_step")["how"].value_counts()
    return (
        "Seconds and memory of one update of the model as large as the paper's. For devices that are not here they are "
        f"computed from counted operations and published peaks: {counts.get('measured', 0)} rows are measured, "
        f"{counts.get('computed', 0)} computed. Below, the largest batch of each device; *checkpointing* computes some "
        "values twice to save memory."
    )


def paper_step_rows(results: Results) -> str:
    """For each device its largest batch that all forms of the update have."""
    table = results.table("paper_step")
    forms = table["precision"] + table["checkpointing"].map({True: ", checkpointing", False: ""})
    table = table.assign(form=forms, cell=[f"{row.seconds:g} s, {row.memory_gib:g} GiB" for row in table.itertuples()])
    wide = across(table, ["device", "how", "batch"], "form", table["cell"])
    whole = wide[(wide != "–").all(axis=1)]
    return markdown(whole.loc[whole.groupby("device", sort=False)["batch"].idxmax()])
