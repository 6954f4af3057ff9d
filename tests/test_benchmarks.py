"""Benchmarks: rounds and ratios, counts against formulas, the fit of a power, the README's table.

What is measured is measured by 08_benchmarks; here a tiny model and made-up clocks show that it is measured rightly.
"""

from __future__ import annotations

import math
import os
import resource
from itertools import count
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from legibility import assert_texts_are_legible
from nbformat.v4 import new_code_cell, new_notebook, new_output

from amc_study.benchmarks import (
    benchmark_plan,
    estimate_rows,
    estimate_table,
    exponent_rows,
    loss_rows,
    row,
    summary,
    table,
)
from amc_study.benchmarks import timing as clock
from amc_study.benchmarks.__main__ import main as publish
from amc_study.benchmarks.arithmetic import count_flops
from amc_study.benchmarks.estimate import VISITS, flops_of_a_pair
from amc_study.benchmarks.growth import exponent
from amc_study.benchmarks.plain import plain_form
from amc_study.benchmarks.pointing import PHRASES, Pointer
from amc_study.benchmarks.processes import alone, in_processes, peak_bytes
from amc_study.benchmarks.rows import COLUMNS
from amc_study.benchmarks.summary import BEGIN, CLAIMS, END, Claim, readme_table, with_table
from amc_study.benchmarks.timing import Spread, ratio, side_by_side, spread
from amc_study.figures import growth_figure
from amc_study.footprint import Stepper, full_size_batch

QUICK = benchmark_plan(quick=True)
STATM = Path("/proc/self/statm")  # sizes of this process, in pages


# ------------------------------------------------------------------------------------------------------------- timing


def test_rounds_go_forwards_and_backwards_and_the_first_do_not_count(monkeypatch):
    ticks, calls = count(step=1.0), []
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(ticks))
    forms = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = side_by_side(forms, repetitions=3, warm_up=1)
    assert "".join(calls) == "abccbaabccba"
    assert seconds == {name: [1.0] * 3 for name in "abc"}


def test_callable_may_bring_its_own_seconds():
    assert side_by_side({"own": lambda: 2.5}, repetitions=2) == {"own": [2.5, 2.5]}


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="repetitions must be positive, got 0"):
        side_by_side({"a": lambda: None}, repetitions=0)


def test_ratio_is_taken_round_by_round():
    seconds = {"slow": [2.0, 40.0, 6.0], "fast": [1.0, 10.0, 2.0]}  # the second round met a busy machine
    assert ratio(seconds, "slow", "fast") == Spread(3.0, 2.0, 4.0)
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


# --------------------------------------------------------------------------------------------------------------- rows


def test_table_has_the_columns_of_the_issue_and_refuses_a_name_twice():
    rows = [row("a", Spread(1.23456789, 1.0, 2.0), "s"), row("b", 3.0, "GiB", "8 x GPU")]
    frame = table(rows)
    assert tuple(frame.columns) == COLUMNS == ("name", "value", "low", "high", "unit", "machine")
    assert frame.iloc[0].tolist()[:5] == ["a", 1.2346, 1.0, 2.0, "s"]
    assert frame["machine"].iloc[0].endswith(f"{torch.get_num_threads()} threads") or torch.cuda.is_available()
    assert frame.iloc[1].tolist() == ["b", 3.0, 3.0, 3.0, "GiB", "8 x GPU"]
    with pytest.raises(ValueError, match="two rows are named a"):
        table([*rows, rows[0]])


def test_machine_names_no_host(monkeypatch):
    assert os.uname().nodename not in clock.machine()


# --------------------------------------------------------------------------------------------------------- arithmetic


