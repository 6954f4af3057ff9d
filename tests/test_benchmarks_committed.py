"""The committed figures/benchmarks.csv keeps what is claimed, and the README's table is made of it.

After measuring anew (08_benchmarks): `python -m amc_study.benchmarks` renews the README.
"""

from __future__ import annotations

import pandas as pd
import pytest

from amc_lib.files import ROOT
from amc_study.benchmarks.rows import COLUMNS
from amc_study.benchmarks.summary import CLAIMS, CSV, readme_table, with_table

if not CSV.is_file():
    pytest.skip("figures/benchmarks.csv: 08_benchmarks has not been run in full yet", allow_module_level=True)

CLAIMED = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
BOUNDS = {  # of the issue, written once more so that a claim cannot be weakened in one place
    "train_step_speedup": (1.5, None),
    "train_step_speedup_bf16": (3.0, None),
    "train_step_loss_difference_float32": (None, 1e-5),
    "train_step_loss_difference_bf16": (None, 0.01),
    "amc_overhead": (None, 10.0),
    "memory_share": (None, 80.0),
    "memory_share_bf16": (None, 55.0),
    "evaluation_speedup": (20.0, None),
    "evaluation_points_equal": (100.0, None),
}
SHORT_OF = {  # what was wanted, and what is kept instead; the README says what stands in the way
    "matmul_share": (75.0, 55.0),
    "finetune_step_speedup": (2.0, 1.2),
    "finetune_abreast_speedup": (2.0, 1.5),
    "pretrain_abreast_speedup": (2.0, 1.4),
}
FURTHER = (
    "matmul_peak_float32", "matmul_peak_bf16", "train_step_speedup_b2", "train_step_speedup_b4",
    "train_step_speedup_bf16_b2", "train_step_speedup_bf16_b4", "train_step_seconds_plain_b2",
    "train_step_seconds_float32_b4", "train_step_seconds_bf16_b4", "memory_per_sample_plain",
    "evaluation_phrases_per_second", "pretrain_step_speedup", "finetune_seeds_abreast_speedup",
    *(f"growth_{measure}_{axis}" for measure in ("seconds", "memory")
      for axis in ("batch", "resolution", "phrases", "processes")),
)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return pd.read_csv(CSV)


def test_bounds_are_those_of_the_issue():
    reached = [claim for claim in CLAIMS if claim.bound and claim.wanted is None]
    assert {claim.name: (claim.least, claim.most) for claim in reached} == BOUNDS
    assert {claim.name: (claim.wanted, claim.least) for claim in CLAIMS if claim.wanted is not None} == SHORT_OF


def test_csv_has_its_columns_and_every_row(rows):
    assert tuple(rows.columns) == COLUMNS
    assert not ({*BOUNDS, *FURTHER} | {claim.name for claim in CLAIMS}) - set(rows["name"])
    assert (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
    assert rows[["unit", "machine"]].notna().all(axis=None)


@CLAIMED
def test_claim_holds(rows, claim):
    value = rows.set_index("name")["value"][claim.name]
    assert claim.holds(value)
    assert claim.wanted is None or value < claim.wanted, "reached: make it a bound"


def test_readme_table_is_made_of_the_csv(rows):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == with_table(text, readme_table(rows))


def test_growth_and_estimate_stand_beside_it(rows):
    points = pd.read_csv(CSV.with_name("growth.csv"))
    assert set(points["axis"]) == {"batch", "resolution", "phrases", "processes"} and len(points) >= 12
    estimates = pd.read_csv(CSV.with_name("benchmarks_estimate.csv"))
    hours = estimates.set_index(["card", "epoch"])["hours"]["A100 80 GB", "every region description"]
    assert rows.set_index("name")["value"]["vg_hours_regions"] == pytest.approx(hours, rel=1e-3)
    assert all(CSV.with_name(name).is_file() for name in ("growth.png", "growth.svg", "benchmarks.json"))
