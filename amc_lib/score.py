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
from amc_lib.datasets.records import Regions
from amc_lib.evaluate import Pointing, point_at, point_hits
from amc_lib.files import annotated_folder
from amc_lib.grounder import heatmap_layer, model_input
from amc_lib.phrases import says_nothing, unknown_words, unread_words
from amc_lib.regions import Region

IMAGES_AT_ONCE = 8
DRAWS = 2000  # of the bootstrap
SHOWN = 5  # sentences about what was left out


def answers(checkpoint: Checkpoint, regions: Sequence[Region], progress: str | None = None) -> Pointing:
    """Where a checkpoint points for the phrase of every region, in pictures read from their files."""

    def load(region: Region) -> tuple[Tensor, tuple[int, int]]:
        picture = region.image.open()
        return model_input(picture, checkpoint.model), (picture.height, picture.width)

    layer, explanation = heatmap_layer(checkpoint), checkpoint.settings.amc.explanation
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    return point_at(model, tokenizer, regions, load, layer, IMAGES_AT_ONCE, progress, explanation)


def readable(regions: Regions) -> Regions:
    """The regions whose pictures can be opened; the others are named in `skipped`, once each."""
    seen: dict[str, bool] = {}
    for region in regions:
        if region.image_id not in seen:
            before = len(regions.skipped)
            with regions.record(f"image {region.image_id}"):
                region.image.open()
            seen[region.image_id] = len(regions.skipped) == before
    return regions.replaced(region for region in regions if seen[region.image_id])


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


def centre_hits(regions: Sequence[Region]) -> np.ndarray:
    """bool [P]: whether the middle of each region's picture lies inside one of its boxes."""
    images = {region.image_id: region.image for region in regions}
    sizes = {image_id: image.size() for image_id, image in images.items()}  # (height, width)
    return point_hits(np.array([sizes[region.image_id] for region in regions])[:, ::-1] / 2, regions)


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
    parser.add_argument("split", help="the name of a list: train, val, test or another SPLIT.txt of the folder")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    given = parser.parse_args(arguments)
    try:
        checkpoint = load_checkpoint(given.checkpoint)
        regions = readable(flickr30k.read(annotated_folder(given.folder), given.split))
        if not regions:
            first = "; the first record that was left out: " + regions.skipped[0] if regions.skipped else ""
            raise ValueError(f"{given.folder}: the split {given.split} has no boxed phrase that can be read{first}")
        hits = answers(checkpoint, regions, given.split).hits
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    about = {"layer": heatmap_layer(checkpoint), "skipped": len(regions.skipped)}
    about |= {"first_skipped": regions.skipped[:SHOWN], "without_picture": regions.without_picture}
    phrases, tokenizer = [region.phrase for region in regions], checkpoint.tokenizer
    about["unknown"] = sum(says_nothing(phrase, unknown_words(tokenizer, phrase)) for phrase in phrases)
    positions = checkpoint.model.settings.text.positions
    about["cut"] = sum(bool(unread_words(tokenizer, phrase, positions)) for phrase in phrases)
    found, types = summary(hits, regions), by_type(hits, regions)
    centre = summary(centre_hits(regions), regions)
    if given.json:
        print(json.dumps(found | about | {"by_type": types, "centre": centre}))
        return
    print(line("all", found))
    for name, of_type in types.items():
        print(line(name, of_type))
    print(line("centre", centre))
    print(
        "{photographs} photographs; 95 % intervals over photographs; heatmap of layer {layer}; centre: the middle of "
        "each picture; {skipped} records could not be read, {without_picture} ids have no picture; "
        "of {unknown} phrases the checkpoint knows no word, and of {cut} the end is not read: they are scored like the "
        "others".format(**found, **about)
    )
    print(*regions.skipped[:SHOWN], sep="\n", end="\n" if regions.skipped else "")
