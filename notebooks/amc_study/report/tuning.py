"""How much each system was tuned: the trials of the rival's two parts, and AMC's ablations that are hyperparameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from amc_study.ablations.experiments import experiment
from amc_study.ablations.records import RECORDS, content

TRIALS = {"the rival's detector": ("detector_trials", "map50"), "the model above it": ("vmrm_trials", "pointing")}
TUNABLE = {"lambda1", "lambda2", "delta1", "delta2", "layer", "map_size", "mean_form", "alpha", "mlm_distillation"}
DEFAULTS = experiment({}, seed=0, tier="scenes").parameters  # of an ablation: AMC's on the light schedule


def tuning(folder: Path) -> pd.DataFrame:
    """A row for each part: settings tried, minutes that took, and its best two by validation, in percent.

    Of AMC only what one could tune counts: not its control, nor what is done to the boxes. Nothing of it was chosen so:
    the settings in use are the paper's.
    """
    rows = []
    for part, (name, measure) in TRIALS.items():
        if (path := folder / f"{name}.csv").is_file():
            trials = pd.read_csv(path)
            rows.append(_row(part, measure, trials[measure], trials["taken"], trials["seconds"]))
    if (path := folder / RECORDS).is_file():
        runs = [run for run in content(path)["runs"] if _is_a_trial(run)]
        trials = pd.DataFrame({json.dumps(run["parameters"], sort_keys=True): _trial(run) for run in runs}).T
        rows.append(_row("AMC", "pointing", trials["best"], trials["taken"].astype(bool), trials["seconds"]))
    return pd.DataFrame(rows)


def _is_a_trial(run: dict[str, Any]) -> bool:
    changed = run["parameters"].keys() - DEFAULTS.keys()
    same = all(run["parameters"].get(name) == value for name, value in DEFAULTS.items())
    with_boxes = any(run["parameters"].get(name, 1) for name in ("lambda1", "lambda2"))
    return run["read"] == "gradcam" and same and changed <= TUNABLE and with_boxes


def _trial(run: dict[str, Any]) -> dict[str, Any]:
    taken = run["parameters"] == DEFAULTS
    return {"best": max(run["layers"].values()), "taken": taken, "seconds": run["training"]["seconds"]}


def _row(part: str, measure: str, values: pd.Series, taken: pd.Series, seconds: pd.Series) -> dict[str, Any]:
    return {
        "part": part,
        "settings tried": len(values),
        "minutes": f"{seconds.sum() / 60:.0f}",
        "judged by": measure,
        "in use": f"{values[taken].max():.1f}",
        "best of the others": f"{values[~taken].max():.1f}",
    }
