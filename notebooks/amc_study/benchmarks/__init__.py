"""Benchmarks: what 08_benchmarks.ipynb measures, one file a question, one row of figures/benchmarks.csv an answer."""

from amc_study.benchmarks.arithmetic import matmul_peaks, peak_rows
from amc_study.benchmarks.estimate import estimate_rows, estimate_table, flops_of_a_pair
from amc_study.benchmarks.first_figure import first_figure_rows
from amc_study.benchmarks.gpu import gpu_rows
from amc_study.benchmarks.growth import exponent_rows, growth_points
from amc_study.benchmarks.memory import memory_rows
from amc_study.benchmarks.plan import Plan, benchmark_plan
from amc_study.benchmarks.pointing import pointing_rows
from amc_study.benchmarks.rows import Row, row, table
from amc_study.benchmarks.scenes import drawing_rows, training_rows
from amc_study.benchmarks.steps import loss_rows, step_rows
from amc_study.benchmarks.summary import CLAIMS, readme_table
from amc_study.benchmarks.timing import machine, ratio, side_by_side, use_all_cores

__all__ = [
    "CLAIMS", "Plan", "Row", "benchmark_plan", "drawing_rows", "estimate_rows", "estimate_table", "exponent_rows",
    "first_figure_rows", "flops_of_a_pair", "gpu_rows", "growth_points", "loss_rows", "machine", "matmul_peaks",
    "memory_rows", "peak_rows", "pointing_rows", "ratio", "readme_table", "row", "side_by_side", "step_rows", "table",
    "training_rows", "use_all_cores",
]  # fmt: skip
