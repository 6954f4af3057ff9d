"""`make study`: every notebook in order, through papermill, from drawn scenes to table 1 and the figures.

`make study-full` goes on to explanations, ablations, own data, benchmarks and the pages made of them all. `make paper`
is the study on photographs; what needs all devices (training, asking the splits) is launched by accelerate before the
notebook that shows it. A step is one notebook, launch or module with its parameters. It is done again only if its
notebook, its parameters, the library or a step before it changed; training runs that exist with the same settings are
opened, not repeated. Steps that do not need each other run side by side, sharing the cores.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amc_lib.checkpoints import official_albef
from amc_lib.files import ROOT, plain, write_json
from amc_study.comparison import DETECTOR_BASED, FINETUNED
from amc_study.runs import RUNS

STUDY, PAPER = RUNS / "study", RUNS / "paper"
NOTEBOOKS = ROOT / "notebooks"
FULL_SEEDS = 3


@dataclass(frozen=True)
class Step:
    """One execution of a notebook, of `launch` (a module and its arguments) on all devices, or of a module here.

    `after` names the steps whose results it reads.
    """

    name: str
    notebook: str | None
    parameters: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    launch: tuple[str, ...] = ()
    home: Path | None = None  # where the executed notebook is kept; by default STUDY
    module: str = ""

    def key(self, keys: dict[str, str]) -> str:
        """Hash of all that the step's result depends on; `keys` are those of the steps before it."""
        before = [keys[name] for name in self.after]
        digest = hashlib.sha256(json.dumps([self.parameters, self.launch, before]).encode())
        if self.notebook:
            cells = json.loads((NOTEBOOKS / self.notebook).read_text(encoding="utf-8"))["cells"]
            digest.update(json.dumps([cell["source"] for cell in cells]).encode())
        for path in sorted(path for code in ("amc_lib", "notebooks/amc_study") for path in (ROOT / code).rglob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def command(self) -> list[str]:
        if self.module:
            return [sys.executable, "-m", self.module]
        if self.launch:
            return [sys.executable, "-m", "accelerate.commands.launch", "-m", *self.launch]
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR"]
        command += [str(NOTEBOOKS / self.notebook), str(self.executed), "--cwd", str(ROOT)]
        return command + [part for name, value in self.parameters.items() for part in ("-p", name, str(value))]

    @property
    def executed(self) -> Path:
        return (self.home or STUDY) / "notebooks" / f"{self.name}.ipynb"

    @property
    def stamp(self) -> Path:
        return (self.home or STUDY) / "steps" / f"{self.name}.json"


def plan(seeds: int) -> list[list[Step]]:
    """The study's steps in rounds; steps of one round run side by side.

    With one seed the detector-based system is not trained: 09 and 04 open its shipped run.
    """
    folders = [STUDY / f"seed-{seed}" for seed in range(seeds)]
    finetuning = []
    for seed, folder in enumerate(folders):
        control = {"seed": seed, "lambda1": 0.0, "lambda2": 0.0, "output": str(folder / FINETUNED["ALBEF finetuned"])}
        amc = {"seed": seed, "output": str(folder / FINETUNED["AMC"])}
        with_detector = {"seed": seed} | ({"output": str(folder / DETECTOR_BASED["VMRM"])} if seeds > 1 else {})
        finetuning += [
            Step(f"amc-{seed}", "03_train.ipynb", amc, ("pretrain",)),
            Step(f"vmrm-{seed}", "09_detector.ipynb", with_detector, ("pretrain",)),
            Step(f"finetune-{seed}", "03_train.ipynb", control, ("pretrain",)),
        ]
    trained = tuple(step.name for step in finetuning)
    evaluation = Step("evaluate", "04_evaluate.ipynb", {"runs": str(STUDY), "seeds": seeds}, trained)
    shown = {"amc": str(folders[0] / FINETUNED["AMC"])}
    shown |= {"vmrm": str(folders[0] / DETECTOR_BASED["VMRM"])} if seeds > 1 else {}
    explore = Step("explore", "06_explore.ipynb", shown, trained)
    first = [Step("data", "01_data.ipynb")], [Step("pretrain", "02_pretrain.ipynb", after=("data",))]
    return [*first, finetuning, [evaluation], [explore]]


def full_plan(seeds: int) -> list[list[Step]]:
    """`plan` and everything else that figures/ and the README show; what measures time has the machine to itself."""
    rounds = plan(seeds)
    explanations = Step("explanations", "10_explanations.ipynb", {"runs": str(STUDY), "seeds": seeds}, ("evaluate",))
    film = Step("film", None, after=("pretrain",), module="amc_study.report.film")
    own = Step("own-data", "07_your_data.ipynb", after=("pretrain",))
    ablations = Step("ablations", "05_ablations.ipynb", after=("pretrain",))
    benchmarks = Step("benchmarks", None, after=("pretrain",), module="tests.bench")
    rounds += [[explanations, film], [own], [ablations], [benchmarks]]
    results = tuple(step.name for steps in rounds for step in steps)
    return [*rounds, [Step("pages", None, after=results, module="amc_study.report")]]


def paper_plan(seeds: int) -> list[list[Step]]:
    """The same on photographs, one step at a time, each launch on all devices."""
    paper = {"tier": "paper"}
    steps = [
        Step("data", "01_data.ipynb", paper, home=PAPER),
        Step("pretrain", "02_pretrain.ipynb", paper, ("data",), home=PAPER),
    ]
    outputs = []
    for seed in range(seeds):
        for system, name in FINETUNED.items():
            output = str(PAPER / f"seed-{seed}" / name)
            without = {} if system == "AMC" else {"lambda1": 0.0, "lambda2": 0.0}
            parameters = paper | {"seed": seed} | without | {"output": output}
            options = [part for option, value in parameters.items() for part in (f"--{option}", str(value))]
            train = Step(f"train-{name}-{seed}", None, {}, ("pretrain",), ("amc_study.finetune", *options), PAPER)
            steps += [train, Step(f"show-{name}-{seed}", "03_train.ipynb", parameters, (train.name,), home=PAPER)]
            outputs.append(output)
    shown = tuple(step.name for step in steps if step.notebook == "03_train.ipynb")
    asked = Step("answers", None, {}, shown, ("amc_study.answers", str(official_albef()), *outputs), PAPER)
    table = Step(
        "evaluate", "04_evaluate.ipynb", paper | {"runs": str(PAPER), "seeds": seeds}, ("answers",), home=PAPER
    )
    return [[step] for step in (*steps, asked, table)]


def run_study(seeds: int, force: bool = False, tier: str = "scenes", full: bool = False) -> None:
    """Execute what is not up to date, with `full` of all that there is.

    Raises RuntimeError naming the notebook that failed and where it stands.
    """
    begin = time.perf_counter()
    home, steps_of = {"scenes": (STUDY, full_plan if full else plan), "paper": (PAPER, paper_plan)}[tier]
    if force:
        shutil.rmtree(home, ignore_errors=True)
    keys: dict[str, str] = {}
    for steps in steps_of(seeds):
        waiting = []
        for step in steps:
            keys[step.name] = step.key(keys)
            if _stamped(step) == keys[step.name]:
                print(f"{step.name}: up to date", flush=True)
            else:
                waiting.append(step)
        _execute(waiting, keys)
    minutes = (time.perf_counter() - begin) / 60
    print(f"The study is complete ({minutes:.1f} min): see figures/ and {plain(home)}.")
    print(f"To repeat it from the start: python -m amc_study.order --tier {tier} --force")


def _execute(steps: list[Step], keys: dict[str, str]) -> None:
    """Run steps side by side, at most one a core, each with its share of the cores; stamp those that succeed.

    After a failure those that run are waited for, and no other is begun.
    """
    cores = os.cpu_count() or 1
    abreast = min(cores, len(steps))
    failed: list[Step] = []

    def run(step: Step) -> None:
        if failed:
            return
        begin = time.perf_counter()
        if _start(step, threads=str(cores // abreast)).wait() == 0:
            write_json(step.stamp, {"key": keys[step.name]})
        else:
            failed.append(step)
        print(f"{step.name}: {time.perf_counter() - begin:.0f} s", flush=True)

    with ThreadPoolExecutor(max(1, abreast)) as pool:
        list(pool.map(run, steps))
    if failed:
        where = ", ".join(f"{step.notebook} (see {step.executed})" if step.notebook else step.name for step in failed)
        raise RuntimeError(f"failed: {where}")


def _start(step: Step, threads: str) -> subprocess.Popen:
    what = step.notebook or step.module or " ".join(step.launch)
    print(f"{step.name}: running {what} {step.parameters or ''}", flush=True)
    step.executed.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return subprocess.Popen(step.command(), cwd=ROOT, env=environment)


def _stamped(step: Step) -> str | None:
    try:
        return json.loads(step.stamp.read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_study.order", description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, help=f"train and evaluate this many (default 1, with --full {FULL_SEEDS})")
    parser.add_argument("--tier", choices=("scenes", "paper"), default="scenes", help="drawn scenes or photographs")
    parser.add_argument("--full", action="store_true", help="also explanations, ablations, benchmarks and pages")
    parser.add_argument("--force", action="store_true", help="delete the study's runs and start over")
    arguments = parser.parse_args()
    seeds = (FULL_SEEDS if arguments.full else 1) if arguments.seeds is None else arguments.seeds
    if seeds < 1:
        parser.error("--seeds must be at least 1")
    if arguments.full and arguments.tier == "paper":
        parser.error("--full is of the scenes tier; in the paper tier run 05 and 10 with -p tier paper")
    try:
        run_study(seeds, arguments.force, arguments.tier, arguments.full)
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
