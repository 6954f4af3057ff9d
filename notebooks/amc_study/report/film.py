"""A film of finetuning: the heatmaps of a few validation phrases from the first update to the last, with AMC or not.

`python -m amc_study.report.film` trains both systems once more on a short schedule and writes figures/training.*: the
recording (safetensors), the accuracies (csv), a still and an animation. `--draw` draws those from the recording. What is
recorded between updates changes nothing of the training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load, save

from amc_lib.checkpoints import stored_settings
from amc_lib.config import Settings
from amc_lib.data import Collator
from amc_lib.evaluate import Pointing, point_at
from amc_lib.files import write_bytes, write_csv, write_json
from amc_lib.model import ALBEF
from amc_lib.presets import preset
from amc_lib.regions import Region
from amc_lib.tokens import Tokenizer
from amc_lib.train import train
from amc_study import figures
from amc_study.explain.faithfulness import one_an_image
from amc_study.explain.randomisation import of_first_pictures
from amc_study.figures import FOLDER, Film
from amc_study.provenance import provenance
from amc_study.rival.region_tower import open_checkpoint
from amc_study.runs import pretrained
from amc_study.scenes import scene as scenes
from amc_study.tiers import Split, training_pairs, validation_split

NAME = "training"
SYSTEMS = {"ALBEF finetuned": {"lambda1": 0.0, "lambda2": 0.0}, "AMC": {}}  # changes to the settings of AMC


@dataclass(frozen=True)
class FilmSettings:
    """What is recorded."""

    epochs: int = 1  # of finetuning; the study's runs have 3
    frames: int = 26
    bend: float = 1.6  # step of frame k is last * (k / (frames - 1)) ** bend: above 1, denser at the beginning
    phrases: int = 5  # that are shown
    pictures: int = 100  # the first of the validation split; all of their phrases are asked, some of them are shown
    seed: int = 0  # of the training, and of the lot that draws the shown phrases

    def of_training(self, settings: Settings) -> Settings:
        """Settings of the study for as many epochs, without snapshots."""
        training = replace(settings.finetuning, epochs=self.epochs, seed=self.seed, snapshot_every=0)
        return replace(settings, finetuning=training)


def film_steps(last: int, film: FilmSettings) -> list[int]:
    """The numbers of updates at which is recorded, 0 and `last` among them."""
    return sorted({round(last * (k / (film.frames - 1)) ** film.bend) for k in range(film.frames)})


def drawn_phrases(regions: Sequence[Region], count: int, seed: int) -> list[int]:
    """Indices of `count` phrases, every one as likely as any other, the later ones of a picture left out."""
    places = {region.id: p for p, region in enumerate(regions)}
    return [places[region.id] for region in one_an_image(regions, count, seed)]


class Recorder:
    """Asks the model all `regions` at the given steps, and keeps the answers to those that are shown."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        bank: Split,
        regions: Sequence[Region],
        shown: Sequence[int],
        layer: int,
        steps: Sequence[int],
    ) -> None:
        self.tokenizer, self.bank, self.regions, self.layer, self.steps = tokenizer, bank, regions, layer, steps
        self.shown = list(shown)
        self.accuracy: list[float] = []  # percent, one a recorded step
        self.heatmaps: list[np.ndarray] = []  # [P, G, G] each, the largest value 1
        self.points: list[np.ndarray] = []  # [P, 2] each

    def __call__(self, model: ALBEF, step: int) -> None:
        if step not in self.steps:
            return
        answers: Pointing = point_at(model, self.tokenizer, self.regions, self.bank.load, self.layer)
        maps = answers.heatmaps[self.shown].float().numpy()
        self.accuracy.append(100 * float(answers.hits.mean()))
        self.heatmaps.append(maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny))
        self.points.append(answers.points[self.shown])


def record(settings: Settings, film: FilmSettings) -> Film:
    """Finetune each of SYSTEMS by `settings`, as `runs.finetune` does, and look at it on the way."""
    start, bank, pairs = pretrained(settings), validation_split(settings), training_pairs(settings, "finetuning")
    regions = of_first_pictures(bank.all_regions(), film.pictures)
    shown = drawn_phrases(regions, film.phrases, film.seed)
    training = settings.finetuning
    updates = len(pairs) // (training.batch_size * training.accumulation) * training.epochs
    steps = film_steps(updates, film)
    recorders = []
    for changes in SYSTEMS.values():
        checkpoint = open_checkpoint(start)
        model, tokenizer = checkpoint.model, checkpoint.tokenizer
        of_system = replace(settings, model=checkpoint.settings.model, amc=replace(settings.amc, **changes))
        recorder = Recorder(tokenizer, bank, regions, shown, settings.amc.layer, steps)
        collator = Collator(tokenizer, settings.objective.mlm_probability, settings.amc.map_size)
        torch.manual_seed(training.seed)
        recorder(model, 0)
        train(model, pairs, collator, of_system, "finetuning", after_update=recorder)
        recorders.append(recorder)
    return Film(
        systems=tuple(SYSTEMS),
        steps=np.array(steps),
        accuracy=np.array([one.accuracy for one in recorders]),
        heatmaps=np.array([one.heatmaps for one in recorders]),
        points=np.array([one.points for one in recorders]),
        regions=[regions[p] for p in shown],
        asked=len(regions),
    )


def write_film(film: Film, folder: Path, account: dict[str, Any]) -> None:
    """The recording (heatmaps and points, about 100 KB), a table of the accuracies, and their provenance."""
    tensors = {"heatmaps": film.heatmaps.astype(np.float16), "points": film.points.astype(np.int16)}
    write_bytes(folder / f"{NAME}.safetensors", save(tensors))
    rows = [
        (system, int(step), round(float(accuracy), 2), film.asked)
        for system, of_system in zip(film.systems, film.accuracy, strict=True)
        for step, accuracy in zip(film.steps, of_system, strict=True)
    ]
    write_csv(folder / f"{NAME}.csv", pd.DataFrame(rows, columns=["system", "step", "accuracy", "phrases"]))
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


def region_of(name: str, settings: scenes.SceneSettings) -> Region:
    """The region of an id like val-00012-3."""
    split, index, _ = name.rsplit("-", 2)
    return next(region for region in scenes.draw(settings, split, int(index)).regions if region.id == name)


def draw(folder: Path) -> None:
    """The still and the animation, from the recording in `folder`."""
    film = read_film(folder)
    figures.save(figures.training_figure(film), folder, NAME)
    write_bytes(folder / f"{NAME}.gif", figures.training_gif(film))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m amc_study.report.film", description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=FilmSettings.epochs, help="of finetuning (default %(default)s)")
    parser.add_argument("--draw", action="store_true", help="only draw, from the recording that is there")
    given = parser.parse_args(arguments)
    if not given.draw:
        begin, film = time.perf_counter(), FilmSettings(epochs=given.epochs)
        settings = film.of_training(preset("scenes"))
        recorded = record(settings, film)
        seconds = time.perf_counter() - begin
        write_film(recorded, FOLDER, provenance(settings, seed=film.seed, seconds=seconds, film=film))
    draw(FOLDER)


if __name__ == "__main__":
    main()
