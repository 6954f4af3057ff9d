"""Measure on a quiet machine and write figures/benchmarks.csv and figures/paper_step.csv: about 20 minutes on 2 cores.

python -m tests.bench [--rounds 5] [--quick]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import pandas as pd
import torch

from amc_lib.files import write_csv, write_json
from amc_lib.presets import preset
from amc_study.figures import FOLDER
from amc_study.provenance import provenance
from tests.bench.paper_step import paper_step_table, visual_genome_rows
from tests.bench.pointing import pointing_rows
from tests.bench.steps import agreement_rows, scenes_rows, step_rows
from tests.bench.using import command_rows, memory_rows, photographs_rows, study_rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round at batch 2, to see whether everything runs")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="to write into (default: figures/)")
    given = parser.parse_args()
    rounds = 1 if given.quick else given.rounds
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    begin, settings = time.perf_counter(), preset("paper")
    rows = step_rows(settings, (2,) if given.quick else (2, 4), rounds, (512,) if given.quick else (1024, 2048, 4096))
    rows += agreement_rows(settings) + pointing_rows(settings, rounds) + scenes_rows(rounds)
    rows += photographs_rows(rounds) + command_rows(rounds) + memory_rows() + study_rows()
    table = paper_step_table(rounds)
    rows += visual_genome_rows(table)
    account = provenance(settings, seed=0, seconds=time.perf_counter() - begin, rounds=rounds)
    frame = pd.DataFrame(rows)
    for name, result in (("benchmarks", frame), ("paper_step", table)):
        write_csv(given.folder / f"{name}.csv", result)
        write_json(given.folder / f"{name}.json", account)
    print(frame.drop(columns="machine").to_string(index=False))


if __name__ == "__main__":
    main()
