"""A film of finetuning: heatmaps of a few validation phrases from the first update to the last, with AMC and without.

`python -m amc_study.report.film` trains both systems once more on a short schedule and writes figures/training.*: the
recording (safetensors), the accuracies (csv), a still and an animation. `--draw` draws those from the recording. What
is recorded between updates changes nothing of the training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load, save

from amc_lib.checkpoints import stored_settings
from amc_lib.config import SceneSettings, Settings
from amc_lib.data import Collator
from amc_lib.evaluate import Pointing, point_at
from amc_lib.files import write_bytes, write_csv, write_json
from amc_lib.model import ALBEF
from amc_lib.presets import preset
from amc_lib.regions import Region
from amc_lib.train import train
from amc_study import figures
from amc_study.figures import FOLDER, Film
from amc_study.provenance import provenance
from amc_study.rival.region_tower import open_checkpoint
from amc_study.runs import pretrained
from amc_study.scenes import scene as scenes
from amc_study.tiers import tier_of

NAME = "training"
SYSTEMS = {"ALBEF finetuned": {"lambda1": 0.0, "lambda2": 0.0}, "AMC": {}}  # changes to AMC's settings


@dataclass(frozen=True)
class FilmSettings:
    """What is recorded."""

    epochs: int = 1  # of finetuning; the study's runs have 3
    frames: int = 26
    bend: float = 1.6  # step of frame k is last * (k / (frames - 1)) ** bend: above 1, denser at the beginning
    phrases: int = 5  # in the pictures
    images: int = 100  # the first of the validation split; all of their phrases are asked
    seed: int = 0  # of the training, and of the draw of phrases


def film_steps(last: int, film: FilmSettings) -> list[int]:
    """The updates at which heatmaps are recorded, 0 and `last` among them."""
    return sorted({round(last * (k / (film.frames - 1)) ** film.bend) for k in range(film.frames)})


def draw_phrases(regions: Sequence[Region], differ: np.ndarray, count: int, seed: int) -> list[int]:
    """Indices of `count` phrases of as many images, drawn at random; first those that `differ` (bool [P])."""
    order = np.random.default_rng(seed).permutation(len(regions))
    first = {}  # image -> its phrase
    for p in [*order[differ[order]], *order[~differ[order]]]:
        first.setdefault(regions[p].image_id, int(p))
    return list(first.values())[:count]


def recorder(recorded: list[Pointing], steps: Sequence[int], *asked: Any) -> Callable[[ALBEF, int], None]:
    """What to call after each update: appends the answers at the given steps. asked: what `point_at` takes of them."""

    def look(model: ALBEF, step: int) -> None:
        if step in steps:
            recorded.append(point_at(model, *asked))

    return look


def record(settings: Settings, film: FilmSettings) -> Film:
    """Finetune each of SYSTEMS as `runs.finetune` does, and look at it on the way."""
    start, tier = pretrained(settings), tier_of(settings)
    split, pairs = tier.validation_split(), tier.training_pairs("finetuning")
    images = list(dict.fromkeys(region.image_id for region in split.all_regions()))[: film.images]
    regions = [region for region in split.all_regions() if region.image_id in set(images)]
    training = settings.finetuning
    steps = film_steps(len(pairs) // (training.batch_size * training.accumulation) * training.epochs, film)
    recorded = []  # of each system: its answers at every step
    for changes in SYSTEMS.values():
        checkpoint = open_checkpoint(start)
        model, tokenizer = checkpoint.model, checkpoint.tokenizer
        changed = replace(settings, model=checkpoint.settings.model, amc=replace(settings.amc, **changes))
        recorded.append([])
        look = recorder(recorded[-1], steps, tokenizer, regions, split.load, settings.amc.layer)
        torch.manual_seed(training.seed)
        look(model, 0)
        collator = Collator(tokenizer, settings.objective.mlm_probability, settings.amc.map_size)
        train(model, pairs, collator, changed, "finetuning", after_update=look)
    hits = np.array([[pointing.hits for pointing in system] for system in recorded])  # [S, F, P]
    shown = draw_phrases(regions, hits[0, -1] != hits[1, -1], film.phrases, film.seed)
    return Film(
        systems=tuple(SYSTEMS),
        steps=np.array(steps),
        accuracy=100 * hits.mean(axis=2),
        heatmaps=np.array([[scaled(pointing.heatmaps[shown]) for pointing in system] for system in recorded]),
        points=np.array([[pointing.points[shown] for pointing in system] for system in recorded]),
        regions=[regions[p] for p in shown],
        asked=len(regions),
    )


def scaled(heatmaps: torch.Tensor) -> np.ndarray:
    """Heatmaps [P, G, G] with the largest value of each 1, or 0 where it is 0: float16 keeps them whole."""
    maps = heatmaps.float().numpy()
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)


def write_film(film: Film, folder: Path, account: dict[str, Any]) -> None:
    """The recording (heatmaps and points, about 100 KB), a table of the accuracies, and their provenance."""
    tensors = {"heatmaps": film.heatmaps.astype(np.float16), "points": film.points.astype(np.int16)}
    write_bytes(folder / f"{NAME}.safetensors", save(tensors))
    table = pd.DataFrame(film.accuracy.round(2), index=film.systems, columns=film.steps).rename_axis("system")
    table = table.reset_index().melt("system", var_name="step", value_name="accuracy")
    write_csv(folder / f"{NAME}.csv", table.assign(phrases=film.asked))
    write_json(folder / f"{NAME}.json", account | {"phrases": [region.id for region in film.regions]})


def read_film(folder: Path) -> Film:
    """What `write_film` wrote; the scenes of its phrases are drawn again."""
    account = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
    tensors = load((folder / f"{NAME}.safetensors").read_bytes())
    table = pd.read_csv(folder / f"{NAME}.csv")
    accuracy = table.pivot(index="system", columns="step", values="accuracy").loc[list(SYSTEMS)]
    drawn = stored_settings(account["settings"]).scenes
    return Film(
        systems=tuple(accuracy.index),
        steps=accuracy.columns.to_numpy(),
        accuracy=accuracy.to_numpy(),
        heatmaps=tensors["heatmaps"],
        points=tensors["points"],
        regions=[region_of(name, drawn) for name in account["phrases"]],
        asked=int(table["phrases"].iloc[0]),
    )


def region_of(name: str, settings: SceneSettings) -> Region:
    """The region of an id like val-00012-3."""
    split, index, _ = name.rsplit("-", 2)
    return next(region for region in scenes.draw(settings, split, int(index)).regions if region.id == name)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_study.report.film", description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=FilmSettings.epochs, help="of finetuning (default %(default)s)")
    parser.add_argument("--draw", action="store_true", help="only draw, from the recording that is there")
    given = parser.parse_args(arguments)
    if not given.draw:
        begin, film, settings = time.perf_counter(), FilmSettings(epochs=given.epochs), preset("scenes")
        training = replace(settings.finetuning, epochs=film.epochs, seed=film.seed, snapshot_every=0)
        settings = replace(settings, finetuning=training)
        recorded = record(settings, film)
        seconds = time.perf_counter() - begin
        write_film(recorded, FOLDER, provenance(settings, seed=film.seed, seconds=seconds, film=film))
    film = read_film(FOLDER)
    figures.save(figures.training_figure(film), FOLDER, NAME)
    write_bytes(FOLDER / f"{NAME}.gif", figures.training_gif(film))


if __name__ == "__main__":
    main()
