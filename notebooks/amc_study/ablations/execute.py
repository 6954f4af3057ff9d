"""Running the grid: what has no record yet, as many processes as there are cores, with progress; a failure is named.

Started again after an interruption, even by SIGKILL, it repeats nothing that is on record, and a training that was cut
off goes on from its newest snapshot.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm.auto import tqdm

from amc_lib.files import ROOT, plain
from amc_study.ablations.experiments import Experiment
from amc_study.ablations.records import read_records, records_folder
from amc_study.runs import RUNS
from amc_study.tiers import evaluation_splits

ABLATION_RUNS = RUNS / "ablations"
NAME_LENGTH = 60  # of a log line's experiment


def run_grid(
    experiments: Sequence[Experiment],
    home: Path = ABLATION_RUNS,
    records: Path | None = None,
    abreast: int | None = None,
) -> None:
    """Leave a record of every experiment. Raises RuntimeError naming those that failed; the others are done."""
    tier = experiments[0].parameters["tier"]
    records = records or records_folder(tier)
    done = read_records(records, evaluation_splits(experiments[0].settings))
    waiting = [one for one in experiments if one.key not in done]
    print(f"{len(experiments)} experiments, {len(experiments) - len(waiting)} of them on record in {plain(records)}")
    cores = os.cpu_count() or 1
    abreast = abreast or (1 if torch.cuda.is_available() else cores)
    failed = []
    with ThreadPoolExecutor(abreast) as pool, tqdm(total=len(waiting), desc="ablations", unit="run") as bar:
        started = {pool.submit(_run, one, home, records, max(1, cores // abreast)): one for one in waiting}
        for finished in as_completed(started):
            sentence, succeeded = finished.result()
            bar.write(sentence)
            bar.update()
            if not succeeded:
                failed.append(sentence)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(experiments)} experiments failed; the first: {failed[0]}")


def _run(experiment: Experiment, home: Path, records: Path, threads: int) -> tuple[str, bool]:
    """Run a worker; returns what there is to say, and whether it left a record."""
    log = home / "logs" / f"{experiment.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    task = json.dumps({"parameters": dict(experiment.parameters), "read": experiment.read})
    command = [sys.executable, "-m", "amc_study.ablations.worker", task, "--home", str(home), "--records", str(records)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    begin = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False).returncode
    seconds = time.perf_counter() - begin
    if code:
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["(nothing was said)"])[-1]
        return f"{name_of(experiment)}: failed after {seconds:.0f} s (exit {code}; {plain(log)}): {last}", False
    accuracy = json.loads((records / f"{experiment.key}.json").read_text(encoding="utf-8"))["accuracy"]
    shown = ", ".join(f"{split} {percent:.1f} %" for split, percent in accuracy.items())
    return f"{name_of(experiment)}: {shown} ({seconds:.0f} s)", True


def name_of(experiment: Experiment) -> str:
    """What a person knows an experiment by: what it changes, its seed, how it is read."""
    hidden = {"tier", "seed"}
    changes = ", ".join(f"{k} {v}" for k, v in experiment.parameters.items() if k not in hidden) or "defaults"
    read = "" if experiment.read == "gradcam" else f", {experiment.read} read"
    return f"seed {experiment.parameters['seed']}, {changes[:NAME_LENGTH]}{read}"
