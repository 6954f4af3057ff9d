"""Runs: pretraining and finetuning as one call each, kept in a folder of their own and not repeated.

A run folder holds the checkpoint, history.csv (losses and validation pointing over steps) and metrics.json (settings,
what it started from, final numbers, provenance). A folder whose metrics name the same settings and the same start is
opened instead of being trained again; one that was cut off goes on from its newest snapshot (`snapshots/`, which a
finished run no longer has).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd

from amc_lib.checkpoints import (
    Checkpoint,
    description,
    find,
    is_official,
    official_albef,
    shipped,
    stored_settings,
    weights_hash,
)
from amc_lib.config import Settings
from amc_lib.data import Collator
from amc_lib.distributed import process_state
from amc_lib.evaluate import point_at
from amc_lib.files import ROOT, plain
from amc_lib.model import ALBEF
from amc_lib.step import training_losses
from amc_lib.tokens import Tokenizer, word_vocabulary
from amc_lib.train import Snapshots, set_seed, train
from amc_study.ablations.seen_boxes import seen_boxes
from amc_study.own_data import OwnData
from amc_study.provenance import provenance, settings_hash
from amc_study.rival.proposals import ProposalSplit
from amc_study.rival.region_answers import choose_regions
from amc_study.rival.region_tower import build_model, open_checkpoint
from amc_study.rival.vmrm import pair_losses
from amc_study.run_folder import Run, alone_in, is_finished, open_run, require_writable, write_run
from amc_study.scenes import language as scene_language
from amc_study.tiers import Split, training_pairs, validation_split

RUNS = ROOT / "runs"
PRETRAINED = "albef-scenes"  # the runs of pretraining that the repository ships
PRETRAINED_VMRM, TUNED_VMRM = "vmrm-pretrained-scenes", "vmrm-scenes"
CURVES = ["itc", "itm", "mlm", "amc", "mrm", "pointing"]
VALIDATION_IMAGES = 100  # pointed at after every epoch, the first of the validation split
IMAGES_AT_ONCE = 32
NEUTRAL = ("workers", "checkpointing", "snapshot_every")  # settings of training that change no number


def pretrain(settings: Settings, output: str | Path | None = None) -> Run:
    """Train an ALBEF on the captions of the scenes, from random weights above the trunk.

    Without an `output`, the run that the repository ships is opened if it is of these settings. The paper tier trains
    nothing here: its run holds the weights of the official ALBEF.pth, and `metrics["data"]` says what that file held.
    """
    if settings.tier == "paper":
        return _import_albef(settings, output)
    if output is None and (run := _shipped_run(_shipped_name(settings), "pretraining", settings, None)):
        return run

    def start() -> tuple[ALBEF, Tokenizer]:
        tokenizer = Tokenizer(word_vocabulary(scene_language.vocabulary()), settings.model.text.max_tokens)
        return build_model(settings.model), tokenizer

    return _run("pretraining", settings, None, start, output)


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


def finetune(
    settings: Settings,
    init: str | Path | None = None,
    output: str | Path | None = None,
    data: OwnData | None = None,
) -> Run:
    """Finetune checkpoint `init` on region phrases: with AMC, or by ALBEF's objectives alone if both lambdas are 0.

    By default it starts from `pretrained(settings)` and reads the tier's data; the model's sizes are those of the
    checkpoint. Of the detector-based system, without an `output`, the run that the repository ships is opened if it is
    of these settings.
    """
    init = pretrained(settings) if init is None else init
    settings = finetuning_settings(settings, init)
    if output is None and _with_detector(settings):
        run = _shipped_run(TUNED_VMRM, "finetuning", settings, weights_hash(init))
        if run is not None:
            return run

    def start() -> tuple[ALBEF, Tokenizer]:
        checkpoint = open_checkpoint(init)
        return checkpoint.model, checkpoint.tokenizer

    return _run("finetuning", settings, weights_hash(init), start, output, data)


def finetuning_settings(settings: Settings, init: str | Path) -> Settings:
    """The settings with the model of checkpoint `init`."""
    if not is_official(init):
        return dataclasses.replace(settings, model=stored_settings(description(init)["settings"]).model)
    return settings


def pretrained(settings: Settings) -> str | Path:
    """Where finetuning starts from by default: the official ALBEF.pth, or the shipped checkpoint of the scenes.

    Where none is shipped, a pretraining run of the preset is made now.
    """
    if settings.tier == "paper":
        return official_albef()
    name = _shipped_name(settings)
    return name if name in shipped() else pretrain(settings).folder


def _shipped_run(name: str, stage: str, settings: Settings, init_sha256: str | None) -> Run | None:
    """The run of a shipped name, if it is of these settings."""
    if name not in shipped():
        return None
    run = open_run(find(name))
    if not holds(run, stage, settings, init_sha256):
        return None
    print(f"{stage}: shipped in {_shown(run.folder)} (name an output to train again)")
    return run


def _shipped_name(settings: Settings) -> str:
    return PRETRAINED_VMRM if _with_detector(settings) else PRETRAINED


def _with_detector(settings: Settings) -> bool:
    return settings.model.vision.trunk == "regions"


def long_history(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The histories of named runs as one long table with columns run, step, name, value.

    A loss of exactly 0 is one that was not taken (ITM and MLM before fusion, AMC without lambdas) and is left out.
    """
    parts = [
        run.history.replace(0.0, float("nan"))
        .melt(id_vars="step", value_vars=[name for name in CURVES if name in run.history], var_name="name")
        .dropna()
        .assign(run=name)
        for name, run in runs.items()
    ]
    return pd.concat(parts, ignore_index=True)


