"""Runs: pretraining and finetuning as one call each, kept in a folder of their own and not repeated.

A run folder holds the checkpoint, history.csv (losses and validation pointing over steps) and metrics.json (settings,
what it started from, final numbers, provenance). A folder whose metrics name the same settings and the same start is
opened instead of being trained again.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from amc_lib.checkpoints import DESCRIPTION, Checkpoint, find, load_checkpoint, save_checkpoint, shipped
from amc_lib.config import Settings, preset
from amc_lib.datasets import scene_language
from amc_lib.datasets.scene_bank import SceneBank, open_bank
from amc_lib.evaluation import point_at
from amc_lib.files import write_csv, write_json
from amc_lib.model import ALBEF, build
from amc_lib.pairs import Collator, PairDataset
from amc_lib.phrases import Tokenizer, word_vocabulary
from amc_lib.provenance import ROOT, plain, provenance, settings_hash
from amc_lib.training import set_seed, train

RUNS = ROOT / "runs"
PRETRAINED = "albef-scenes"  # the run of pretraining that the repository ships
CURVES = ["itc", "itm", "mlm", "amc", "pointing"]
VALIDATION_SCENES = 100  # pointed at after every epoch, of the validation split


@dataclass(frozen=True)
class Run:
    folder: Path
    history: pd.DataFrame  # columns step, epoch, seconds, learning_rate, losses, pointing
    metrics: dict[str, Any]

    def checkpoint(self) -> Checkpoint:
        return load_checkpoint(self.folder)


def pretrain(settings: Settings, output: str | Path | None = None) -> Run:
    """Train an ALBEF on the captions of the scenes, from random weights above the trunk.

    Without an `output`, the run that the repository ships is opened if it is of these settings.
    """
    require_scenes(settings)
    if output is None and PRETRAINED in shipped():
        run = open_run(find(PRETRAINED))
        if _holds(run, _identity("pretraining", settings, None)):
            print(f"pretraining: shipped in {_shown(run.folder)} (name an output to train again)")
            return run

    def start() -> tuple[ALBEF, Tokenizer, Settings]:
        tokenizer = Tokenizer(word_vocabulary(scene_language.vocabulary()), settings.model.text.max_tokens)
        return build(settings.model), tokenizer, settings

    return _run("pretraining", settings, None, start, "pretrain", SceneBank.caption_phrases, output)


def finetune(settings: Settings, init: str | Path = PRETRAINED, output: str | Path | None = None) -> Run:
    """Finetune checkpoint `init` on region phrases: with AMC, or by ALBEF's objectives alone if both lambdas are 0."""
    require_scenes(settings)
    origin = load_checkpoint(init)
    settings = dataclasses.replace(settings, model=origin.settings.model)

    def start() -> tuple[ALBEF, Tokenizer, Settings]:
        checkpoint = load_checkpoint(init)  # again, so that what is random about it follows this run's seed
        return checkpoint.model, checkpoint.tokenizer, settings

    return _run("finetuning", settings, origin.sha256, start, "train", SceneBank.region_phrases, output)


def pretrained(settings: Settings) -> str | Path:
    """Where finetuning starts from by default: the shipped checkpoint or else a pretraining run of the preset.

    The run is made now if there is none yet.
    """
    require_scenes(settings)
    return PRETRAINED if PRETRAINED in shipped() else pretrain(preset(settings.tier)).folder


def open_run(folder: str | Path) -> Run:
    """A finished run. Raises ValueError if the folder holds none."""
    folder = Path(folder)
    if not is_finished(folder):
        raise ValueError(f"{folder}: no finished run")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return Run(folder, pd.read_csv(folder / "history.csv"), metrics)


def long_history(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The histories of named runs as one long table with columns run, step, name, value.

    A loss of exactly 0 is one that was not taken (ITM and MLM before fusion, AMC without lambdas) and is left out.
    """
    parts = [
        run.history.replace(0.0, float("nan"))
        .melt(id_vars="step", value_vars=CURVES, var_name="name")
        .dropna()
        .assign(run=name)
        for name, run in runs.items()
    ]
    return pd.concat(parts, ignore_index=True)


def is_finished(folder: Path) -> bool:
    return (folder / "metrics.json").is_file() and (folder / DESCRIPTION).is_file()


def require_scenes(settings: Settings) -> None:
    if settings.tier != "scenes":
        raise ValueError(f"tier {settings.tier!r}: only 'scenes' can be run so far; data/README.md has the rest")


def _identity(stage: str, settings: Settings, init_sha256: str | None) -> dict[str, Any]:
    """What tells a run from others: its stage, the settings that this stage reads, and its start."""
    unread = ("finetuning", "amc") if stage == "pretraining" else ("pretraining",)
    read = {name: value for name, value in plain(settings).items() if name not in unread}
    return {"stage": stage, "settings_hash": settings_hash(read), "init_sha256": init_sha256}


def _holds(run: Run, identity: Mapping[str, Any]) -> bool:
    return {name: run.metrics.get(name) for name in identity} == identity


def _run(
    stage: str,
    settings: Settings,
    init_sha256: str | None,
    start: Callable[[], tuple[ALBEF, Tokenizer, Settings]],
    split: str,
    phrases: Callable[[SceneBank], list],
    output: str | Path | None,
) -> Run:
    seed = getattr(settings, stage).seed
    identity = _identity(stage, settings, init_sha256)
    folder = Path(output) if output else RUNS / f"{stage}-seed{seed}-{settings_hash(identity)}"
    if is_finished(folder):
        run = open_run(folder)
        if _holds(run, identity):
            print(f"{stage}: up to date in {_shown(folder)} (delete the folder to train again)")
            return run
        raise ValueError(f"{folder}: holds a run with other settings; name another output or delete it")
    print(f"{stage}: seed {seed}, into {_shown(folder)}")
    bank = open_bank(settings.scenes, settings.model.vision, split)
    validation = open_bank(settings.scenes, settings.model.vision, "val")
    set_seed(seed)
    model, tokenizer, settings = start()
    begin = time.perf_counter()
    collator = Collator(tokenizer, settings.objective.mlm_probability, settings.amc.map_size)
    pairs = PairDataset(bank.features, phrases(bank), seed, getattr(settings, stage).phrases_per_image)
    history = pd.DataFrame(train(model, pairs, collator, settings, stage, _validator(validation, tokenizer, settings)))
    record = provenance(settings, seed=seed, seconds=time.perf_counter() - begin)
    final = history.iloc[-1].to_dict()
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "history.csv", history)
    save_checkpoint(folder, model, tokenizer, settings, {**record, **identity})
    write_json(folder / "metrics.json", {**identity, "final": final, "provenance": record})
    return open_run(folder)


def _shown(folder: Path) -> str:
    return str(plain(Path(folder)))


def _validator(bank: SceneBank, tokenizer: Tokenizer, settings: Settings) -> Callable[[ALBEF], float]:
    regions = [region for of_scene in bank.regions[:VALIDATION_SCENES] for region in of_scene]

    def validate(model: ALBEF) -> float:
        return float(point_at(model, tokenizer, regions, bank.load, settings.amc.layer).hits.mean())

    return validate
