"""08_benchmarks through papermill on a tiny model: every cell runs, and rows have the values that they must."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from PIL import Image

from amc_study.benchmarks.rows import COLUMNS
from amc_study.benchmarks.summary import CLAIMS

ROOT = Path(__file__).resolve().parents[1]
ABSENT = {  # of claims, with `quick`
    "finetune_step_speedup", "finetune_abreast_speedup", "pretrain_abreast_speedup", "clone_to_first_figure_seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        papermill.execute_notebook(
            ROOT / "notebooks" / "08_benchmarks.ipynb",
            folder / "out.ipynb",
            {"quick": True, "output": str(folder)},
            cwd=ROOT,
            progress_bar=False,
        )
    return folder


@pytest.fixture(scope="module")
def values(folder) -> pd.Series:
    rows = pd.read_csv(folder / "benchmarks.csv")
    assert tuple(rows.columns) == COLUMNS
    return rows.set_index("name")["value"]


def test_every_claim_but_those_that_need_more_is_measured(values):
    assert {claim.name for claim in CLAIMS} - set(values.index) == ABSENT
    assert values.notna().all()


def test_what_does_not_depend_on_the_clock_is_right(values):
    assert values["train_step_loss_difference_float32"] <= 1e-5
    assert values["train_step_loss_difference_bf16"] <= 0.01
    assert values["evaluation_points_equal"] == 100


def test_ratios_agree_with_the_seconds_that_they_are_of(values):
    for size in (2, 4):
        plain, fast = (values[f"train_step_seconds_{form}_b{size}"] for form in ("plain", "float32"))
        assert values[f"train_step_speedup_b{size}"] == pytest.approx(plain / fast, rel=0.5)  # medians, busy cores
    speedups = values[["train_step_speedup_b2", "train_step_speedup_b4"]]
    assert values["train_step_speedup"] == speedups.min()
    assert (values[values.index.str.contains("per_second|seconds|peak")] > 0).any()
    assert values["growth_seconds_batch"] < 2


def test_figure_and_notebook_show_it(folder, values):
    assert Image.open(folder / "growth.png").width > 1000
    cells = nbformat.read(folder / "out.ipynb", as_version=4).cells
    shown = [output for cell in cells for output in cell.get("outputs", [])]
    assert any("train_step_speedup" in str(output.get("data", {})) for output in shown)
    assert any("no GPU here" in output.get("text", "") for output in shown) or "gpu_largest_batch" in values