def run_identity(
    stage: str, settings: Settings, init_sha256: str | None, data_sha256: str | None = None
) -> dict[str, Any]:
    """What tells a run from others: its stage, the settings that this stage reads, its start, and own data if any."""
    unread = {"pretraining": ("finetuning", "amc", "boxes"), "finetuning": ("pretraining",)}[stage]
    other_tier = {"scenes": "photos", "paper": "scenes"}[settings.tier]
    read = {name: value for name, value in plain(settings).items() if name not in (*unread, other_tier)}
    read[stage] = {name: value for name, value in read[stage].items() if name not in NEUTRAL}
    own_data = {"data_sha256": data_sha256} if data_sha256 else {}
    return {"stage": stage, "settings_hash": settings_hash(read), "init_sha256": init_sha256} | own_data


def holds(run: Run, stage: str, settings: Settings, init_sha256: str | None, data_sha256: str | None = None) -> bool:
    """Whether a run is of these settings; those that it does not name, being younger, count as their defaults."""
    if run.metrics.get("stage") != stage:
        return False
    its_own = stored_settings(run.metrics["provenance"]["settings"])
    read = run.metrics["init_sha256"], run.metrics.get("data_sha256")
    return run_identity(stage, its_own, *read) == run_identity(stage, settings, init_sha256, data_sha256)


def _run(
    stage: str,
    settings: Settings,
    init_sha256: str | None,
    start: Callable[[], tuple[ALBEF, Tokenizer]],
    output: str | Path | None,
    data: OwnData | None = None,
) -> Run:
    """Open the run of this identity, or train it now: on every process that takes part, written by the first."""
    state = process_state()
    training = getattr(settings, stage)
    data_sha256 = data.sha256 if data else None
    identity = run_identity(stage, settings, init_sha256, data_sha256)
    folder = Path(output) if output else RUNS / f"{stage}-seed{training.seed}-{settings_hash(identity)}"
    if not is_finished(folder):
        with nullcontext() if state.num_processes > 1 else alone_in(folder):
            if not is_finished(folder):  # another process may have done it meanwhile
                if state.is_main_process:
                    require_writable(folder)  # alone: one that ends clears away what others began to write
                return _train(stage, settings, folder, identity, start, data)
    run = open_run(folder)
    if not holds(run, stage, settings, init_sha256, data_sha256):
        raise ValueError(f"{folder}: holds a run with other settings; name another output or delete it")
    state.print(f"{stage}: up to date in {_shown(folder)} (delete the folder to train again)")
    Snapshots(folder / "snapshots", identity).remove()
    return run


def _train(
    stage: str,
    settings: Settings,
    folder: Path,
    identity: dict[str, Any],
    start: Callable[[], tuple[ALBEF, Tokenizer]],
    data: OwnData | None,
) -> Run:
    """Train into `folder`, going on from its newest snapshot, and leave the run."""
    state, training = process_state(), getattr(settings, stage)
    snapshots = Snapshots(folder / "snapshots", identity)
    state.print(f"{stage}: seed {training.seed}, into {_shown(folder)}")
    pairs = seen_boxes(data.training_pairs(settings) if data else training_pairs(settings, stage), settings.boxes)
    validation = data.validation_split(settings) if data else validation_split(settings)
    set_seed(training.seed)
    model, tokenizer = start()
    begin = time.perf_counter()
    collator = Collator(tokenizer, settings.objective.mlm_probability, settings.amc.map_size)
    validate = _validator(validation, tokenizer, settings) if validation else None
    losses = pair_losses if _with_detector(settings) else training_losses
    history = pd.DataFrame(
        train(model, pairs, collator, settings, stage, validate, step_losses=losses, snapshots=snapshots)
    )
    seconds = time.perf_counter() - begin + snapshots.earlier_seconds
    more = {"processes": state.num_processes, **snapshots.account()}
    record = provenance(settings, seed=training.seed, seconds=seconds, **more)
    if state.is_main_process:
        write_run(folder, Checkpoint(model, tokenizer, settings, {}, ""), history, identity, pairs.about, record)
        snapshots.remove()
    state.wait_for_everyone()
    return open_run(folder)


def _shown(folder: Path) -> str:
    return str(plain(Path(folder)))


def _validator(bank: Split, tokenizer: Tokenizer, settings: Settings) -> Callable[[ALBEF], float]:
    regions = bank.all_regions()
    first = set(list(dict.fromkeys(region.image_id for region in regions))[:VALIDATION_IMAGES])
    regions = [region for region in regions if region.image_id in first]

    def validate(model: ALBEF) -> float:
        if isinstance(bank, ProposalSplit):
            (answers,) = choose_regions(model, tokenizer, regions, bank, ["similarity"]).values()
            return float(answers.hits.mean())
        with bank.fit(model):
            answers = point_at(
                model, tokenizer, regions, bank.load, settings.amc.layer, IMAGES_AT_ONCE,
                explanation=settings.amc.explanation,
            )  # fmt: skip
            return float(answers.hits.mean())

    return validate
