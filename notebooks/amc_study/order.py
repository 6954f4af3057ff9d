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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amc_lib.checkpoints import official_albef
from amc_lib.files import ROOT, plain, write_json
from amc_study.comparison import DETECTOR_BASED, FINETUNED
from amc_study.scenes.cache import fingerprint

PUBLISHED_SEEDS = 3
HOMES = {"scenes": ROOT / "runs" / "study", "paper": ROOT / "runs" / "paper"}  # of runs and executed notebooks


@dataclass(frozen=True)
class Step:
    """One execution of a notebook or a module; `after` names the steps whose results it reads."""

    name: str
    what: str  # "03_train.ipynb" or "amc_study.report"
    parameters: dict[str, Any] = field(default_factory=dict)  # of a notebook
    after: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()  # of a module
    on_all_devices: bool = False

    def key(self, keys: dict[str, str]) -> str:
        """Hash of all that the result depends on; `keys` are those of the steps before."""
        source = f"import {self.what}"
        if self.what.endswith(".ipynb"):
            cells = json.loads((ROOT / "notebooks" / self.what).read_text(encoding="utf-8"))["cells"]
            source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        before = [keys[name] for name in self.after]
        code = sorted(path.relative_to(ROOT).as_posix() for path in imported_files(source))
        return fingerprint([self.parameters, self.arguments, before, source], code)

    def command(self, home: Path) -> list[str]:
        if self.on_all_devices:
            return [sys.executable, "-m", "accelerate.commands.launch", "-m", self.what, *self.arguments]
        if not self.what.endswith(".ipynb"):
            return [sys.executable, "-m", self.what, *self.arguments]
        quiet = ["--no-progress-bar", "--log-level", "ERROR", "--stdout-file", "-"]  # what cells print, and no more
        files = [str(ROOT / "notebooks" / self.what), str(executed(self, home)), "--cwd", str(ROOT)]
        parameters = [part for name, value in self.parameters.items() for part in ("-p", name, str(value))]
        return [sys.executable, "-m", "papermill", *quiet, *files, *parameters]


def plan(seeds: int, full: bool = False) -> list[list[Step]]:
    """The study's steps in rounds, those of a round side by side; with `full` of all that figures/ and README show.

    With one seed VMRM is not trained: 09 and 04 open its shipped run. What measures time has the machine to itself.
    """
    home = HOMES["scenes"]
    figures = {"figures": _figures(seeds, home)}
    finetuning = []
    for seed in range(seeds):
        outputs = {system: str(home / f"seed-{seed}" / name) for system, name in (FINETUNED | DETECTOR_BASED).items()}
        control = {"seed": seed, "lambda1": 0.0, "lambda2": 0.0, "output": outputs["ALBEF finetuned"]}
        vmrm = {"seed": seed} | ({"output": outputs["VMRM"]} if seeds > 1 else {}) | figures
        finetuning += [
            Step(f"amc-{seed}", "03_train.ipynb", {"seed": seed, "output": outputs["AMC"]}, ("pretrain",)),
            Step(f"vmrm-{seed}", "09_detector.ipynb", vmrm, ("pretrain",)),
            Step(f"finetune-{seed}", "03_train.ipynb", control, ("pretrain",)),
        ]
    trained = tuple(step.name for step in finetuning)
    shown = {"amc": str(home / "seed-0" / FINETUNED["AMC"])}
    shown |= {"vmrm": str(home / "seed-0" / DETECTOR_BASED["VMRM"])} if seeds > 1 else {}
    compared = {"runs": str(home), "seeds": seeds} | figures
    rounds = [
        [Step("data", "01_data.ipynb", figures)],
        [Step("pretrain", "02_pretrain.ipynb", after=("data",))],
        finetuning,
        [Step("evaluate", "04_evaluate.ipynb", compared, trained)],
        [Step("explore", "06_explore.ipynb", shown, trained)],
    ]
    if not full:
        return rounds
    pretrained = ("pretrain",)
    rounds += [
        [Step("explanations", "10_explanations.ipynb", compared, ("evaluate",))],
        [Step("method", "00_method.ipynb", after=pretrained), Step("own-data", "07_your_data.ipynb", after=pretrained)],
        [Step("ablations", "05_ablations.ipynb", figures, pretrained)],
    ]
    if seeds == PUBLISHED_SEEDS:
        rounds += [[Step("film", "amc_study.report.film", after=pretrained)]]
        rounds += [[Step("benchmarks", "tests.bench", after=pretrained)]]
        results = tuple(step.name for steps in rounds for step in steps)
        rounds += [[Step("pages", "amc_study.report", after=results)]]
    return rounds


