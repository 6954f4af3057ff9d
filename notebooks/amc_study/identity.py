"""The identity of a run: what decides which weights come out of a training.

That is the stage, the settings that it reads, the weights it starts from, own data, the detector where proposals are
read, and the code that trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from amc_lib.checkpoints import SHIPPED
from amc_lib.config import Settings
from amc_lib.files import plain
from amc_study.own_data import OwnData
from amc_study.provenance import settings_hash
from amc_study.run_folder import Run
from amc_study.scenes.cache import fingerprint
from amc_study.tiers import tier_of

CODE = (  # what decides, with the tier's own code, which weights come out
    *(f"amc_lib/{name}.py" for name in ("data", "distributed", "gradcam", "losses", "step", "tokens")),
    "amc_lib/model/*.py",
    "amc_lib/train/*.py",
    "notebooks/amc_study/ablations/seen_boxes.py",
)
NEUTRAL = ("workers", "checkpointing", "snapshot_every")  # settings of training that change no number
OLDER = {  # what shipped runs did that are older than these settings
    "model.backbone": "albef",
    "model.vision.region_width": 0,
    "model.text.trunk": "none",
    "model.stored": "float32",
    "objective.region_softness": 0.07,
    "amc.lambda_other": 0.0,
    "amc.delta_other": 0.1,
    "amc.mean_over": "boxed",
    "boxes.box_of": "own",
    "pretraining.trained_layers": 0,
    "finetuning.trained_layers": 0,
    "pretraining.accumulation": 1,
    "pretraining.precision": "float32",
}


def run_identity(
    stage: str, settings: Settings, init_sha256: str | None, data: OwnData | None = None, detector: str | None = None
) -> dict[str, Any]:
    """What decides which weights come out; `detector` is the hash of the detector's weights."""
    identity = {
        "stage": stage,
        "settings_hash": settings_hash(read_by(stage, plain(settings))),
        "init_sha256": init_sha256,
        "code": fingerprint(None, (*CODE, *tier_of(settings).code)),
    }
    own = {"data_sha256": data and data.sha256, "detector_sha256": detector}
    return identity | {name: value for name, value in own.items() if value}


def holds(run: Run, stage: str, settings: Settings, init_sha256: str | None, **more: Any) -> bool:
    """Whether a run has the identity of these arguments (`run_identity`).

    What the repository ships was trained by the code of the commit that it names: there only the rest must agree.
    """
    identity = run_identity(stage, settings, init_sha256, **more)
    if run.folder.parent != SHIPPED:
        return identity_of(run) == identity
    same = not differences(run, stage, settings)
    if detector := tier_of(settings).detector:
        same &= identity.get("detector_sha256") == detector.sha256
    return same and run.metrics["stage"] == stage and run.metrics["init_sha256"] == init_sha256


def differences(run: Run, stage: str, settings: Settings) -> dict[str, Any]:
    """By name what a run was trained with where `settings` say something else."""
    stored = OLDER | read_by(stage, run.metrics["provenance"]["settings"])
    asked = read_by(stage, plain(settings))
    return {name: stored.get(name) for name, value in asked.items() if stored.get(name, run) != value}


def identity_of(run: Run) -> dict[str, Any]:
    names = ("stage", "settings_hash", "init_sha256", "data_sha256", "detector_sha256", "code")
    return {name: run.metrics[name] for name in names if name in run.metrics}


def read_by(stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of plain settings those that a stage reads and that change its numbers, by names such as amc.lambda1."""
    unread = {"pretraining": ("finetuning", "amc", "boxes"), "finetuning": ("pretraining",)}[stage]
    unread += ("photos",) if settings["tier"] == "scenes" else ("scenes",)
    neutral = {f"{stage}.{name}" for name in NEUTRAL}
    parts = {name: value for name, value in settings.items() if name not in unread}
    return {name: value for name, value in _flat(parts) if name not in neutral}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
