"""What `Grounder` says beside a point, chosen on the validation split: `python -m amc_study.calibrate CHECKPOINT`.

Three things are written into the checkpoint's description (its weights stay as they are): the fusion layer whose
heatmap points best, from then on its own; the share of the heatmap's maximum at which `Grounding.box` fits the
annotated boxes best; and the match score from which on a thing is said to be in the picture, with how often it errs for
phrases of the pictures and for absent ones (`wrong_phrases`).
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_iou

from amc_lib.checkpoints import DESCRIPTION, find
from amc_lib.evaluate import Pointing
from amc_lib.files import write_json
from amc_lib.grounding import Calibration, box_around
from amc_study.answers import ask
from amc_study.comparison import layer_accuracies
from amc_study.explain.heatmap_quality import THRESHOLDS, picture_maps
from amc_study.rival.region_tower import open_checkpoint
from amc_study.tiers import Split, tier_of
from amc_study.wrong_phrases import wrong_questions


def calibrate(source: str | Path) -> Calibration:
    """Choose layer and thresholds for a checkpoint of the scenes or photos tier, write them and return the latter."""
    checkpoint = open_checkpoint(source)
    split = tier_of(checkpoint.settings).validation_split()
    layers = layer_accuracies(checkpoint, split)
    layer = max(layers, key=layers.get)
    answers = ask(checkpoint, split, layer)
    absent = [question for question in wrong_questions(split.all_regions())["absent"] if question]
    box, presence = THRESHOLDS[int(box_ious(answers, split).mean(axis=0).argmax())], ()
    if absent:
        presence = best_threshold(answers.scores, ask(checkpoint, split, layer, absent).scores)
    found = Calibration(box, *(round(value, 4) for value in presence))
    path = find(source) / DESCRIPTION
    content = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, content | {"about": content["about"] | {"layer": layer, "calibration": asdict(found)}})
    return found


def box_ious(answers: Pointing, split: Split) -> np.ndarray:
    """[P, T]: intersection over union of `Grounding.box` at each of THRESHOLDS with the best of the phrase's boxes."""
    ious = np.zeros((len(answers.regions), len(THRESHOLDS)))
    for p, region in enumerate(answers.regions):
        heat, point = picture_maps(answers, [p], split.size(region))[0].numpy(), tuple(answers.points[p])
        annotated = torch.tensor(region.boxes, dtype=torch.float64)  # [boxes, 4]
        found = [box_around(heat >= threshold * heat.max(), point) for threshold in THRESHOLDS]
        ious[p] = box_iou(torch.tensor(found, dtype=torch.float64), annotated).amax(1)
    return ious


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
