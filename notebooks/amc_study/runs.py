"""Runs: a training as one call, kept in a folder of its own and not repeated.

A run folder holds the checkpoint, history.csv (losses and validation pointing over steps) and, written last,
metrics.json (identity, final numbers, provenance). A finished run of the same identity (`identity.py`) is opened; one
that was cut off goes on from its newest snapshot (`snapshots/`, which a finished run no longer has); one trained by
other code is set aside and trained again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from amc_lib.checkpoints import (
    SHIPPED,
    Checkpoint,
    blip_settings,
    description,
    is_blip,
    is_official,
    of_seed,
    official_albef,
    shipped,
    stored_settings,
    weights_hash,
)
from amc_lib.config import ModelSettings, Settings
from amc_lib.data import Collator
from amc_lib.distributed import process_state
from amc_lib.files import plain
from amc_lib.model import ALBEF
from amc_lib.parameters import resolve
from amc_lib.presets import preset
from amc_lib.step import losses_for
from amc_lib.tokens import Tokenizer
from amc_lib.train import Snapshots, train
from amc_study.ablations.seen_boxes import seen_boxes
from amc_study.answers import ask
from amc_study.identity import differences, holds, identity_of, run_identity
from amc_study.own_data import OwnData
from amc_study.provenance import provenance, settings_hash
from amc_study.rival.region_tower import build_model, open_checkpoint
from amc_study.run_folder import RUNS, Run, alone_in, is_finished, open_run, require_writable, write_run
from amc_study.tiers import Photographs, Scenes, Split, tier_of

CURVES = ("itc", "itm", "mlm", "amc", "mean", "max", "other", "mrm", "pointing")
RATES = ("learning_rate", "min_learning_rate", "warmup_learning_rate")
VALIDATION_IMAGES = 100  # pointed at after every epoch, the first of the validation split


def pretrain(
    settings: Settings,
    output: str | Path | None = None,
    detector: str | Path | None = None,
    init: str | Path | None = None,
) -> Run:
    """Train on the tier's captions, from random weights above the frozen trunks.

    `init`: a checkpoint to go on from, with the schedule begun anew: a base that is trained in several sittings.
    Without an `output`, the run that the repository ships is opened if it is of these settings, or if these are the
    preset's: where the shipped one is older than the preset, that is said. `detector`: the run
    whose proposals VMRM reads, by default the shipped one. The paper tier trains nothing here: its run holds the
    weights of the official ALBEF.pth, and `metrics["data"]` says what that file held.
    """
    tier = tier_of(settings, detector)
    if tier.official:
        return _import_albef(settings, output)

    def start() -> tuple[ALBEF, Tokenizer]:
        if init is not None:
            return _opened(init, settings)
        tokenizer = Tokenizer(tier.vocabulary(), settings.model.text.max_tokens)
        return build_model(settings.model), tokenizer

    if init is not None:
        settings = finetuning_settings(settings, init)
    init_sha256 = None if init is None else weights_hash(init)
    return _run("pretraining", settings, init_sha256, start, output, detector=detector)


def finetune(
    settings: Settings,
    init: str | Path | None = None,
    output: str | Path | None = None,
    data: OwnData | None = None,
    detector: str | Path | None = None,
) -> Run:
    """Finetune checkpoint `init` on region phrases: with AMC, or by ALBEF's objectives alone if both lambdas are 0.

    By default it starts from `pretrained(settings)` and reads the tier's data; the model's sizes are those of the
    checkpoint. `detector` as in `pretrain`.
    """
    init = pretrained(settings) if init is None else init
    settings = finetuning_settings(settings, init)

    return _run("finetuning", settings, weights_hash(init), partial(_opened, init, settings), output, data, detector)


def _opened(source: str | Path, settings: Settings) -> tuple[ALBEF, Tokenizer]:
    checkpoint = open_checkpoint(source)
    model, queue_before = checkpoint.model, checkpoint.model.settings.queue_size
    if not isinstance(model, ALBEF):
        return model, checkpoint.tokenizer
    model.settings = _with_training_of(settings, model.settings)
    if model.settings.queue_size != queue_before:
        model.start_queues()
    return model, checkpoint.tokenizer


def _with_training_of(settings: Settings, model: ModelSettings) -> ModelSettings:
    """A checkpoint's model with the queue and the momentum of `settings`: they belong to training, not to weights."""
    if model.backbone == "blip":
        return model
    return dataclasses.replace(model, queue_size=settings.model.queue_size, momentum=settings.model.momentum)


