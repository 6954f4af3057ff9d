"""Groups of phrases by which results are read: columns beside the answers, joined by phrase id."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from amc_lib.regions import Region
from amc_lib.tokens import clean
from amc_study.explain.difficulty import QUARTERS, area_share
from amc_study.tiers import Split
from amc_study.wrong_phrases import another_thing, apart

GROUPS = ("entity", "quarter", "words", "which")
LONG = 5  # words, from which on phrases are one group
LIVING = ("people", "animals")  # entity types of "which of several", A; the others are B


def split_sizes(splits: Mapping[str, Split]) -> pd.DataFrame:
    """What each split holds: images, phrases, phrases by kind, those of concepts never boxed, records left out."""
    rows = []
    for name, split in splits.items():
        regions = pd.DataFrame([(r.image_id, r.kind, r.annotated) for r in split.all_regions()], columns=[*"ika"])
        row = {"split": name, "images": regions["i"].nunique(), "phrases": len(regions)}
        row |= {f"{kind}s": (regions["k"] == kind).sum() for kind in ("object", "group", "part")}
        rows.append(row | {"unboxed": (~regions["a"].astype(bool)).sum(), "left_out": len(split.skipped)})
    return pd.DataFrame(rows)


def phrase_columns(split: Split) -> pd.DataFrame:
    """Columns of all phrases of a split, by phrase id.

    | column | |
    |---|---|
    | entity | type of what is meant ("people", "clothing"); "" where the data has none |
    | area | share of the picture that the boxes cover |
    | quarter | 1 (smallest) to 4: quarters of the split's phrases by area |
    | words | of the phrase, after cleaning |
    | which | "A", "B": people or animals, other things, of which the picture shows another one elsewhere; else "" |
    """
    regions = split.all_regions()
    areas = np.array([area_share(region, split.size(region)) for region in regions])
    columns = {
        "entity": [region.entity for region in regions],
        "area": areas,
        "quarter": 1 + np.searchsorted(np.quantile(areas, QUARTERS), areas),  # a border belongs to the smaller ones
        "words": [len(clean(region.phrase).split()) for region in regions],
        "which": which_of_several(regions),
    }
    return pd.DataFrame(columns, index=[region.id for region in regions])


def which_of_several(regions: Sequence[Region]) -> list[str]:
    """For each of a split's regions "A" or "B" if its picture shows another thing of its entity type apart from it."""
    of_image: dict[str, list[Region]] = defaultdict(list)
    for region in regions:
        of_image[region.image_id].append(region)

    def rival(region: Region, other: Region) -> bool:
        alike = other.entity == region.entity != ""
        return alike and another_thing(region, other) and apart(region.boxes, other.boxes)

    has_rival = [any(rival(region, other) for other in of_image[region.image_id]) for region in regions]
    letters = ["A" if region.entity in LIVING else "B" for region in regions]
    return [letter if there else "" for letter, there in zip(letters, has_rival, strict=True)]


def by_question(table: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """The tidy table, a row for each question of table 1 that an answer belongs to, with columns `split`, `concepts`.

    Each split, by its title, is asked as a whole ("all") and, where some concepts are never boxed, of those
    ("unboxed") and of the others apart ("boxed"); "TITLE, which A" and "TITLE, which B" are the phrases of
    `phrase_columns` with that letter.
    """
    table = table.assign(split=table["split"].map(titles))
    parts = [table.assign(concepts="all")]
    if not table["annotated"].all():
        parts.append(table.assign(concepts=table["annotated"].map({True: "boxed", False: "unboxed"})))
    several = table[table["which"].fillna("") != ""].sort_values("which", kind="stable")
    parts.append(several.assign(split=several["split"] + ", which " + several["which"], concepts="all"))
    return pd.concat(parts, ignore_index=True)


def grouped(table: pd.DataFrame) -> pd.DataFrame:
    """The tidy table with the columns of `phrase_columns`, a row for each group that an answer belongs to.

    Columns `by`, one of GROUPS, and `group` (text, in order): an accuracy by group is
    `accuracy(grouped(table), ["by", "group", "system"])`. Answers in no group of a kind have no row for it.
    """
    words = table["words"].clip(upper=LONG).astype(str).replace(str(LONG), f"{LONG} or more")
    labels = table[list(GROUPS)].assign(words=words).fillna("").astype(str)
    parts = [table.assign(by=by, group=labels[by]).sort_values("group", kind="stable") for by in GROUPS]
    rows = pd.concat(parts, ignore_index=True)
    return rows[rows["group"] != ""]
