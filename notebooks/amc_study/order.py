"""The study's order: every notebook through papermill, from drawn scenes to table 1 and the figures.

`make study` trains and evaluates; `make study-full` goes on to explanations, ablations, own data, benchmarks and the
pages made of them; `make paper` does the same on photographs, training on all devices through accelerate. A step is
done again only if its parameters, its code cells, a module that it imports or a step before it changed. figures/ is
written by a study of PUBLISHED_SEEDS seeds alone, any other writes into its own folder under runs/.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amc_lib.checkpoints import official_albef
from amc_lib.files import ROOT, plain, write_json
from amc_study.run_folder import RUNS
from amc_study.scenes.cache import fingerprint

PUBLISHED_SEEDS = 3
WITHOUT_AMC = {"lambda1": 0.0, "lambda2": 0.0}
HOMES = {"scenes": RUNS / "study", "paper": RUNS / "paper"}  # of runs and executed notebooks


@dataclass(frozen=True)
class Step:
    """One execution of a notebook or a module; `after` names the steps whose results it reads."""

    name: str
    what: str  # "03_train.ipynb" or "amc_study.report"
    parameters: dict[str, Any] = field(default_factory=dict)  # of a notebook: -p name value; of a module: --name value
    after: tuple[str, ...] = ()
    on_all_devices: bool = False
    sources: tuple[str, ...] = ()  # further arguments of a module

    def key(self, keys: dict[str, str]) -> str:
        """Hash of all that the result depends on; `keys` are those of the steps before."""
        source = f"import {self.what}"
        if self.what.endswith(".ipynb"):
            cells = json.loads((ROOT / "notebooks" / self.what).read_text(encoding="utf-8"))["cells"]
            source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        before = [keys[name] for name in self.after]
        code = sorted(path.relative_to(ROOT).as_posix() for path in imported_files(source))
        return fingerprint([self.parameters, self.sources, before, source], code)

    def command(self, home: Path) -> list[str]:
        dash = "-p {}" if self.what.endswith(".ipynb") else "--{}"
        options = [part for name, value in self.parameters.items() for part in (*dash.format(name).split(), str(value))]
        if self.what.endswith(".ipynb"):
            quiet = ["--no-progress-bar", "--log-level", "ERROR", "--stdout-file", "-"]  # what cells print, and no more
            files = [str(ROOT / "notebooks" / self.what), str(home / "notebooks" / f"{self.name}.ipynb")]
            return [sys.executable, "-m", "papermill", *quiet, *files, "--cwd", str(ROOT), *options]
        launch = ["-m", "accelerate.commands.launch"] if self.on_all_devices else []
        return [sys.executable, *launch, "-m", self.what, *options, *self.sources]


def plan(seeds: int, full: bool = False) -> list[list[Step]]:
    """The study's steps in rounds, those of a round side by side; with `full` of all that figures/ and README show.

    With one seed VMRM is not trained: 09 and 04 open its shipped run. What measures time has the machine to itself.
    """
    home, start = HOMES["scenes"], ("pretrain",)
    figures = {"figures": _figures(seeds, home)}
    compared = {"runs": str(home), "seeds": seeds} | figures
    training, shown = [], {"amc": str(home / "seed-0" / "amc")}
    for seed in range(seeds):
        names = ("amc", "albef-finetuned", "vmrm")
        amc, control, vmrm = ({"seed": seed, "output": str(home / f"seed-{seed}" / name)} for name in names)
        if seeds == 1:
            del vmrm["output"]
        else:
            shown["vmrm"] = str(home / "seed-0" / "vmrm")
        training += [
            Step(f"amc-{seed}", "03_train.ipynb", amc, start),
            Step(f"vmrm-{seed}", "09_detector.ipynb", vmrm | figures, start),
            Step(f"finetune-{seed}", "03_train.ipynb", control | WITHOUT_AMC, start),
        ]
    trained = tuple(step.name for step in training)
    rounds = [
        [Step("data", "01_data.ipynb", figures)],
        [Step("pretrain", "02_pretrain.ipynb", after=("data",))],
        training,
        [Step("evaluate", "04_evaluate.ipynb", compared, trained)],
        [Step("explore", "06_explore.ipynb", shown, trained)],
    ]
    if full:
        rounds += [
            [Step("explanations", "10_explanations.ipynb", compared, ("evaluate",))],
            [Step("method", "00_method.ipynb", after=start), Step("own-data", "07_your_data.ipynb", after=start)],
            [Step("ablations", "05_ablations.ipynb", figures, start)],
        ]
    if full and seeds == PUBLISHED_SEEDS:
        rounds += [
            [Step("film", "amc_study.report.film", after=start)],
            [Step("benchmarks", "tests.bench", after=start)],
        ]
        rounds += [[Step("pages", "amc_study.report", after=tuple(step.name for steps in rounds for step in steps))]]
    return rounds


def paper_plan(seeds: int) -> list[list[Step]]:
    """The same on photographs, one step at a time; 03 shows what `accelerate launch` has trained."""
    home, paper = HOMES["paper"], {"tier": "paper"}
    figures = {"figures": _figures(seeds, home)}
    steps = [
        Step("data", "01_data.ipynb", paper | figures),
        Step("pretrain", "02_pretrain.ipynb", paper, ("data",)),
    ]
    outputs = []
    for seed in range(seeds):
        for name, lambdas in (("amc", {}), ("albef-finetuned", WITHOUT_AMC)):
            outputs.append(str(home / f"seed-{seed}" / name))
            options = paper | {"seed": seed} | lambdas | {"output": outputs[-1]}
            train = Step(f"train-{name}-{seed}", "amc_study.finetune", options, ("pretrain",), on_all_devices=True)
            steps += [train, Step(f"show-{name}-{seed}", "03_train.ipynb", options, (train.name,))]
    shown = tuple(step.name for step in steps if step.name.startswith("show-"))
    compared = paper | {"runs": str(home), "seeds": seeds} | figures
    sources = (str(official_albef()), *outputs)
    steps.append(Step("answers", "amc_study.answers", {}, shown, on_all_devices=True, sources=sources))
    steps.append(Step("evaluate", "04_evaluate.ipynb", compared, ("answers",)))
    return [[step] for step in steps]


def _figures(seeds: int, home: Path) -> str:
    return "figures" if seeds == PUBLISHED_SEEDS else str(home / "figures")


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
    """Run a step, unless another has failed, and stamp it where it succeeds."""
    if failed:
        return
    if perform(step, home, threads):
        failed.append(f"{step.name} (see {home / 'steps' / step.name}.log)")
    else:
        write_json(home / "steps" / f"{step.name}.json", {"key": key})


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


def imported_files(source: str) -> set[Path]:
    """This repository's modules that Python source imports, what they import in turn, and tables beside them."""
    found: set[Path] = set()
    waiting = [source]
    while waiting:
        names: set[str] = set()
        for node in ast.walk(ast.parse(waiting.pop())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        places = [base / name.replace(".", "/") for name in names for base in (ROOT, ROOT / "notebooks")]
        files = [path for at in places for path in (at.with_suffix(".py"), at / "__init__.py", at / "__main__.py")]
        for path in {path for path in files if path.is_file()} - found:
            found |= {path, *path.parent.glob("*.csv"), *path.parent.glob("*.j2")}
            waiting.append(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_study.order", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, help=f"how many (default 1, with --full {PUBLISHED_SEEDS})")
    parser.add_argument("--tier", choices=tuple(HOMES), default="scenes", help="drawn scenes or photographs")
    parser.add_argument("--full", action="store_true", help="also explanations, ablations, benchmarks and pages")
    parser.add_argument("--force", action="store_true", help="delete the study's runs and start over")
    options = parser.parse_args()
    seeds = (PUBLISHED_SEEDS if options.full else 1) if options.seeds is None else options.seeds
    if seeds < 1:
        parser.error("--seeds must be at least 1")
    if options.full and options.tier == "paper":
        parser.error("--full is of the scenes tier; in the paper tier run 05 and 10 with -p tier paper")
    home = HOMES[options.tier]
    if options.force:
        shutil.rmtree(home, ignore_errors=True)
    try:
        run_study(paper_plan(seeds) if options.tier == "paper" else plan(seeds, options.full), home)
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