def finetuning_settings(settings: Settings, init: str | Path) -> Settings:
    """The settings of a training that goes on from checkpoint `init`: its model, with their own queue and momentum.

    Of a BLIP also its layer and the paper's learning rate, in place of the preset's, which are a small ALBEF's.
    """
    if is_official(init):
        return settings
    if is_blip(init):
        blip, usual, amc, training = blip_settings(init), preset(settings.tier), settings.amc, settings.finetuning
        if amc.layer == usual.amc.layer:
            amc = dataclasses.replace(amc, layer=blip.amc.layer)
        if training.learning_rate == usual.finetuning.learning_rate:
            rates = {name: getattr(blip.finetuning, name) for name in RATES}
            training = dataclasses.replace(training, **rates)
        return dataclasses.replace(settings, model=blip.model, amc=amc, finetuning=training)
    model = stored_settings(description(init)["settings"]).model
    return dataclasses.replace(settings, model=_with_training_of(settings, model))


def pretrained(settings: Settings) -> str | Path:
    """Where finetuning starts by default: the official ALBEF.pth, or the shipped checkpoint of the scenes.

    Where none is shipped, a pretraining run of the preset is made now.
    """
    tier = tier_of(settings)
    if tier.official:
        return official_albef()
    name = tier.shipped["pretraining"]
    return name if name in shipped() else pretrain(settings).folder


