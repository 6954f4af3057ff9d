"""The comparison of systems: which layer each is read at, what each points at on every split, and table 1."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from amc_lib.checkpoints import Checkpoint, exists, find, weights_hash
from amc_lib.evaluate import Pointing, point_hits
from amc_lib.files import plain
from amc_lib.presets import preset
from amc_lib.regions import Box, Region
from amc_study.answers import ask, ask_in_parts
from amc_study.rival.proposals import ProposalSplit
from amc_study.rival.region_answers import RegionAnswers, choose_regions, way_accuracies
from amc_study.rival.region_tower import open_checkpoint
from amc_study.runs import RUNS, long_history, open_run, pretrained
from amc_study.statistics import accuracy_interval
from amc_study.tiers import Split, evaluation_splits, validation_split

FINETUNED = {"ALBEF finetuned": "albef-finetuned", "AMC": "amc"}  # -> folder of its run
DETECTOR_BASED = {"VMRM": "vmrm"}  # likewise; compared where it is there
SHIPPED = {"VMRM": "vmrm-scenes", "ALBEF finetuned": "albef-finetuned-scenes", "AMC": "amc-scenes"}


@dataclass
class Answers:
    """One checkpoint's answers on every evaluation split."""

    layer: int | str  # the layer of the heatmap, or the way of scoring proposals
    layers: dict[int | str, float]  # pointing accuracy (percent) on the validation split, by layer or way
    pointing: dict[str, Pointing | RegionAnswers]


def study_folders(tier: str, runs: str | Path | None, seeds: int) -> dict[str, list[str | Path]]:
    """For each system its checkpoints: the one pretrained ALBEF, and of the finetuned systems one a seed.

    Those lie under `runs`/seed-N. Where `runs` is None they are the shipped ones or, in the paper tier, those that
    `make paper` leaves.
    """
    folders: dict[str, list[str | Path]] = {"ALBEF": [pretrained(preset(tier))]}
    for system, name in (FINETUNED | DETECTOR_BASED).items():
        if runs is None and tier == "scenes":
            folders[system] = [SHIPPED[system]]
        else:
            folders[system] = [Path(runs or RUNS / "paper") / f"seed-{seed}" / name for seed in range(seeds)]
    for system in DETECTOR_BASED:
        if seeds == 1 and not exists(folders[system][0]) and tier == "scenes" and exists(SHIPPED[system]):
            print(f"{system}: the shipped checkpoint of seed 0 (several seeds are trained anew)")
            folders[system] = [SHIPPED[system]]
        if not all(exists(source) for source in folders[system]):
            print(f"{system}: left out, there is no checkpoint at {plain(folders.pop(system))}")
    return folders


def answer(source: str | Path, banks: Mapping[str, Split], validation: Split | None = None) -> Answers:
    """Load a checkpoint and ask it every phrase of `banks`, at the layer that points best on `validation`.

    Without a validation split (the paper tier) the layer is that of the checkpoint's settings, and answers are kept in
    parts on disk, so that nothing is asked twice. The detector-based system answers from its own inputs of the same
    scenes, by the way of scoring that is best on its validation split.
    """
    return answer_checkpoint(open_checkpoint(source), banks, validation, progress=f"{plain(Path(source))}: ")


def answer_checkpoint(
    checkpoint: Checkpoint, banks: Mapping[str, Split], validation: Split | None = None, progress: str = ""
) -> Answers:
    """`answer` of a checkpoint in memory; `progress` stands before the split's name at the bars."""
    if checkpoint.settings.model.vision.trunk == "regions":
        return _answer_by_regions(checkpoint)
    if validation is None:
        layer = checkpoint.settings.amc.layer
        return Answers(
            layer, {layer: float("nan")}, {name: ask_in_parts(checkpoint, bank, layer) for name, bank in banks.items()}
        )
    layers = layer_accuracies(checkpoint, validation)
    layer = max(layers, key=layers.__getitem__)
    pointing = {name: ask(checkpoint, bank, layer, progress=f"{progress}{name}") for name, bank in banks.items()}
    return Answers(layer, layers, pointing)


def _answer_by_regions(checkpoint: Checkpoint) -> Answers:
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    ways = way_accuracies(checkpoint, validation_split(checkpoint.settings))
    way = max(ways, key=ways.__getitem__)
    pointing = {
        name: choose_regions(model, tokenizer, bank.all_regions(), bank, [way])[way]
        for name, bank in evaluation_splits(checkpoint.settings).items()
    }
    return Answers(way, ways, pointing)


def layer_accuracies(checkpoint: Checkpoint, bank: Split) -> dict[int, float]:
    """Pointing accuracy in percent of every fusion layer on `bank`."""
    text = checkpoint.settings.model.text
    return {
        layer: 100 * float(ask(checkpoint, bank, layer).hits.mean()) for layer in range(text.fusion_from, text.layers)
    }


