"""What `Grounder` says beside a point, chosen on the validation split: `python -m amc_study.calibrate CHECKPOINT`.

Two thresholds are written into the checkpoint's description (its weights stay as they are): the share of the heatmap's
maximum whose mask fits the boxes best, and the match score from which on a thing is said to be in the picture, with how
often that is wrong for phrases of the pictures and for absent ones (`wrong_phrases`).
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from amc_lib.checkpoints import DESCRIPTION, find
from amc_lib.files import write_json
from amc_lib.grounder import Calibration, heatmap_layer
from amc_study.answers import ask
from amc_study.explain.heatmap_quality import THRESHOLDS, measure
from amc_study.rival.region_tower import open_checkpoint
from amc_study.tiers import tier_of
from amc_study.wrong_phrases import wrong_questions


def calibrate(source: str | Path) -> Calibration:
    """Choose both thresholds for a checkpoint of the scenes or photos tier, write them and return them."""
    checkpoint = open_checkpoint(source)
    split, layer = tier_of(checkpoint.settings).validation_split(), heatmap_layer(checkpoint)
    answers = ask(checkpoint, split, layer)
    absent = [question for question in wrong_questions(split.all_regions())["absent"] if question]
    box, presence = THRESHOLDS[measure(answers, split).best_threshold], ()
    if absent:
        presence = best_threshold(answers.scores, ask(checkpoint, split, layer, absent).scores)
    found = Calibration(box, *(round(value, 4) for value in presence))
    path = find(source) / DESCRIPTION
    content = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, content | {"about": content["about"] | {"calibration": asdict(found)}})
    return found


def best_threshold(there: np.ndarray, absent: np.ndarray) -> tuple[float, float, float]:
    """The score at which the mean of the two error rates is least, and these: of what is there, of what is not.

    What is there is missed below the threshold; what is absent is a false alarm from the threshold on.
    """
    candidates = np.unique(np.concatenate((there, absent)))
    missed = np.searchsorted(np.sort(there), candidates, "left") / len(there)
    false_alarms = 1 - np.searchsorted(np.sort(absent), candidates, "left") / len(absent)
    best = int((missed + false_alarms).argmin())
    return float(candidates[best]), float(missed[best]), float(false_alarms[best])


def main() -> None:
    for source in sys.argv[1:]:
        print(f"{source}: {calibrate(source)}")


if __name__ == "__main__":
    main()
