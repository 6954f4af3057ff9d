"""The comparison of systems: which layer each is read at, what each points at on every split, and table 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from amc_lib.checkpoints import Checkpoint, description, exists, find, of_seed, weights_hash
from amc_lib.evaluate import Pointing, point_hits
from amc_lib.files import plain
from amc_lib.presets import preset
from amc_study.answers import ask, ask_in_parts, ask_wrong
from amc_study.explain.difficulty import area_share
from amc_study.rival.proposals import ProposalSplit
from amc_study.rival.region_answers import RegionAnswers, way_accuracies
from amc_study.run_folder import open_run
from amc_study.runs import RUNS, long_history, pretrained
from amc_study.table import answer_rows
from amc_study.tiers import Proposals, Split, tier_of
from amc_study.wrong_phrases import wrong_answers

FINETUNED = {"ALBEF finetuned": "albef-finetuned", "AMC": "amc"}  # -> folder of its run
BASE = "albef"  # folder of a seed's own base
DETECTOR_BASED = {"VMRM": "vmrm"}  # likewise; compared where it is there


@dataclass
class Answers:
    """One checkpoint's answers on every evaluation split."""

    layer: int | str  # the layer of the heatmap, or the way of scoring proposals
    layers: dict[int | str, float]  # pointing accuracy (percent) on the validation split, by layer or way
    pointing: dict[str, Pointing | RegionAnswers]
    seed: int = 0  # of its training
    wrong: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # `wrong_answers` on each, if they were asked


def study_folders(
    tier: str, runs: str | Path | None, seeds: int, blip: str | Path | None = None
) -> dict[str, list[str | Path]]:
    """For each system its checkpoints: ALBEF's bases, and of the finetuned systems one a seed.

    Those lie under `runs`/seed-N. A base of another seed than the first lies there too, or is shipped, where seeds have
    bases of their own; a system of which some seeds are not there is compared by the others. Where `runs` is
    None they are the shipped ones (`shipped_name`) or, in a tier that ships none, those that `make photos` or `make
    paper` leaves. `blip`: a BLIP to be asked as well, of photographs.
    """
    homes = [Path(runs or RUNS / tier) / f"seed-{seed}" for seed in range(seeds)]
    bases: list[str | Path] = []
    for seed, home in enumerate(homes[1:], 1):
        places = home / BASE, of_seed(shipped_name("ALBEF", tier), seed)
        bases += [place for place in places if exists(place)][:1]
    folders: dict[str, list[str | Path]] = {"ALBEF": [pretrained(preset(tier)), *bases]}
    for system, name in (FINETUNED | DETECTOR_BASED).items():
        shipped = shipped_name(system, tier)
        if runs is None and exists(shipped):
            folders[system] = [shipped]
        else:
            folders[system] = [home / name for home in homes]
        if system in DETECTOR_BASED and seeds == 1 and not exists(folders[system][0]) and exists(shipped):
            print(f"{system}: the shipped checkpoint of seed 0 (several seeds are trained anew)")
            folders[system] = [shipped]
    for system, sources in list(folders.items()):
        there = [source for source in sources if exists(source)]
        if len(there) < len(sources) and (there or system in DETECTOR_BASED):
            lacking = [str(plain(source)) for source in sources if source not in there]
            print(f"{system}: {'' if there else 'left out, '}there is no checkpoint at {', '.join(lacking)}")
            folders[system] = there
    folders = {system: sources for system, sources in folders.items() if sources}
    return folders | ({"BLIP": [blip]} if blip else {})


def on_second_base(tier: str, runs: str | Path | None) -> dict[str, Path]:
    """System -> run: another base, and what was finetuned above it, in the folder `second` of `runs`; empty if none."""
    home = Path(runs or RUNS / tier) / "second"
    folders = {system: home / name for system, name in ({"ALBEF": BASE} | FINETUNED).items()}
    return folders if all(map(exists, folders.values())) else {}


def shipped_name(system: str, tier: str) -> str:
    """The name under which a system's first seed is shipped, if it is: "amc-photos"."""
    return f"{({'ALBEF': BASE} | FINETUNED | DETECTOR_BASED)[system]}-{tier}"