def long_history(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The histories of named runs as one long table with columns run, step, name, value.

    A loss of exactly 0 is one that was not taken (ITM and MLM before fusion, AMC without lambdas) and is left out.
    """
    parts = []
    for run_name, run in runs.items():
        shown = [name for name in CURVES if name in run.history]
        values = run.history.replace(0.0, float("nan")).melt("step", shown, var_name="name")
        parts.append(values.dropna().assign(run=run_name))
    return pd.concat(parts, ignore_index=True)


def _run(
    stage: str,
    settings: Settings,
    init_sha256: str | None,
    start: Callable[[], tuple[ALBEF, Tokenizer]],
    output: str | Path | None,
    data: OwnData | None = None,
    detector: str | Path | None = None,
) -> Run:
    """Open the run of this identity, or train it now: on every process that takes part, written by the first."""
    state, tier = process_state(), tier_of(settings, detector)
    more = {"data": data, "detector": tier.detector and tier.detector.sha256}
    seed = getattr(settings, stage).seed
    name = of_seed(tier.shipped.get(stage, ""), seed)
    if output is None and name in shipped():
        run, of_preset = open_run(SHIPPED / name), settings == resolve(settings.tier, stage, {"seed": seed})
        preset_base = stage == "pretraining" and init_sha256 is None and of_preset
        if holds(run, stage, settings, init_sha256, **more) or preset_base:
            commit, other = run.metrics["provenance"]["commit"][:7], differences(run, stage, settings)
            state.print(f"{stage}: shipped as {name}, trained by commit {commit} (name an output to train again)")
            if other:
                state.print(f"{name} is older than the preset; it was trained with {other}")
            return run
    identity = run_identity(stage, settings, init_sha256, **more)
    folder = Path(output) if output else RUNS / f"{stage}-seed{seed}-{settings_hash(identity)}"
    with nullcontext() if state.num_processes > 1 else alone_in(folder):
        run = open_run(folder) if is_finished(folder) else None
        state.wait_for_everyone()  # all have looked before the first writes
        if run and identity_of(run) == identity:
            state.print(f"{stage}: up to date in {plain(folder)} (delete the folder to train again)")
            if state.is_main_process:
                Snapshots(folder / "snapshots", identity).remove()
            return run
        if run and identity_of(run) | {"code": None} != identity | {"code": None}:
            raise ValueError(f"{folder}: holds a run with other settings; name another output or delete it")
        if state.is_main_process:
            if run:
                _set_aside(run)
            require_writable(folder)  # before training, not after it
        return _train(stage, tier, folder, identity, start, data)


def _set_aside(run: Run) -> None:
    """Rename the folder of a run that other code has trained."""
    code = run.metrics.get("code", "before")
    aside = run.folder.with_name(f"{run.folder.name}-{code}")
    print(f"{plain(run.folder)}: the code that trains has changed since; kept as {aside.name}")
    run.folder.rename(aside)


def _train(
    stage: str,
    tier: Scenes | Photographs,
    folder: Path,
    identity: dict[str, Any],
    start: Callable[[], tuple[ALBEF, Tokenizer]],
    data: OwnData | None,
) -> Run:
    """Train into `folder`, going on from its newest snapshot, and leave the run."""
    settings, state = tier.settings, process_state()
    training = getattr(settings, stage)
    snapshots = Snapshots(folder / "snapshots", identity)
    state.print(f"{stage}: seed {training.seed}, into {plain(folder)}")
    pairs = seen_boxes(data.training_pairs(settings) if data else tier.training_pairs(stage), settings.boxes)
    validation = data.validation_split(settings) if data else tier.validation_split()
    torch.manual_seed(training.seed)
    model, tokenizer = start()
    checkpoint = Checkpoint(model, tokenizer, settings, {}, "")
    begin = time.perf_counter()
    collator = Collator(tokenizer, settings.objective.mlm_probability, settings.amc.map_size)
    validate = _validator(checkpoint, validation) if validation else None
    losses = tier.losses if settings.model.backbone == "albef" else losses_for(settings.model)
    history = pd.DataFrame(
        train(model, pairs, collator, settings, stage, validate, step_losses=losses, snapshots=snapshots)
    )
    seconds = time.perf_counter() - begin + snapshots.earlier_seconds
    more = {"processes": state.num_processes, "continued_at": snapshots.continued_at}
    record = provenance(settings, seed=training.seed, seconds=seconds, **more)
    if state.is_main_process:
        write_run(folder, checkpoint, history, identity, pairs.about, record)
        snapshots.remove()
    state.wait_for_everyone()
    return open_run(folder)


def _validator(checkpoint: Checkpoint, split: Split) -> Callable[[ALBEF], float]:
    """Pointing accuracy on the first images of a split, in [0, 1]."""
    regions = split.all_regions()
    first = set(list(dict.fromkeys(region.image_id for region in regions))[:VALIDATION_IMAGES])
    regions = [region for region in regions if region.image_id in first]

    def validate(model: ALBEF) -> float:
        answers = ask(dataclasses.replace(checkpoint, model=model), split, regions=regions)
        return float(answers.hits.mean())

    return validate


def _import_albef(settings: Settings, output: str | Path | None) -> Run:
    checkpoint = open_checkpoint(official_albef())
    identity = run_identity("pretraining", settings, checkpoint.sha256)
    folder = Path(output) if output else RUNS / f"albef-paper-{checkpoint.sha256[:12]}"
    if not is_finished(folder):
        history = pd.DataFrame(columns=["step", *CURVES])
        record = provenance(settings, seed=settings.pretraining.seed)
        write_run(folder, checkpoint, history, identity, plain(checkpoint.about["imported"]), record)
    print(checkpoint.about["imported"])
    return open_run(folder)
