"""The settings of the detector-based system that were tried, each on a short schedule: which one is taken, and why.

`python -m amc_study.rival.trials detector` and `python -m amc_study.rival.trials vmrm` write figures/detector_trials.csv and
figures/vmrm_trials.csv, each with its provenance. A trial changes what its name says and nothing else; runs under
runs/trials are not repeated. All numbers are of the validation split. Trials of the model over proposals start from the
rate and the depth that ALBEF has on scenes. The one that is taken was the best when the full pretraining began; rate
1.6e-3 with depth 1, tried later and better after one epoch, was not pretrained in full.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from amc_lib.config import Settings
from amc_lib.files import write_csv, write_json
from amc_lib.parameters import replace as changed
from amc_lib.presets import preset
from amc_study.figures import FOLDER
from amc_study.provenance import provenance
from amc_study.rival.detector_runs import train_detector
from amc_study.rival.region_answers import way_accuracies
from amc_study.rival.settings import DetectorSettings, detector_based
from amc_study.runs import RUNS, pretrain
from amc_study.tiers import validation_split

TRIALS = RUNS / "trials"
DETECTOR_STEPS = 400  # of 1,500
DETECTOR = (
    {},
    {"learning_rate": 1e-3},
    {"learning_rate": 3e-3},
    {"learning_rate": 1.2e-2},
    {"channels": 128},
    {"width": 512},
    {"candidates": 400},
    {"weight_decay": 0.01},
)
VMRM_EPOCHS = 1  # of 6, and the contrast alone
VMRM_START = {"region_softness": 0.07, "learning_rate": 4e-4, "depth": 2}  # rate and depth are ALBEF's on scenes
VMRM = (
    {},
    {"region_softness": 0.0},
    {"region_softness": 0.03},
    {"region_softness": 0.15},
    {"learning_rate": 2e-4},
    {"learning_rate": 8e-4},
    {"learning_rate": 1.6e-3},
    {"depth": 1},
    {"depth": 4},
    {"temperature_range": (0.03, 0.03)},
    {"temperature_range": (0.001, 0.5)},
    {"learning_rate": 8e-4, "depth": 1},
    {"learning_rate": 1.6e-3, "depth": 1},
)
VMRM_TAKEN = {"learning_rate": 8e-4, "depth": 1}


def detector_trials(steps: int = DETECTOR_STEPS, home: Path = TRIALS) -> pd.DataFrame:
    """Columns: changed, steps, seconds, mAP at IoU 0.5 and recall among 30 boxes in percent, and which one is taken."""
    rows = []
    for changes in DETECTOR:
        settings = replace(DetectorSettings(), **{"steps": steps, **changes})
        run = train_detector(settings, home / f"detector-{_slug(changes)}")
        numbers = run.metrics["validation"]
        percent = {name: round(100 * numbers[name], 1) for name in ("map50", "recall30", "recall30_unboxed")}
        seconds = round(run.metrics["provenance"]["seconds"])
        rows.append({"changed": _words(changes), "steps": steps, "seconds": seconds} | percent | {"taken": not changes})
    return pd.DataFrame(rows)


def vmrm_trials(epochs: int = VMRM_EPOCHS, home: Path = TRIALS) -> pd.DataFrame:
    """Columns: changed, epochs, seconds, the contrast's loss at the end, pointing in percent by similarity, and which
    one is taken.
    """
    rows = []
    for changes in VMRM:
        settings = vmrm_settings(VMRM_START | changes, epochs)
        run = pretrain(settings, home / f"vmrm-{_slug(changes)}")
        pointing = way_accuracies(run.checkpoint(), validation_split(settings), ["similarity"])["similarity"]
        rows.append(
            {
                "changed": _words(changes),
                "epochs": epochs,
                "seconds": round(run.metrics["provenance"]["seconds"]),
                "itc": round(run.metrics["final"]["itc"], 3),
                "pointing": round(pointing, 1),
                "taken": changes == VMRM_TAKEN,
            }
        )
    return pd.DataFrame(rows)


def vmrm_settings(changes: dict[str, Any], epochs: int) -> Settings:
    """The preset of the detector-based system for a trial, with fields of its parts changed by their names."""
    settings = detector_based(preset("scenes"))
    short = {"epochs": epochs, "short_captions_until": epochs, "fuse_from": epochs}
    parts = {
        "pretraining": replace(settings.pretraining, **short),
        "objective": settings.objective,
        "model": settings.model,
        "vision": settings.model.vision,
    }
    for name, value in changes.items():
        owner = next(part for part in parts if hasattr(parts[part], name))
        parts[owner] = changed(parts[owner], **{name: value})
    model = replace(parts.pop("model"), vision=parts.pop("vision"))
    return replace(settings, model=model, **parts)


def _words(changes: dict[str, Any]) -> str:
    """What a row of the table says was changed."""
    return ", ".join(f"{name} {value}" for name, value in changes.items()) or "nothing"


def _slug(changes: dict[str, Any]) -> str:
    return "-".join(f"{name}-{value}" for name, value in changes.items()).replace(" ", "") or "start"


def main() -> None:
    detector_start = replace(DetectorSettings(), steps=DETECTOR_STEPS)
    of = {
        "detector": (detector_trials, detector_start, DETECTOR),
        "vmrm": (vmrm_trials, vmrm_settings(VMRM_START, VMRM_EPOCHS), VMRM),
    }
    parser = argparse.ArgumentParser(prog="python -m amc_study.rival.trials", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=of)
    what = parser.parse_args().what
    measure, start, tried = of[what]
    begin = time.perf_counter()
    table = measure()
    record = provenance(start, seed=0, seconds=time.perf_counter() - begin, tried=tried)
    write_csv(FOLDER / f"{what}_trials.csv", table)
    write_json(FOLDER / f"{what}_trials.json", record)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