def test_operations_are_counted_with_attention_and_backward():
    query = torch.randn(2, 3, 8, 16, requires_grad=True)  # [B, h, L, d]
    weight = torch.randn(5, 7, requires_grad=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    forward = 2 * (2 * 2 * 3 * 8 * 8 * 16)  # two products
    assert count_flops(lambda: attend(query, query, query)) == forward
    assert count_flops(lambda: attend(query, query, query).sum().backward()) == forward * 3.5  # five products more
    assert count_flops(lambda: torch.randn(4, 5) @ weight) == 2 * 4 * 5 * 7


def test_estimate_is_operations_over_speed():
    flops = flops_of_a_pair(QUICK)
    batch = full_size_batch(QUICK.batches[-1], QUICK.model)
    stepper = Stepper(QUICK.model, "cpu", "float32", checkpointing=False)
    assert flops * QUICK.batches[-1] == count_flops(lambda: stepper.forward(batch).backward())
    estimates = estimate_table(QUICK, 1e12)
    assert len(estimates) == 3 * len(VISITS)
    one = estimates[(estimates["card"] == "A100 80 GB") & (estimates["epoch"] == "one phrase of each image")].iloc[0]
    speed = one["gpus"] * one["card_tflops"] * 1e12 * one["utilisation"] * one["scaling"]
    assert one["hours"] == pytest.approx(1e12 * 108_077 * 30 / speed / 3600, abs=0.01)
    assert one["updates"] == 108_077 // 512 * 30
    assert [one.name for one in estimate_rows(estimates)] == ["vg_hours_images", "vg_hours_regions"]


# ------------------------------------------------------------------------------------------------------------- growth


@pytest.mark.parametrize("power", [0.0, 1.0, 2.3])
def test_power_is_found_and_its_interval_holds_it(power):
    x = pd.Series([1.0, 2, 4, 8, 16])
    noise = np.exp(np.random.default_rng(0).normal(0, 0.05, 5))
    exact, noisy = exponent(x, 3 * x**power), exponent(x, 3 * x**power * noise)
    assert exact.value == pytest.approx(power, abs=1e-9) and exact.high - exact.low < 1e-6
    assert noisy.low < power < noisy.high and 0.01 < noisy.high - noisy.low < 0.3


def test_two_points_have_no_interval():
    with pytest.raises(ValueError, match="at least three points, got 2"):
        exponent(pd.Series([1, 2]), pd.Series([1, 2]))


@pytest.fixture(scope="module")
def points() -> pd.DataFrame:
    x = {"batch": (1, 2, 4, 8), "resolution": (128, 192, 256, 384), "phrases": (1, 4, 32), "processes": (1, 2, 4)}
    rows = [(axis, n, 0.2 * n, 5 + 0.1 * n) for axis, of_axis in x.items() for n in of_axis]
    return pd.DataFrame(rows, columns=["axis", "x", "seconds", "memory_gib"])


def test_figure_of_growth_says_the_fitted_powers(points):
    exponents = table(exponent_rows(points))
    assert exponents["name"].iloc[:2].tolist() == ["growth_seconds_batch", "growth_memory_batch"]
    figure = growth_figure(points, exponents)
    texts = assert_texts_are_legible(figure)
    assert sum(text.startswith("power 1.00 [1.00, 1.00]") for text in texts) == 4  # seconds, one for each axis
    assert {"images in a batch", "processes", "seconds", "memory, GiB"} <= set(texts)
    shown = figure.axes[0].lines[1]
    assert shown.get_xdata().tolist() == [1, 2, 4, 8] and shown.get_ydata().tolist() == [0.2, 0.4, 0.8, 1.6]
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), 0.2 * line.get_xdata())


def test_figure_of_growth_names_a_missing_column(points):
    with pytest.raises(ValueError, match="lack the column memory_gib"):
        growth_figure(points.drop(columns="memory_gib"), table(exponent_rows(points)))


# ------------------------------------------------------------------------------------------------- model and processes


def test_fast_and_plain_step_have_equal_losses():
    exact, half = loss_rows(QUICK)
    assert (exact.name, half.name) == ("train_step_loss_difference_float32", "train_step_loss_difference_bf16")
    assert exact.value <= 1e-5 < half.value <= 0.01


