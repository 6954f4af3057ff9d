"""`make study`: every notebook in order, through papermill, from drawn scenes to table 1 and the figures.

A step is one notebook with its parameters. It is done again only if its notebook, its parameters, the library or a
step before it changed; training runs that exist with the same settings are opened, not repeated. Steps that do not
need each other run side by side, sharing the cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amc_lib.comparison import FINETUNED
from amc_lib.files import write_json
from amc_lib.provenance import ROOT

STUDY = ROOT / "runs" / "study"
NOTEBOOKS = ROOT / "notebooks"


@dataclass(frozen=True)
class Step:
    """One execution of a notebook. `after` names the steps whose results it reads."""

    name: str
    notebook: str
    parameters: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()

    def key(self, keys: dict[str, str]) -> str:
        """Hash of all that the step's result depends on; `keys` are those of the steps before it."""
        digest = hashlib.sha256(json.dumps([self.parameters, [keys[name] for name in self.after]]).encode())
        cells = json.loads((NOTEBOOKS / self.notebook).read_text(encoding="utf-8"))["cells"]
        digest.update(json.dumps([cell["source"] for cell in cells]).encode())
        for path in sorted((ROOT / "amc_lib").rglob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()


def plan(seeds: int) -> list[list[Step]]:
    """The study's steps in rounds; steps of one round run side by side."""
    folders = [STUDY / f"seed-{seed}" for seed in range(seeds)]
    finetuning = []
    for seed, folder in enumerate(folders):
        control = {"seed": seed, "lambda1": 0.0, "lambda2": 0.0, "output": str(folder / FINETUNED["ALBEF finetuned"])}
        amc = {"seed": seed, "output": str(folder / FINETUNED["AMC"])}
        finetuning += [
            Step(f"finetune-{seed}", "03_train.ipynb", control, ("pretrain",)),
            Step(f"amc-{seed}", "03_train.ipynb", amc, ("pretrain",)),
        ]
    trained = tuple(step.name for step in finetuning)
    evaluation = Step("evaluate", "04_evaluate.ipynb", {"runs": str(STUDY), "seeds": seeds}, trained)
    explore = Step("explore", "06_explore.ipynb", {"amc": str(folders[0] / FINETUNED["AMC"])}, trained)
    first = [Step("data", "01_data.ipynb")], [Step("pretrain", "02_pretrain.ipynb", after=("data",))]
    return [*first, finetuning, [evaluation], [explore]]


def run_study(seeds: int, force: bool = False) -> None:
    """Execute what is not up to date. Raises RuntimeError naming the notebook that failed and where it stands."""
    begin = time.perf_counter()
    if force:
        shutil.rmtree(STUDY, ignore_errors=True)
    keys: dict[str, str] = {}
    for steps in plan(seeds):
        waiting = []
        for step in steps:
            keys[step.name] = step.key(keys)
            if _stamp(step) == keys[step.name]:
                print(f"{step.name}: up to date", flush=True)
            else:
                waiting.append(step)
        _execute(waiting, keys)
    minutes = (time.perf_counter() - begin) / 60
    print(f"The study is complete ({minutes:.1f} min): see figures/ and {STUDY.relative_to(ROOT)}.")
    print("To repeat it from the start: python -m amc_lib.study --force")


def _execute(steps: list[Step], keys: dict[str, str]) -> None:
    """Run steps side by side, at most one a core, each with its share of the cores; stamp those that succeed."""
    cores = os.cpu_count() or 1
    while steps:
        now, steps = steps[:cores], steps[cores:]
        threads = str(max(1, cores // len(now)))
        running = [(step, time.perf_counter(), _start(step, threads)) for step in now]
        failed = []
        for step, begin, process in running:
            if process.wait() == 0:
                write_json(STUDY / "steps" / f"{step.name}.json", {"key": keys[step.name]})
            else:
                failed.append(step)
            print(f"{step.name}: {time.perf_counter() - begin:.0f} s", flush=True)
        if failed:
            where = ", ".join(f"{step.notebook} (see {_executed(step)})" for step in failed)
            raise RuntimeError(f"failed: {where}")


def _start(step: Step, threads: str) -> subprocess.Popen:
    print(f"{step.name}: running {step.notebook} {step.parameters or ''}", flush=True)
    _executed(step).parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR"]
    command += [str(NOTEBOOKS / step.notebook), str(_executed(step)), "--cwd", str(ROOT)]
    for name, value in step.parameters.items():
        command += ["-p", name, str(value)]
    environment = os.environ | {"OMP_NUM_THREADS": threads, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment)


def _executed(step: Step) -> Path:
    return STUDY / "notebooks" / f"{step.name}.ipynb"


def _stamp(step: Step) -> str | None:
    try:
        return json.loads((STUDY / "steps" / f"{step.name}.json").read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_lib.study", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1, help="train and evaluate this many seeds (default 1)")
    parser.add_argument("--force", action="store_true", help="delete the study's runs and start over")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error("--seeds must be at least 1")
    try:
        run_study(arguments.seeds, arguments.force)
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
