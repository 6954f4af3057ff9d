"""Claims: hand-made answers get the verdict, the numbers and the sentence that they deserve."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from amc_study.explain.claims import (
    CLAIMS,
    COLUMNS,
    EXPERIMENTS,
    FAILS,
    HOLDS,
    KEPT,
    MARGIN,
    MEANING,
    NEVER_BOXED,
    NOT_TESTABLE,
    RETRIEVAL,
    ROLES,
    UNDECIDED,
    Claim,
    claims_table,
    pointing_tasks,
)
from amc_study.statistics import holm, paired_difference

IMAGES, PHRASES = 100, 400
IDS = [f"image-{n // 4}" for n in range(PHRASES)]


def with_rate(rate: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(PHRASES) < rate


def tidy(split: str = "phrases", never_boxed: int = 0, **systems: np.ndarray) -> pd.DataFrame:
    """Answers of systems, hits [P] or [S, P] each."""
    names = {"split": split, "phrase_id": [f"p{n}" for n in range(PHRASES)], "image_id": IDS}
    names["annotated"] = np.arange(PHRASES) >= never_boxed
    return pd.concat(
        pd.DataFrame({"system": system, "seed": seed, **names, "hit": row.astype(float)})
        for system, hits in systems.items()
        for seed, row in enumerate(np.atleast_2d(hits))
    )


def one_row(first: np.ndarray, second: np.ndarray, task: str = "phrases", **claim: object) -> pd.Series:
    table = claims_table({task: tidy(AMC=first, ALBEF=second)}, [Claim("AMC", "ALBEF", task, **claim)])
    return table.iloc[0]


def test_clear_lead_holds_its_reverse_does_not_and_no_lead_is_undecided():
    worse = np.stack([with_rate(0.5, seed) for seed in range(3)])
    better = np.stack([worse[seed] | with_rate(0.1 * (seed + 1), 10 + seed) for seed in range(3)])
    row, expected = one_row(better, worse), paired_difference(better, worse, IDS)
    numbers = [round(value, 2) for value in (expected.value, expected.low, expected.high)]
    assert row.verdict == HOLDS and [row.difference, row.ci_low, row.ci_high] == numbers
    assert (row.p, row.p_holm) == (expected.p, expected.p)
    assert (row["items"], row["images"], row["seeds"]) == (PHRASES, IMAGES, 3)
    assert row.statement == (
        f"holds: AMC is {expected.value:.1f} points ahead of ALBEF (95 % interval {expected.low:+.1f} to "
        f"{expected.high:+.1f}; corrected p {expected.p:.2g}; 3 seeds; the poster: +7.3)"
    )
    reverse = one_row(worse, better)
    assert reverse.verdict == FAILS and "behind ALBEF" in reverse.statement
    assert one_row(with_rate(0.5, seed=2), with_rate(0.5)).verdict == UNDECIDED


@pytest.mark.parametrize(("lost", "verdict"), [(2, HOLDS), (10, UNDECIDED), (60, FAILS)])
def test_what_is_kept_may_lose_the_margin(lost, verdict):
    before = np.ones(PHRASES, dtype=bool)
    after = before.copy()
    after[: lost * 5 : 5] = False  # of different images
    row = one_row(after, before, RETRIEVAL[0], kept=True)
    assert (row.verdict, row.ci_low > -MARGIN, row.ci_high < -MARGIN) == (verdict, verdict == HOLDS, verdict == FAILS)
    assert pd.isna(row.p_holm) and pd.isna(row.poster) and f"{MARGIN:g} points may be lost" in row.statement


def test_what_is_missing_is_not_testable_and_the_poster_stands_beside_what_it_measured():
    table = claims_table({"phrases": tidy(AMC=with_rate(0.5))})
    assert len(table) == len(CLAIMS) and set(table["verdict"]) == {NOT_TESTABLE} and list(table) == COLUMNS
    assert "no answers of AMC and VMRM to compare on phrases" in table["statement"].str.cat()
    poster = table.set_index("claim")["poster"].dropna()
    assert len(poster) == 6 and poster["AMC is better than VMRM: referring B"] == round(61.16 - 50.32, 2)


def test_a_lead_that_correction_undoes_is_undecided():
    weak = with_rate(0.5)
    strong = weak.copy()
    strong[4 * np.arange(IMAGES)[~weak[::4]][:12]] = True  # won in 12 images, lost in 3
    strong[4 * np.arange(IMAGES)[weak[::4]][:3]] = False
    tasks = {f"task {n}": tidy(AMC=with_rate(0.5, n), ALBEF=with_rate(0.5, n + 50)) for n in range(9)}
    tasks["phrases"] = tidy(AMC=strong, ALBEF=weak)
    together = claims_table(tasks, [Claim("AMC", "ALBEF", task) for task in tasks])
    row = together.iloc[-1]
    assert one_row(strong, weak).verdict == HOLDS
    assert row.ci_low > 0 and row.p_holm > 0.05 and row.verdict == UNDECIDED
    np.testing.assert_allclose(together["p_holm"], holm(together["p"]))


def test_where_no_split_is_of_several_alike_the_phrases_with_such_a_letter_are():
    table = tidy("test", 0, AMC=with_rate(0.5, 0))
    letters = np.resize(["A", "B", ""], len(table))
    tasks = pointing_tasks(table.assign(which=letters))
    assert tasks["phrases"].index.equals(table.index)
    for letter in "AB":
        assert len(tasks[f"referring {letter}"]) == (letters == letter).sum()
        assert set(tasks[f"referring {letter}"]["which"]) == {letter}
    assert set(pointing_tasks(table)) == {"phrases"}


def test_meaning_is_what_the_own_phrase_hits_beyond_a_random_one():
    """Two systems that hit the own phrase alike: the one that a random phrase leads astray has read it."""
    hits, strayed = with_rate(0.7), with_rate(0.2, 1)
    table = pd.concat(
        (
            tidy(AMC=hits).assign(hit_random=strayed.astype(float)),
            tidy(ALBEF=hits).assign(hit_random=hits.astype(float)),
        )
    )
    table.loc[table["phrase_id"] == "p0", "hit_random"] = np.nan  # there was no other phrase to ask
    tasks = pointing_tasks(table)
    assert len(tasks[MEANING]) == 2 * (PHRASES - 1)
    row = claims_table(tasks, [Claim("AMC", "ALBEF", MEANING)]).iloc[0]
    assert row.verdict == HOLDS and row.difference == round(100 * (hits[1:].mean() - strayed[1:].mean()), 2)
    assert claims_table(tasks, [Claim("AMC", "ALBEF", "phrases")]).iloc[0].difference == 0


def test_every_claim_names_the_experiment_that_could_have_refused_it():
    assert {claim.task for claim in (*CLAIMS, *KEPT)} == set(EXPERIMENTS)
    assert claims_table({}, (*CLAIMS, *KEPT))["experiment"].str.match(r"(04|10): ").all()


@pytest.mark.parametrize(
    "splits", [("phrases", "referring_a", "referring_b"), ("flickr30k", "refcoco+ A", "refcoco+ B")]
)
def test_splits_of_either_tier_play_their_roles(splits):
    hits = {split: with_rate(0.5, n) for n, split in enumerate(splits)}
    never_boxed = 50 if "phrases" in splits else 0
    tasks = pointing_tasks(pd.concat(tidy(split, never_boxed, AMC=hits[split]) for split in splits))
    assert list(tasks) == [*ROLES, NEVER_BOXED][: 4 if never_boxed else 3]
    for role, split in zip(ROLES, splits, strict=True):
        assert (tasks[role]["hit"].to_numpy() == hits[split]).all()
    if never_boxed:
        assert tasks[NEVER_BOXED]["phrase_id"].tolist() == [f"p{n}" for n in range(50)]
