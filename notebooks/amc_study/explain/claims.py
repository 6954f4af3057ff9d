"""Which claims hold here: each a paired difference on the same phrases, with a verdict by rule.

"A is better than B" holds if the interval of the difference lies above 0 and its p, after Holm's correction over all
such claims, is below 0.05; it does not hold if the opposite is as sure. "A stays as good as B" holds if the interval
lies above -MARGIN, and does not hold if it lies below. What is neither is undecided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from amc_study.statistics import holm
from amc_study.table import paired

HOLDS, FAILS, UNDECIDED, NOT_TESTABLE = "holds", "does not hold", "undecided", "not testable"
THE_POSTER, THIS_STUDY = "the poster", "this study"  # who claims something
SIGNIFICANT = 0.05
MARGIN = 2.0  # percentage points that count as nothing lost
ROLES = {  # what a split stands for -> its name in each tier
    "phrases": ("phrases", "test", "flickr30k"),
    "referring A": ("referring_a", "refcoco+ A"),
    "referring B": ("referring_b", "refcoco+ B"),
}
POSTER = {  # pointing accuracy in percent on Flickr30k Entities, RefCOCO+ testA and testB (PROTOCOL, numbers to reach)
    "VMRM": {"phrases": 81.11, "referring A": 58.87, "referring B": 50.32},
    "ALBEF": {"phrases": 79.14, "referring A": 69.35, "referring B": 53.77},
    "AMC": {"phrases": 86.49, "referring A": 78.89, "referring B": 61.16},
}
AIMS = {"all phrases": 78.0, "smallest quarter": 55.0, "own − random above ALBEF": 8.0}
"""What AMC was to reach on photographs, percent and points, set before anything was trained on them."""
COLUMNS = [
    "claim",
    "of",
    "experiment",
    "verdict",
    "difference",
    "ci_low",
    "ci_high",
    "p",
    "p_holm",
    "items",
    "images",
    "seeds",
]
COLUMNS += ["poster", "statement"]


@dataclass(frozen=True)
class Claim:
    """`first` does better than `second` in `task` or, if `kept`, hardly worse; `of` is who claims it."""

    first: str
    second: str
    task: str
    of: str = THE_POSTER
    kept: bool = False

    @property
    def text(self) -> str:
        return f"{self.first} {'stays as good as' if self.kept else 'is better than'} {self.second}: {self.task}"

    @property
    def poster(self) -> float | None:
        """The poster's difference in points, where it has both numbers."""
        numbers = [POSTER.get(system, {}).get(self.task) for system in (self.first, self.second)]
        return None if None in numbers else numbers[0] - numbers[1]


NEVER_BOXED, MEANING = "concepts never boxed", "own minus random phrase"
RECALL_AT = 10  # at 1 the models of the scenes find 2 to 3 %: a claim about that could hardly fail
RETRIEVAL = (f"recall@{RECALL_AT} of pictures", f"recall@{RECALL_AT} of captions", "matching of captions")
EXPERIMENTS = {  # what could have refused a claim
    "phrases": "04: hits on all phrases of the first split",
    "referring A": "04: hits where several people or animals are shown",
    "referring B": "04: hits where several other things of a kind are shown",
    NEVER_BOXED: "04: hits on phrases whose concept no box of finetuning shows",
    MEANING: "04: hits less those of a random phrase asked for the same boxes",
    RETRIEVAL[0]: "10: right picture among the first, by the match head",
    RETRIEVAL[1]: "10: right caption among the first, by the match head",
    RETRIEVAL[2]: "10: right and similar wrong captions told apart at even odds",
}
CLAIMS = (  # of pointing
    *(Claim("AMC", second, role) for second in ("ALBEF", "VMRM") for role in ROLES),
    *(Claim("AMC", second, NEVER_BOXED) for second in ("ALBEF", "VMRM")),
    *(Claim("AMC", "ALBEF finetuned", task, THIS_STUDY) for task in (*ROLES, NEVER_BOXED, MEANING)),
)
KEPT = (  # of what pointing should not cost
    *(Claim("AMC", "ALBEF", task, kept=True) for task in RETRIEVAL),
    *(Claim("AMC", "ALBEF finetuned", task, THIS_STUDY, kept=True) for task in RETRIEVAL),
)


def pointing_tasks(answers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Parts of the tidy table by task of CLAIMS; concepts never boxed are asked on the phrases split.

    So is "referring", in a tier without such splits: there it is the phrases that column `which` gives a letter. The
    `hit` of MEANING is that with the own phrase minus that with a random one.
    """
    tasks = {role: answers[answers["split"].isin(names)] for role, names in ROLES.items()}
    for letter in "AB" if "which" in answers else "":
        if tasks[f"referring {letter}"].empty:
            tasks[f"referring {letter}"] = tasks["phrases"][tasks["phrases"]["which"] == letter]
    phrases = tasks["phrases"]
    tasks[NEVER_BOXED] = phrases[~phrases["annotated"].astype(bool)]
    if "hit_random" in phrases:
        tasks[MEANING] = phrases.assign(hit=phrases["hit"] - phrases["hit_random"]).dropna(subset="hit")
    return {task: part for task, part in tasks.items() if len(part)}


def claims_table(tasks: Mapping[str, pd.DataFrame], claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """A row for each claim, columns COLUMNS; `tasks` are parts of the tidy table. Differences in percentage points."""
    rows = []
    for claim in claims:
        experiment = EXPERIMENTS.get(claim.task)
        rows.append({"claim": claim.text, "of": claim.of, "experiment": experiment, "poster": claim.poster})
        part = tasks.get(claim.task)
        if part is not None and {claim.first, claim.second} <= set(part["system"]):
            rows[-1] |= paired(part, claim.first, claim.second)
    table = pd.DataFrame(rows).rename(columns={"phrases": "items"}).reindex(columns=COLUMNS)
    table = table.astype(dict.fromkeys(("items", "images", "seeds"), "Int64"))
    tested = table["p"].notna() & ~np.array([claim.kept for claim in claims])
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"])
    for column, told in {"verdict": verdict, "statement": statement}.items():
        table[column] = [told(row, claim) for row, claim in zip(table.to_dict("records"), claims, strict=True)]
    return table.round({"difference": 2, "ci_low": 2, "ci_high": 2, "poster": 2})


def verdict(row: Mapping[str, float], claim: Claim) -> str:
    """The rule of this module on a difference with its interval."""
    if np.isnan(row["difference"]):
        return NOT_TESTABLE
    margin, sure = (-MARGIN, True) if claim.kept else (0, row["p_holm"] < SIGNIFICANT)
    return HOLDS if sure and row["ci_low"] > margin else FAILS if sure and row["ci_high"] < margin else UNDECIDED


def statement(row: Mapping[str, float], claim: Claim) -> str:
    """A claim's row as a sentence."""
    if row["verdict"] == NOT_TESTABLE:
        return f"{NOT_TESTABLE}: no answers of {claim.first} and {claim.second} to compare on {claim.task}"
    side = "ahead of" if row["difference"] >= 0 else "behind"
    rule = f"{MARGIN:g} points may be lost" if claim.kept else f"corrected p {row['p_holm']:.2g}"
    seeds = f"{row['seeds']} seed{'s' * (row['seeds'] > 1)}"
    poster = "" if claim.poster is None else f"; the poster: {claim.poster:+.1f}"
    return (
        f"{row['verdict']}: {claim.first} is {abs(row['difference']):.1f} points {side} {claim.second} "
        f"(95 % interval {row['ci_low']:+.1f} to {row['ci_high']:+.1f}; {rule}; {seeds}{poster})"
    )
