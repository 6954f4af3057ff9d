"""Asked with a wrong phrase: how much of pointing is knowing where named things lie, and how much what a phrase means.

Every phrase's own boxes are asked for again: with a phrase of another picture, with one of the same picture that means
another thing, and with one for something that is not in the picture. A system that points into the boxes as often then
does not read the phrase, and one whose score is as high for what is not there does not know what it sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from amc_lib.regions import Box, Region
from amc_lib.tokens import clean
from amc_study.photos.entities import head_noun
from amc_study.table import accuracy, paired

KINDS = ("random", "other", "absent")  # of wrong phrases
SAME_THING = 0.3  # intersection over union from which on boxes mean one thing, where no chain says so
ASKED = {
    "hit": "own phrase",
    "hit_random": "random phrase",
    "hit_other": "other phrase",
    "hit_absent": "absent phrase",
    "gain": "own − random",
}
TELLING = ("people", "animals", "vehicles", "instruments")  # types that captions seldom leave out where they are shown


def wrong_questions(regions: Sequence[Region], seed: int = 0) -> dict[str, list[Region | None]]:
    """The P regions of a split with wrong phrases: the same ids, pictures and boxes, in their order.

    "random": a phrase of another picture. "other": one of the same picture that means another thing. "absent": a phrase
    for what is not in the picture (`kind_of`). Each is drawn from all such phrases of the split whose words differ from
    the region's own, by the seed and the region's id: the order of `regions` does not matter. None where there is no
    such phrase.
    """
    pool = sorted(regions, key=lambda region: region.id)
    images, texts = (
        np.unique(column, return_inverse=True)[1]  # int [P]
        for column in ([region.image_id for region in pool], [clean(region.phrase) for region in pool])
    )
    kinds = np.array([kind_of(region) for region in pool])
    telling = np.array([region.entity in (*TELLING, "") for region in pool])
    drawn: dict[str, tuple[Region | None, ...]] = {}
    for p, region in enumerate(pool):
        rng = np.random.default_rng([seed, int(hashlib.sha256(region.id.encode()).hexdigest(), 16)])
        here, differs = images == images[p], texts != texts[p]
        others = [q for q in np.flatnonzero(here & differs) if another_thing(region, pool[q])]
        absent = telling & ~np.isin(kinds, kinds[here])
        candidates = np.flatnonzero(~here & differs), others, np.flatnonzero(absent)
        drawn[region.id] = tuple(
            replace(region, phrase=pool[rng.choice(places)].phrase) if len(places) else None for places in candidates
        )
    columns = zip(*(drawn[region.id] for region in regions), strict=True) if regions else ((), (), ())
    return dict(zip(KINDS, map(list, columns), strict=True))


def kind_of(region: Region) -> str:
    """What must not be in a picture for a phrase to be absent there: its entity type or, without one, its head noun."""
    return region.entity or head_noun(region.phrase)


def another_thing(region: Region, other: Region) -> bool:
    """Do two phrases of a picture mean different things? Their chains say so or, where one has none, their boxes."""
    if region.chain and other.chain:
        return region.chain != other.chain
    return apart(region.boxes, other.boxes)


def apart(boxes: Sequence[Box], others: Sequence[Box]) -> bool:
    """Does no box (xyxy) share SAME_THING of the union with one of the others?"""
    return all(_iou(box, other) < SAME_THING for box in boxes for other in others)


def _iou(a: Box, b: Box) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def wrong_answers(
    regions: Sequence[Region],
    ask: Callable[[list[Region]], tuple[np.ndarray, np.ndarray]],
    seed: int = 0,
    kinds: Sequence[str] = KINDS,
) -> dict[str, np.ndarray]:
    """Columns of the tidy table, float [P]: of the kinds `hit_random`, `hit_other`, `hit_absent` and `score_absent`.

    NaN where there is no such question. `ask` asks a system some regions and gives its hits and scores in their order.
    """
    columns, drawn = {}, wrong_questions(regions, seed)
    for name in kinds:
        questions = drawn[name]
        places = [p for p, question in enumerate(questions) if question is not None]
        hits, scores = np.full((2, len(questions)), np.nan)
        if places:
            hits[places], scores[places] = ask([questions[p] for p in places])
        columns[f"hit_{name}"] = hits
        if name == "absent":
            columns["score_absent"] = scores
    return columns


def asked_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The tidy table with a row for each answer and way of asking: columns `asked` (of ASKED) and `value`.

    "own − random" is the hit with the own phrase minus that with a random one: what the phrase's meaning adds. There
    is no row for a question that was not asked.
    """
    wide = table.assign(gain=table["hit"] - table["hit_random"])
    kept = [column for column in table if column not in ASKED]
    long = wide.rename(columns=ASKED).melt(kept, list(ASKED.values()), "asked", "value")
    return long.dropna(subset="value").reset_index(drop=True)


def control_table(table: pd.DataFrame, by: Sequence[str] = ("system", "split")) -> pd.DataFrame:
    """`table.accuracy` of each way of asking: columns of `by`, asked, accuracy, ci_low, ci_high, phrases, seeds."""
    return accuracy(asked_rows(table), [*by, "asked"], "value")


def paired_controls(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """System `first` minus `second` in points: a row for each way of asking, with the numbers of `table.paired`."""
    parts = asked_rows(table).groupby("asked", sort=False)
    return pd.DataFrame([{"asked": asked} | paired(part, first, second, "value") for asked, part in parts])


def told(table: pd.DataFrame) -> pd.DataFrame:
    """The answers with a score, with a column `told`, whose mean is the AUROC of telling what is there from what not.

    It is the share of the absent phrases (of the same system, seed and split) whose score lies below this one's; equal
    ones count half.
    """

    def placed(answers: pd.DataFrame) -> pd.DataFrame:
        absent = np.sort(answers["score_absent"].dropna())
        below, above = (np.searchsorted(absent, answers["score"], side) for side in ("left", "right"))
        return answers.assign(told=(below + above) / 2 / len(absent))

    scored = table[table["score"].notna() & table.groupby(["system", "seed", "split"])["score_absent"].transform("any")]
    parts = [placed(answers) for _, answers in scored.groupby(["system", "seed", "split"], sort=False)]
    return pd.concat(parts) if parts else scored.assign(told=scored["score"])  # nothing was absent anywhere