def test_pointing_at_once_is_pointing_one_by_one():
    pointer = Pointer(QUICK.model)
    with torch.no_grad():  # so large that peaks are clear
        for parameter in (p for p in pointer.model.parameters() if p.ndim > 1):
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    together = pointer.at_once(PHRASES)
    assert (together == pointer.one_by_one(PHRASES)).all()
    assert len({tuple(point) for point in together}) > 2


@pytest.mark.skipif(not STATM.is_file(), reason="the system does not say what a process holds now")
def test_peak_memory_follows_what_is_held_and_stays():
    before, now = peak_bytes(), int(STATM.read_text().split()[1]) * resource.getpagesize()
    held = torch.ones((before - now + 64 * 2**20) // 4)
    peak = peak_bytes()
    assert 32 * 2**20 < peak - before < 96 * 2**20
    del held
    assert peak_bytes() == pytest.approx(peak, abs=2**20)


def test_processes_answer_in_order_each_in_its_own():
    assert in_processes(math.pow, [(2, 3), (3, 2)], own_processes=False) == [8, 9]
    assert alone(os.getpid, own_processes=False) == os.getpid()


def test_library_without_its_tests_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("amc_study.benchmarks.plain.TESTS", tmp_path)
    with pytest.raises(ValueError, match=r"plain_step.py: missing; benchmarks .* need a clone"):
        plain_form("plain_step")


@pytest.mark.parametrize("quick", ["yes", 1, None])
def test_only_a_truth_value_chooses_the_plan(quick):
    with pytest.raises(ValueError, match=f"quick must be True or False, got {quick!r}"):
        benchmark_plan(quick)


# ----------------------------------------------------------------------------------------------------- README's table


def test_readme_table_shows_values_spread_bounds_and_what_is_missing():
    rows = pd.DataFrame(
        [
            ("train_step_speedup", 1.7321, 1.6, 1.9, "times", "Chip, 2 threads"),
            ("vg_hours_regions", 50.0, 50, 50, "h", "8 x A"),
        ],
        columns=list(COLUMNS),
    )
    lines = readme_table(rows).splitlines()
    assert lines[2].endswith("| 1.73 times | 1.6 to 1.9 | at least 1.5 |")
    assert sum("| not measured |" in line for line in lines) == len(CLAIMS) - 2
    assert "| 50 h |  |  |" in lines[1 + len(CLAIMS)]
    assert lines[-1].startswith("On Chip, 2 threads. ")


@pytest.mark.parametrize(
    ("bounds", "value", "holds"),
    [((2, None), 2.0, True), ((2, None), 1.99, False), ((None, 2), 2.1, False), ((None, 2), 2.0, True)],
)
def test_claim_holds_within_its_bound(bounds, value, holds):
    assert Claim("name", "what it says", *bounds).holds(value) is holds


def test_table_is_put_between_the_marks():
    text = with_table(f"before\n{BEGIN}\nold\n{END}\nafter", "| new |")
    assert text == f"before\n{BEGIN}\n\n| new |\n\n{END}\nafter"
    assert with_table(text, "| new |") == text
    with pytest.raises(ValueError, match="lacks the marks"):
        with_table("nothing", "| new |")


def test_outputs_and_table_are_published(tmp_path, monkeypatch):
    path, readme = tmp_path / "08.ipynb", tmp_path / "README.md"
    nbformat.write(new_notebook(cells=[new_code_cell("1 + 1")]), path)
    done = new_notebook(cells=[new_code_cell("1 + 1", outputs=[new_output("stream", name="stdout", text="2")])])
    nbformat.write(done, tmp_path / "done.ipynb")
    monkeypatch.setattr(summary, "CSV", tmp_path / "benchmarks.csv")
    table([row("amc_overhead", 7.5, "%", "Chip")]).to_csv(summary.CSV, index=False)
    readme.write_text(f"{BEGIN}{END}")
    publish([str(tmp_path / "done.ipynb")], path, readme)
    assert nbformat.read(path, as_version=4).cells[0].outputs[0].text == "2"
    assert "| 7.5 % |  | at most 10 |" in readme.read_text()