def layer_table(answers: Mapping[str, Sequence[Answers]]) -> pd.DataFrame:
    """Validation accuracy of every layer (or way to score proposals), system and seed, and which one was chosen."""
    columns = ("system", "seed", "layer", "val_accuracy", "chosen")
    rows = [
        (system, seed, layer, round(accuracy, 2), layer == one.layer)
        for system, of_seed in answers.items()
        for seed, one in enumerate(of_seed)
        for layer, accuracy in one.layers.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def accuracy_table(hits: Mapping[str, Mapping[str, np.ndarray]], banks: Mapping[str, Split]) -> pd.DataFrame:
    """Table 1 from hits[system][split], [P] or [S, P] over S seeds (fractions for chance).

    Columns: system, split, concepts (all, boxed, unboxed in finetuning), accuracy, ci_low, ci_high in percent
    (bootstrap over images), phrases, seeds.
    """
    rows = []
    for system, of_split in hits.items():
        for split, split_hits in of_split.items():
            split_hits = np.atleast_2d(split_hits)  # [S, P]
            regions = banks[split].all_regions()
            boxed = np.array([region.annotated for region in regions])
            for concepts, chosen in {"all": boxed | True, "boxed": boxed, "unboxed": ~boxed}.items():
                if not chosen.any() or (concepts == "boxed" and chosen.all()):
                    continue
                ids = [region.image_id for region, take in zip(regions, chosen, strict=True) if take]
                interval = accuracy_interval(split_hits[:, chosen], ids)
                rows.append(
                    {
                        "system": system,
                        "split": banks[split].title,
                        "concepts": concepts,
                        "accuracy": round(interval.value, 2),
                        "ci_low": round(interval.low, 2),
                        "ci_high": round(interval.high, 2),
                        "phrases": int(chosen.sum()),
                        "seeds": len(split_hits),
                    }
                )
    return pd.DataFrame(rows)


def proposal_splits(folders: Mapping[str, Sequence[str | Path]]) -> dict[str, ProposalSplit]:
    """The evaluation splits as the detector-based system reads them; none where it is not compared."""
    sources = [source for system in DETECTOR_BASED for source in folders.get(system, [])]
    return evaluation_splits(open_checkpoint(sources[0]).settings) if sources else {}


def baseline_hits(bank: Split) -> dict[str, np.ndarray]:
    """What pointing without looking gives: the chance of a uniformly drawn point, and the picture's centre."""
    regions = bank.all_regions()
    of_image = {region.image_id: region for region in regions}
    sizes = {image_id: bank.size(region) for image_id, region in of_image.items()}  # (height, width)
    heights, widths = np.array([sizes[region.image_id] for region in regions]).T
    areas = np.array([union_area(region.boxes) for region in regions])
    centres = np.stack((widths / 2, heights / 2), axis=1)
    return {"chance": areas / (heights * widths), "centre": point_hits(centres, regions)}


def union_area(boxes: Sequence[Box]) -> float:
    """Area of the union of boxes (xyxy), in square pixels."""
    xs = sorted({x for x1, _, x2, _ in boxes for x in (x1, x2)})
    ys = sorted({y for _, y1, _, y2 in boxes for y in (y1, y2)})
    return sum(
        (right - left) * (bottom - top)
        for left, right in itertools.pairwise(xs)
        for top, bottom in itertools.pairwise(ys)
        if any(x1 <= left and right <= x2 and y1 <= top and bottom <= y2 for x1, y1, x2, y2 in boxes)
    )


def accuracy_by_kind(answers: Mapping[str, Sequence[Pointing]]) -> pd.DataFrame:
    """Pointing accuracy (percent) of each system by what the phrase means: an object, a group, a part."""
    rows = []
    for system, of_seed in answers.items():
        kinds = np.array([region.kind for region in of_seed[0].regions])
        hits = np.mean([pointing.hits for pointing in of_seed], axis=0)  # [S, P] -> [P]
        for kind in ("object", "group", "part"):
            if (kinds == kind).any():
                rows.append({"system": system, "kind": kind, "accuracy": 100 * hits[kinds == kind].mean()})
    return pd.DataFrame(rows)


def pick_examples(pointing: Mapping[str, Pointing], count: int, seed: int = 0) -> list[int]:
    """Indices of `count` phrases for the qualitative figure, drawn at random, one an image.

    Drawn in equal parts (as far as they exist) from: the last system alone hits, all hit, the last misses. So the
    figure shows how the systems differ and where the last one fails; it is no sample from which to read accuracies.
    """
    hits = np.array([answers.hits for answers in pointing.values()])  # [systems, P]
    regions: list[Region] = next(iter(pointing.values())).regions
    kinds = (hits[-1] & ~hits[:-1].any(0), hits.all(0), ~hits[-1])
    rng = np.random.default_rng(seed)
    queues = [list(rng.permutation(np.flatnonzero(kind))) for kind in kinds]
    chosen: list[int] = []
    seen: set[str] = set()
    while len(chosen) < count and any(queues):
        for queue in queues:
            fresh = next((p for p in queue if regions[p].image_id not in seen), None)
            if fresh is None or len(chosen) == count:
                queue.clear()
                continue
            queue.remove(fresh)
            seen.add(regions[fresh].image_id)
            chosen.append(int(fresh))
    return chosen


def histories(folders: Mapping[str, Sequence[str | Path]]) -> pd.DataFrame:
    """The learning curves of each finetuned system's first run, one long table (columns run, step, name, value)."""
    return long_history({system: open_run(find(folders[system][0])) for system in FINETUNED})


def origin(folders: Mapping[str, Sequence[str | Path]]) -> dict[str, list[str]]:
    """For each system the hashes of its checkpoints' weights, one a seed."""
    return {system: [weights_hash(folder)[:12] for folder in of_system] for system, of_system in folders.items()}
