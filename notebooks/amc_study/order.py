"""The study's order: every notebook through papermill, from pictures to table 1 and the figures.

`make study` trains and evaluates; `make study-full` goes on to explanations, ablations, own data, benchmarks and the
pages made of them; `make photos` does the same on real photographs, `make paper` on the paper's data, training on all
devices through accelerate (`plans.py`). A step is done again only if its parameters, its code cells, a module that it
imports or a step before it changed. figures/ is written by a study of PUBLISHED_SEEDS seeds alone, any other writes
into its own folder under runs/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from amc_lib.datasets.check import FAILED, PHOTOS, check
from amc_lib.files import ROOT, photos_root, plain, write_json
from amc_study.plans import HOMES, PUBLISHED_SEEDS, paper_plan, photos_plan, plan
from amc_study.steps import Step


def require_photographs() -> None:
    """Raises RuntimeError, with what is there and what is not, where data of the photos tier are missing or broken."""
    root = photos_root()
    found = check(root, parts=[part for part in PHOTOS if part.role == "evaluation"])  # counted, not read: a second
    if found["verdict"].isin(FAILED).any():
        where = "data/README.md says where it comes from; the environment variable AMC_PHOTOS names another folder"
        raise RuntimeError(f"photographs below {root}:\n{found.to_string(index=False, na_rep='')}\n{where}")


def run_study(rounds: list[list[Step]], home: Path) -> None:
    """Execute what is not up to date, the steps of a round side by side, each with its share of the cores.

    After a failure those that run are waited for and no other is begun. Raises RuntimeError naming what failed.
    """
    begin, keys = time.perf_counter(), {}
    for steps in rounds:
        keys |= {step.name: step.key(keys) for step in steps}
        waiting = [step for step in steps if not _is_done(step, home, keys[step.name])]
        abreast = max(1, min(os.cpu_count() or 1, len(waiting)))
        failed: list[str] = []

        with ThreadPoolExecutor(abreast) as pool:
            for step in waiting:
                pool.submit(_run, step, home, keys[step.name], (os.cpu_count() or 1) // abreast, failed)
        if failed:
            raise RuntimeError(f"failed: {', '.join(failed)}")
    print(f"The study is complete ({(time.perf_counter() - begin) / 60:.1f} min): see {plain(home)}.")


def _run(step: Step, home: Path, key: str, threads: int, failed: list[str]) -> None:
    """Run a step, unless another has failed, and stamp it, with the seconds it took, where it succeeds."""
    if failed:
        return
    begin = time.perf_counter()
    if perform(step, home, threads):
        failed.append(f"{step.name} (see {home / 'steps' / step.name}.log)")
    else:
        write_json(home / "steps" / f"{step.name}.json", {"key": key, "seconds": round(time.perf_counter() - begin)})


def _is_done(step: Step, home: Path, key: str) -> bool:
    """Whether the step's stamp has this key."""
    stamp = home / "steps" / f"{step.name}.json"
    done = stamp.is_file() and f'"{key}"' in stamp.read_text(encoding="utf-8")
    if done:
        print(f"{step.name}: up to date", flush=True)
    return done


def perform(step: Step, home: Path, threads: int) -> int:
    """Run a step, show the lines that it prints with its name before them, and return its exit status.

    What it writes to stderr (warnings of kernels, progress bars) goes to a log beside its stamp.
    """
    print(f"{step.name}: running {step.what} {step.parameters or ''}", flush=True)
    begin, log = time.perf_counter(), home / "steps" / f"{step.name}.log"
    for folder in (log.parent, home / "notebooks"):
        folder.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": str(threads), "PYDEVD_DISABLE_FILE_VALIDATION": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            step.command(home), cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        for line in filter(str.strip, process.stdout):
            print(f"{step.name}: {line.rstrip()}", flush=True)
    print(f"{step.name}: {time.perf_counter() - begin:.0f} s", flush=True)
    return process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_study.order", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, help=f"how many (default 1, with --full {PUBLISHED_SEEDS})")
    parser.add_argument("--tier", choices=tuple(HOMES), default="scenes", help="whose pictures")
    parser.add_argument("--full", action="store_true", help="also explanations, ablations, benchmarks and pages")
    parser.add_argument("--force", action="store_true", help="delete the study's runs and start over")
    options = parser.parse_args()
    seeds = (PUBLISHED_SEEDS if options.full else 1) if options.seeds is None else options.seeds
    if seeds < 1:
        parser.error("--seeds must be at least 1")
    if options.full and options.tier != "scenes":
        parser.error("--full is of the scenes tier; in the paper tier run 05 and 10 with -p tier paper")
    home = HOMES[options.tier]
    plans = {"scenes": partial(plan, full=options.full), "photos": photos_plan, "paper": paper_plan}
    try:
        if options.tier == "photos":
            require_photographs()
        if options.force:
            shutil.rmtree(home, ignore_errors=True)
        run_study(plans[options.tier](seeds), home)
        if seeds != PUBLISHED_SEEDS:
            print(f"Tables and pictures: {plain(home / 'figures')}; the published ones in figures/ stay as they are.")
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
