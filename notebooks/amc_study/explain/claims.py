"""What of the poster holds here: every claim as a paired comparison of hits, with the sentence that follows from it.

Verdicts follow from numbers by rules that stand here, the same for all claims:

- "A points better than B": holds if the interval of the difference lies above 0 and its p, corrected after Holm
  over all such claims that can be tested, is below 0.05.
- "A is as good as before" (retrieval, matching): holds if the interval of the difference lies above -MARGIN.
  Retrieval is asked at RECALL_AT, where these models find enough to lose MARGIN points of it.
- What holds of the poster is "reproduced at this scale"; this study's own claims hold or do not.
- A claim whose system or phrases are not there is not testable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from amc_lib.regions import Region
from amc_study.statistics import Difference, holm, mcnemar, paired_difference

REPRODUCED, NOT_REPRODUCED, NOT_TESTABLE = "reproduced at this scale", "not reproduced", "not testable"
HOLDS, DOES_NOT_HOLD = "holds at this scale", "does not hold"
CONFIRMED = (REPRODUCED, HOLDS)
THE_POSTER, THIS_STUDY = "the poster", "this study"  # who claims something
SIGNIFICANT = 0.05
MARGIN = 2.0  # percentage points that count as nothing lost
ROLES = {"phrases": ("phrases", "flickr30k"), "referring A": ("referring_a", "refcoco+ A")}
ROLES |= {"referring B": ("referring_b", "refcoco+ B")}  # what a split stands for -> its name in either tier
POSTER = {
    "VMRM": {"phrases": 81.11, "referring A": 58.87, "referring B": 50.32},
    "ALBEF": {"phrases": 79.14, "referring A": 69.35, "referring B": 53.77},
    "AMC": {"phrases": 86.49, "referring A": 78.89, "referring B": 61.16},
}  # pointing accuracy, percent, on Flickr30k, RefCOCO+ testA and testB (PROTOCOL, Numbers to reach)
COLUMNS = {name: "str" for name in ("claim", "of", "verdict")}
COLUMNS |= {name: "float" for name in ("difference", "ci_low", "ci_high", "p", "p_holm", "mcnemar_p")}
COLUMNS |= {name: "Int64" for name in ("only_first", "only_second")}
COLUMNS |= {name: "float" for name in ("odds_ratio", "cohens_g")}
COLUMNS |= {name: "Int64" for name in ("items", "images", "seeds")}  # Int64: whole numbers that may be missing
COLUMNS |= {"poster": "float", "statement": "str"}


@dataclass(frozen=True)
class Claim:
    """`first` does better than `second` in `task`, or (`kept`) hardly worse. `of`: who claims it."""

    first: str
    second: str
    task: str
    of: str = THE_POSTER
    kept: bool = False

    @property
    def text(self) -> str:
        verb = "stays as good as" if self.kept else "is better than"
        return f"{self.first} {verb} {self.second}: {self.task}"


@dataclass(frozen=True)
class Task:
    """Hits by system ([P] or [S, P]) on the same P items, and the image of each."""

    hits: Mapping[str, np.ndarray]
    image_ids: Sequence[str] = field(repr=False)


NEVER_BOXED = "concepts never boxed"
RECALL_AT = 10  # at 1 the models of the scenes tier find 2 to 3 %: a claim about it could hardly fail
RETRIEVAL = (f"recall@{RECALL_AT} of pictures", f"recall@{RECALL_AT} of captions", "matching of captions")
CLAIMS = (
    *(Claim("AMC", second, role) for second in ("ALBEF", "VMRM") for role in ROLES),
    *(Claim("AMC", second, NEVER_BOXED) for second in ("ALBEF", "VMRM")),
    *(Claim("AMC", "ALBEF", task, kept=True) for task in RETRIEVAL),
    *(Claim("AMC", "ALBEF finetuned", task, THIS_STUDY) for task in (*ROLES, NEVER_BOXED)),
    *(Claim("AMC", "ALBEF finetuned", task, THIS_STUDY, kept=True) for task in RETRIEVAL),
)


def pointing_tasks(
    hits: Mapping[str, Mapping[str, np.ndarray]], regions: Mapping[str, Sequence[Region]]
) -> dict[str, Task]:
    """The tasks of CLAIMS that `hits[system][split]` ([P] or [S, P]) can answer, from the `regions` of each split."""
    tasks = {}
    for role, names in ROLES.items():
        for split in (name for name in names if name in regions):
            ids = [region.image_id for region in regions[split]]
            tasks[role] = Task({system: of_split[split] for system, of_split in hits.items()}, ids)
    if "phrases" in tasks:
        split = next(name for name in ROLES["phrases"] if name in regions)
        never = np.array([not region.annotated for region in regions[split]])
        if never.any():
            whole = tasks["phrases"]
            kept = {system: np.atleast_2d(of_system)[:, never] for system, of_system in whole.hits.items()}
            tasks[NEVER_BOXED] = Task(kept, list(np.array(whole.image_ids)[never]))
    return tasks


def claims_table(tasks: Mapping[str, Task], claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """A row for each claim, columns as in COLUMNS. Differences, and the poster's, in percentage points.

    only_first and only_second: items that one system alone gets right, summed over seeds; odds_ratio (their ratio) and
    cohens_g describe them; mcnemar_p is the largest of the seeds' exact tests.
    """
    rows = [_compare(claim, tasks.get(claim.task)) for claim in claims]
    tested = [row for row, claim in zip(rows, claims, strict=True) if "p" in row and not claim.kept]
    for row, corrected in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = corrected
    for row, claim in zip(rows, claims, strict=True):
        row["verdict"] = _verdict(row, claim)
        row["statement"] = _statement(row, claim)
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return table.round({"difference": 2, "ci_low": 2, "ci_high": 2, "odds_ratio": 3, "cohens_g": 3, "poster": 2})


def _compare(claim: Claim, task: Task | None) -> dict[str, object]:
    """The numbers of one claim; without them where a system or the phrases are missing."""
    row: dict[str, object] = {"claim": claim.text, "of": claim.of, "poster": _poster_difference(claim)}
    if task is None or claim.first not in task.hits or claim.second not in task.hits:
        return row
    first, second = (np.atleast_2d(task.hits[system]) for system in (claim.first, claim.second))
    found: Difference = paired_difference(first, second, task.image_ids)
    row |= {"difference": found.value, "ci_low": found.low, "ci_high": found.high, "p": found.p}
    row |= {"items": first.shape[1], "images": len(set(task.image_ids)), "seeds": max(len(first), len(second))}
    if first.dtype == second.dtype == bool:
        rows_of_seeds = np.broadcast_arrays(first, second)
        of_seeds = [mcnemar(*pair) for pair in zip(*rows_of_seeds, strict=True)]
        together = mcnemar(*(hits.ravel() for hits in rows_of_seeds))
        row |= {"only_first": together.only_first, "only_second": together.only_second}
        row |= {"odds_ratio": together.odds_ratio, "cohens_g": together.cohens_g}
        row["mcnemar_p"] = max(one.p for one in of_seeds)
    return row


def _poster_difference(claim: Claim) -> float | None:
    if claim.kept or claim.second not in POSTER or claim.task not in POSTER["AMC"]:
        return None
    return POSTER[claim.first][claim.task] - POSTER[claim.second][claim.task]


def _verdict(row: Mapping[str, object], claim: Claim) -> str:
    if "difference" not in row:
        return NOT_TESTABLE
    yes, no = (REPRODUCED, NOT_REPRODUCED) if claim.of == THE_POSTER else (HOLDS, DOES_NOT_HOLD)
    if claim.kept:
        return yes if row["ci_low"] > -MARGIN else no
    return yes if row["ci_low"] > 0 and row["p_holm"] < SIGNIFICANT else no


def _statement(row: Mapping[str, object], claim: Claim) -> str:
    """The row as a sentence."""
    if row["verdict"] == NOT_TESTABLE:
        return f"{NOT_TESTABLE}: here are no answers of {claim.first} and {claim.second} to compare on {claim.task}"
    side = "ahead of" if row["difference"] >= 0 else "behind"
    numbers = f"{abs(row['difference']):.1f} points {side} {claim.second}"
    interval = f"95 % interval {row['ci_low']:+.1f} to {row['ci_high']:+.1f}"
    rule = f"{MARGIN:g} points may be lost" if claim.kept else f"corrected p {_p_text(row['p_holm'])}"
    seeds = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
    poster = f"; the poster: {row['poster']:+.1f}" if row["poster"] is not None else ""
    return f"{row['verdict']}: {claim.first} is {numbers} ({interval}; {rule}; {seeds}{poster})"


def _p_text(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"{p:.3f}"
