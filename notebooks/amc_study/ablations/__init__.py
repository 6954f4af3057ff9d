"""Ablations: which part of the method does what. A grid of finetunings, their records, tables and figures.

`grid` says what is varied, `execute` runs what has no record yet (each by papermill of 03), `records` keeps what a run
answered as a small file of the repository, `tables` makes table 1's columns of them.
"""

from amc_study.ablations.execute import run_grid
from amc_study.ablations.experiments import Experiment, chosen, experiments, overview
from amc_study.ablations.grid import Ablation, Variant, ablations
from amc_study.ablations.records import read_records, records_folder
from amc_study.ablations.tables import ablation_provenance, ablation_table, rank_agreement

__all__ = [
    "Ablation",
    "Experiment",
    "Variant",
    "ablation_provenance",
    "ablation_table",
    "ablations",
    "chosen",
    "experiments",
    "overview",
    "rank_agreement",
    "read_records",
    "records_folder",
    "run_grid",
]