def paper_plan(seeds: int) -> list[list[Step]]:
    """The same on photographs, one step at a time; 03 shows what `accelerate launch` has trained."""
    home, paper = HOMES["paper"], {"tier": "paper"}
    figures = {"figures": _figures(seeds, home)}
    steps = [
        Step("data", "01_data.ipynb", paper | figures),
        Step("pretrain", "02_pretrain.ipynb", paper, ("data",)),
    ]
    outputs = [str(official_albef())]
    for seed in range(seeds):
        for system, name in FINETUNED.items():
            without = {} if system == "AMC" else {"lambda1": 0.0, "lambda2": 0.0}
            parameters = paper | {"seed": seed} | without | {"output": str(home / f"seed-{seed}" / name)}
            options = tuple(part for option, value in parameters.items() for part in (f"--{option}", str(value)))
            train = Step(f"train-{name}-{seed}", "amc_study.finetune", {}, ("pretrain",), options, True)
            steps += [train, Step(f"show-{name}-{seed}", "03_train.ipynb", parameters, (train.name,))]
            outputs.append(parameters["output"])
    shown = tuple(step.name for step in steps if step.name.startswith("show-"))
    compared = paper | {"runs": str(home), "seeds": seeds} | figures
    steps += [
        Step("answers", "amc_study.answers", {}, shown, tuple(outputs), True),
        Step("evaluate", "04_evaluate.ipynb", compared, ("answers",)),
    ]
    return [[step] for step in steps]


def _figures(seeds: int, home: Path) -> str:
    return "figures" if seeds == PUBLISHED_SEEDS else str(home / "figures")


def run_study(rounds: list[list[Step]], home: Path) -> None:
    """Execute what is not up to date. Raises RuntimeError naming the step that failed and where to look."""
    begin, keys = time.perf_counter(), {}
    for steps in rounds:
        waiting = []
        for step in steps:
            keys[step.name] = step.key(keys)
            if _stamp(step, home) == keys[step.name]:
                print(f"{step.name}: up to date", flush=True)
            else:
                waiting.append(step)
        _execute(waiting, keys, home)
    print(f"The study is complete ({(time.perf_counter() - begin) / 60:.1f} min): see {plain(home)}.")


def _execute(steps: list[Step], keys: dict[str, str], home: Path) -> None:
    """Run steps side by side, at most one a core, each with its share of the cores; stamp those that succeed.

    After a failure those that run are waited for, and no other is begun.
    """
    cores = os.cpu_count() or 1
    abreast = max(1, min(cores, len(steps)))
    failed: list[Step] = []

    def run(step: Step) -> None:
        if failed:
            return
        if perform(step, home, threads=cores // abreast) == 0:
            write_json(home / "steps" / f"{step.name}.json", {"key": keys[step.name]})
        else:
            failed.append(step)

    with ThreadPoolExecutor(abreast) as pool:
        list(pool.map(run, steps))
    if failed:
        raise RuntimeError("failed: " + ", ".join(f"{step.name} (see {_log(step, home)})" for step in failed))


def perform(step: Step, home: Path, threads: int) -> int:
    """Run a step, show the lines that it prints with its name before them, and return its exit status.

    What it writes to stderr (warnings of kernels, progress bars) goes to a log beside its stamp.
    """
    print(f"{step.name}: running {step.what} {step.parameters or ''}", flush=True)
    begin = time.perf_counter()
    for path in (executed(step, home), _log(step, home)):
        path.parent.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": str(threads), "PYDEVD_DISABLE_FILE_VALIDATION": "1", "PYTHONUNBUFFERED": "1"}
    with _log(step, home).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            step.command(home), cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        for line in filter(str.strip, process.stdout):
            print(f"{step.name}: {line.rstrip()}", flush=True)
    print(f"{step.name}: {time.perf_counter() - begin:.0f} s", flush=True)
    return process.wait()


def executed(step: Step, home: Path) -> Path:
    """Where the executed notebook is kept."""
    return home / "notebooks" / f"{step.name}.ipynb"


def _log(step: Step, home: Path) -> Path:
    return home / "steps" / f"{step.name}.log"


def _stamp(step: Step, home: Path) -> str | None:
    """The key under which the step was last done."""
    try:
        return json.loads((home / "steps" / f"{step.name}.json").read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError):
        return None


def imported_files(source: str) -> set[Path]:
    """This repository's modules that Python source imports, what they import in turn, and tables beside them."""
    found: set[Path] = set()
    waiting = [source]
    while waiting:
        for path in set(_modules(waiting.pop())) - found:
            found |= {path, *path.parent.glob("*.csv"), *path.parent.glob("*.j2")}
            waiting.append(path.read_text(encoding="utf-8"))
    return found


def _modules(source: str) -> Iterator[Path]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    for name in names:
        place = name.replace(".", "/")
        for base in (ROOT, ROOT / "notebooks"):
            yield from filter(Path.is_file, (base / place / "__init__.py", base / place / "__main__.py"))
            yield from filter(Path.is_file, [base / f"{place}.py"])


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
