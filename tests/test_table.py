"""The tidy table: means and paired differences by phrase id, whatever the order of rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from amc_study.statistics import mean_interval, paired_difference, spreads
from amc_study.table import accuracy, answer_rows, paired, read_table, spread, with_seeds_of, write_table

IMAGES = [f"image-{i}" for i in range(30) for _ in range(3)]
REGIONS = [
    SimpleNamespace(id=f"p{i}", image_id=image, kind=("object", "part")[i % 2], annotated=i % 3 > 0)
    for i, image in enumerate(IMAGES)
]


@pytest.fixture
def hits() -> dict[str, np.ndarray]:
    """AMC [3, P], ALBEF [1, P]."""
    rng = np.random.default_rng(0)
    return {"AMC": rng.random((3, 90)) < 0.7, "ALBEF": rng.random((1, 90)) < 0.5}


@pytest.fixture
def table(hits) -> pd.DataFrame:
    """Their answers to one split, the rows in no order."""
    rows = [
        answer_rows(system, seed, "phrases", REGIONS, row, np.full((90, 2), seed), row / 2)
        for system, of_seeds in hits.items()
        for seed, row in enumerate(of_seeds)
    ]
    return pd.concat(rows).sample(frac=1, random_state=0)


def test_accuracy_is_that_of_the_hits_with_an_interval_over_images(table, hits):
    found = accuracy(table).set_index("system")
    for system, of_seeds in hits.items():
        interval = mean_interval(of_seeds, IMAGES)
        expected = [100 * interval.value, 100 * interval.low, 100 * interval.high, 90, len(of_seeds)]
        assert found.loc[system].drop("split").tolist() == pytest.approx(expected)


def test_spread_is_of_what_has_several_seeds(table, hits):
    (row,) = spread(table).to_dict("records")
    of_images, of_seeds = spreads(hits["AMC"], IMAGES)
    expected = {"accuracy": 100 * hits["AMC"].mean(), "sd_images": 100 * of_images, "sd_seeds": 100 * of_seeds}
    named = {"system": "AMC", "split": "phrases", "phrases": 90, "seeds": 3}
    assert row == named | {name: pytest.approx(value) for name, value in expected.items()}


def test_groups_are_those_asked_for(table, hits):
    found = accuracy(table, by=["system", "kind", "annotated"]).set_index(["system", "kind", "annotated"])
    chosen = [p for p, region in enumerate(REGIONS) if region.kind == "part" and not region.annotated]
    row = found.loc[("AMC", "part", False)]
    assert row["accuracy"] == pytest.approx(100 * hits["AMC"][:, chosen].mean())
    assert (row["phrases"], row["seeds"]) == (len(chosen), 3)


def test_difference_is_taken_phrase_by_phrase(table, hits):
    expected = paired_difference(hits["AMC"], hits["ALBEF"], IMAGES)
    found = paired(table, "AMC", "ALBEF")
    assert found == {
        "difference": pytest.approx(expected.value),
        "ci_low": pytest.approx(expected.low),
        "ci_high": pytest.approx(expected.high),
        "p": expected.p,
        "phrases": 90,
        "images": 30,
        "seeds": 3,
    }


def test_runs_of_the_same_seed_are_compared(table):
    several = pd.concat((table, table[table["system"] == "AMC"].assign(system="AMC again")))
    several = several[~((several["system"] == "AMC again") & (several["seed"] == 0))]
    found = paired(several, "AMC", "AMC again")
    assert (found["difference"], found["p"], found["seeds"]) == (0, 1, 2)


def test_answers_that_are_missing_are_counted(table):
    one = table["phrase_id"] == "p7"
    with pytest.raises(ValueError, match="AMC and ALBEF did not answer the same phrases: 1 were asked of one alone"):
        paired(table[~(one & (table["system"] == "ALBEF"))], "AMC", "ALBEF")
    with pytest.raises(ValueError, match="1 answers are missing in column hit"):
        accuracy(table[~(one & (table["system"] == "AMC") & (table["seed"] == 1))])


def test_seeds_that_were_answered_earlier_stand_below(table):
    amc = table["system"] == "AMC"
    joined = with_seeds_of(table[~amc | (table["seed"] == 2)], table.assign(hit=1.0))
    assert len(joined) == len(table)
    new = joined[(joined["system"] == "AMC") & (joined["seed"] != 2)]
    assert set(new["seed"]) == {0, 1} and (new["hit"] == 1).all()
    assert joined["hit"].sum() == table.loc[~amc | (table["seed"] == 2), "hit"].sum() + len(new)
    with pytest.raises(ValueError, match="the earlier answers are to other phrases: 1 were asked of one table alone"):
        with_seeds_of(table[~amc], table[amc & (table["phrase_id"] != "p7")])


def test_file_holds_the_table(table, tmp_path):
    path = tmp_path / "answers.csv.gz"
    write_table(path, table)
    first = path.read_bytes()
    pd.testing.assert_frame_equal(read_table(path), table.reset_index(drop=True), check_dtype=False)
    write_table(path, table)
    assert path.read_bytes() == first
