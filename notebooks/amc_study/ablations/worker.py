"""One experiment in a process of its own: train by papermill of 03 (or find the run), ask, leave a record.

python -m amc_study.ablations.worker '{"parameters": {...}, "read": "gradcam"}' --home runs/ablations --records FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError

from amc_lib.checkpoints import find, shipped
from amc_lib.files import ROOT
from amc_lib.parameters import FINETUNING_PARAMETERS
from amc_study.ablations.experiments import Experiment
from amc_study.ablations.records import write_record
from amc_study.comparison import Answers, answer_checkpoint
from amc_study.run_folder import Run, is_finished, open_run
from amc_study.runs import RUNS, holds
from amc_study.tiers import Split, evaluation_splits, validation_split

TRAIN = ROOT / "notebooks" / "03_train.ipynb"


def run_experiment(experiment: Experiment, home: Path, records: Path) -> None:
    """Leave the record of an experiment. Of several processes with the same training one trains, the others wait."""
    run = finished_run(experiment) or _train(experiment, home)
    write_record(records, experiment.key, experiment.parameters, experiment.read, _answers(run, experiment), run)


def finished_run(experiment: Experiment, runs: Path = RUNS) -> Run | None:
    """A run of `make study` (or `make paper`), or one that the repository ships, that is of the same settings."""
    of_studies = (metrics.parent for metrics in sorted(runs.glob("*/seed-*/*/metrics.json")))
    for folder in (*of_studies, *map(find, shipped())):
        if is_finished(folder):
            run = open_run(folder)
            if holds(run, "finetuning", experiment.settings, experiment.identity["init_sha256"]):
                return run
    return None


def notebook_parameters(experiment: Experiment, output: Path) -> dict[str, Any]:
    """The experiment as parameters of 03: what it has no parameter for goes into `more`."""
    direct = {name: value for name, value in experiment.parameters.items() if name in FINETUNING_PARAMETERS}
    more = {name: value for name, value in experiment.parameters.items() if name not in FINETUNING_PARAMETERS}
    return direct | ({"more": json.dumps(more)} if more else {}) | {"output": str(output)}


def _train(experiment: Experiment, home: Path) -> Run:
    folder, executed = home / experiment.training_key, home / "notebooks" / f"{experiment.training_key}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    parameters = notebook_parameters(experiment, folder)
    papermill.execute_notebook(TRAIN, executed, parameters, cwd=ROOT, progress_bar=False)
    return open_run(folder)


def _answers(run: Run, experiment: Experiment) -> Answers:
    checkpoint, settings = run.checkpoint(), experiment.settings
    banks: Mapping[str, Split] = evaluation_splits(settings)
    read = replace(checkpoint.settings, amc=replace(checkpoint.settings.amc, explanation=experiment.read))
    validation = validation_split(settings) if settings.tier == "scenes" else None
    return answer_checkpoint(replace(checkpoint, settings=read), banks, validation)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_study.ablations.worker", description=__doc__.split("\n")[0])
    parser.add_argument("experiment", help="JSON: parameters of 03, and read")
    parser.add_argument("--home", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--records", type=Path, required=True, help="where records are kept")
    given = parser.parse_args()
    try:
        run_experiment(Experiment(**json.loads(given.experiment)), given.home, given.records)
    except PapermillExecutionError as error:
        sys.exit(f"{error.ename}: {error.evalue}")
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
