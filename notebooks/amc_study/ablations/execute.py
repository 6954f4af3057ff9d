"""Running a grid: what has no record is trained now, as many processes as there are cores; a failure is named.

Started again after an interruption, even by SIGKILL, it repeats nothing that is on record, and a training that was cut
off goes on from its newest snapshot. One experiment in a process of its own:

    python -m amc_study.ablations.execute '{"parameters": {...}, "read": "gradcam"}' FOLDER_OF_RUNS FILE_OF_RECORDS
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from amc_lib.checkpoints import find, shipped, weights_hash
from amc_lib.files import ROOT, plain
from amc_study.ablations.experiments import Experiment
from amc_study.ablations.records import append_record
from amc_study.comparison import answer
from amc_study.identity import holds
from amc_study.run_folder import Run, is_finished, open_run
from amc_study.runs import RUNS, finetune, pretrained
from amc_study.tiers import tier_of

ABLATION_RUNS = RUNS / "ablations"


def run_grid(
    experiments: Sequence[Experiment],
    done: Container[str],
    records: Path,
    home: Path = ABLATION_RUNS,
    abreast: int | None = None,
) -> None:
    """Add to the file `records` every experiment whose key is not `done`.

    Raises RuntimeError naming those that failed; the others are on record.
    """
    waiting = [one for one in experiments if one.key not in done]
    print(f"{len(experiments)} experiments, {len(experiments) - len(waiting)} of them on record")
    cores = os.cpu_count() or 1
    abreast = abreast or (1 if torch.cuda.is_available() else cores)
    failed = []
    with ThreadPoolExecutor(abreast) as pool, tqdm(total=len(waiting), desc="ablations", unit="run") as bar:
        started = [pool.submit(_in_a_process, one, home, records, max(1, cores // abreast)) for one in waiting]
        for finished in as_completed(started):
            sentence, succeeded = finished.result()
            bar.write(sentence)
            bar.update()
            failed += [] if succeeded else [sentence]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(experiments)} experiments failed; the first: {failed[0]}")


def _in_a_process(experiment: Experiment, home: Path, records: Path, threads: int) -> tuple[str, bool]:
    """Run an experiment in a process; returns a sentence about it, and whether it left a record."""
    log = home / "logs" / f"{experiment.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    task = json.dumps({"parameters": dict(experiment.parameters), "read": experiment.read})
    command = [sys.executable, "-m", __name__, task, str(home), str(records)]
    begin = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False).returncode
    last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["(no output)"])[-1]
    outcome = f"failed (exit {code}; {plain(log)})" if code else "done"
    return f"{experiment.title}: {outcome} after {time.perf_counter() - begin:.0f} s: {last}", not code


def run_experiment(experiment: Experiment, home: Path, records: Path, studies: Path = RUNS) -> None:
    """Train (or open the finished run), answer all splits, also with random phrases, and add the record."""
    settings = experiment.settings
    run = finished_run(experiment, studies) or finetune(settings, output=home / experiment.training_key)
    checkpoint, data = run.checkpoint(), tier_of(settings)
    splits, validation = data.evaluation_splits(), data.validation_split() if data.layer_is_chosen else None
    read = replace(checkpoint.settings, amc=replace(checkpoint.settings.amc, explanation=experiment.read))
    answers = answer(replace(checkpoint, settings=read), splits, validation, {name: ["random"] for name in splits})
    append_record(records, experiment, answers, splits, run)
    print(", ".join(f"{split} {100 * pointing.hits.mean():.1f} %" for split, pointing in answers.pointing.items()))


def finished_run(experiment: Experiment, studies: Path) -> Run | None:
    """A run of `make study` (or `make paper`), or one that the repository ships, that is of the same settings."""
    init_sha256 = weights_hash(pretrained(experiment.settings))
    trained = (metrics.parent for metrics in sorted(studies.glob("*/seed-*/*/metrics.json")))
    for folder in (*trained, *map(find, shipped())):
        if is_finished(folder):
            run = open_run(folder)
            if holds(run, "finetuning", experiment.settings, init_sha256):
                return run
    return None


if __name__ == "__main__":
    task, *folders = sys.argv[1:]
    try:
        run_experiment(Experiment(**json.loads(task)), *map(Path, folders))
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(str(error))
