"""Claims: hand-made hits get the verdict, the numbers and the sentence that they deserve."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from amc_lib.regions import Region
from amc_study.explain.claims import (
    CLAIMS,
    COLUMNS,
    DOES_NOT_HOLD,
    HOLDS,
    MARGIN,
    NEVER_BOXED,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    POSTER,
    REPRODUCED,
    RETRIEVAL,
    ROLES,
    THIS_STUDY,
    Claim,
    Task,
    claims_table,
    pointing_tasks,
)
from amc_study.statistics import holm, mcnemar, paired_difference

IMAGES, PHRASES = 100, 400
IDS = [f"image-{n // 4}" for n in range(PHRASES)]


def with_rate(rate: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(PHRASES) < rate


def one_row(first: np.ndarray, second: np.ndarray, kept: bool = False, task: str = "phrases", **names) -> pd.Series:
    systems = {"first": "AMC", "second": "ALBEF"} | names
    claim = Claim(**systems, task=task, kept=kept)
    hits = {systems["first"]: first, systems["second"]: second}
    return claims_table({task: Task(hits, IDS)}, [claim]).iloc[0]


def regions(split: str, count: int = PHRASES, never_boxed: int = 0) -> list[Region]:
    box = ((0.0, 0.0, 1.0, 1.0),)
    return [Region(f"{n}", split, None, IDS[n], "cat", box, annotated=n >= never_boxed) for n in range(count)]


# ------------------------------------------------------------------------------------------------------------- verdicts


def test_clear_lead_is_reproduced():
    worse = with_rate(0.5)
    better = worse | with_rate(0.3, seed=1)
    row = one_row(better, worse)
    expected = paired_difference(better, worse, IDS)
    assert row.verdict == REPRODUCED
    assert (row.difference, row.ci_low, row.ci_high) == (
        round(expected.value, 2),
        round(expected.low, 2),
        round(expected.high, 2),
    )
    assert (row.p, row.p_holm) == (expected.p, expected.p)
    found = mcnemar(better, worse)
    assert (row.only_first, row.only_second, row.mcnemar_p) == (found.only_first, 0, found.p)
    assert (row.odds_ratio, row.cohens_g) == (np.inf, 0.5)
    assert (row["items"], row["images"], row["seeds"]) == (PHRASES, IMAGES, 1)
    assert row.statement == (
        f"reproduced at this scale: AMC is {expected.value:.1f} points ahead of ALBEF (95 % interval "
        f"{expected.low:+.1f} to {expected.high:+.1f}; corrected p below 0.001; 1 seed; the poster: +7.3)"
    )


def test_claims_of_this_study_hold_or_do_not():
    worse = with_rate(0.5)
    better = worse | with_rate(0.3, seed=1)
    claim = Claim("AMC", "ALBEF finetuned", "phrases", THIS_STUDY)
    for first, second, verdict in ((better, worse, HOLDS), (worse, better, DOES_NOT_HOLD)):
        task = Task({"AMC": first, "ALBEF finetuned": second}, IDS)
        row = claims_table({"phrases": task}, [claim]).iloc[0]
        assert row.verdict == verdict and row.statement.startswith(f"{verdict}: AMC is ")


@pytest.mark.parametrize("rate", [0.5, 0.3])
def test_no_lead_or_a_lag_is_not_reproduced(rate):
    row = one_row(with_rate(rate, seed=2), with_rate(0.5))
    assert row.verdict == NOT_REPRODUCED and row.statement.startswith("not reproduced: AMC is ")
    assert ("behind ALBEF" in row.statement) == (row.difference < 0)


@pytest.mark.parametrize(("lost", "verdict"), [(0, REPRODUCED), (2, REPRODUCED), (60, NOT_REPRODUCED)])
def test_what_is_kept_may_lose_the_margin(lost, verdict):
    before = np.ones(PHRASES, dtype=bool)
    after = before.copy()
    after[: lost * 5 : 5] = False  # of different images
    row = one_row(after, before, kept=True, task=RETRIEVAL[0])
    assert row.verdict == verdict
    assert (row.ci_low > -MARGIN) == (verdict == REPRODUCED)
    assert pd.isna(row.p_holm) and pd.isna(row.poster)
    assert f"{MARGIN:g} points may be lost" in row.statement


def test_what_is_missing_is_not_testable():
    table = claims_table({"phrases": Task({"AMC": with_rate(0.5)}, IDS)})
    assert len(table) == len(CLAIMS) and set(table["verdict"]) == {NOT_TESTABLE}
    assert table["difference"].isna().all() and table["p_holm"].isna().all()
    row = table[table["claim"] == "AMC is better than VMRM: phrases"].iloc[0]
    assert row.statement == "not testable: here are no answers of AMC and VMRM to compare on phrases"


def test_a_lead_that_correction_undoes_is_not_reproduced():
    weak = with_rate(0.5)
    strong = weak.copy()
    strong[4 * np.arange(IMAGES)[~weak[::4]][:12]] = True  # won in 12 images, lost in 3
    strong[4 * np.arange(IMAGES)[weak[::4]][:3]] = False
    alone = one_row(strong, weak)
    tasks = {f"task {n}": Task({"AMC": with_rate(0.5, n), "ALBEF": with_rate(0.5, n + 50)}, IDS) for n in range(19)}
    tasks["phrases"] = Task({"AMC": strong, "ALBEF": weak}, IDS)
    together = claims_table(tasks, [Claim("AMC", "ALBEF", task) for task in tasks])
    row = together.iloc[-1]
    assert (alone.only_first, alone.only_second, alone.verdict) == (12, 3, REPRODUCED)
    assert 0.0026 < alone.p < 0.05
    assert row.ci_low > 0 and row.p_holm > 0.05 and row.verdict == NOT_REPRODUCED
    np.testing.assert_allclose(together["p_holm"], holm(together["p"]))


def test_seeds_are_paired_and_each_has_its_test():
    second = np.stack([with_rate(0.5, seed) for seed in range(3)])
    first = np.stack([second[seed] | with_rate(0.1 * (seed + 1), 10 + seed) for seed in range(3)])
    row = one_row(first, second)
    of_seeds = [mcnemar(a, b) for a, b in zip(first, second, strict=True)]
    assert row.seeds == 3 and "3 seeds" in row.statement
    assert row.only_first == sum(one.only_first for one in of_seeds)
    assert row.mcnemar_p == max(one.p for one in of_seeds) == of_seeds[0].p
    single = one_row(first, second[:1])
    assert single.only_first == sum(mcnemar(a, second[0]).only_first for a in first)


def test_shares_have_no_mcnemar():
    row = one_row(np.full(PHRASES, 0.5), np.full(PHRASES, 0.5), kept=True, task=RETRIEVAL[2])
    assert row.verdict == REPRODUCED and pd.isna(row.mcnemar_p) and pd.isna(row.odds_ratio)


# ----------------------------------------------------------------------------------------------------------- the claims


def test_every_claim_of_the_poster_is_there():
    texts = {(claim.of, claim.first, claim.second, claim.task, claim.kept) for claim in CLAIMS}
    for second in ("ALBEF", "VMRM"):
        assert {("the poster", "AMC", second, task, False) for task in (*ROLES, NEVER_BOXED)} <= texts
    assert {("the poster", "AMC", "ALBEF", task, True) for task in RETRIEVAL} <= texts
    assert len(texts) == len({claim.text for claim in CLAIMS}) == len(CLAIMS)


def test_poster_stands_beside_what_it_measured():
    table = claims_table({}).set_index("claim")
    assert table.loc["AMC is better than ALBEF: referring A", "poster"] == round(78.89 - 69.35, 2)
    assert table.loc["AMC is better than VMRM: referring B", "poster"] == round(61.16 - 50.32, 2)
    assert pd.isna(table.loc[f"AMC is better than ALBEF: {NEVER_BOXED}", "poster"])
    assert pd.isna(table.loc["AMC is better than ALBEF finetuned: phrases", "poster"])
    assert {len(of_system) for of_system in POSTER.values()} == {3}
    assert table.reset_index().columns.tolist() == list(COLUMNS)


@pytest.mark.parametrize(
    "splits", [("phrases", "referring_a", "referring_b"), ("flickr30k", "refcoco+ A", "refcoco+ B")]
)
def test_splits_of_either_tier_play_their_roles(splits):
    hits = {system: {split: with_rate(0.5, n) for n, split in enumerate(splits)} for system in ("ALBEF", "AMC")}
    tasks = pointing_tasks(hits, {split: regions(split) for split in splits})
    assert list(tasks) == list(ROLES)  # all concepts have boxes: nothing is said of the others
    for role, split in zip(ROLES, splits, strict=True):
        assert tasks[role].hits["AMC"] is hits["AMC"][split] and tasks[role].image_ids == IDS


def test_concepts_never_boxed_are_compared_on_their_own_phrases():
    hits = {system: {"phrases": np.stack([with_rate(0.5, n), with_rate(0.4, n)])} for n, system in enumerate("AB")}
    task = pointing_tasks(hits, {"phrases": regions("phrases", never_boxed=50)})[NEVER_BOXED]
    assert task.image_ids == IDS[:50]
    for system in "AB":
        np.testing.assert_array_equal(task.hits[system], hits[system]["phrases"][:, :50])
