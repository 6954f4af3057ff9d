"""The score of a checkpoint on a folder of photographs: what `python -m amc_lib.evaluate` prints.

The folder is in Flickr30k Entities' layout (`amc_lib.datasets.flickr30k`); any photographs will do.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap
from torch import Tensor

from amc_lib.checkpoints import Checkpoint, load_checkpoint
from amc_lib.datasets import flickr30k
from amc_lib.evaluate import Pointing, point_at
from amc_lib.grounder import heatmap_layer, model_input
from amc_lib.regions import Region

IMAGES_AT_ONCE = 8
DRAWS = 2000  # of the bootstrap


def answers(checkpoint: Checkpoint, regions: Sequence[Region], progress: str | None = None) -> Pointing:
    """Where a checkpoint points for the phrase of every region, in pictures read from their files."""

    def load(region: Region) -> tuple[Tensor, tuple[int, int]]:
        picture = region.image.open()
        return model_input(picture, checkpoint.model), (picture.height, picture.width)

    layer, explanation = heatmap_layer(checkpoint), checkpoint.settings.amc.explanation
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    return point_at(model, tokenizer, regions, load, layer, IMAGES_AT_ONCE, progress, explanation)


def summary(hits: np.ndarray, regions: Sequence[Region]) -> dict[str, Any]:
    """Pointing accuracy in percent with its interval.

    hits: bool [P]. `interval` is the 95 % percentile bootstrap over photographs, all phrases of one together; None
    where there are fewer than two.
    """
    images, rows = np.unique([region.image_id for region in regions], return_inverse=True)
    of_image = np.bincount(rows, weights=hits), np.bincount(rows)  # hits and phrases of each photograph
    found: dict[str, Any] = {"photographs": len(images), "phrases": len(regions), "hits": int(np.sum(hits))}
    found["accuracy"] = 100 * found["hits"] / len(regions)
    found["interval"] = None
    if len(images) > 1:
        options = {"paired": True, "n_resamples": DRAWS, "method": "percentile", "rng": 0}
        interval = bootstrap(of_image, lambda h, n, axis: 100 * h.sum(axis) / n.sum(axis), **options)
        found["interval"] = [float(edge) for edge in interval.confidence_interval]
    return found


def by_type(hits: np.ndarray, regions: Sequence[Region]) -> dict[str, dict[str, Any]]:
    """`summary` of the phrases of each entity type, the most frequent first."""
    types = np.array([region.entity or "none" for region in regions])
    names, counts = np.unique(types, return_counts=True)
    return {
        str(name): summary(hits[types == name], [regions[p] for p in np.flatnonzero(types == name)])
        for name in names[np.argsort(-counts, kind="stable")]
    }


def line(name: str, found: dict[str, Any]) -> str:
    """A summary as text."""
    interval = "[{:.1f}, {:.1f}]".format(*found["interval"]) if found["interval"] else "(one photograph)"
    return f"{name:<12} {found['accuracy']:6.2f} % {interval:<14} {found['phrases']:>6} phrases"


def main(arguments: Sequence[str] | None = None) -> None:
    about = "Pointing accuracy of a checkpoint."
    parser = argparse.ArgumentParser(prog="python -m amc_lib.evaluate", description=about)
    parser.add_argument("checkpoint", help="a run's folder, a shipped name, or an official .pth")
    parser.add_argument("folder", help="in Flickr30k Entities' layout: Sentences/, Annotations/, SPLIT.txt, images/")
    parser.add_argument("split", help="train, val or test")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    given = parser.parse_args(arguments)
    try:
        checkpoint, regions = load_checkpoint(given.checkpoint), flickr30k.read(given.folder, given.split)
        if not regions:
            raise ValueError(f"{given.folder}: the split {given.split} has no boxed phrase that can be read")
        hits = answers(checkpoint, regions, given.split).hits
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    found = summary(hits, regions) | {"layer": heatmap_layer(checkpoint), "skipped": len(regions.skipped)}
    found["without_picture"] = regions.without_picture
    types = by_type(hits, regions)
    if given.json:
        print(json.dumps(found | {"by_type": types}))
        return
    print(line("all", found))
    for name, of_type in types.items():
        print(line(name, of_type))
    print(
        "{photographs} photographs; 95 % intervals over photographs; heatmap of layer {layer}; "
        "{skipped} records could not be read, {without_picture} ids have no picture".format(**found)
    )