def answer(
    checkpoint: Checkpoint,
    splits: Mapping[str, Split],
    validation: Split | None = None,
    wrong: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Answers:
    """A checkpoint's answers to every phrase of `splits`, at the layer that points best on `validation`.

    Without a validation split (the paper tier) the layer is that of the checkpoint's settings, and answers are kept in
    parts on disk, so that nothing is asked twice. VMRM answers from its own inputs of the same scenes, by the way of
    scoring that is best on its validation split. wrong: name of a split -> the kinds of wrong phrases (`KINDS`) that
    are asked there too.
    """
    if checkpoint.settings.model.vision.trunk == "regions":
        tier = proposal_tier(checkpoint)
        splits, validation = tier.evaluation_splits(), tier.validation_split()
    in_parts = validation is None
    asking, layers = (ask_in_parts, {}) if in_parts else (ask, layer_accuracies(checkpoint, validation))
    layer = max(layers, key=layers.__getitem__, default=checkpoint.settings.amc.layer)
    pointing = {name: asking(checkpoint, split, layer) for name, split in splits.items()}
    answers = Answers(layer, layers, pointing, checkpoint.seed)
    for name, kinds in wrong.items():
        answers.wrong[name] = ask_wrong(checkpoint, splits[name], pointing[name], layer, in_parts, kinds)
    return answers


def layer_accuracies(checkpoint: Checkpoint, split: Split) -> dict[int | str, float]:
    """Pointing accuracy in percent of every fusion layer (of VMRM: every way of scoring proposals) on a split."""
    if isinstance(split, ProposalSplit):
        return way_accuracies(checkpoint, split)
    text = checkpoint.settings.model.text
    layers = range(text.fusion_from, text.layers)
    return {layer: 100 * float(ask(checkpoint, split, layer).hits.mean()) for layer in layers}


def proposal_tier(checkpoint: Checkpoint) -> Proposals:
    """The scenes as a VMRM checkpoint reads them: through the detector that it was trained with."""
    return tier_of(checkpoint.settings, checkpoint.about.get("detector_sha256"))


def baseline_hits(bank: Split) -> dict[str, np.ndarray]:
    """What pointing without looking gives: the chance of a uniformly drawn point, and the picture's centre."""
    regions = bank.all_regions()
    of_image = {region.image_id: region for region in regions}
    sizes = {image_id: bank.size(region) for image_id, region in of_image.items()}  # (height, width)
    chances = np.array([area_share(region, sizes[region.image_id]) for region in regions])
    centres = np.array([sizes[region.image_id] for region in regions])[:, ::-1] / 2
    return {"chance": chances, "centre": point_hits(centres, regions)}


def baseline_rows(name: str, split: Split, kinds: Sequence[str] = ()) -> pd.DataFrame:
    """Rows of the tidy table for `baseline_hits` of the split called `name`: they hit as often with a wrong phrase.

    kinds: of the wrong phrases that others are asked there.
    """
    regions, parts = split.all_regions(), []
    for system, hits in baseline_hits(split).items():
        own = dict(zip((region.id for region in regions), hits, strict=True))
        wrong = wrong_answers(
            regions, lambda asked, own=own: (np.array([own[one.id] for one in asked]), np.nan), kinds=kinds
        )
        parts.append(answer_rows(system, 0, name, regions, hits, **wrong))
    return pd.concat(parts, ignore_index=True)


def pick_examples(table: pd.DataFrame, systems: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Ids of `count` phrases of one split for the qualitative figure, drawn at random, one an image.

    Drawn in equal parts (as far as they exist) from what the systems' first seeds answer: the last system alone hits,
    all hit, the last misses. So the figure shows how the systems differ and where the last one fails; it is no sample
    from which to read accuracies.
    """
    table = table[table["system"].isin(systems)]
    first = table[table["seed"] == table.groupby("system")["seed"].transform("min")]
    images = first.drop_duplicates("phrase_id").set_index("phrase_id")["image_id"]
    hits = first.pivot(index="phrase_id", columns="system", values="hit").loc[images.index, list(systems)] > 0
    last, others = hits[systems[-1]], hits[list(systems[:-1])].any(axis=1)
    rng = np.random.default_rng(seed)
    groups = (last & ~others, hits.all(axis=1), ~last)
    queues = [list(rng.permutation(np.flatnonzero(group))) for group in groups]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            shown = set(images.iloc[chosen])
            fresh = next((p for p in queue if images.iloc[p] not in shown), None)
            if fresh is None or len(chosen) == count:
                queue.clear()
            else:
                chosen.append(fresh)
    return list(images.index[chosen])


def histories(folders: Mapping[str, Sequence[str | Path]]) -> pd.DataFrame:
    """The learning curves of each finetuned system's first run, one long table (columns run, step, name, value)."""
    return long_history({system: open_run(find(folders[system][0])) for system in FINETUNED})


def origin(folders: Mapping[str, Sequence[str | Path]]) -> dict[str, list[str]]:
    """For each system the hashes of its checkpoints' weights, one a seed."""
    return {system: [weights_hash(folder)[:12] for folder in of_system] for system, of_system in folders.items()}


def detectors(folders: Mapping[str, Sequence[str | Path]]) -> list[str]:
    """Hashes of the detectors whose boxes the detector-based systems read, one a seed; of boxes from a file none."""
    sources = [folder for system in DETECTOR_BASED for folder in folders.get(system, ())]
    read = [description(folder)["about"].get("detector_sha256") for folder in sources]
    return [sha256[:12] for sha256 in read if sha256]
