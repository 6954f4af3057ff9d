"""What an answer costs: weights and seconds of each system, measured side by side on one picture after another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch

from amc_lib.grounder import Grounder
from amc_lib.regions import Region
from amc_study.figures import TwoWays
from amc_study.rival.region_grounder import RegionGrounder

PICTURES = 12
REPEATS = 3  # rounds over the pictures, after one that is not counted
COLUMNS = ("system", "weights_millions", "ms_first_phrase", "ms_further_phrase", "pictures", "threads")


def cost_table(grounders: Mapping[str, Grounder | RegionGrounder], regions: Sequence[Region]) -> pd.DataFrame:
    """Weights (millions, detector and trunk included) and milliseconds of one picture's first and each further phrase.

    The first phrase pays for reading the picture. Medians over the first `PICTURES` pictures of `regions` that have
    several phrases; every picture is asked of all systems in turn, so that a busy machine slows all alike.
    """
    asked: dict[str, list[Region]] = {}
    for region in regions:
        asked.setdefault(region.image_id, []).append(region)
    pictures = [of_image for of_image in asked.values() if len(of_image) > 1][:PICTURES]
    first: dict[str, list[float]] = {system: [] for system in grounders}
    further: dict[str, list[float]] = {system: [] for system in grounders}
    for repeat in range(1 + REPEATS):
        for of_image in pictures:
            image, phrases = of_image[0].image.open(), [region.phrase for region in of_image]
            for system, grounder in grounders.items():
                one = seconds(lambda g=grounder, i=image, p=phrases[:1]: g.ground(i, p))
                several = seconds(lambda g=grounder, i=image, p=phrases: g.ground(i, p))
                if repeat:
                    first[system].append(1000 * one)
                    further[system].append(1000 * (several - one) / (len(phrases) - 1))
    rows = [
        (
            system,
            round(weights(grounder) / 1e6, 2),
            round(statistics.median(first[system]), 1),
            round(statistics.median(further[system]), 1),
            len(pictures),
            torch.get_num_threads(),
        )
        for system, grounder in grounders.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def weights(grounder: Grounder | RegionGrounder) -> int:
    """Numbers that a system holds when it answers: its online model, the trunk, and the detector where it has one."""
    model = grounder.checkpoint.model
    count = sum(p.numel() for name, p in model.named_parameters() if "_m." not in name)
    if isinstance(grounder, RegionGrounder):
        detector = grounder.detector
        count += sum(p.numel() for module in (detector.detector, detector.trunk) for p in module.parameters())
    return count


def answer_both_ways(region: Region, with_detector: RegionGrounder, with_heatmap: Grounder) -> TwoWays:
    """One phrase answered by the detector-based system and by a heatmap, with the median seconds of each part."""
    image, phrase = region.image.open(), region.phrase
    proposals, detect = _timed(lambda: with_detector.propose(image))
    (chosen,), match = _timed(lambda: with_detector.match(image, proposals, [phrase]))
    explained, explain = _timed(lambda: with_heatmap.ground(image, phrase))
    return TwoWays(
        image=image,
        phrase=phrase,
        truth=region.boxes,
        proposals=chosen.boxes,
        scores=chosen.scores,
        heatmap=explained.heatmap,
        peak=explained.point,
        seconds={"detect": detect, "match": match, "explain": explain},
    )


def _timed(work: Callable) -> tuple:
    """What `work` gives, and the median seconds of it after a first time that is not counted."""
    result = work()
    return result, statistics.median(seconds(work) for _ in range(2 * REPEATS + 1))


def seconds(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
