"""Captions of explanations beyond a point: shape, difficulty, faithfulness, randomisation, retrieval, failures."""

from __future__ import annotations

import pandas as pd

from amc_study.explain.claims import MARGIN, RECALL_AT
from amc_study.explain.failures import CLOSE
from amc_study.report.gallery.results import Number, Results, across, listed, markdown, sentences, with_interval


def explanation_quality(results: Results) -> str:
    table = results.table("explanation_quality")
    energy = table[table["measure"] == "energy"].drop_duplicates("system")
    said = listed([f"{row.system} {Number(row.value, row.ci_low, row.ci_high)}" for row in energy.itertuples()])
    return (
        "The shape of heatmaps. *Energy*: the share of the heat that lies inside the boxes. *IoU*: how well the part "
        "of the map above a threshold fits the boxes; the threshold is half of the peak (*fixed*), the best on "
        "validation phrases (*tuned*), or each phrase's own best (*best*, which nobody knows beforehand). "
        f"Energy: {said}."
    )


def quality_rows(results: Results) -> str:
    table = results.table("explanation_quality")
    return markdown(across(table, ["system"], "measure", with_interval(table, "value")))


def difficulty(results: Results) -> str:
    table = results.table("difficulty")
    of_amc = table[table["system"] == "AMC"].groupby("by", sort=False)["accuracy"]
    meanings = {"size": "the smallest and the largest quarter", "overlap": "what nothing and what much overlaps"}
    said = [
        f"{accuracy.iloc[0]:.1f} and {accuracy.iloc[-1]:.1f} % on {meanings[variable]}"
        for variable, accuracy in of_amc
        if variable in meanings
    ]
    return sentences(
        "Where pointing is hard: phrases that mean one thing, in groups by the size of its box, by how many things "
        "are named in its picture, and by how much of the box others overlap.",
        f"AMC answers {listed(said)}." if said else "",
    )


def difficulty_rows(results: Results) -> str:
    table = results.table("difficulty")
    return markdown(across(table, ["by", "group", "phrases"], "system", with_interval(table, "accuracy")))


def faithfulness(results: Results) -> str:
    table = results.table("faithfulness")
    gains = ""
    if table is not None:
        fill = table["fill"].iloc[0]
        own = table[(table["order"] == "heatmap") & (table["where"] == "all") & (table["fill"] == fill)]
        said = [
            f"{curve}: {listed([f'{row.system} {row.gain:+.3f}' for row in part.itertuples()])}"
            for curve, part in own.groupby("curve", sort=False)
        ]
        gains = f"Gain over random order in the area under the curve ({fill}); {'; '.join(said)}."
    return sentences(
        "Does the score rest on what the heatmap shows? Cells of the picture are deleted, or shown on an empty "
        "ground, the hottest first; a faithful map makes the match probability fall, or rise, at once. For "
        "comparison: the true box first, and a random order.",
        gains,
    )


def faithfulness_rows(results: Results) -> str:
    table = results.table("faithfulness")
    if table is None:
        return ""
    part = table[(table["order"] == "heatmap") & (table["where"] == "all")]
    cells = with_interval(part, "gain", ("gain_low", "gain_high"), digits=3)
    return markdown(across(part, ["fill", "system"], "curve", cells))


def randomisation(results: Results) -> str:
    table = results.table("randomisation")
    tested = table[table["pointing"].notna() & table["correlation"].notna()]
    last = tested[tested["order"] == tested["order"].max()]
    said = listed([f"{row.system} {row.correlation:.2f}" for row in last.itertuples()])
    return (
        "Does the heatmap depend on what was learnt? From the output downwards, weights are replaced by random ones; "
        f"a map that stays the same explains nothing. With all of them replaced (down to the {last['stage'].iloc[0]}) "
        f"the rank correlation with the trained model's map is {said}."
    )


def randomisation_rows(results: Results) -> str:
    table = results.table("randomisation").sort_values("order", kind="stable")
    table = table[table["correlation"].notna()]
    cells = with_interval(table, "correlation", ("correlation_low", "correlation_high"), digits=2)
    return markdown(across(table, ["stage"], "system", cells))


def retrieval(results: Results) -> str:
    table = results.table("retrieval")
    matched = table[table["score"] == "match"]
    told = [
        f"{measure.capitalize()}: {'; '.join(of_measure)}."
        for measure in ("recall@1", f"recall@{RECALL_AT}", "choice")
        if (of_measure := _by_task(matched[matched["measure"] == measure]))
    ]
    return sentences(
        "What AMC costs elsewhere: finding the caption of a picture and the picture of a caption among all, and "
        "telling right captions from wrong ones. *recall@k*: the right one is among the first k; *choice*: which of "
        "two captions is the likelier.",
        *told,
        f"The claims ask recall@{RECALL_AT}, of which {MARGIN:g} points may be lost.",
    )


def _by_task(table: pd.DataFrame) -> list[str]:
    """For each task the value of every system, as words."""
    return [
        f"{task} {listed([f'{row.system} {row.value:.1f} %' for row in part.itertuples()])}"
        for task, part in table.groupby("task", sort=False)
    ]


def retrieval_rows(results: Results) -> str:
    table = results.table("retrieval")
    part = table[table["score"] == "match"]
    return markdown(across(part, ["task", "measure"], "system", with_interval(part, "value")))


def misses(results: Results) -> str:
    table = results.table("misses")
    amc = table[table["system"] == "AMC"].set_index("point_on")["share"]
    shares = listed([f"{share:.1f} % {outcome}" for outcome, share in amc.items()])
    return sentences(
        "What points are on: the right thing, another thing that phrases of the picture name, close by (at most "
        f"{100 * CLOSE:g} % of the picture's side beside the box), or elsewhere. AMC: {shares}.",
        "In the picture, misses of AMC drawn by lot, each as likely as every other."
        if results.has("misses.png")
        else "",
    )


def misses_rows(results: Results) -> str:
    table = results.table("misses")
    return markdown(across(table, ["system", "split"], "point_on", with_interval(table, "share")))
