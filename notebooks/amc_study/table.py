"""The tidy table: one row for each answer of a system, trained with a seed, to a phrase.

| column | |
|---|---|
| system, seed | who answers: "AMC", 1; what is not trained (chance, centre, oracle) has seed 0 |
| split, phrase_id, image_id | what was asked; answers are joined by phrase_id, never by their place |
| kind, annotated | "object", "group" or "part"; False for concepts that are never boxed in finetuning |
| x, y | the point, in pixels of the picture (NaN for chance) |
| hit | 1 or 0; for chance the share of the picture that the boxes cover |
| score | how sure the system is: the match probability, or the proposal's score (NaN where there is none) |
| iou | best IoU of the chosen box with a box of the phrase (NaN where no box is chosen) |
| hit_random, hit_other, hit_absent | the hit when a wrong phrase is asked (`wrong_phrases`; NaN where none is) |
| score_absent | the score of that absent phrase |

Further columns are joined by phrase_id. Results are `groupby` on it: `accuracy` gives means with intervals over images,
`spread` what of them is due to images and to seeds, `paired` the difference of two systems on the same phrases.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from amc_lib.files import atomic_file
from amc_lib.regions import Region
from amc_study.statistics import mean_interval, paired_difference, spreads

PHRASE = ["split", "phrase_id", "image_id"]
WRONG = ("hit_random", "hit_other", "hit_absent", "score_absent")


def answer_rows(
    system: str,
    seed: int,
    split: str,
    regions: Sequence[Region],
    hits: np.ndarray,
    points: np.ndarray | None = None,
    scores: np.ndarray | float = np.nan,
    iou: np.ndarray | float = np.nan,
    **wrong: np.ndarray,
) -> pd.DataFrame:
    """The rows of one system's answers to P regions, in their order: points [P, 2], the other arrays [P].

    wrong: columns of WRONG, NaN where they are not given.
    """
    columns = {
        "system": system,
        "seed": seed,
        "split": split,
        "phrase_id": [region.id for region in regions],
        "image_id": [region.image_id for region in regions],
        "kind": [region.kind for region in regions],
        "annotated": [region.annotated for region in regions],
        "x": np.nan if points is None else np.asarray(points, dtype=float)[:, 0],
        "y": np.nan if points is None else np.asarray(points, dtype=float)[:, 1],
        "hit": np.asarray(hits, dtype=float),
        "score": scores,
        "iou": iou,
    }
    return pd.DataFrame(columns | dict.fromkeys(WRONG, np.nan) | wrong)


def accuracy(table: pd.DataFrame, by: Sequence[str] = ("system", "split"), column: str = "hit") -> pd.DataFrame:
    """Mean of a column in percent for each group, with its 95 % interval.

    Columns: those of `by`, accuracy, ci_low, ci_high, phrases, seeds; the values of `by` in order of appearance. The
    interval is a bootstrap over images and seeds (`statistics.mean_interval`).
    """
    rows = []
    ordered = {name: pd.Categorical(table[name], table[name].unique()) for name in by}
    for group, answers in table.assign(**ordered).groupby(list(by), observed=True):
        values = by_phrase(answers, column)
        interval = mean_interval(values.to_numpy().T, values.index.get_level_values("image_id"))
        numbers = 100 * interval.value, 100 * interval.low, 100 * interval.high
        rows.append((*group, *numbers, len(values), values.shape[1]))
    return pd.DataFrame(rows, columns=[*by, "accuracy", "ci_low", "ci_high", "phrases", "seeds"])


def spread(table: pd.DataFrame, by: Sequence[str] = ("system", "split")) -> pd.DataFrame:
    """Which part of the spread of an accuracy is whose, in percentage points (`statistics.spreads`).

    Columns: those of `by`, accuracy, sd_images, sd_seeds, phrases, seeds; rows only for what has several seeds.
    """
    rows = []
    for group, answers in table.groupby(list(by), sort=False):
        values = by_phrase(answers)
        if values.shape[1] > 1:
            parts = spreads(values.to_numpy().T, values.index.get_level_values("image_id"))
            rows.append((*group, *(100 * part for part in (values.to_numpy().mean(), *parts)), *values.shape))
    return pd.DataFrame(rows, columns=[*by, "accuracy", "sd_images", "sd_seeds", "phrases", "seeds"])


def paired(table: pd.DataFrame, first: str, second: str, column: str = "hit") -> dict[str, float]:
    """System `first` minus `second` on the same phrases, in percentage points (`statistics.paired_difference`).

    Keys: difference, ci_low, ci_high, p, phrases, images, seeds. Runs of the same seed are compared with each other; a
    system with one seed (ALBEF) with every run of the other. Raises ValueError where they answered different phrases.
    """
    one, other = (by_phrase(table[table["system"] == system], column) for system in (first, second))
    alone = one.index.symmetric_difference(other.index)
    if len(alone) or not len(one):
        raise ValueError(f"{first} and {second} did not answer the same phrases: {len(alone)} were asked of one alone")
    other = other.loc[one.index]
    if one.shape[1] > 1 and other.shape[1] > 1:
        seeds = one.columns.intersection(other.columns)
        one, other = one[seeds], other[seeds]
    images = one.index.get_level_values("image_id")
    found = paired_difference(one.to_numpy().T, other.to_numpy().T, images)
    numbers = {"difference": found.value, "ci_low": found.low, "ci_high": found.high, "p": found.p}
    return numbers | {"phrases": len(one), "images": images.nunique(), "seeds": max(one.shape[1], other.shape[1])}


def by_phrase(answers: pd.DataFrame, column: str = "hit") -> pd.DataFrame:
    """One system's column with a row for each phrase (index PHRASE) and a column for each seed.

    Raises ValueError where a seed lacks an answer that another has.
    """
    values = answers.pivot(index=PHRASE, columns="seed", values=column)
    if missing := int(values.isna().to_numpy().sum()):
        raise ValueError(f"{missing} answers are missing in column {column}")
    return values


def with_seeds_of(table: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """A table with columns system and seed, and below it the rows of an earlier one for those that it lacks.

    Raises ValueError where an earlier answer is to a phrase that this table does not ask, or the other way round.
    """
    asked = pd.MultiIndex.from_frame(table[["system", "seed"]])
    missing = earlier[~pd.MultiIndex.from_frame(earlier[["system", "seed"]]).isin(asked)]
    if "phrase_id" in table and len(missing):
        alone = set(missing["phrase_id"]).symmetric_difference(table["phrase_id"])
        if alone:
            raise ValueError(f"the earlier answers are to other phrases: {len(alone)} were asked of one table alone")
    return pd.concat([table, missing], ignore_index=True)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write as .csv.gz, the same bytes for the same table."""
    with atomic_file(path) as file:
        file.write(gzip.compress(table.to_csv(index=False, float_format="%.6g").encode(), mtime=0))


def read_table(path: Path) -> pd.DataFrame:
    """What `write_table` wrote."""
    return pd.read_csv(path, compression="gzip", dtype={"phrase_id": str, "image_id": str})
